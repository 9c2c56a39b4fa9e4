/* SPDX-License-Identifier: MIT */
#ifndef OX_IO_NBD_EXPORTS_H
#define OX_IO_NBD_EXPORTS_H

#include "base/error.h"
#include "oxbow.h"

/* As ox_exports_read. */
int ox_nbd_exports_read(const char *uri, struct ox_exports **ret, struct ox_error **err)
	__attribute__((warn_unused_result));
void ox_nbd_exports_free(struct ox_exports *exports);

#endif
