/* SPDX-License-Identifier: MIT */
#include "check/counts/counts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

#define REGION_CELLS 4096u
#define TABLE_REGIONS 8192u
#define TABLE_CELLS ((uint64_t)REGION_CELLS * TABLE_REGIONS)
#define REGION_WORDS (REGION_CELLS / 64)
#define EXCEPTIONS_MAX 128u
#define EXCEPTIONS_FIRST 4u
#define NARROW_COUNT_MAX 15u
#define NARROW_STATE_SHIFT 4
#define WIDE_STATE_SHIFT 28

/* A cell in a byte, state in the upper 4 bits: the one that bitmaps are expected to be of. */
#define NARROW_USUAL (uint8_t)((OX_CELL_DATA | OX_CELL_COPIED) << NARROW_STATE_SHIFT | 1)

enum form {
	FORM_EMPTY,
	FORM_BITS,
	FORM_BYTES,
	FORM_WORDS,
};

struct exception {
	uint16_t index;
	uint8_t cell;
};

struct ox_counts_region {
	union {
		void *cells;	 /* by form; NULL: EMPTY */
		uint64_t *bits;	 /* the cells that are as common says */
		uint8_t *bytes;	 /* narrow cells */
		uint32_t *words; /* state in the upper 4 bits */
	};
	struct exception *exceptions; /* BITS: cells without a bit, ascending. Narrow */
	uint64_t exception_words;     /* a bit for each word of bits that may have exceptions */
	uint16_t bit_count;
	uint8_t exception_count;
	uint8_t exception_room;
	uint8_t common;
	uint8_t form; /* enum form */
};

/* ---- cells ---- */

static uint8_t narrow(struct ox_cell cell)
{
	return (uint8_t)(cell.state << NARROW_STATE_SHIFT | cell.count);
}

static struct ox_cell from_narrow(uint8_t cell)
{
	return (struct ox_cell){
		.state = cell >> NARROW_STATE_SHIFT,
		.count = cell & NARROW_COUNT_MAX,
	};
}

static uint32_t wide(struct ox_cell cell)
{
	return cell.state << WIDE_STATE_SHIFT | cell.count;
}

static struct ox_cell from_wide(uint32_t cell)
{
	return (struct ox_cell){.state = cell >> WIDE_STATE_SHIFT, .count = cell & OX_COUNT_MAX};
}

/* The cells of ox_counts_mask's once: no active entry names them without COPIED. */
static bool is_once(struct ox_cell cell)
{
	const unsigned states = 1u << OX_CELL_META | 1u << OX_CELL_COMPRESSED | 1u << OX_CELL_L2 |
				1u << (OX_CELL_L2 | OX_CELL_COPIED) | 1u << OX_CELL_DATA |
				1u << (OX_CELL_DATA | OX_CELL_COPIED);

	return cell.count == 1 && (states >> cell.state & 1);
}

/* ---- the tables of regions ---- */

/* The bits of a region that has but exceptions: tables stand alone in many regions, and a bitmap
 * for each would be most of what opening a large image costs. */
static uint64_t no_bits[REGION_WORDS];

static void free_cells(struct ox_counts_region *region)
{
	if (region->bits != no_bits)
		free(region->cells);
}

/* Before a bit is set. */
static int make_bits(struct ox_counts_region *region)
{
	uint64_t *bits;

	if (region->bits != no_bits)
		return 0;
	bits = calloc(REGION_WORDS, sizeof(*bits));
	if (!bits)
		return -ENOMEM;
	region->bits = bits;
	return 0;
}

int ox_counts_init(struct ox_counts *k, uint64_t limit_clusters)
{
	*k = (struct ox_counts){0};
	return ox_counts_extend(k, limit_clusters);
}

static void free_table(struct ox_counts_region *table)
{
	for (unsigned i = 0; table && i < TABLE_REGIONS; i++) {
		free_cells(&table[i]);
		free(table[i].exceptions);
	}
	free(table);
}

void ox_counts_free(struct ox_counts *k)
{
	for (uint64_t t = 0; t < k->top_count; t++)
		free_table(k->top[t]);
	free(k->top);
	*k = (struct ox_counts){0};
}

