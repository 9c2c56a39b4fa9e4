/* SPDX-License-Identifier: MIT */
/* Records of the bitmap directory. Their tables are for the caller to judge. */
#include "fmt/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_KNOWN 7u
#define TYPE_DIRTY_TRACKING 1
#define MIN_GRANULARITY_BITS 9
#define MAX_GRANULARITY_BITS 31
#define MAX_NAME_BYTES 1023

struct disk_bitmap {
	struct ox_be64 table_offset;
	struct ox_be32 table_entries;
	struct ox_be32 flags;
	uint8_t type;
	uint8_t granularity_bits;
	struct ox_be16 name_bytes;
	struct ox_be32 extra_bytes;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_bitmap) == 24, "as the specification has it");

static int check_record(const struct disk_bitmap *disk, struct ox_error **err)
{
	unsigned name_bytes = ox_be16_get(disk->name_bytes);
	uint32_t flags = ox_be32_get(disk->flags);

	if (flags & ~FLAGS_KNOWN)
		return ox_error_set(err, -EINVAL, "Bitmap has reserved flags set: 0x%x", flags);
	if (disk->type != TYPE_DIRTY_TRACKING)
		return ox_error_set(err, -EINVAL, "Bitmap has unknown type %u", disk->type);
	if (disk->granularity_bits < MIN_GRANULARITY_BITS ||
	    disk->granularity_bits > MAX_GRANULARITY_BITS)
		return ox_error_set(err, -EINVAL, "Bitmap has unsupported granularity: 2^%u",
				    disk->granularity_bits);
	if (name_bytes == 0 || name_bytes > MAX_NAME_BYTES)
		return ox_error_set(err, -EINVAL, "Bitmap has a name of %u bytes", name_bytes);
	return 0;
}

int ox_qcow2_bitmap_decode(const struct ox_qcow2_header *h, const uint8_t *bytes, size_t count,
			   size_t *pos, struct ox_qcow2_bitmap *ret, struct ox_error **err)
{
	struct disk_bitmap disk;
	uint64_t extra_bytes, name_bytes, end;
	char *name;
	int r;

	(void)h;
	if (!ox_range_within(*pos, sizeof(disk), count))
		return ox_error_set(err, -EINVAL, "Bitmap directory is cut short");
	memcpy(&disk, bytes + *pos, sizeof(disk));
	extra_bytes = ox_be32_get(disk.extra_bytes);
	name_bytes = ox_be16_get(disk.name_bytes);
	end = *pos + sizeof(disk) + extra_bytes + name_bytes;
	if (end > count)
		return ox_error_set(err, -EINVAL, "Bitmap directory is cut short");
	r = check_record(&disk, err);
	if (r < 0)
		return r;
	name = strndup((const char *)bytes + *pos + sizeof(disk) + extra_bytes, name_bytes);
	if (!name)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	*ret = (struct ox_qcow2_bitmap){
		.table_offset = ox_be64_get(disk.table_offset),
		.table_entries = ox_be32_get(disk.table_entries),
		.flags = ox_be32_get(disk.flags),
		.granularity_bits = disk.granularity_bits,
		.name = name,
	};
	*pos = ox_min_u64(ox_align_up(end, 8), count);
	return 0;
}

void ox_qcow2_bitmap_free(struct ox_qcow2_bitmap *b)
{
	if (!b)
		return;
	free(b->name);
	*b = (struct ox_qcow2_bitmap){0};
}
