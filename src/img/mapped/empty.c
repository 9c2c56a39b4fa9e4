/* SPDX-License-Identifier: MIT */
/*
 * Emptying: an image gives up all that it has of its own, because its backing file holds the same
 * (docs/chain.md). A table at a time leaves the L1 table, with all that it names; whichever of
 * those changes a crash lets through, every cluster is read from one place or the other. What was
 * named is freed once that is durable (D4), as ever.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/mapped/mapped.h"

/* What a table names: clusters, or compressed streams. */
struct named {
	struct ox_host host;
	uint64_t bytes;
};

struct names {
	struct named *items;
	size_t count;
	size_t room;
};

static int add_name(struct names *names, struct ox_host host, uint64_t bytes)
{
	struct named *last = names->count > 0 ? &names->items[names->count - 1] : NULL;

	if (last && last->host.bytes + last->bytes == host.bytes) {
		last->bytes += bytes;
		return 0;
	}
	if (names->count == names->room) {
		size_t room = names->room ? names->room * 2 : 64;
		struct named *items = reallocarray(names->items, room, sizeof(*items));

		if (!items)
			return -ENOMEM;
		names->items = items;
		names->room = room;
	}
	names->items[names->count++] = (struct named){host, bytes};
	return 0;
}

/* Every entry of the table that maps [start, end), past the disk's end as well. */
static int list_names_co(struct ox_mapped *m, uint64_t start, uint64_t end, struct names *names)
{
	struct ox_map_run run;
	int r = 0;

	for (uint64_t at = start; r == 0 && at < end; at += run.length) {
		r = ox_mapped_lookup_co(m, ox_guest(at), end - at, &run);
		if (r < 0)
			break;
		if (run.kind == OX_MAP_COMPRESSED)
			r = add_name(names, run.host, run.compressed_bytes);
		else if (run.kind == OX_MAP_DATA || run.kind == OX_MAP_ZERO_ALLOC)
			r = add_name(names, run.host, run.length);
	}
	return r;
}

/* The caller has locked what the table maps. */
static int drop_table_co(struct ox_mapped *m, uint64_t start, uint64_t end, struct ox_host table)
{
	struct names names = {0};
	int r = list_names_co(m, start, end, &names);

	if (r == 0)
		r = m->ops->unlink_table_co(m, ox_guest(start), table);
	if (r == 0) {
		ox_alloc_free_later(m, table, m->table_clusters * m->cluster_bytes);
		for (size_t i = 0; i < names.count; i++)
			ox_alloc_free_later(m, names.items[i].host, names.items[i].bytes);
	}
	free(names.items);
	return r;
}

/* One table, or a stretch without any. */
static int piece_co(struct ox_mapped *m, uint64_t *at)
{
	struct ox_range range;
	struct ox_host table;
	uint64_t next;
	int r;

	if (m->ops->may_free && !m->ops->may_free(m)) {
		r = m->ops->before_free_co(m);
		if (r < 0)
			return r;
	}
	r = m->ops->table_at_co(m, ox_guest(*at), &table, &next);
	if (r < 0)
		return r;
	ox_assert(next > *at);
	if (table.bytes != 0) {
		ox_mapped_lock_co(m, &range, *at, next - *at, true);
		m->allocating++;
		r = drop_table_co(m, *at, next, table);
		m->allocating--;
		ox_rangelock_release(&m->guest, &range);
	}
	if (r == 0)
		*at = next;
	return r;
}

static int empty_co(struct ox_mapped *m)
{
	uint64_t at = 0;
	int r = ox_commit_co(m);

	while (r == 0 && at < m->img->size_bytes) {
		r = piece_co(m, &at);
		if (r == 0)
			r = ox_alloc_breathe_co(m);
	}
	if (r == 0)
		r = ox_commit_co(m);
	if (r == 0 && m->ops->emptied)
		m->ops->emptied(m);
	return r;
}

int ox_mapped_empty_co(struct ox_image *img)
{
	struct ox_mapped *m = ox_mapped_of(img);
	int r = m->ops->prepare_write_co(m);

	if (r < 0)
		return r;
	ox_recover_wait_co(m);
	if (ox_recover_active(m))
		return m->recover.lacks_room ? -ENOSPC : -EIO;
	ox_mutex_lock_co(&m->resize_lock);
	r = empty_co(m);
	ox_mutex_unlock(&m->resize_lock);
	return r;
}
