/* SPDX-License-Identifier: MIT */
/*
 * The bytes of an image's file: its header, extensions, snapshot table, bitmap directory, and every
 * word of it as each kind of entry; of a QED image its header, and every word as a place. What
 * decodes must encode to the same.
 */
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/error.h"
#include "fmt/qcow2.h"
#include "fmt/qed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_header_encodes(const struct ox_qcow2_header *h, const uint8_t *data, size_t size)
{
	uint8_t sector[512] = {0};
	uint8_t again[512];
	struct ox_qcow2_header back;

	memcpy(sector, data, ox_min_u64(size, sizeof(sector)));
	ox_qcow2_header_encode(h, sector);
	ox_assert(ox_qcow2_header_decode(sector, sizeof(sector), &back, NULL) == 0);
	memcpy(again, sector, sizeof(again));
	ox_qcow2_header_encode(&back, again);
	ox_assert(memcmp(sector, again, sizeof(sector)) == 0);
}

static void feed_first_cluster(const struct ox_qcow2_header *h, const uint8_t *data, size_t size,
			       struct ox_qcow2_bitmaps_ext *ret_bitmaps)
{
	size_t count = ox_min_u64(size, ox_qcow2_cluster_bytes(h));
	struct ox_qcow2_extensions ext;
	struct ox_error *err = NULL;
	char *backing = NULL;

	if (ox_qcow2_backing_name(h, data, count, &backing, NULL) == 0 && backing)
		ox_assert(strlen(backing) <= OX_QCOW2_MAX_BACKING_NAME);
	free(backing);
	if (ox_qcow2_extensions_decode(h, data, count, &ext, NULL) < 0)
		return;
	if (ox_qcow2_header_check_supported(h, &ext, true, &err) < 0)
		ox_assert(ox_error_message(err)[0] != '\0');
	ox_error_free(err);
	if (ext.has_bitmaps)
		*ret_bitmaps = ext.bitmaps;
	ox_qcow2_extensions_free(&ext);
}

static void feed_snapshots(const struct ox_qcow2_header *h, const uint8_t *table, size_t size)
{
	size_t pos = 0;

	for (uint32_t i = 0; i < h->snapshot_count; i++) {
		struct ox_qcow2_snapshot s;
		size_t before = pos;

		if (ox_qcow2_snapshot_decode(h, table, size, &pos, &s, NULL) < 0)
			return;
		ox_assert(pos > before && pos <= size);
		ox_qcow2_snapshot_free(&s);
	}
}

static void feed_bitmaps(const struct ox_qcow2_header *h, uint32_t count, const uint8_t *directory,
			 size_t size)
{
	size_t pos = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct ox_qcow2_bitmap b;
		size_t before = pos;

		if (ox_qcow2_bitmap_decode(h, directory, size, &pos, &b, NULL) < 0)
			return;
		ox_assert(pos > before && pos <= size);
		ox_qcow2_bitmap_free(&b);
	}
}

static void feed_entry(const struct ox_qcow2_header *h, uint64_t raw)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(h, raw);
	struct ox_qcow2_l1_entry l1 = ox_qcow2_l1_decode(h, raw);
	struct ox_host block;

	if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.copied) {
		/* Decoded for the checker to report; an encoder refuses it. */
		e.copied = false;
		ox_assert(ox_qcow2_l2_encode(h, &e) == (raw & ~OX_QCOW2_COPIED));
	} else if (e.kind != OX_QCOW2_ENTRY_BAD) {
		ox_assert(ox_qcow2_l2_encode(h, &e) == raw);
	}
	if (!l1.bad)
		ox_assert(ox_qcow2_l1_encode(&l1) == raw);
	if (ox_qcow2_reftable_decode(h, raw, &block))
		ox_assert(ox_is_aligned(block.bytes, ox_qcow2_cluster_bytes(h)));
}

static void feed_qed(const uint8_t *data, size_t size)
{
	uint8_t once[OX_QED_HEADER_BYTES];
	uint8_t again[OX_QED_HEADER_BYTES];
	struct ox_qed_header h;
	struct ox_qed_header back;
	struct ox_le64 word;

	if (ox_qed_header_decode(data, &h))
		return;
	ox_qed_header_encode(&h, once);
	ox_assert(!ox_qed_header_decode(once, &back));
	ox_qed_header_encode(&back, again);
	ox_assert(memcmp(once, again, sizeof(once)) == 0);
	/* Only that they stand every header. */
	(void)ox_qed_judge_size(&h);
	if (!ox_qed_judge_backing(&h) && (h.features & OX_QED_BACKING))
		ox_assert(h.backing_bytes <= OX_QED_BACKING_BYTES_MAX);
	if (!ox_qed_judge_l1(&h, size))
		ox_assert(ox_range_within(h.l1_offset, ox_qed_table_bytes(&h), size));
	for (size_t at = 0; at + sizeof(word) <= size; at += sizeof(word)) {
		memcpy(&word, data + at, sizeof(word));
		if (ox_qed_judge_place(&h, ox_le64_get(word), 1, size) == OX_QED_SOUND)
			ox_assert(ox_le64_get(word) < size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ox_qcow2_bitmaps_ext bitmaps = {0};
	struct ox_qcow2_header h;
	struct ox_be64 word;

	if (size >= OX_QED_HEADER_BYTES)
		feed_qed(data, size);
	if (ox_qcow2_header_decode(data, size, &h, NULL) < 0)
		return 0;
	check_header_encodes(&h, data, size);
	/* Only that it stands every header; whether it accepts this one is not its matter. */
	(void)ox_qcow2_header_check_layout(&h, size, NULL);
	feed_first_cluster(&h, data, size, &bitmaps);
	if (h.snapshots_offset < size)
		feed_snapshots(&h, data + h.snapshots_offset, size - h.snapshots_offset);
	if (bitmaps.directory_offset < size)
		feed_bitmaps(&h, bitmaps.count, data + bitmaps.directory_offset,
			     size - bitmaps.directory_offset);
	for (size_t at = 0; at + sizeof(word) <= size; at += sizeof(word)) {
		memcpy(&word, data + at, sizeof(word));
		feed_entry(&h, ox_be64_get(word));
	}
	return 0;
}
