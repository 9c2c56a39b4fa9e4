/* SPDX-License-Identifier: MIT */
#include "check/walk/digest.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
/* Where clusters are scattered, fetching cells from memory would take most of the time. */
#define PREFETCH_RUNS 8u

void ox_digest_clear(struct ox_digest *d)
{
	free(d->runs);
	free(d->odd);
	*d = (struct ox_digest){0};
}

/* ---- taking apart ---- */

/* The table that is being taken apart. */
struct table {
	struct ox_digest *d;
	const struct ox_view *v;
	const struct ox_be64 *entries;
	uint64_t whole_clusters;  /* those that an entry may name */
	uint64_t next_contiguous; /* where the next data cluster would continue the last one */
};

static struct ox_run *new_run(struct ox_digest *d)
{
	if (ox_grow(d->runs, d->run_count, d->run_room, 64) < 0)
		return NULL;
	return &d->runs[d->run_count++];
}

static int add_odd(struct ox_digest *d, uint64_t index, uint64_t raw, uint64_t subclusters)
{
	if (ox_grow(d->odd, d->odd_count, d->odd_room, 64) < 0)
		return -ENOMEM;
	d->odd[d->odd_count++] = (struct ox_odd_entry){
		.raw = raw,
		.subclusters = subclusters,
		.index = (uint32_t)index,
	};
	return 0;
}

static bool names_data(enum ox_qcow2_entry_kind kind)
{
	return kind == OX_QCOW2_ENTRY_DATA || kind == OX_QCOW2_ENTRY_ZERO_ALLOC;
}

/* How many entries, of room, go on as the first one begins: in the next clusters, and all alike. */
static uint64_t run_length(const struct table *t, uint64_t index, uint64_t room)
{
	unsigned words = ox_qcow2_l2_words(&t->v->h);
	const struct ox_be64 *entry = &t->entries[index * words];
	uint64_t step = t->v->cluster_bytes;
	uint64_t raw = ox_be64_get(entry[0]);
	uint64_t run = 1;

	if (words == 1) {
		while (run < room && ox_be64_get(entry[run]) == raw + run * step)
			run++;
		return run;
	}
	while (run < room && ox_be64_get(entry[2 * run]) == raw + run * step &&
	       ox_qcow2_subclusters_valid(OX_QCOW2_ENTRY_DATA, ox_be64_get(entry[2 * run + 1])))
		run++;
	return run;
}

static int add_run(struct table *t, uint64_t index, const struct ox_qcow2_entry *e, uint64_t *ret)
{
	const struct ox_view *v = t->v;
	uint64_t cluster = e->host.bytes / v->cluster_bytes;
	uint64_t room = ox_min_u64(ox_qcow2_l2_entries(&v->h) - index, t->whole_clusters - cluster);
	struct ox_run *run = new_run(t->d);

	if (!run)
		return -ENOMEM;
	/* What adds up to a place in the file has carried into no flag. */
	*ret = run_length(t, index, room);
	*run = (struct ox_run){
		.cluster = cluster,
		.index = (uint32_t)index,
		.length = (uint32_t)*ret & INT32_MAX,
		.copied = e->copied,
	};
	return 0;
}

/* As qemu-img has it: a compressed cluster is fragmented by nature. */
static void tally(struct table *t, const struct ox_qcow2_entry *e, uint64_t run)
{
	struct ox_digest *d = t->d;

	if (names_data(e->kind)) {
		d->allocated += (uint32_t)run;
		d->fragmented += t->next_contiguous && t->next_contiguous != e->host.bytes;
		t->next_contiguous = e->host.bytes + run * t->v->cluster_bytes;
	} else if (e->kind == OX_QCOW2_ENTRY_COMPRESSED && !t->v->has_data_file) {
		d->allocated++;
		d->fragmented++;
		d->compressed++;
	}
}

