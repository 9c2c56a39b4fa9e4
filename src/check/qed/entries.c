/* SPDX-License-Identifier: MIT */
/* The ways through L1 and L2 tables, in pieces: a table may have 1 GiB. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/qed/qed.h"
#include "check/scan/scan.h"

#define PIECE_BYTES (UINT64_C(64) << 10)
#define SECTOR_BYTES 512u

struct pass {
	struct ox_qed *q;
	ox_qed_entry_fn visit_co;
	bool is_l1;
	uint64_t table; /* of the next piece, in q->tables */
	uint64_t at;	/* its offset in the table */
	uint8_t *before;
};

static uint64_t piece_bytes(const struct ox_qed *q)
{
	return ox_min_u64(PIECE_BYTES, q->table_bytes);
}

uint64_t ox_qed_table_pieces(const struct ox_qed *q)
{
	return q->table_bytes / piece_bytes(q);
}

static bool next_piece(void *arg, struct ox_scan_item *ret)
{
	struct pass *p = arg;
	const struct ox_qed *q = p->q;
	uint64_t offset;

	if (p->table >= (p->is_l1 ? 1 : q->tables.count))
		return false;
	offset = p->is_l1 ? q->h.l1_offset : q->tables.list[p->table].offset;
	*ret = (struct ox_scan_item){
		.offset = offset + p->at,
		.size_bytes = piece_bytes(q),
		.tag = p->table,
	};
	p->at += ret->size_bytes;
	if (p->at == q->table_bytes) {
		p->table++;
		p->at = 0;
	}
	return true;
}

/* Each sector is old or new after a crash (M2), and each of its entries is right either way. */
static int write_changes_co(struct ox_io *io, const uint8_t *before, const uint8_t *bytes,
			    const struct ox_scan_item *item)
{
	int r = 0;

	for (size_t at = 0; at < item->size_bytes && r == 0; at += SECTOR_BYTES) {
		if (memcmp(before + at, bytes + at, SECTOR_BYTES) != 0)
			r = ox_io_pwrite_co(io, bytes + at, SECTOR_BYTES, item->offset + at, 0);
	}
	return r;
}

static int visit_entry_co(struct pass *p, const struct ox_scan_item *item, struct ox_le64 *entry,
			  uint64_t index)
{
	const struct ox_qed *q = p->q;
	uint64_t value = ox_le64_get(*entry);
	struct ox_qed_slot slot;
	int r;

	if (value == 0)
		return 0;
	slot = ox_qed_l1_slot(q, p->is_l1 ? index : q->tables.list[item->tag].index);
	if (!p->is_l1) {
		slot.table = &q->tables.list[item->tag];
		slot.entry += index;
		slot.guest_offset = ox_qed_guest_offset(q, slot.entry);
	}
	r = p->visit_co(p->q, &slot, &value);
	*entry = ox_le64(value);
	return r;
}

static int visit_piece_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct pass *p = arg;
	struct ox_qed *q = p->q;
	uint64_t start = p->is_l1 ? q->h.l1_offset : q->tables.list[item->tag].offset;
	struct ox_le64 *entries = (struct ox_le64 *)bytes;
	uint64_t first = (item->offset - start) / 8;

	if (error)
		return ox_journal_unreadable(&q->j, p->is_l1 ? "L1 table" : "L2 table",
					     item->offset, error);
	if (p->before)
		memcpy(p->before, bytes, item->size_bytes);
	for (size_t i = 0; i < item->size_bytes / 8; i++) {
		int r = visit_entry_co(p, item, &entries[i], first + i);

		if (r < 0)
			return r;
	}
	ox_journal_progress(&q->j, 1);
	if (q->pause_co) {
		int r = q->pause_co(q->pause_arg);

		if (r < 0)
			return r;
	}
	return p->before ? write_changes_co(q->io, p->before, bytes, item) : 0;
}

static int pass_co(struct pass *p)
{
	static const struct ox_scan_ops ops = {.next = next_piece, .visit_co = visit_piece_co};
	int r;

	if (p->q->changes_entries) {
		p->before = malloc(piece_bytes(p->q));
		if (!p->before)
			return -ENOMEM;
	}
	r = ox_scan_co(p->q->io, p->q->cluster_bytes, &ops, p);
	free(p->before);
	return r;
}

int ox_qed_l1_co(struct ox_qed *q, ox_qed_entry_fn visit_co)
{
	struct pass p = {.q = q, .visit_co = visit_co, .is_l1 = true};

	return pass_co(&p);
}

int ox_qed_l2_co(struct ox_qed *q, ox_qed_entry_fn visit_co)
{
	struct pass p = {.q = q, .visit_co = visit_co};

	return pass_co(&p);
}
