/* SPDX-License-Identifier: MIT */
/* Where the L1 tables name each L2 table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/grow.h"
#include "base/sorted.h"
#include "check/mend/mend.h"

static int by_place(const void *one, const void *other)
{
	const struct ox_place *a = one;
	const struct ox_place *b = other;

	if (a->cluster != b->cluster)
		return a->cluster < b->cluster ? -1 : 1;
	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	return a->tree < b->tree ? -1 : a->tree > b->tree;
}

static int note_l1_entry(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	struct ox_places *p = &m->places;
	uint64_t cluster = e.l2.bytes / w->v.cluster_bytes;

	if (e.bad || !ox_cell_is_l2(ox_counts_get(&w->k.cells, cluster)))
		return 0;
	if (ox_grow(p->items, p->count, p->room, 256) < 0)
		return -ENOMEM;
	p->items[p->count++] = (struct ox_place){
		.cluster = cluster,
		.index = index,
		.tree = tree,
		.refs = 1,
	};
	return 0;
}

/* Trees that name a table at one index are one place. */
static void join_equal(struct ox_places *p)
{
	size_t kept = 0;

	for (size_t i = 0; i < p->count; i++) {
		struct ox_place *last = kept ? &p->items[kept - 1] : NULL;

		if (last && last->cluster == p->items[i].cluster &&
		    last->index == p->items[i].index)
			last->refs++;
		else
			p->items[kept++] = p->items[i];
	}
	p->count = kept;
}

static int by_index(const void *one, const void *other)
{
	const struct ox_place *a = *(struct ox_place *const *)one;
	const struct ox_place *b = *(struct ox_place *const *)other;

	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	return a->cluster < b->cluster ? -1 : a->cluster > b->cluster;
}

static int sort_by_index(struct ox_places *p)
{
	p->indexed = reallocarray(NULL, ox_max_u64(p->count, 1), sizeof(struct ox_place *));
	if (!p->indexed)
		return -ENOMEM;
	for (size_t i = 0; i < p->count; i++)
		p->indexed[i] = &p->items[i];
	qsort(p->indexed, p->count, sizeof(struct ox_place *), by_index);
	return 0;
}

int ox_mend_read_places_co(struct ox_mend *m)
{
	struct ox_places *p = &m->places;
	int r;

	if (p->indexed)
		return 0;
	r = ox_walk_l1_co(m->w, OX_WAYS_ALL, note_l1_entry, m);
	if (r < 0)
		return r;
	if (p->count > 0)
		qsort(p->items, p->count, sizeof(*p->items), by_place);
	join_equal(p);
	return sort_by_index(p);
}

struct ox_place *const *ox_places_at(const struct ox_places *places, uint64_t index,
				     size_t *ret_count)
{
	size_t low = 0;
	size_t high = places->count;
	size_t count = 0;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (places->indexed[mid]->index < index)
			low = mid + 1;
		else
			high = mid;
	}
	while (low + count < places->count && places->indexed[low + count]->index == index)
		count++;
	*ret_count = count;
	return places->indexed + low;
}

struct ox_place *ox_places_find(const struct ox_places *places, uint64_t cluster, size_t *ret_count)
{
	size_t first =
		ox_sorted_from(places->items, places->count, sizeof(*places->items), cluster);
	size_t end = first;

	while (end < places->count && places->items[end].cluster == cluster)
		end++;
	*ret_count = end - first;
	return end > first ? &places->items[first] : NULL;
}

void ox_mend_at_entry(const struct ox_view *v, const struct ox_place *place, uint64_t entry,
		      struct ox_found *what)
{
	what->guest_offset = (place->index * ox_qcow2_l2_entries(&v->h) + entry) * v->cluster_bytes;
	what->guest_length = v->cluster_bytes;
	what->snapshot = ox_view_name_of(v, place->tree);
}

void ox_mend_close(struct ox_mend *m)
{
	free(m->places.items);
	free(m->places.indexed);
	ox_stored_free(&m->stored);
}
