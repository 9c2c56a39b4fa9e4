/* SPDX-License-Identifier: MIT */
/*
 * From guest to host: the L1 table and the L2 tables, through the cache. Every entry is judged when
 * it is read: what cannot be followed is told as the check names it, and is -EIO.
 */
#include <errno.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"
#include "img/chain.h"
#include "img/clusters.h"
#include "img/qed/qed.h"

/* What one table entry leads to, for how much of the guest's range. */
struct entry {
	uint64_t at; /* its place in the file */
	uint64_t guest_offset;
	uint64_t guest_length;
	uint64_t host_bytes; /* a table's, or a cluster's */
	bool is_l1;
	uint64_t value;
};

static enum ox_qed_place judge(const struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	/* The last cluster of a file may be cut short: the rest of it reads as zeroes. */
	return ox_qed_judge_place(&q->h, value, e->is_l1 ? e->host_bytes : 1, q->img->io->length);
}

/* Whether a cluster or a table of that place would lie in the L1 table. */
static bool is_on_l1(const struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	return value < q->h.l1_offset + ox_qed_table_bytes(&q->h) &&
	       q->h.l1_offset < value + e->host_bytes;
}

static bool is_sound(const struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	return judge(q, e, value) == OX_QED_SOUND && !is_on_l1(q, e, value);
}

static const char *name_damage(const struct ox_qed_image *q, const struct entry *e)
{
	switch (judge(q, e, e->value)) {
	case OX_QED_MISPLACED:
		return e->is_l1 ? "qed-l1-entry" : "qed-l2-entry";
	case OX_QED_PAST_END:
		return q->h.features & OX_QED_NEED_CHECK ? "stale-entry" : "past-end";
	case OX_QED_SOUND:
		break;
	}
	return "metadata-overlap";
}

/* -EAGAIN where the entry is to be looked at again: what lies past the end, as it was known, may
 * have been written since (-U). */
static int refuse_co(struct ox_qed_image *q, const struct entry *e)
{
	if (ox_io_has_grown_co(q->img->io))
		return -EAGAIN;
	ox_notice_tell(q->img, &(struct ox_notice){
				       .kind = OX_NOTICE_DAMAGE,
				       .error = -EIO,
				       .finding = name_damage(q, e),
				       .host_offset = e->at,
				       .host_length = 8,
				       .guest_offset = e->guest_offset,
				       .guest_length = ox_min_u64(
					       e->guest_length, q->h.size_bytes - e->guest_offset),
			       });
	return -EIO;
}

/*
 * Reads the entry at e->at, and counts in *ret_count how many from it on, of at most most and of
 * those of one slice, are alike: 0 as it is; 1 as it is, of data; or offsets that follow each
 * other.
 */
static int read_entry_co(struct ox_qed_image *q, struct entry *e, uint64_t most,
			 uint64_t *ret_count)
{
	uint64_t slice = ox_align_down(e->at, OX_QED_SLICE_BYTES);
	size_t first = (e->at - slice) / 8;
	bool is_offset;
	const struct ox_le64 *entries;
	struct ox_block *b;
	uint64_t n = 1;
	int r;

	r = ox_cache_get_co(&q->map, slice, &b);
	if (r < 0)
		return r;
	entries = (const struct ox_le64 *)(const void *)b->data + first;
	most = ox_min_u64(most, OX_QED_SLICE_BYTES / 8 - first);
	e->value = ox_le64_get(entries[0]);
	is_offset = e->value != 0 && (e->is_l1 || e->value != OX_QED_ZERO);
	if (is_offset && !is_sound(q, e, e->value))
		n = 0;
	while (n > 0 && n < most && !(is_offset && e->is_l1)) {
		uint64_t next = e->value + (is_offset ? n * q->cluster_bytes : 0);

		if (ox_le64_get(entries[n]) != next || (is_offset && !is_sound(q, e, next)))
			break;
		n++;
	}
	ox_cache_put(&q->map, b);
	*ret_count = n;
	return n > 0 ? 0 : refuse_co(q, e);
}

static int lookup_once_co(struct ox_qed_image *q, uint64_t offset, uint64_t length,
			  struct ox_run *ret)
{
	uint64_t span = q->table_entries << q->h.cluster_bits;
	uint64_t in_span = offset & (span - 1);
	uint64_t in_cluster = offset & (q->cluster_bytes - 1);
	struct entry e = {
		.at = q->h.l1_offset + offset / span * 8,
		.guest_offset = offset - in_span,
		.guest_length = span,
		.host_bytes = ox_qed_table_bytes(&q->h),
		.is_l1 = true,
	};
	uint64_t count;
	int r;

	r = read_entry_co(q, &e, ox_div_up(in_span + length, span), &count);
	if (r < 0)
		return r;
	if (e.value == 0) {
		*ret = (struct ox_run){.length = ox_min_u64(length, count * span - in_span)};
		return 0;
	}
	e = (struct entry){
		.at = e.value + (in_span >> q->h.cluster_bits) * 8,
		.guest_offset = offset - in_cluster,
		.guest_length = q->cluster_bytes,
		.host_bytes = q->cluster_bytes,
	};
	length = ox_min_u64(length, span - in_span);
	r = read_entry_co(q, &e, ox_div_up(in_cluster + length, q->cluster_bytes), &count);
	if (r < 0)
		return r;
	*ret = (struct ox_run){.length = ox_min_u64(length, count * q->cluster_bytes - in_cluster)};
	if (e.value == OX_QED_ZERO) {
		ret->flags = OX_EXTENT_ZERO | OX_EXTENT_PRESENT;
	} else if (e.value != 0) {
		ret->flags = OX_EXTENT_DATA | OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET;
		ret->host_offset = e.value + in_cluster;
	}
	return 0;
}

static int lookup_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_run *ret)
{
	int r;

	ox_assert(length > 0);
	do
		r = lookup_once_co(img->state, offset, length, ret);
	while (r == -EAGAIN); /* as often as the file has grown */
	return r;
}

int ox_qed_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			uint64_t offset, uint64_t *length, bool *ret_below)
{
	struct ox_run run;
	int r = lookup_co(img, offset, *length, &run);

	if (r < 0)
		return r;
	*length = run.length;
	*ret_below = run.flags == 0 && ox_clusters_are_backed(img, offset);
	if (*ret_below)
		return 0;
	if (run.flags & OX_EXTENT_DATA)
		return ox_io_preadv_part_co(img->io, iov, n, skip, run.length, run.host_offset);
	ox_iov_zero(iov, n, skip, run.length);
	return 0;
}

/* Nothing that this image does changes a table, so that a chain's way of reading is its own. */
int ox_qed_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		     uint64_t length)
{
	return ox_chain_read_co(img, iov, n, 0, offset, length);
}

int ox_qed_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret)
{
	return ox_clusters_extent_co(img, lookup_co, offset, length, ret);
}
