/* SPDX-License-Identifier: MIT */
#include "job/copy.h"

#include "io/io.h"

static struct ox_image *source_at(const struct ox_joined *source, size_t i)
{
	return i == 0 ? source->first : source->more[i - 1];
}

/* The stores of all layers, of both sides; the first error. */
static int each_store(const struct ox_joined *source, struct ox_image *target,
		      int (*call)(struct ox_io *io))
{
	int result = call(target->io);

	for (size_t i = 0; i <= source->more_count; i++) {
		for (struct ox_image *img = source_at(source, i); img; img = img->backing) {
			int r = call(img->io);

			result = result < 0 ? result : r;
		}
	}
	return result;
}

void ox_copy_behind_begin(const struct ox_joined *source, struct ox_image *target, unsigned flags)
{
	if (!(flags & OX_COPY_KEEP_PAGES))
		ox_io_behind_begin(target->io);
	for (size_t i = 0; i <= source->more_count; i++) {
		for (struct ox_image *img = source_at(source, i); img; img = img->backing)
			ox_io_behind_begin(img->io);
	}
}

int ox_copy_behind_co(const struct ox_joined *source, struct ox_image *target)
{
	return each_store(source, target, ox_io_behind_co);
}

int ox_copy_behind_end_co(const struct ox_joined *source, struct ox_image *target)
{
	return each_store(source, target, ox_io_behind_end_co);
}
