/* SPDX-License-Identifier: MIT */
/* Finding the structures of a QED image. */
#include "base/arith.h"
#include "corrupt.h"

static struct place word_at(uint64_t offset)
{
	return (struct place){.offset = offset, .bits = 64, .is_little = true};
}

struct place corrupt_qed_header_field(const struct corrupt *c, const char *name)
{
	static const struct corrupt_field fields[] = {
		{"magic", 0, 32},
		{"cluster_size", 4, 32},
		{"table_size", 8, 32},
		{"header_size", 12, 32},
		{"features", 16, 64},
		{"compat_features", 24, 64},
		{"autoclear_features", 32, 64},
		{"l1_table_offset", 40, 64},
		{"image_size", 48, 64},
		{"backing_filename_offset", 56, 32},
		{"backing_filename_size", 60, 32},
	};
	struct place p = corrupt_find_field(c, fields, OX_ARRAY_SIZE(fields), name, 0);

	p.is_little = true;
	return p;
}

uint64_t corrupt_qed_l1_span(const struct corrupt *c)
{
	uint64_t span;

	if (!ox_mul_u64(ox_qed_table_entries(&c->qed), c->cluster_bytes, &span))
		corrupt_fail(c, "the tables are too large");
	return span;
}

struct place corrupt_qed_l1_entry(const struct corrupt *c, uint64_t index)
{
	return word_at(c->qed.l1_offset + index * 8);
}

struct place corrupt_qed_l2_entry(const struct corrupt *c, uint64_t guest)
{
	uint64_t span = corrupt_qed_l1_span(c);
	uint64_t l2 = corrupt_get(c, corrupt_qed_l1_entry(c, guest / span));

	if (l2 == 0)
		corrupt_fail(c, "no L2 table maps guest offset 0x%llx", (unsigned long long)guest);
	return word_at(l2 + guest % span / c->cluster_bytes * 8);
}
