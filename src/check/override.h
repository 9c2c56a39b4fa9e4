/* SPDX-License-Identifier: MIT */
/* Header fields that a user states, for an image whose header lost them. */
#ifndef OX_CHECK_OVERRIDE_H
#define OX_CHECK_OVERRIDE_H

#include "base/error.h"
#include "io/io.h"

/*
 * Writes "FIELD=NUMBER,..." over the header's first sector, and syncs. The other fields stay; where
 * there is no header at all they are those of a new image of version 3. -EINVAL where the text
 * names no field, or what it gives is no header.
 */
int ox_header_override_co(struct ox_io *io, const char *text, struct ox_error **err);

#endif
