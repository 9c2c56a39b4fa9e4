/* SPDX-License-Identifier: MIT */
/*
 * With values that are written once the question has a simple answer. The block holds a value from
 * its first sign to its last: from the earliest end of a request that wrote or read it to the
 * latest beginning of one. Where the end comes first, the block held the value all that while, and
 * no other value may claim a part of the time. Where it does not, one instant anywhere between the
 * two is enough; it is lacking only if another value holds all of that span.
 */
#include "linear.h"

#include <stdlib.h>

#include "base/arith.h"

struct span {
	uint64_t first_end;
	uint64_t last_begin;
};

static int by_value(const void *a, const void *b)
{
	const struct linear_op *x = a;
	const struct linear_op *y = b;

	return x->value != y->value ? (x->value < y->value ? -1 : 1)
				    : (int)y->write - (int)x->write;
}

static struct span span_of(const struct linear_op *ops, size_t n)
{
	struct span s = {UINT64_MAX, 0};

	for (size_t i = 0; i < n; i++) {
		s.first_end = ox_min_u64(s.first_end, ops[i].ended);
		s.last_begin = ox_max_u64(s.last_begin, ops[i].began);
	}
	return s;
}

/* Whether a held the block for some time, and leaves b no instant of its own. */
static bool excludes(const struct span *a, const struct span *b)
{
	return a->first_end < a->last_begin && a->first_end < b->last_begin &&
	       b->first_end < a->last_begin;
}

/* One write and its reads: none of which ended before it began. */
static bool is_written_first(const struct linear_op *ops, size_t n)
{
	if (!ops[0].write || (n > 1 && ops[1].write))
		return false;
	for (size_t i = 1; i < n; i++)
		if (ops[i].ended < ops[0].began)
			return false;
	return true;
}

bool linear_check(struct linear_op *ops, size_t n, uint64_t *ret_value)
{
	struct span *spans = calloc(n + 1, sizeof(*spans));
	size_t count = 0;
	bool good = spans != NULL;
	size_t next;

	qsort(ops, n, sizeof(*ops), by_value);
	for (size_t i = 0; good && i < n; i = next) {
		for (next = i + 1; next < n && ops[next].value == ops[i].value; next++)
			;
		*ret_value = ops[i].value;
		good = is_written_first(ops + i, next - i);
		spans[count] = span_of(ops + i, next - i);
		for (size_t k = 0; good && k < count; k++)
			good = !excludes(&spans[k], &spans[count]) &&
			       !excludes(&spans[count], &spans[k]);
		count++;
	}
	free(spans);
	return good;
}
