/* SPDX-License-Identifier: MIT */
/* The header extensions, and the backing name that follows them. */
#include "fmt/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/qcow2_features.h"
#include "fmt/qcow2_fence.h"

/* A directory entry takes at most this: the record, the longest name, padding. */
#define MAX_BITMAP_RECORD_BYTES 1056u

struct disk_extension {
	struct ox_be32 type;
	struct ox_be32 length;
} __attribute__((packed));

struct disk_bitmaps {
	struct ox_be32 count;
	struct ox_be32 reserved;
	struct ox_be64 directory_bytes;
	struct ox_be64 directory_offset;
} __attribute__((packed));

struct disk_crypto {
	struct ox_be64 offset;
	struct ox_be64 bytes;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_extension) == 8, "as the specification has it");
_Static_assert(sizeof(struct disk_bitmaps) == 24, "as the specification has it");
_Static_assert(sizeof(struct disk_crypto) == 16, "as the specification has it");

/* One extension's data within the first cluster. */
struct extension {
	uint32_t type;
	const uint8_t *data;
	uint32_t bytes;
};

static int decode_string(const uint8_t *bytes, size_t count, const char *what, char **ret,
			 struct ox_error **err)
{
	char *text;

	if (memchr(bytes, '\0', count))
		return ox_error_set(err, -EINVAL, "%s contains a NUL byte", what);
	text = strndup((const char *)bytes, count);
	if (!text)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	*ret = text;
	return 0;
}

static int decode_string_once(const struct extension *e, const char *what, char **slot,
			      struct ox_error **err)
{
	if (*slot)
		return ox_error_set(err, -EINVAL, "%s header extension appears twice", what);
	return decode_string(e->data, e->bytes, what, slot, err);
}

static int decode_feature_names(const struct extension *e, struct ox_qcow2_extensions *ext,
				struct ox_error **err)
{
	/* The last record may end with its name. */
	size_t count = e->bytes / sizeof(struct ox_qcow2_feature) +
		       (e->bytes % sizeof(struct ox_qcow2_feature) != 0);

	if (ext->feature_names)
		return ox_error_set(err, -EINVAL, "Feature name table appears twice");
	ext->feature_names = calloc(count + 1, sizeof(struct ox_qcow2_feature));
	if (!ext->feature_names)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	memcpy(ext->feature_names, e->data, e->bytes);
	ext->feature_name_count = count;
	return 0;
}

static int decode_bitmaps(const struct ox_qcow2_header *h, const struct extension *e,
			  struct ox_qcow2_extensions *ext, struct ox_error **err)
{
	struct disk_bitmaps disk;
	struct ox_qcow2_bitmaps_ext b;