/* Takes the entry at index, and those that continue it. */
static int take_entries(struct table *t, uint64_t index, uint64_t *ret)
{
	const struct ox_view *v = t->v;
	unsigned words = ox_qcow2_l2_words(&v->h);
	const struct ox_be64 *entry = &t->entries[index * words];
	uint64_t raw = ox_be64_get(entry[0]);
	uint64_t subclusters = words == 2 ? ox_be64_get(entry[1]) : 0;
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&v->h, raw);
	bool valid = ox_qcow2_subclusters_valid(e.kind, subclusters);
	int r = 0;

	*ret = 1;
	if (names_data(e.kind) && valid && !v->has_data_file &&
	    e.host.bytes / v->cluster_bytes < t->whole_clusters)
		r = add_run(t, index, &e, ret);
	else if (!valid || (e.kind != OX_QCOW2_ENTRY_ZERO && e.kind != OX_QCOW2_ENTRY_UNALLOCATED))
		r = add_odd(t->d, index, raw, subclusters);
	tally(t, &e, *ret);
	return r;
}

int ox_digest_table(struct ox_digest *d, const struct ox_view *v, uint64_t cluster,
		    const struct ox_be64 *entries)
{
	struct table t = {
		.d = d,
		.v = v,
		.entries = entries,
		.whole_clusters = ox_view_limit_of(v, cluster) / v->cluster_bytes,
	};
	unsigned words = ox_qcow2_l2_words(&v->h);
	int r = 0;

	d->run_count = d->odd_count = d->left = 0;
	d->used = d->allocated = d->fragmented = d->compressed = 0;
	for (uint64_t i = 0, run; i < ox_qcow2_l2_entries(&v->h) && r == 0; i += run) {
		const struct ox_be64 *entry = &entries[i * words];

		run = 1;
		if (!entry[0].raw && (words == 1 || !entry[1].raw))
			continue;
		r = take_entries(&t, i, &run);
		d->used += entry[0].raw ? (uint32_t)run : 0;
	}
	return r;
}

/* ---- counting ---- */

static void skip(struct ox_run *run, uint32_t entries)
{
	run->cluster += entries;
	run->index += entries;
	run->length = (run->length - entries) & INT32_MAX;
}

/* 1; 0 where something else names the cluster; or -ENOMEM. */
static int count_one(struct ox_counts *k, uint64_t cluster, struct ox_cell cell)
{
	struct ox_cell old = ox_counts_get(k, cluster);
	int r;

	if (old.state != OX_CELL_NONE && old.state != OX_CELL_COMPRESSED && !ox_cell_is_data(old))
		return 0;
	r = ox_counts_set(k, cluster, ox_cell_add(old, cell));
	return r < 0 ? r : 1;
}

static int count_run(struct ox_counts *k, struct ox_run *run, struct ox_cell cell)
{
	int r = 1;

	while (run->length > 0 && r > 0) {
		int64_t filled = ox_counts_fill(k, run->cluster, run->length, cell);

		if (filled < 0)
			return (int)filled;
		skip(run, (uint32_t)filled);
		if (run->length == 0)
			break;
		r = count_one(k, run->cluster, cell);
		if (r > 0)
			skip(run, 1);
	}
	return r < 0 ? r : 0;
}

int ox_digest_count(struct ox_digest *d, struct ox_counts *k, struct ox_cell table_cell)
{
	bool active = (table_cell.state & 3u) != 0;
	int r = 0;

	for (uint32_t i = 0; i < d->run_count && r == 0; i++) {
		struct ox_run *run = &d->runs[i];
		struct ox_cell cell = {.state = OX_CELL_DATA, .count = table_cell.count};

		if (i + PREFETCH_RUNS < d->run_count)
			ox_counts_prefetch(k, run[PREFETCH_RUNS].cluster);
		if (active)
			cell.state |= run->copied ? OX_CELL_COPIED : OX_CELL_PLAIN;
		r = count_run(k, run, cell);
		d->left += run->length > 0;
	}
	return r;
}

static int by_index(const void *one, const void *other)
{
	const struct ox_odd_entry *a = one;
	const struct ox_odd_entry *b = other;

	return (a->index > b->index) - (a->index < b->index);
}

int ox_digest_leave(struct ox_digest *d, const struct ox_view *v)
{
	if (d->left == 0)
		return 0;
	for (uint32_t i = 0; i < d->run_count; i++) {
		struct ox_run *run = &d->runs[i];

		for (; run->length > 0; skip(run, 1)) {
			uint64_t raw = run->cluster * v->cluster_bytes |
				       (run->copied ? OX_QCOW2_COPIED : 0);

			if (add_odd(d, run->index, raw, 0) < 0)
				return -ENOMEM;
		}
	}
	d->left = 0;
	qsort(d->odd, d->odd_count, sizeof(*d->odd), by_index);
	return 0;
}
