/* SPDX-License-Identifier: MIT */
/*
 * From guest to host: the active L1 table and its L2 tables, through the cache. Every entry is
 * validated when it is read, so that nothing downstream checks again: a damaged one is -EIO, and
 * nothing is guessed.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/qcow2/qcow2.h"

#define READ_BYTES (64u * 1024u)

static uint64_t l2_entries(const struct ox_qcow2 *q)
{
	return q->m.cluster_bytes / 8;
}

static uint64_t l1_index_of(const struct ox_qcow2 *q, struct ox_guest guest)
{
	return guest.bytes >> q->m.cluster_bits >> (q->m.cluster_bits - 3);
}

int ox_map_l1_co(struct ox_qcow2 *q, uint64_t index, struct ox_qcow2_l1_entry *ret,
		 bool *ret_durable)
{
	uint64_t at = ox_qcow2_hdr(q)->l1_offset + index * 8;
	uint64_t slice = ox_align_down(at, q->m.slice_bytes);
	struct ox_qcow2_l1_entry e;
	struct ox_block *b;
	uint64_t raw;
	bool durable;
	int r;

	ox_assert(index < ox_qcow2_hdr(q)->l1_entries);
	r = ox_cache_get_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	raw = ox_be64_get(((struct ox_be64 *)(void *)b->data)[(at - slice) / 8]);
	e = ox_qcow2_l1_decode(ox_qcow2_hdr(q), raw);
	durable = ox_cache_is_durable(&q->m.map, b);
	ox_cache_put(&q->m.map, b);
	if (e.bad || (e.l2.bytes == 0 && e.copied)) {
		ox_corrupt_l1(q, index, raw);
		return -EIO;
	}
	if (ox_recover_is_stale_table(q, e.l2))
		e = (struct ox_qcow2_l1_entry){0};
	if (e.l2.bytes != 0 && (!ox_mapped_host_ok(&q->m, e.l2, q->m.cluster_bytes) ||
				!ox_tables_is_known(&q->m, e.l2))) {
		if (ox_mapped_has_grown_co(&q->m))
			return -EAGAIN;
		ox_corrupt_l1(q, index, raw);
		return -EIO;
	}
	*ret = e;
	*ret_durable = durable;
	return 0;
}

/* Position of guest's entry: slice offset on the host, index in the slice. */
static uint64_t slice_of(const struct ox_qcow2 *q, struct ox_host table, struct ox_guest guest,
			 uint64_t *ret_index)
{
	uint64_t entry = (guest.bytes >> q->m.cluster_bits) % l2_entries(q);
	uint64_t per_slice = q->m.slice_bytes / 8;

	*ret_index = entry % per_slice;
	return table.bytes + entry / per_slice * q->m.slice_bytes;
}

/* Whether the entry's host bytes may be what it says. */
static bool entry_ok(const struct ox_qcow2 *q, const struct ox_qcow2_entry *e)
{
	uint64_t bytes;

	switch (e->kind) {
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return ox_mapped_host_ok(&q->m, e->host, q->m.cluster_bytes) &&
		       !ox_tables_overlap(&q->m, e->host, q->m.cluster_bytes);
	case OX_QCOW2_ENTRY_COMPRESSED:
		if (e->host.bytes >= q->m.io->length)
			return false;
		bytes = ox_min_u64(e->compressed_bytes, q->m.io->length - e->host.bytes);
		return ox_mapped_host_ok(&q->m, e->host, bytes) &&
		       !ox_tables_overlap(&q->m, e->host, bytes);
	case OX_QCOW2_ENTRY_BAD:
		return false;
	case OX_QCOW2_ENTRY_UNALLOCATED:
	case OX_QCOW2_ENTRY_ZERO:
		break;
	}
	return true;
}

/* Whether next continues the run whose last entry was last. */
static bool continues(const struct ox_qcow2 *q, const struct ox_qcow2_entry *last,
		      const struct ox_qcow2_entry *next)
{
	if (next->kind != last->kind || next->copied != last->copied)
		return false;
	switch (next->kind) {
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return next->host.bytes == last->host.bytes + q->m.cluster_bytes;
	case OX_QCOW2_ENTRY_UNALLOCATED:
	case OX_QCOW2_ENTRY_ZERO:
		return true;
	default:
		return false; /* a compressed cluster stands alone */
	}
}

/* What an entry says, while a recovery knows better (docs/recovery.md): a stale one of a table that
 * is nobody else's says nothing, in a shared one it is damage; COPIED does not hold for what is
 * named twice. */
static struct ox_qcow2_entry decode(const struct ox_qcow2 *q, const struct ox_qcow2_l1_entry *l1,
				    uint64_t raw)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(ox_qcow2_hdr(q), raw);

	if (e.copied && ox_recover_is_shared(q, e.host))
		e.copied = false;
	if (!ox_recover_is_stale(q, l1->l2, &e))
		return e;
	if (!l1->copied)
		return (struct ox_qcow2_entry){.kind = OX_QCOW2_ENTRY_BAD};
	return (struct ox_qcow2_entry){.kind = e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC
						       ? OX_QCOW2_ENTRY_ZERO
						       : OX_QCOW2_ENTRY_UNALLOCATED};
}

