/* SPDX-License-Identifier: MIT */
/* Laying out an empty image on a store, durably: what formats with a header and tables share. */
#ifndef OX_IMG_CREATE_H
#define OX_IMG_CREATE_H

#include "img/img.h"

/* Whether name and format of the backing file go together. Nothing is written. */
int ox_create_check_backing(const struct ox_create_options *opts, struct ox_error **err);

/*
 * Makes the store as long as the image, reading as zeroes where the table lies. A device has its
 * length and its old bytes: an image that was there stops being one first, for good.
 */
int ox_create_prepare_co(struct ox_io *io, uint64_t image_bytes, uint64_t table_offset,
			 uint64_t table_bytes, struct ox_error **err);
/* Once all else is written: the file's first bytes, of which the first sector makes an image of it.
 * All but that sector, a sync, the sector, a sync (D1, H9). */
int ox_create_finish_co(struct ox_io *io, const uint8_t *first, size_t count, const char *format,
			struct ox_error **err);

#endif
