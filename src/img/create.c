/* SPDX-License-Identifier: MIT */
#include "img/create.h"

#include <errno.h>

#define SECTOR_BYTES 512u

int ox_create_check_backing(const struct ox_create_options *opts, struct ox_error **err)
{
	if (!opts->backing_file)
		return opts->backing_format
			       ? ox_error_set(err, -EINVAL,
					      "Backing format cannot be used without backing file")
			       : 0;
	if (opts->backing_file[0] == '\0')
		return ox_error_set(err, -EINVAL, "Expected backing file name, got empty string");
	if (!opts->backing_format || opts->backing_format[0] == '\0')
		return ox_error_set(err, -EINVAL, "Backing file specified without backing format");
	return 0;
}

int ox_create_prepare_co(struct ox_io *io, uint64_t image_bytes, uint64_t table_offset,
			 uint64_t table_bytes, struct ox_error **err)
{
	int r;

	if (io->can_grow) {
		r = ox_io_set_length_co(io, image_bytes);
		return r < 0 ? ox_error_set_errno(err, r, "Could not resize image file") : 0;
	}
	if (io->length < image_bytes)
		return ox_error_set(err, -ENOSPC, "Device is too small for an image's metadata");
	r = ox_io_fill_zero_co(io, 0, SECTOR_BYTES);
	if (r == 0)
		r = ox_io_sync_co(io);
	if (r == 0 && table_bytes)
		r = ox_io_fill_zero_co(io, table_offset, table_bytes);
	return r < 0 ? ox_error_set_errno(err, r, "Could not clear the device") : 0;
}

int ox_create_finish_co(struct ox_io *io, const uint8_t *first, size_t count, const char *format,
			struct ox_error **err)
{
	int r = 0;

	if (count > SECTOR_BYTES)
		r = ox_io_pwrite_co(io, first + SECTOR_BYTES, count - SECTOR_BYTES, SECTOR_BYTES,
				    0);
	if (r == 0)
		r = ox_io_sync_co(io);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the image's tables");
	r = ox_io_pwrite_co(io, first, SECTOR_BYTES, 0, 0);
	if (r == 0)
		r = ox_io_sync_co(io);
	return r < 0 ? ox_error_set_errno(err, r, "Could not write %s header", format) : 0;
}
