/* SPDX-License-Identifier: MIT */
#include "img/probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"

int ox_img_sample_co(struct ox_io *io, uint64_t file_bytes, struct ox_formats_sample *ret)
{
	uint64_t tail = ox_formats_tail_offset(file_bytes);
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->file_bytes = file_bytes;
	r = ox_io_pread_co(io, ret->head, ox_min_u64(file_bytes, sizeof(ret->head)), 0);
	if (r < 0)
		return r;
	return ox_io_pread_co(io, ret->tail, file_bytes - tail, tail);
}

int ox_img_probe_co(struct ox_io *io, const char **ret_format, struct ox_error **err)
{
	struct ox_formats_sample *s = malloc(sizeof(*s));
	int r;

	if (!s)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_img_sample_co(io, io->length, s);
	if (r < 0)
		r = ox_error_set_errno(err, r, "Could not read image for determining its format");
	else
		*ret_format = ox_formats_probe(s);
	free(s);
	return r;
}

int ox_img_refuse_format(const struct ox_io *io, const char *format, struct ox_error **err)
{
	return ox_error_set(
		err, io->read_only ? -ENOTSUP : -EPERM,
		"'%s' is an image in %s format, which cannot be opened; to use the bytes "
		"of the file itself as a disk, state the format: -f raw",
		io->name, format);
}
