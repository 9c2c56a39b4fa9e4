/* SPDX-License-Identifier: MIT */
/* What a QED image's header and tables name, and what is wrong with it. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "base/sorted.h"
#include "check/qed/qed.h"
#include "check/view/files.h"

/* ---- opening ---- */

int ox_qed_open_co(struct ox_qed *q, struct ox_io *io, uint64_t file_bytes, struct ox_error **err)
{
	uint8_t header[OX_QED_HEADER_BYTES];
	const char *wrong;
	int r = ox_io_pread_co(io, header, sizeof(header), 0);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the header of '%s'", io->name);
	wrong = ox_qed_header_decode(header, &q->h);
	if (wrong)
		return ox_error_set(err, -EINVAL, "'%s' cannot be checked: %s", io->name, wrong);
	q->table_bytes = ox_qed_table_bytes(&q->h);
	q->table_entries = ox_qed_table_entries(&q->h);
	q->header_bytes = ox_qed_header_bytes(&q->h);
	q->io = io;
	q->cluster_bytes = ox_qed_cluster_bytes(&q->h);
	ox_journal_begin(&q->j, q->cluster_bytes);
	q->file_bytes = ox_min_u64(ox_min_u64(io->length, file_bytes), INT64_MAX);
	q->file_clusters = ox_div_up(q->file_bytes, q->cluster_bytes);
	q->dirty = q->h.features & OX_QED_NEED_CHECK;
	q->is_foreign = q->h.features & ~(uint64_t)OX_QED_KNOWN_FEATURES;
	q->total_clusters = ox_div_up(q->h.size_bytes, q->cluster_bytes);
	if (ox_counts_init(&q->cells, q->file_clusters) < 0)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	return 0;
}

void ox_qed_close(struct ox_qed *q)
{
	free(q->tables.list);
	free(q->more_names.list);
	free(q->shared);
	ox_counts_free(&q->cells);
	ox_journal_end(&q->j);
}

/* ---- places ---- */

enum ox_finding_id ox_qed_bad_entry(const struct ox_qed *q, const struct ox_qed_slot *slot,
				    enum ox_qed_place place)
{
	if (place == OX_QED_PAST_END)
		return q->dirty ? OX_FOUND_STALE_ENTRY : OX_FOUND_PAST_END;
	return slot->table ? OX_FOUND_QED_L2 : OX_FOUND_QED_L1;
}

struct ox_found ox_qed_found(const struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t entry)
{
	bool is_l1 = !slot->table;
	uint64_t size_bytes = is_l1 ? q->table_bytes : q->cluster_bytes;
	struct ox_found what = {.a = entry, .b = size_bytes, .host_offset = entry};
	uint64_t length = q->cluster_bytes;

	if (is_l1 && !ox_mul_u64(q->table_entries, length, &length))
		length = UINT64_MAX;
	if (slot->guest_offset < q->h.size_bytes) {
		what.guest_offset = slot->guest_offset;
		what.guest_length = ox_min_u64(length, q->h.size_bytes - slot->guest_offset);
	}
	return what;
}

/* ---- tables ---- */

static int add_table(struct ox_qed_tables *t, const struct ox_qed_table *table)
{
	if (ox_grow(t->list, t->count, t->room, 64) < 0)
		return -ENOMEM;
	t->list[t->count++] = *table;
	return 0;
}

int ox_qed_collect_table(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	struct ox_qed_table table = {.offset = *entry, .index = (uint32_t)slot->l1_index};
	enum ox_qed_place place = ox_qed_place_of(q, *entry, q->table_bytes);
	enum ox_finding_id id;

	if (place == OX_QED_SOUND)
		return add_table(&q->tables, &table);
	id = ox_qed_bad_entry(q, slot, place);
	q->bad_l1++;
	q->stale += id == OX_FOUND_STALE_ENTRY;
	ox_journal_found(&q->j, id, ox_qed_found(q, slot, *entry));
	return 0;
}

static int by_offset(const void *one, const void *other)
{
	const struct ox_qed_table *a = one;
	const struct ox_qed_table *b = other;

	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return (a->index > b->index) - (a->index < b->index);
}

int ox_qed_by_index(const void *one, const void *other)
{
	const struct ox_qed_table *a = one;
	const struct ox_qed_table *b = other;

	return (a->index > b->index) - (a->index < b->index);
}

/* Of a range of which something else has a part: whoever has it shall know. */
static int cross(struct ox_qed *q, uint64_t first, uint64_t end)
{
	for (uint64_t c = first; c < end; c++) {
		struct ox_cell cell = ox_counts_get(&q->cells, c);
		int r = 0;

		if (cell.state != OX_CELL_NONE)
			cell.state = ox_cell_is_l2(cell) ? OX_CELL_BROKEN_L2 : OX_CELL_BROKEN;
		if (cell.state != OX_CELL_NONE)
			r = ox_counts_set(&q->cells, c, cell);
		if (r < 0)
			return r;
	}
	return 0;
}

