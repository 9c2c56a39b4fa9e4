/* SPDX-License-Identifier: MIT */
/* What a URI says of TLS; also for a program that sees to it in the place of libnbd. */
#ifndef OX_IO_NBD_TLS_H
#define OX_IO_NBD_TLS_H

#include <stdbool.h>

#include "base/error.h"
#include "io/nbd/address.h"
#include "oxbow.h"

/* The folder of certificates: the stated one, or, where there is one, that in which libnbd looks;
 * room has PATH_MAX bytes. NULL: those of the system. */
const char *ox_nbd_tls_folder(const struct ox_nbd_address *a, char *room);
/* Whether there is something in it to verify a server by. */
bool ox_nbd_tls_has_authority(const char *folder);
/* *ret: NULL for a URI without TLS. */
int ox_nbd_tls_read(const char *uri, struct ox_uri_tls **ret, struct ox_error **err)
	__attribute__((warn_unused_result));
void ox_nbd_tls_free(struct ox_uri_tls *tls);

#endif