int ox_counts_extend(struct ox_counts *k, uint64_t limit_clusters)
{
	uint64_t wanted = ox_div_up(limit_clusters, TABLE_CELLS);
	struct ox_counts_region **top;

	ox_assert(limit_clusters >= k->limit);
	if (wanted > k->top_count) {
		top = reallocarray(k->top, wanted, sizeof(struct ox_counts_region *));
		if (!top)
			return -ENOMEM;
		memset(top + k->top_count, 0, (wanted - k->top_count) * sizeof(*top));
		k->top = top;
		k->top_count = wanted;
	}
	k->limit = limit_clusters;
	return 0;
}

static const struct ox_counts_region *region_of(const struct ox_counts *k, uint64_t cluster)
{
	const struct ox_counts_region *table;

	if (cluster >= k->limit)
		return NULL;
	table = k->top[cluster / TABLE_CELLS];
	return table ? &table[cluster % TABLE_CELLS / REGION_CELLS] : NULL;
}

/* The region that holds the cluster, not EMPTY; NULL without memory. */
static struct ox_counts_region *region_make(struct ox_counts *k, uint64_t cluster)
{
	struct ox_counts_region **table = &k->top[cluster / TABLE_CELLS];
	struct ox_counts_region *region;

	if (!*table)
		*table = calloc(TABLE_REGIONS, sizeof(struct ox_counts_region));
	if (!*table)
		return NULL;
	region = &(*table)[cluster % TABLE_CELLS / REGION_CELLS];
	if (region->form != FORM_EMPTY)
		return region;
	region->bits = no_bits;
	region->common = NARROW_USUAL;
	region->form = FORM_BITS;
	return region;
}

/* ---- bitmaps with exceptions ---- */

static bool has_bit(const struct ox_counts_region *region, unsigned i)
{
	return region->bits[i / 64] >> (i % 64) & 1;
}

