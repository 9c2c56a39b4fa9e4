/* SPDX-License-Identifier: MIT */
/* The fence of a recovery, in the data of the extension that ends the list (docs/recovery.md). */
#include "fmt/qcow2_fence.h"

#include <string.h>

#include "base/endian.h"
#include "fmt/qcow2.h"

#define FENCE_MAGIC UINT64_C(0x6f782d66656e6365) /* "ox-fence" */
#define FENCE_DATA_BYTES (OX_QCOW2_FENCE_BYTES - 8)

struct disk_fence {
	struct ox_be32 type; /* OX_QCOW2_EXT_END */
	struct ox_be32 length;
	struct ox_be64 magic;
	struct ox_be64 old_end_bytes;
	struct ox_be64 checksum;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_fence) == OX_QCOW2_FENCE_BYTES, "docs/recovery.md");

/* Torn over two sectors, length and data do not belong together. */
static uint64_t checksum_of(uint64_t old_end_bytes)
{
	uint64_t x = (old_end_bytes ^ FENCE_MAGIC) * UINT64_C(0x9e3779b97f4a7c15);

	return x ^ x >> 29;
}

void ox_qcow2_fence_encode(uint64_t old_end_bytes, uint8_t ret[OX_QCOW2_FENCE_BYTES])
{
	struct disk_fence disk = {.type = ox_be32(OX_QCOW2_EXT_END)};

	if (old_end_bytes != 0) {
		disk.length = ox_be32(FENCE_DATA_BYTES);
		disk.magic = ox_be64(FENCE_MAGIC);
		disk.old_end_bytes = ox_be64(old_end_bytes);
		disk.checksum = ox_be64(checksum_of(old_end_bytes));
	}
	memcpy(ret, &disk, sizeof(disk));
}

uint64_t ox_qcow2_fence_decode(const uint8_t *bytes, size_t count)
{
	struct disk_fence disk;
	uint64_t old_end_bytes;

	if (count < sizeof(disk))
		return 0;
	memcpy(&disk, bytes, sizeof(disk));
	old_end_bytes = ox_be64_get(disk.old_end_bytes);
	if (ox_be32_get(disk.length) != FENCE_DATA_BYTES ||
	    ox_be64_get(disk.magic) != FENCE_MAGIC ||
	    ox_be64_get(disk.checksum) != checksum_of(old_end_bytes))
		return 0;
	return old_end_bytes;
}