static enum ox_map_kind kind_of(enum ox_qcow2_entry_kind kind)
{
	switch (kind) {
	case OX_QCOW2_ENTRY_DATA:
		return OX_MAP_DATA;
	case OX_QCOW2_ENTRY_ZERO:
		return OX_MAP_ZERO;
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return OX_MAP_ZERO_ALLOC;
	case OX_QCOW2_ENTRY_COMPRESSED:
		return OX_MAP_COMPRESSED;
	default:
		return OX_MAP_UNALLOCATED;
	}
}

static enum ox_qcow2_entry_kind entry_kind_of(enum ox_map_kind kind)
{
	switch (kind) {
	case OX_MAP_DATA:
		return OX_QCOW2_ENTRY_DATA;
	case OX_MAP_ZERO:
		return OX_QCOW2_ENTRY_ZERO;
	case OX_MAP_ZERO_ALLOC:
		return OX_QCOW2_ENTRY_ZERO_ALLOC;
	default:
		ox_assert(kind == OX_MAP_UNALLOCATED);
		return OX_QCOW2_ENTRY_UNALLOCATED;
	}
}

/* The run that starts at entry index of the slice. */
static int read_run(const struct ox_qcow2 *q, const struct ox_qcow2_l1_entry *l1,
		    const struct ox_be64 *slice, uint64_t index, uint64_t in_cluster,
		    uint64_t length, struct ox_map_run *ret)
{
	struct ox_qcow2_entry first;
	struct ox_qcow2_entry last;
	uint64_t bytes = q->m.cluster_bytes - in_cluster;

	ret->entry = ox_be64_get(slice[index]);
	first = decode(q, l1, ret->entry);
	if (!entry_ok(q, &first))
		return -EIO;
	last = first;
	while (bytes < length && ++index < q->m.slice_bytes / 8) {
		struct ox_qcow2_entry next = decode(q, l1, ox_be64_get(slice[index]));

		/* A bad neighbour ends the run; the request that reaches it gets the error. */
		if (!continues(q, &last, &next) || !entry_ok(q, &next))
			break;
		bytes += q->m.cluster_bytes;
		last = next;
	}
	ret->kind = kind_of(first.kind);
	ret->own = first.copied;
	ret->host = first.host;
	if (first.kind == OX_QCOW2_ENTRY_DATA || first.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
		ret->host.bytes += in_cluster;
	ret->compressed_bytes = first.compressed_bytes;
	ret->length = ox_min_u64(bytes, length);
	return 0;
}

/* How many L1 entries from index on are empty, of those in its slice and at most most. */
static int count_empty_co(struct ox_qcow2 *q, uint64_t index, uint64_t most, uint64_t *ret)
{
	uint64_t at = ox_qcow2_hdr(q)->l1_offset + index * 8;
	uint64_t slice = ox_align_down(at, q->m.slice_bytes);
	const struct ox_be64 *entries;
	struct ox_block *b;
	uint64_t n = 0;
	int r;

	r = ox_cache_get_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	entries = (const struct ox_be64 *)(void *)b->data + (at - slice) / 8;
	most = ox_min_u64(most, (q->m.slice_bytes - (at - slice)) / 8);
	while (n < most && entries[n].raw == 0)
		n++;
	ox_cache_put(&q->m.map, b);
	*ret = n;
	return 0;
}

/* No L2 table: unallocated up to the next one's start. A disk may have millions that are not there,
 * so a whole slice of L1 entries is passed over at once. */
static int no_table_run_co(struct ox_qcow2 *q, struct ox_guest guest, uint64_t length,
			   struct ox_map_run *ret)
{
	uint64_t span = q->m.cluster_bytes * l2_entries(q);
	uint64_t have = span - guest.bytes % span;
	uint64_t more = 0;
	int r = 0;

	if (have < length)
		r = count_empty_co(q, l1_index_of(q, guest) + 1, ox_div_up(length - have, span),
				   &more);
	if (r < 0)
		return r;
	*ret = (struct ox_map_run){
		.kind = OX_MAP_UNALLOCATED,
		.durable = ret->durable,
		.length = ox_min_u64(length, have + more * span),
	};
	return 0;
}

/*
 * The slice of guest's entry in the table that the L1 entry names; *ret_block NULL: it names none.
 * A table may be copied while its slice is on the way, and be freed, punched and used for something
 * else before it arrives (D4 guards what a guest range's lock covers, which a table is not): then
 * the L1 entry is read anew.
 */
static int lookup_slice_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_qcow2_l1_entry *l1,
			   bool *ret_durable, struct ox_block **ret_block, uint64_t *ret_index)
{
	uint64_t left;
	int r;

	for (;;) {
		left = q->tables_left;
		*ret_block = NULL;
		r = ox_map_l1_co(q, l1_index_of(q, guest), l1, ret_durable);
		if (r == 0 && l1->l2.bytes != 0)
			r = ox_cache_get_co(&q->m.map, slice_of(q, l1->l2, guest, ret_index),
					    ret_block);
		if (left == q->tables_left)
			return r;
		if (r == 0 && *ret_block)
			ox_cache_put(&q->m.map, *ret_block);
	}
}

