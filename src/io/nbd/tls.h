/* SPDX-License-Identifier: MIT */
/* What a URI says of TLS, for a program that sees to it in the place of libnbd. */
#ifndef OX_IO_NBD_TLS_H
#define OX_IO_NBD_TLS_H

#include "base/error.h"
#include "oxbow.h"

/* *ret: NULL for a URI without TLS. */
int ox_nbd_tls_read(const char *uri, struct ox_uri_tls **ret, struct ox_error **err)
	__attribute__((warn_unused_result));
void ox_nbd_tls_free(struct ox_uri_tls *tls);

#endif