/* All clusters of a table, or none. 1: it has them; 0: something else does; or -ENOMEM. */
static int claim(struct ox_qed *q, uint64_t offset, uint64_t size_bytes, unsigned state)
{
	uint64_t first = offset / q->cluster_bytes;
	uint64_t end = ox_div_up(offset + size_bytes, q->cluster_bytes);

	if (!ox_counts_is_none(&q->cells, first, end - first))
		return cross(q, first, end);
	for (uint64_t c = first; c < end; c++) {
		int r = ox_counts_set(&q->cells, c, (struct ox_cell){.state = state, .count = 1});

		if (r < 0)
			return r;
	}
	return 1;
}

/* Whether something else names a part of a table. */
static bool is_broken(const struct ox_qed *q, uint64_t table_offset)
{
	uint64_t first = table_offset / q->cluster_bytes;
	bool broken = false;

	for (uint64_t c = first; c < first + q->h.table_clusters && !broken; c++)
		broken = ox_cell_is_broken(ox_counts_get(&q->cells, c));
	return broken;
}

/* Two L1 entries name one table: the first has it, the other has its content. */
static int found_twice(struct ox_qed *q, struct ox_qed_table *first, struct ox_qed_table *again)
{
	struct ox_qed_slot slot = ox_qed_l1_slot(q, again->index);
	struct ox_found what = ox_qed_found(q, &slot, again->offset);

	what.a = first->offset / q->cluster_bytes;
	what.b = first->index;
	what.c = again->index;
	first->more_names++;
	again->first_index = first->index;
	ox_journal_found(&q->j, OX_FOUND_CROSS_LINK_L2, what);
	return add_table(&q->more_names, again);
}

/* Keeps the tables that have their clusters to themselves. */
int ox_qed_claim_tables(struct ox_qed *q)
{
	struct ox_qed_tables *t = &q->tables;
	size_t kept = 0;
	int r = 0;

	if (t->count > 0)
		qsort(t->list, t->count, sizeof(*t->list), by_offset);
	for (size_t i = 0; i < t->count && r >= 0; i++) {
		struct ox_qed_slot slot = ox_qed_l1_slot(q, t->list[i].index);
		struct ox_found what = ox_qed_found(q, &slot, t->list[i].offset);

		what.word = "L2 table";
		if (kept > 0 && t->list[kept - 1].offset == t->list[i].offset) {
			r = found_twice(q, &t->list[kept - 1], &t->list[i]);
			continue;
		}
		r = claim(q, t->list[i].offset, q->table_bytes, OX_CELL_L2 | OX_CELL_COPIED);
		if (r == 1)
			t->list[kept++] = t->list[i];
		else if (r == 0)
			ox_journal_found(&q->j, OX_FOUND_OVERLAP, what);
	}
	t->count = kept;
	for (size_t i = 0; i < kept; i++)
		t->list[i].is_crossed = is_broken(q, t->list[i].offset);
	q->l1_is_crossed = is_broken(q, q->h.l1_offset);
	ox_journal_expect(&q->j, kept * ox_qed_table_pieces(q));
	if (kept > 0)
		qsort(t->list, kept, sizeof(*t->list), ox_qed_by_index);
	return r < 0 ? r : 0;
}

/* ---- data ---- */

/* As qemu-img counts them: table by table. */
static void tally(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t entry)
{
	if (slot->l1_index != q->last_l1_index)
		q->next_contiguous = 0;
	q->allocated++;
	q->fragmented += q->next_contiguous && q->next_contiguous != entry;
	q->last_l1_index = slot->l1_index;
	q->next_contiguous = entry + q->cluster_bytes;
}

int ox_qed_count_data(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	enum ox_qed_place place;
	struct ox_found what;
	int r;

	if (*entry == OX_QED_ZERO)
		return 0;
	tally(q, slot, *entry);
	slot->table->used++;
	what = ox_qed_found(q, slot, *entry);
	place = ox_qed_place_of(q, *entry, 1);
	if (place != OX_QED_SOUND) {
		enum ox_finding_id id = ox_qed_bad_entry(q, slot, place);

		slot->table->odd += place == OX_QED_MISPLACED;
		q->stale += id == OX_FOUND_STALE_ENTRY;
		ox_journal_found(&q->j, id, what);
		return 0;
	}
	q->is_short |= *entry + q->cluster_bytes > q->file_bytes;
	r = ox_counts_refer(&q->cells, *entry / q->cluster_bytes, OX_CELL_DATA | OX_CELL_COPIED, 1);
	if (r == 0) {
		q->on_metadata++;
		what.word = "Data cluster";
		ox_journal_found(&q->j, OX_FOUND_OVERLAP, what);
	}
	return r < 0 ? r : 0;
}

/* A damaged L1 entry may name guest data, whose bytes are hardly aligned. Where data entries name
 * them too they are to be copied first; where an L1 entry leads nowhere they may be of its range.
 */
static void doubt_tables(struct ox_qed *q)
{
	for (size_t i = 0; i < q->tables.count; i++) {
		struct ox_qed_table *table = &q->tables.list[i];

		table->is_doubtful = table->odd > table->used / 2 &&
				     (q->bad_l1 > 0 || is_broken(q, table->offset));
		q->has_doubtful |= table->is_doubtful;
	}
}