static int lookup_co(struct ox_qcow2 *q, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret)
{
	struct ox_qcow2_l1_entry l1;
	struct ox_map_run run = {0};
	struct ox_block *b;
	uint64_t index = 0;
	int r;

	ox_assert(length > 0);
	r = lookup_slice_co(q, guest, &l1, &run.durable, &b, &index);
	if (r < 0)
		return r;
	if (!b) {
		r = no_table_run_co(q, guest, length, &run);
		if (r == 0)
			*ret = run;
		return r;
	}
	r = read_run(q, &l1, (const struct ox_be64 *)(void *)b->data, index,
		     guest.bytes & (q->m.cluster_bytes - 1), length, &run);
	run.durable = run.durable && ox_cache_is_durable(&q->m.map, b);
	ox_cache_put(&q->m.map, b);
	if (r < 0) {
		struct ox_host at = ox_host(slice_of(q, l1.l2, guest, &index) + index * 8);

		if (ox_mapped_has_grown_co(&q->m))
			return -EAGAIN;
		return ox_corrupt_l2(q, guest, at, run.entry);
	}
	*ret = run;
	return 0;
}

int ox_map_lookup_co(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r;

	do
		r = lookup_co(q, guest, length, ret);
	while (r == -EAGAIN); /* as often as the file has grown */
	return r;
}

/* The entry for guest, and the same for those behind it, with host clusters that follow. */
static int set_entries_co(struct ox_qcow2 *q, struct ox_guest guest, uint64_t count,
			  struct ox_qcow2_entry e, uint64_t after, uint64_t *ret_done)
{
	struct ox_be64 *entries;
	struct ox_host table;
	struct ox_block *b;
	uint64_t index;
	uint64_t slice;
	uint64_t n;
	int r;

	ox_assert(ox_is_aligned(guest.bytes, q->m.cluster_bytes) && count > 0);
	r = ox_map_table_co(q, guest, &table);
	if (r < 0)
		return r;
	slice = slice_of(q, table, guest, &index);
	r = ox_cache_edit_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	n = ox_min_u64(count, q->m.slice_bytes / 8 - index);
	entries = (struct ox_be64 *)(void *)b->data;
	for (uint64_t i = 0; i < n; i++) {
		entries[index + i] = ox_be64(ox_qcow2_l2_encode(ox_qcow2_hdr(q), &e));
		if (e.copied)
			e.host.bytes += q->m.cluster_bytes;
	}
	ox_cache_dirty(&q->m.map, b, after);
	ox_cache_put(&q->m.map, b);
	*ret_done = n;
	return 0;
}

int ox_map_set_co(struct ox_mapped *m, struct ox_guest guest, uint64_t count, enum ox_map_kind kind,
		  struct ox_host host, uint64_t after, uint64_t *ret_done)
{
	struct ox_qcow2_entry e = {
		.kind = entry_kind_of(kind),
		.host = host,
		.copied = kind == OX_MAP_DATA || kind == OX_MAP_ZERO_ALLOC,
	};

	return set_entries_co(ox_qcow2_of_mapped(m), guest, count, e, after, ret_done);
}

int ox_map_set_compressed_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host host,
			     uint64_t bytes, uint64_t after)
{
	struct ox_qcow2_entry e = {
		.kind = OX_QCOW2_ENTRY_COMPRESSED,
		.host = host,
		.compressed_bytes = bytes,
	};
	uint64_t done;
	int r = set_entries_co(q, guest, 1, e, after, &done);

	if (r == 0)
		ox_age_start(&q->m);
	return r;
}

/* Notes where each entry of a table of table offsets points; what is malformed is met by the
 * request that needs it. */
static int load_table_co(struct ox_qcow2 *q, struct ox_cache *cache, uint64_t offset,
			 uint64_t entries)
{
	struct ox_be64 *buf = ox_io_buffer(READ_BYTES);
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && entries > 0) {
		uint64_t n = ox_min_u64(entries, READ_BYTES / 8);

		r = ox_io_pread_co(q->m.io, buf, n * 8, offset);
		if (r == 0) /* what was adopted (D10) */
			ox_cache_overlay(cache, offset, buf, n * 8);
		for (uint64_t i = 0; r == 0 && i < n; i++) {
			uint64_t at = ox_be64_get(buf[i]) & OX_QCOW2_OFFSET_MASK;

			if (at >= q->m.cluster_bytes && at < q->m.io->length)
				r = ox_tables_add(&q->m, ox_host(at));
		}
		offset += n * 8;
		entries -= n;
	}
	free(buf);
	return r;
}

int ox_map_load_tables_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t blocks = (uint64_t)h->reftable_clusters * (m->cluster_bytes / 8);
	int r = load_table_co(q, &m->map, h->l1_offset, h->l1_entries);

	return r == 0 ? load_table_co(q, &q->counts, h->reftable_offset, blocks) : r;
}