	if (ext->has_bitmaps)
		return ox_error_set(err, -EINVAL, "bitmaps_ext: appears twice");
	if (e->bytes != sizeof(disk))
		return ox_error_set(err, -EINVAL, "bitmaps_ext: Invalid extension length");
	/* Without the bit another program wrote since, and what it says is stale. */
	if (!(h->autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	memcpy(&disk, e->data, sizeof(disk));
	b = (struct ox_qcow2_bitmaps_ext){
		.count = ox_be32_get(disk.count),
		.directory_bytes = ox_be64_get(disk.directory_bytes),
		.directory_offset = ox_be64_get(disk.directory_offset),
	};
	if (ox_be32_get(disk.reserved) != 0)
		return ox_error_set(err, -EINVAL, "bitmaps_ext: Reserved field is not zero");
	if (b.count == 0)
		return ox_error_set(err, -EINVAL,
				    "bitmaps_ext: found bitmaps extension with zero "
				    "bitmaps");
	if (b.count > OX_QCOW2_MAX_BITMAPS)
		return ox_error_set(err, -EINVAL,
				    "bitmaps_ext: image has %u bitmaps, exceeding the supported "
				    "maximum of %u",
				    b.count, OX_QCOW2_MAX_BITMAPS);
	if (b.directory_offset == 0 ||
	    !ox_is_aligned(b.directory_offset, ox_qcow2_cluster_bytes(h)))
		return ox_error_set(err, -EINVAL, "bitmaps_ext: invalid bitmap directory offset");
	if (b.directory_bytes > (uint64_t)b.count * MAX_BITMAP_RECORD_BYTES)
		return ox_error_set(err, -EINVAL, "bitmaps_ext: bitmap directory too large");
	ext->has_bitmaps = true;
	ext->bitmaps = b;
	return 0;
}

static int decode_crypto(const struct ox_qcow2_header *h, const struct extension *e,
			 struct ox_qcow2_extensions *ext, struct ox_error **err)
{
	struct disk_crypto disk;

	if (h->crypt_method != OX_QCOW2_CRYPT_LUKS)
		return ox_error_set(err, -EINVAL,
				    "CRYPTO header extension only expected with LUKS encryption "
				    "method");
	if (ext->has_crypto)
		return ox_error_set(err, -EINVAL, "CRYPTO header extension appears twice");
	if (e->bytes != sizeof(disk))
		return ox_error_set(err, -EINVAL, "CRYPTO header extension size %u is not %zu",
				    e->bytes, sizeof(disk));
	memcpy(&disk, e->data, sizeof(disk));
	ext->has_crypto = true;
	ext->crypto_offset = ox_be64_get(disk.offset);
	ext->crypto_bytes = ox_be64_get(disk.bytes);
	return 0;
}

static int decode_one(const struct ox_qcow2_header *h, const struct extension *e,
		      struct ox_qcow2_extensions *ext, struct ox_error **err)
{
	switch (e->type) {
	case OX_QCOW2_EXT_BACKING_FORMAT:
		return decode_string_once(e, "Backing format", &ext->backing_format, err);
	case OX_QCOW2_EXT_DATA_FILE:
		return decode_string_once(e, "External data file name", &ext->data_file, err);
	case OX_QCOW2_EXT_FEATURE_NAMES:
		return decode_feature_names(e, ext, err);
	case OX_QCOW2_EXT_BITMAPS:
		return decode_bitmaps(h, e, ext, err);
	case OX_QCOW2_EXT_CRYPTO:
		return decode_crypto(h, e, ext, err);
	default:
		return 0;
	}
}

int ox_qcow2_extensions_decode(const struct ox_qcow2_header *h, const uint8_t *cluster,
			       size_t count, struct ox_qcow2_extensions *ret, struct ox_error **err)
{
	uint64_t area_end = h->backing_offset ? h->backing_offset : ox_qcow2_cluster_bytes(h);
	uint64_t end = ox_min_u64(area_end, count);
	uint64_t pos = h->header_length;
	struct ox_qcow2_extensions ext = {0};
	struct disk_extension disk;

	while (pos < end && end - pos >= sizeof(disk)) {
		struct extension e;
		int r;

		memcpy(&disk, cluster + pos, sizeof(disk));
		pos += sizeof(disk);
		e.type = ox_be32_get(disk.type);
		e.bytes = ox_be32_get(disk.length);
		e.data = cluster + pos;
		if (e.type == OX_QCOW2_EXT_END) {
			ext.end_offset = pos - sizeof(disk);
			ext.fence_bytes = ox_qcow2_fence_decode(cluster + ext.end_offset,
								end - ext.end_offset);
			break;
		}
		if (e.bytes > end - pos)
			r = ox_error_set(err, -EINVAL, "Header extension too large");
		else
			r = decode_one(h, &e, &ext, err);
		if (r < 0) {
			ox_qcow2_extensions_free(&ext);
			return r;
		}
		pos = ox_align_up(pos + e.bytes, 8);
	}
	*ret = ext;
	return 0;
}

void ox_qcow2_extensions_free(struct ox_qcow2_extensions *ext)
{
	if (!ext)
		return;
	free(ext->backing_format);
	free(ext->data_file);
	free(ext->feature_names);
	*ext = (struct ox_qcow2_extensions){0};
}

int ox_qcow2_backing_name(const struct ox_qcow2_header *h, const uint8_t *cluster, size_t count,
			  char **ret, struct ox_error **err)
{
	if (h->backing_offset == 0 || h->backing_size == 0) {
		*ret = NULL;
		return 0;
	}
	if (!ox_range_within(h->backing_offset, h->backing_size, count))
		return ox_error_set(err, -EINVAL, "Could not read backing file name");
	return decode_string(cluster + h->backing_offset, h->backing_size, "Backing file name", ret,
			     err);
}
