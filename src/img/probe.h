/* SPDX-License-Identifier: MIT */
/* What a store is taken for where its format is not stated (docs/formats.md). */
#ifndef OX_IMG_PROBE_H
#define OX_IMG_PROBE_H

#include "base/error.h"
#include "fmt/formats.h"
#include "io/io.h"

/* Reads what a probe looks at, as if the store ended after file_bytes. 0 or -errno. */
int ox_img_sample_co(struct ox_io *io, uint64_t file_bytes, struct ox_formats_sample *ret);
/* The name of the format, which stays. */
int ox_img_probe_co(struct ox_io *io, const char **ret_format, struct ox_error **err);
/* The error of a format that is named, or was recognised, and cannot be opened. */
int ox_img_refuse_format(const struct ox_io *io, const char *format, struct ox_error **err);

#endif
