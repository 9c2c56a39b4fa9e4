/* SPDX-License-Identifier: MIT */
/* ox_exports_read: it needs neither an image nor a context. */
#include "base/assert.h"
#include "io/nbd/exports.h"
#include "lib/context.h"

OX_EXPORT int ox_exports_read(const char *uri, struct ox_exports **ret_exports,
			      struct ox_error **err)
{
	ox_assert(uri && ret_exports);
	return ox_nbd_exports_read(uri, ret_exports, err);
}

OX_EXPORT void ox_exports_free(struct ox_exports *exports)
{
	ox_nbd_exports_free(exports);
}
