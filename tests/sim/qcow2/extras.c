/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "qcow2/edit.h"

#define EXT_BACKING_FORMAT 0xe2792acau
#define GRANULARITY_BITS 9u
#define DIRECTORY_BYTES 32u
#define UNKNOWN_BYTES 8u

static uint64_t put_extension(struct sim_bytes *b, uint64_t at, uint32_t type, const void *data,
			      uint32_t count)
{
	sim_bytes_put_be32(b, at, type);
	sim_bytes_put_be32(b, at + 4, count);
	sim_bytes_write(b, at + 8, data, count);
	return at + 8 + ((count + 7u) & ~7u);
}

/* Bits of the guest's sectors, drawn: the directory, the table behind it, and the data. */
static uint64_t put_bitmap(struct sim_bytes *b, const struct sim_qcow2 *i,
			   struct sim_random *random, bool fixed)
{
	uint64_t bytes = ((i->size_bytes >> GRANULARITY_BITS) + 7) / 8 + 1;
	uint64_t data_clusters = (bytes + i->cluster_bytes - 1) >> i->cluster_bits;
	uint64_t table_clusters = (data_clusters * 8 + i->cluster_bytes - 1) >> i->cluster_bits;
	uint64_t all = 1 + table_clusters + data_clusters;
	uint64_t at = sim_edit_find_free(b, i, all, fixed);
	uint64_t table = at + i->cluster_bytes;
	uint64_t data = table + (table_clusters << i->cluster_bits);

	if (at == 0)
		return 0;
	sim_edit_add_names(b, i, at, all << i->cluster_bits, 1);
	sim_bytes_put_be64(b, at, table);
	sim_bytes_put_be32(b, at + 8, (uint32_t)data_clusters);
	sim_bytes_put_be32(b, at + 12, 2); /* auto */
	sim_bytes_put_be16(b, at + 16, 1 << 8 | GRANULARITY_BITS);
	sim_bytes_put_be16(b, at + 18, 1);
	sim_bytes_write(b, at + 24, "d", 1);
	for (uint64_t k = 0; k < data_clusters; k++)
		sim_bytes_put_be64(b, table + k * 8, data + (k << i->cluster_bits));
	for (uint64_t k = 0; k < bytes / 8; k++)
		sim_bytes_put_be64(b, data + k * 8, sim_random_next(random));
	return at;
}

/* How long the unknown extension at `at` is. With room behind the first sector, sometimes so long
 * that what a recovery writes in the list's end mark is parted by a sector's end (H9). */
static uint32_t draw_unknown(struct sim_random *random, const struct sim_qcow2 *i, uint64_t at,
			     uint32_t behind)
{
	uint64_t mark = 512 - 8 * sim_random_between(random, 1, 2);

	if (i->backing_offset != 0 || i->cluster_bits == 9 || sim_random_percent(random, 30))
		return UNKNOWN_BYTES;
	return (uint32_t)(mark - behind - at - 8);
}

bool sim_extras_add(struct sim_bytes *b, struct sim_random *random, bool bitmap, bool fixed)
{
	struct sim_qcow2 i;
	const char *why;
	static const uint8_t unknown[512] = "it stays";
	uint8_t extension[24] = {0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, DIRECTORY_BYTES};
	uint64_t directory = 0;
	uint64_t at;

	if (!sim_qcow2_parse(b, &i, &why) || i.version < 3)
		return false;
	if (bitmap)
		directory = put_bitmap(b, &i, random, fixed);
	if (bitmap && directory == 0)
		return false;
	/* the feature names make room */
	at = i.header_length;
	sim_bytes_zero(b, at, 512 - at);
	if (i.backing_offset != 0)
		at = put_extension(b, at, EXT_BACKING_FORMAT, "raw", 3);
	at = put_extension(b, at, SIM_EXT_UNKNOWN, unknown,
			   draw_unknown(random, &i, at, bitmap ? 8 + sizeof(extension) : 0));
	for (unsigned k = 0; k < 8; k++)
		extension[16 + k] = (uint8_t)(directory >> (56 - 8 * k));
	if (bitmap)
		at = put_extension(b, at, SIM_EXT_BITMAPS, extension, sizeof(extension));
	if (i.backing_offset != 0) {
		/* behind the end mark, or so that another extension has room before it */
		at = sim_random_percent(random, 50) ? at + 8 : 504;
		sim_bytes_write(b, at, "b", 1);
		sim_bytes_put_be64(b, 8, at);
	}
	sim_bytes_put_be64(b, 80, i.compatible | SIM_UNKNOWN_COMPATIBLE);
	sim_bytes_put_be64(b, 88, SIM_UNKNOWN_AUTOCLEAR | (bitmap ? SIM_BITMAPS : 0));
	return true;
}