/* The first exception at or after a cell; exception_count if there is none. */
static unsigned exception_at(const struct ox_counts_region *region, unsigned i)
{
	unsigned low = 0;
	unsigned high = region->exception_count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (region->exceptions[mid].index < i)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* The cell of that exception; REGION_CELLS past the last one. */
static unsigned exception_index(const struct ox_counts_region *region, unsigned at)
{
	return at < region->exception_count ? region->exceptions[at].index : REGION_CELLS;
}

static uint8_t bits_get(const struct ox_counts_region *region, unsigned i)
{
	unsigned at;

	if (has_bit(region, i))
		return region->common;
	at = exception_at(region, i);
	return exception_index(region, at) == i ? region->exceptions[at].cell : 0;
}

static void clear_cell(struct ox_counts_region *region, unsigned i)
{
	unsigned at = exception_at(region, i);

	if (has_bit(region, i)) {
		region->bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
		region->bit_count--;
	}
	if (exception_index(region, at) != i)
		return;
	region->exception_count--;
	memmove(&region->exceptions[at], &region->exceptions[at + 1],
		(region->exception_count - at) * sizeof(*region->exceptions));
}

/* 0; -ENOMEM; or -ENOSPC where there are too many exceptions for a list. */
static int add_exception(struct ox_counts_region *region, unsigned i, uint8_t cell)
{
	unsigned at = exception_at(region, i);

	if (region->exception_count == EXCEPTIONS_MAX)
		return -ENOSPC;
	if (region->exception_count == region->exception_room) {
		unsigned room =
			region->exception_room ? 2u * region->exception_room : EXCEPTIONS_FIRST;
		struct exception *more = reallocarray(region->exceptions, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		region->exceptions = more;
		region->exception_room = (uint8_t)room;
	}
	memmove(&region->exceptions[at + 1], &region->exceptions[at],
		(region->exception_count - at) * sizeof(*region->exceptions));
	region->exceptions[at] = (struct exception){.index = (uint16_t)i, .cell = cell};
	region->exception_count++;
	region->exception_words |= UINT64_C(1) << (i / 64);
	return 0;
}

/*
 * Makes the most frequent exception the common cell, where that leaves room. Exceptions that are
 * as the common cell do no harm, so those that the bits leave behind may be any.
 */
static int change_common(struct ox_counts_region *region)
{
	struct exception all[EXCEPTIONS_MAX];
	unsigned tally[256] = {0};
	unsigned count = region->exception_count;
	uint8_t best = 0;

	memcpy(all, region->exceptions, count * sizeof(*all));
	for (unsigned e = 0; e < count; e++) {
		if (++tally[all[e].cell] > tally[best])
			best = all[e].cell;
	}
	if (count - tally[best] + region->bit_count > EXCEPTIONS_MAX / 2 || make_bits(region) < 0)
		return -ENOSPC;
	region->exception_count = 0;
	for (unsigned i = 0; i < REGION_CELLS && region->bit_count > 0; i++) {
		if (!has_bit(region, i))
			continue;
		clear_cell(region, i);
		ox_assert(add_exception(region, i, region->common) == 0);
	}
	region->common = best;
	for (unsigned e = 0; e < count; e++) {
		if (all[e].cell == best) {
			region->bits[all[e].index / 64] |= UINT64_C(1) << (all[e].index % 64);
			region->bit_count++;
		} else {
			ox_assert(add_exception(region, all[e].index, all[e].cell) == 0);
		}
	}
	return 0;
}

static int bits_set(struct ox_counts_region *region, unsigned i, uint8_t cell)
{
	clear_cell(region, i);
	if (cell == 0)
		return 0;
	if (cell != region->common && region->exception_count == EXCEPTIONS_MAX &&
	    change_common(region) < 0)
		return -ENOSPC;
	if (cell != region->common)
		return add_exception(region, i, cell);
	if (make_bits(region) < 0)
		return -ENOMEM;
	region->bits[i / 64] |= UINT64_C(1) << (i % 64);
	region->bit_count++;
	return 0;
}

/* ---- wider cells ---- */

static struct ox_cell cell_in(const struct ox_counts_region *region, unsigned i)
{
	switch (region->form) {
	case FORM_BITS:
		return from_narrow(bits_get(region, i));
	case FORM_BYTES:
		return from_narrow(region->bytes[i]);
	case FORM_WORDS:
		return from_wide(region->words[i]);
	default:
		return (struct ox_cell){0};
	}
}

static int widen(struct ox_counts *k, struct ox_counts_region *region, enum form form)
{
	bool to_words = form == FORM_WORDS;
	size_t size_bytes = REGION_CELLS * (to_words ? sizeof(uint32_t) : sizeof(uint8_t));
	uint8_t *cells = malloc(size_bytes);

	if (!cells)
		return -ENOMEM;
	for (unsigned i = 0; i < REGION_CELLS; i++) {
		if (to_words)
			((uint32_t *)(void *)cells)[i] = wide(cell_in(region, i));
		else
			cells[i] = narrow(cell_in(region, i));
	}
	free_cells(region);
	free(region->exceptions);
	*region = (struct ox_counts_region){.cells = cells, .form = (uint8_t)form};
	k->wide_bytes += size_bytes;
	return 0;
}

struct ox_cell ox_counts_get(const struct ox_counts *k, uint64_t cluster)
{
	const struct ox_counts_region *region = region_of(k, cluster);

	return region ? cell_in(region, cluster % REGION_CELLS) : (struct ox_cell){0};
}

int ox_counts_set(struct ox_counts *k, uint64_t cluster, struct ox_cell cell)
{
	struct ox_counts_region *region;
	unsigned i = cluster % REGION_CELLS;
	int r = 0;

	ox_assert(cluster < k->limit);
	ox_assert(cell.state != OX_CELL_NONE || cell.count == 0);
	cell.count = (uint32_t)ox_min_u64(cell.count, OX_COUNT_MAX);
	region = region_make(k, cluster);
	if (!region)
		return -ENOMEM;
	if (cell.count > NARROW_COUNT_MAX && region->form != FORM_WORDS)
		r = widen(k, region, FORM_WORDS);
	if (r == 0 && region->form == FORM_BITS)
		r = bits_set(region, i, narrow(cell));
	if (r == -ENOSPC)
		r = widen(k, region, FORM_BYTES);
	if (r < 0)
		return r;
	if (region->form == FORM_BYTES)
		region->bytes[i] = narrow(cell);
	else if (region->form == FORM_WORDS)
		region->words[i] = wide(cell);
	k->end = ox_max_u64(k->end, cluster + 1);
	return 0;
}

/* ---- many at once ---- */

/* Some neighbouring bits of a word; count is at least one. */
static uint64_t word_mask(unsigned from, unsigned count)
{
	return (count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << from;
}

static unsigned bits_fill(struct ox_counts_region *region, unsigned first, unsigned end,
			  uint8_t cell)
{
	unsigned i = first;

	/* An exception that is as the common cell does no harm. */
	if (region->bit_count == 0)
		region->common = cell;
	if (region->common != cell || make_bits(region) < 0)
		return 0;
	if (region->exception_words & word_mask(first / 64, (end - 1) / 64 - first / 64 + 1))
		end = (unsigned)ox_min_u64(end,
					   exception_index(region, exception_at(region, first)));
	while (i < end) {
		uint64_t *word = &region->bits[i / 64];
		unsigned count = (unsigned)ox_min_u64(64 - i % 64, end - i);
		uint64_t taken = *word & word_mask(i % 64, count);

		if (taken)
			count = (unsigned)__builtin_ctzll(taken) - i % 64;
		if (count == 0)
			break;
		*word |= word_mask(i % 64, count);
		region->bit_count = (uint16_t)(region->bit_count + count);
		i += count;
		if (taken)
			break;
	}
	return i - first;
}

static unsigned fill(struct ox_counts_region *region, unsigned first, unsigned end,
		     struct ox_cell cell)
{
	unsigned i = first;

	if (region->form == FORM_WORDS) {
		for (; i < end && region->words[i] == 0; i++)
			region->words[i] = wide(cell);
	} else if (cell.count > NARROW_COUNT_MAX) {
		return 0;
	} else if (region->form == FORM_BYTES) {
		for (; i < end && region->bytes[i] == 0; i++)
			region->bytes[i] = narrow(cell);
	} else {
		return bits_fill(region, first, end, narrow(cell));
	}
	return i - first;
}

int64_t ox_counts_fill(struct ox_counts *k, uint64_t first, uint64_t count, struct ox_cell cell)
{
	uint64_t at = first;
	uint64_t end = first + count;

	ox_assert(ox_range_within(first, count, k->limit));
	ox_assert(cell.state != OX_CELL_NONE && cell.count <= OX_COUNT_MAX);
	while (at < end) {
		struct ox_counts_region *region = region_make(k, at);
		unsigned from = at % REGION_CELLS;
		unsigned to = (unsigned)ox_min_u64(REGION_CELLS, from + (end - at));
		unsigned filled;

		if (!region)
			return -ENOMEM;
		filled = fill(region, from, to, cell);
		at += filled;
		if (filled < to - from)
			break;
	}
	if (at > first)
		k->end = ox_max_u64(k->end, at);
	return (int64_t)(at - first);
}

void ox_counts_prefetch(const struct ox_counts *k, uint64_t cluster)
{
	const struct ox_counts_region *region = region_of(k, cluster);

	if (region && region->form == FORM_BITS)
		__builtin_prefetch(&region->bits[cluster % REGION_CELLS / 64], 1);
}

/* ---- two of them ---- */

/* Bitmaps of one kind of cell that have no cell in common. */
static bool merge_bits(struct ox_counts_region *to, const struct ox_counts_region *from)
{
	if (to->form != FORM_BITS || from->form != FORM_BITS || from->exception_count > 0 ||
	    from->bits == no_bits)
		return false;
	/* An exception that is as the common cell does no harm. */
	if (to->bit_count == 0)
		to->common = from->common;
	if (to->common != from->common)
		return false;
	for (unsigned e = 0; e < to->exception_count; e++) {
		if (has_bit(from, to->exceptions[e].index))
			return false;
	}
	for (unsigned i = 0; i < REGION_WORDS; i++) {
		if (to->bits[i] & from->bits[i])
			return false;
	}
	if (make_bits(to) < 0)
		return false;
	for (unsigned i = 0; i < REGION_WORDS; i++)
		to->bits[i] |= from->bits[i];
	to->bit_count = (uint16_t)(to->bit_count + from->bit_count);
	return true;
}

static int merge_cells(struct ox_counts *k, uint64_t first, const struct ox_counts_region *from)
{
	for (unsigned i = 0; i < REGION_CELLS; i++) {
		struct ox_cell cell = cell_in(from, i);
		int r = 0;

		if (cell.state != OX_CELL_NONE)
			r = ox_counts_set(k, first + i,
					  ox_cell_add(ox_counts_get(k, first + i), cell));
		if (r < 0)
			return r;
	}
	return 0;
}

static int merge_region(struct ox_counts *k, uint64_t first, const struct ox_counts_region *from)
{
	struct ox_counts_region *to = region_make(k, first);

	if (!to)
		return -ENOMEM;
	if (!merge_bits(to, from))
		return merge_cells(k, first, from);
	return 0;
}

static int merge_table(struct ox_counts *k, uint64_t first, const struct ox_counts_region *table)
{
	int r = 0;

	for (unsigned i = 0; i < TABLE_REGIONS && r == 0; i++) {
		const struct ox_counts_region *from = &table[i];

		if (from->form != FORM_EMPTY)
			r = merge_region(k, first + (uint64_t)i * REGION_CELLS, from);
	}
	return r;
}

int ox_counts_merge(struct ox_counts *k, struct ox_counts *other)
{
	int r = 0;

	ox_assert(k->limit == other->limit);
	for (uint64_t t = 0; t < other->top_count; t++) {
		struct ox_counts_region *table = other->top[t];

		if (table && r == 0)
			r = merge_table(k, t * TABLE_CELLS, table);
		/* What is merged is not needed any more: both together take no more than one. */
		free_table(table);
		other->top[t] = NULL;
	}
	k->end = ox_max_u64(k->end, other->end);
	ox_counts_free(other);
	return r;
}

/* ---- looking over many ---- */

static unsigned bits_next(const struct ox_counts_region *region, unsigned from, unsigned end)
{
	unsigned exception = exception_index(region, exception_at(region, from));
	unsigned stop = (unsigned)ox_min_u64(end, exception);
	uint64_t word = region->bits[from / 64] >> (from % 64) << (from % 64);
	unsigned base = from - from % 64;

	while (!word && base + 64 < stop) {
		base += 64;
		word = region->bits[base / 64];
	}
	if (!word)
		return stop;
	return (unsigned)ox_min_u64(stop, base + (unsigned)__builtin_ctzll(word));
}

/* The first cell in [from, end) that is not NONE; end if there is none. */
static unsigned region_next(const struct ox_counts_region *region, unsigned from, unsigned end)
{
	switch (region->form) {
	case FORM_BITS:
		return bits_next(region, from, end);
	case FORM_BYTES:
		while (from < end && region->bytes[from] == 0)
			from++;
		return from;
	case FORM_WORDS:
		while (from < end && region->words[from] == 0)
			from++;
		return from;
	default:
		return end;
	}
}

static bool region_is_none(const struct ox_counts_region *region, unsigned from, unsigned end)
{
	uint64_t words = word_mask(from / 64, (end - 1) / 64 - from / 64 + 1);

	if (region->form == FORM_EMPTY)
		return true;
	if (region->form == FORM_BITS && region->bits == no_bits &&
	    !(region->exception_words & words))
		return true;
	return region_next(region, from, end) == end;
}

bool ox_counts_is_none(const struct ox_counts *k, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	while (first < end) {
		const struct ox_counts_region *region = region_of(k, first);
		unsigned from = first % REGION_CELLS;
		unsigned to = (unsigned)ox_min_u64(REGION_CELLS, from + (end - first));

		if (region && !region_is_none(region, from, to))
			return false;
		first += to - from;
	}
	return true;
}

uint64_t ox_counts_next(const struct ox_counts *k, uint64_t from, uint64_t end)
{
	uint64_t stop = ox_min_u64(end, k->end);

	while (from < stop) {
		const struct ox_counts_region *region = region_of(k, from);
		unsigned at = from % REGION_CELLS;
		unsigned to = (unsigned)ox_min_u64(REGION_CELLS, at + (stop - from));
		unsigned found;

		if (!region) {
			from += TABLE_CELLS - from % TABLE_CELLS;
			continue;
		}
		found = region_next(region, at, to);
		from += found - at;
		if (found < to)
			return from;
	}
	return end;
}

static void add_to_mask(struct ox_counts_mask *mask, struct ox_cell cell, unsigned bit)
{
	if (is_once(cell))
		mask->once |= UINT64_C(1) << bit;
	else if (cell.state != OX_CELL_NONE)
		mask->other |= UINT64_C(1) << bit;
}

struct ox_counts_mask ox_counts_mask(const struct ox_counts *k, uint64_t from)
{
	const struct ox_counts_region *region = region_of(k, from);
	unsigned first = from % REGION_CELLS;
	struct ox_counts_mask mask = {0};
	uint64_t bits;

	ox_assert(from % 64 == 0);
	if (!region || region->form == FORM_EMPTY)
		return mask;
	if (region->form != FORM_BITS) {
		for (unsigned i = 0; i < 64; i++)
			add_to_mask(&mask, cell_in(region, first + i), i);
		return mask;
	}
	bits = region->bits[first / 64];
	if (is_once(from_narrow(region->common)))
		mask.once = bits;
	else
		mask.other = bits;
	for (unsigned e = exception_at(region, first); exception_index(region, e) < first + 64; e++)
		add_to_mask(&mask, from_narrow(region->exceptions[e].cell),
			    region->exceptions[e].index - first);
	return mask;
}

uint64_t ox_counts_next_none(const struct ox_counts *k, uint64_t from, uint64_t end)
{
	while (from < end) {
		struct ox_counts_mask m = ox_counts_mask(k, from / 64 * 64);
		uint64_t none = ~(m.once | m.other) & UINT64_MAX << from % 64;

		if (none)
			return ox_min_u64(from / 64 * 64 + (uint64_t)__builtin_ctzll(none), end);
		from = (from / 64 + 1) * 64;
	}
	return end;
}

/* ---- references ---- */

/* What a cell of state old becomes when it is named as state; BROKEN where that cannot be. */
static unsigned merge_states(unsigned old, unsigned state)
{
	unsigned old_kind = old & ~3u;
	unsigned kind = state & ~3u;

	if (old == OX_CELL_NONE || old == state)
		return old == OX_CELL_META ? OX_CELL_BROKEN : state;
	if (kind != 0 && old_kind == kind)
		return old | state;
	/* A compressed stream's last sectors may lie in a cluster that others use. */
	if (old == OX_CELL_COMPRESSED && kind == OX_CELL_DATA)
		return state;
	if (old_kind == OX_CELL_DATA && state == OX_CELL_COMPRESSED)
		return old;
	if (old_kind == OX_CELL_L2 || old_kind == OX_CELL_BROKEN_L2)
		return OX_CELL_BROKEN_L2 | (old & 3u);
	return OX_CELL_BROKEN;
}

int ox_counts_refer(struct ox_counts *k, uint64_t cluster, unsigned state, uint32_t times)
{
	struct ox_cell cell = ox_counts_get(k, cluster);
	unsigned merged = merge_states(cell.state, state);
	bool broken = ox_cell_is_broken((struct ox_cell){.state = merged});
	uint64_t count = cell.count;
	int r;

	if (!broken)
		count += times;
	r = ox_counts_set(k, cluster,
			  (struct ox_cell){
				  .state = merged,
				  .count = (uint32_t)ox_min_u64(count, OX_COUNT_MAX),
			  });
	if (r < 0)
		return r;
	return !broken;
}
