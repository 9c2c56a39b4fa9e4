/* SPDX-License-Identifier: MIT */
/* What everybody does with a handle of libnbd. */
#ifndef OX_IO_NBD_HANDLE_H
#define OX_IO_NBD_HANDLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "io/nbd/address.h"
#include "io/nbd/api.h"

#define OX_NBD_WORDS_MAX 256

/* What is wrong with an address by TLS of which libnbd would verify nothing, unasked; NULL:
 * nothing. Asked before each connection, as files come and go. */
const char *ox_nbd_handle_unverifiable(const struct ox_nbd_api *api, const struct ox_nbd_address *a)
	__attribute__((warn_unused_result));

/* Lets it connect as the address asks for: by TLS or not. -1: libnbd says why. */
int ox_nbd_handle_secure(const struct ox_nbd_api *api, struct nbd_handle *nbd,
			 const struct ox_nbd_address *address) __attribute__((warn_unused_result));
/* Begins to connect. -1 as above. */
int ox_nbd_handle_connect(const struct ox_nbd_api *api, struct nbd_handle *nbd,
			  const struct ox_nbd_address *address) __attribute__((warn_unused_result));
/* libnbd's last error, negative, and its words without the name of its function. */
int ox_nbd_handle_words(const struct ox_nbd_api *api, char words[OX_NBD_WORDS_MAX]);
/* Whether it is an error of a server that has not said a word, and may yet come. */
bool ox_nbd_handle_is_unreachable(int error);
/* What kept a connection from standing. Returns error. */
int ox_nbd_handle_tell(const struct ox_nbd_address *address, int error, const char *words,
		       struct ox_error **err);

#endif
