/* SPDX-License-Identifier: MIT */
/* The public description: structs first, strings behind them, in one allocation. */
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "lib/info.h"
#include "oxbow.h"

#define SECTOR_BYTES 512u

/* Where the next string goes. */
struct pool {
	char *next;
	char *end;
};

static size_t string_bytes(const char *text)
{
	return text ? strlen(text) + 1 : 0;
}

static size_t all_string_bytes(const struct ox_info_facts *f, const char *filename)
{
	size_t bytes = string_bytes(filename) + string_bytes(f->backing_name) +
		       string_bytes(f->backing_path) + string_bytes(f->ext.backing_format) +
		       string_bytes(f->ext.data_file);

	for (size_t i = 0; i < f->snapshot_count; i++)
		bytes += string_bytes(f->snapshots[i].id) + string_bytes(f->snapshots[i].name);
	for (size_t i = 0; i < f->bitmap_count; i++)
		bytes += string_bytes(f->bitmaps[i].name);
	return bytes;
}

static const char *put(struct pool *pool, const char *text)
{
	size_t bytes = string_bytes(text);
	char *at = pool->next;

	if (!text)
		return NULL;
	ox_assert((size_t)(pool->end - at) >= bytes);
	memcpy(at, text, bytes);
	pool->next += bytes;
	return at;
}

static const char *encryption_name(uint32_t crypt_method)
{
	switch (crypt_method) {
	case OX_QCOW2_CRYPT_NONE:
		return NULL;
	case OX_QCOW2_CRYPT_AES:
		return "aes";
	case OX_QCOW2_CRYPT_LUKS:
		return "luks";
	default:
		return "unknown";
	}
}

static void pack_header(const struct ox_info_facts *f, struct ox_image_info *info)
{
	const struct ox_qcow2_header *h = &f->header;

	info->virtual_bytes = h->size_bytes;
	info->cluster_bytes = (uint32_t)ox_qcow2_cluster_bytes(h);
	info->version = h->version;
	info->refcount_bits = 1u << h->refcount_order;
	info->lazy_refcounts = h->compatible & OX_QCOW2_COMPAT_LAZY_REFCOUNTS;
	info->dirty = h->incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	info->corrupt = h->incompatible & OX_QCOW2_INCOMPAT_CORRUPT;
	info->extended_l2 = h->incompatible & OX_QCOW2_INCOMPAT_EXTENDED_L2;
	info->compression_type = h->compression_type == OX_QCOW2_ZSTD ? "zstd" : "zlib";
	info->encryption = encryption_name(h->crypt_method);
	info->data_file_raw = h->autoclear & OX_QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

/* Of an image that is not qcow2. */
static void pack_others(const struct ox_info_facts *f, struct ox_image_info *info)
{
	bool is_raw = strcmp(f->format, "raw") == 0;

	info->is_only_recognised = !is_raw && strcmp(f->format, "qed") != 0;
	/* Disks consist of sectors: the last one is filled up with zeroes. */
	info->virtual_bytes = is_raw ? ox_align_up(f->file_bytes, SECTOR_BYTES) : f->disk_bytes;
	info->cluster_bytes = f->qed_cluster_bytes;
	info->dirty = f->qed_needs_check;
	info->backing_format = f->qed_backing_format;
}

static void pack_snapshots(const struct ox_info_facts *f, struct ox_snapshot_info *out,
			   struct pool *pool)
{
	for (size_t i = 0; i < f->snapshot_count; i++) {
		const struct ox_qcow2_snapshot *s = &f->snapshots[i];

		out[i] = (struct ox_snapshot_info){
			.id = put(pool, s->id),
			.name = put(pool, s->name),
			.vm_state_bytes = s->vm_state_bytes,
			.date_seconds = s->date_seconds,
			.date_nanoseconds = s->date_nanoseconds,
			.vm_clock_ns = s->vm_clock_ns,
			.disk_bytes = s->disk_bytes,
			.icount = s->icount,
		};
	}
}

static void pack_bitmaps(const struct ox_info_facts *f, struct ox_bitmap_info *out,
			 struct pool *pool)
{
	for (size_t i = 0; i < f->bitmap_count; i++) {
		const struct ox_qcow2_bitmap *b = &f->bitmaps[i];

		out[i] = (struct ox_bitmap_info){
			.name = put(pool, b->name),
			.granularity_bytes = UINT32_C(1) << b->granularity_bits,
			.in_use = b->flags & OX_QCOW2_BITMAP_IN_USE,
			.automatic = b->flags & OX_QCOW2_BITMAP_AUTO,
		};
	}
}

struct ox_image_info *ox_info_pack(const struct ox_info_facts *facts, const char *filename)
{
	size_t snapshots_bytes = facts->snapshot_count * sizeof(struct ox_snapshot_info);
	size_t bitmaps_bytes = facts->bitmap_count * sizeof(struct ox_bitmap_info);
	size_t strings_bytes = all_string_bytes(facts, filename);
	struct ox_image_info *info =
		calloc(1, sizeof(*info) + snapshots_bytes + bitmaps_bytes + strings_bytes);
	struct ox_snapshot_info *snapshots;
	struct ox_bitmap_info *bitmaps;
	struct pool pool;

	if (!info)
		return NULL;
	_Static_assert(_Alignof(struct ox_bitmap_info) <= _Alignof(struct ox_snapshot_info),
		       "the arrays follow each other in order of falling alignment");
	snapshots = (struct ox_snapshot_info *)(info + 1);
	bitmaps = (struct ox_bitmap_info *)(snapshots + facts->snapshot_count);
	pool.next = (char *)(bitmaps + facts->bitmap_count);
	pool.end = pool.next + strings_bytes;

	info->filename = put(&pool, filename);
	info->format = facts->format;
	info->actual_bytes = facts->actual_bytes;
	info->file_bytes = facts->file_bytes;
	info->backing_file = put(&pool, facts->backing_name);
	info->backing_path = put(&pool, facts->backing_path);
	if (strcmp(facts->format, "qcow2") != 0) {
		pack_others(facts, info);
		return info;
	}
	pack_header(facts, info);
	info->backing_format = put(&pool, facts->ext.backing_format);
	info->data_file = put(&pool, facts->ext.data_file);
	pack_snapshots(facts, snapshots, &pool);
	pack_bitmaps(facts, bitmaps, &pool);
	info->snapshot_count = facts->snapshot_count;
	info->snapshots = facts->snapshot_count ? snapshots : NULL;
	info->bitmap_count = facts->bitmap_count;
	info->bitmaps = facts->bitmap_count ? bitmaps : NULL;
	return info;
}