/* ---- clusters that several entries name ---- */

struct ox_qed_shared *ox_qed_find_shared(const struct ox_qed *q, uint64_t cluster)
{
	size_t at = ox_sorted_from(q->shared, q->shared_count, sizeof(*q->shared), cluster);

	return at < q->shared_count && q->shared[at].cluster == cluster ? &q->shared[at] : NULL;
}

static bool is_shared(struct ox_cell cell)
{
	return ox_cell_is_data(cell) && cell.count > 1;
}

static int list_shared(struct ox_qed *q)
{
	const struct ox_counts *k = &q->cells;
	uint64_t count = 0;

	for (uint64_t c = 0; (c = ox_counts_next(k, c, k->end)) < k->end; c++)
		count += is_shared(ox_counts_get(k, c));
	if (count == 0)
		return 0;
	q->shared = reallocarray(NULL, count, sizeof(*q->shared));
	if (!q->shared)
		return -ENOMEM;
	for (uint64_t c = 0; (c = ox_counts_next(k, c, k->end)) < k->end; c++) {
		if (is_shared(ox_counts_get(k, c)))
			q->shared[q->shared_count++] = (struct ox_qed_shared){
				.cluster = c,
				.first_entry = UINT64_MAX,
			};
	}
	return 0;
}

static int tell_shared(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	uint64_t cluster = *entry / q->cluster_bytes;
	struct ox_qed_shared *shared = NULL;
	struct ox_found what;

	if (ox_qed_place_of(q, *entry, 1) == OX_QED_SOUND)
		shared = ox_qed_find_shared(q, cluster);
	if (!shared)
		return 0;
	if (shared->first_entry == UINT64_MAX) {
		shared->first_entry = slot->entry;
		return 0;
	}
	what = ox_qed_found(q, slot, *entry);
	what.a = cluster;
	what.b = ox_qed_guest_offset(q, shared->first_entry);
	what.c = slot->guest_offset;
	ox_journal_found(&q->j, OX_FOUND_CROSS_LINK, what);
	return 0;
}

/* ---- the header ---- */

static void judge_fields(struct ox_qed *q)
{
	const char *wrong[] = {ox_qed_judge_size(&q->h), ox_qed_judge_backing(&q->h)};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		if (wrong[i])
			ox_journal_found(&q->j, OX_FOUND_QED_HEADER, OX_FOUND(.word = wrong[i]));
	}
	if (q->is_foreign)
		ox_journal_found(&q->j, OX_FOUND_UNKNOWN_FEATURE,
				 OX_FOUND(.a = q->h.features & ~(uint64_t)OX_QED_KNOWN_FEATURES));
}

/* The header, and the L1 table, without which nothing is known of the rest. */
static int claim_l1(struct ox_qed *q)
{
	const char *wrong = ox_qed_judge_l1(&q->h, q->file_bytes);
	int r;

	if (wrong) {
		ox_journal_found(&q->j, OX_FOUND_QED_HEADER,
				 OX_FOUND(.word = wrong, .guest_length = q->h.size_bytes));
		return 0;
	}
	r = claim(q, 0, q->header_bytes, OX_CELL_META);
	if (r == 1)
		r = claim(q, q->h.l1_offset, q->table_bytes, OX_CELL_META);
	q->has_l1 = r == 1;
	return r < 0 ? r : 0;
}

int ox_qed_judge_header(struct ox_qed *q)
{
	judge_fields(q);
	return claim_l1(q);
}

static int judge_backing_file_co(struct ox_qed *q)
{
	char *name;
	int r;

	if (!(q->h.features & OX_QED_BACKING) || ox_qed_judge_backing(&q->h))
		return 0;
	name = calloc(1, (size_t)q->h.backing_bytes + 1);
	if (!name)
		return -ENOMEM;
	r = ox_io_pread_co(q->io, name, q->h.backing_bytes, q->h.backing_offset);
	r = r < 0 ? ox_journal_unreadable(&q->j, "Backing file name", q->h.backing_offset, r)
		  : ox_files_judge(&q->j, q->io->name, name, OX_FOUND_BACKING_MISSING);
	free(name);
	return r;
}

int ox_qed_walk_co(struct ox_qed *q)
{
	int r = ox_qed_judge_header(q);

	if (r == 0)
		r = judge_backing_file_co(q);
	if (r < 0 || !q->has_l1)
		return r;
	ox_journal_expect(&q->j, ox_qed_table_pieces(q));
	r = ox_qed_l1_co(q, ox_qed_collect_table);
	if (r == 0)
		r = ox_qed_claim_tables(q);
	q->last_l1_index = UINT64_MAX;
	if (r == 0)
		r = ox_qed_l2_co(q, ox_qed_count_data);
	doubt_tables(q);
	if (r == 0)
		r = list_shared(q);
	if (r == 0 && q->shared_count > 0)
		r = ox_qed_l2_co(q, tell_shared);
	if (r < 0)
		return r;
	if (q->is_short)
		ox_journal_found(&q->j, OX_FOUND_QED_SHORT, OX_FOUND(.a = q->file_bytes));
	return 0;
}
