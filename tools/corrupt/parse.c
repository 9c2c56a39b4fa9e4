/* SPDX-License-Identifier: MIT */
/* The language's numbers and places: recursive descent over what is left of the line. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "corrupt.h"

#define MAX_NAME 32

static void skip_blanks(struct corrupt *c)
{
	while (isspace((unsigned char)*c->at))
		c->at++;
}

static bool is_name(char ch)
{
	return isalnum((unsigned char)ch) || ch == '_';
}

bool corrupt_take(struct corrupt *c, const char *word)
{
	size_t length = strlen(word);

	skip_blanks(c);
	if (strncmp(c->at, word, length) != 0 ||
	    (is_name(word[length - 1]) && is_name(c->at[length])))
		return false;
	c->at += length;
	return true;
}

bool corrupt_line_is_empty(struct corrupt *c)
{
	skip_blanks(c);
	return *c->at == '\0' || *c->at == '#';
}

static void expect(struct corrupt *c, const char *word)
{
	if (!corrupt_take(c, word))
		corrupt_fail(c, "'%s' is expected before '%.20s'", word, c->at);
}

static void take_name(struct corrupt *c, char name[MAX_NAME])
{
	size_t n = 0;

	skip_blanks(c);
	while (is_name(*c->at) && n + 1 < MAX_NAME)
		name[n++] = *c->at++;
	name[n] = '\0';
	if (n == 0)
		corrupt_fail(c, "a name is expected before '%.20s'", c->at);
}

/* ---- numbers ---- */

static uint64_t parse_number(struct corrupt *c)
{
	static const char units[] = "kMGT";
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(c->at, &end, 0);
	if (end == c->at || errno)
		corrupt_fail(c, "'%.20s' is no number", c->at);
	c->at = end;
	for (unsigned i = 0; units[i]; i++) {
		if (*c->at == units[i]) {
			c->at++;
			return value << (10 * (i + 1));
		}
	}
	return value;
}

/* A QED entry is the offset; a qcow2 one has flags besides. */
static uint64_t parse_host(struct corrupt *c)
{
	uint64_t entry = corrupt_get(c, corrupt_parse_place(c));

	return c->is_qed ? entry : entry & OX_QCOW2_OFFSET_MASK;
}

static uint64_t parse_term(struct corrupt *c)
{
	uint64_t value;

	if (corrupt_take(c, "(")) {
		value = corrupt_parse_value(c);
		expect(c, ")");
		return value;
	}
	if (corrupt_take(c, "~"))
		return ~parse_term(c);
	if (corrupt_take(c, "&"))
		return corrupt_parse_place(c).offset;
	if (corrupt_take(c, "host"))
		return parse_host(c);
	if (corrupt_take(c, "end"))
		return corrupt_length(c);
	if (corrupt_take(c, "cluster"))
		return c->cluster_bytes;
	if (corrupt_take(c, "random"))
		return corrupt_random(c);
	skip_blanks(c);
	if (isdigit((unsigned char)*c->at))
		return parse_number(c);
	return corrupt_get(c, corrupt_parse_place(c));
}

static uint64_t divide(const struct corrupt *c, uint64_t value, uint64_t by)
{
	if (by == 0)
		corrupt_fail(c, "a division by zero");
	return value / by;
}

/* From left to right: no operator binds more than another. */
uint64_t corrupt_parse_value(struct corrupt *c)
{
	uint64_t value = parse_term(c);

	for (;;) {
		if (corrupt_take(c, "+"))
			value += parse_term(c);
		else if (corrupt_take(c, "-"))
			value -= parse_term(c);
		else if (corrupt_take(c, "*"))
			value *= parse_term(c);
		else if (corrupt_take(c, "|"))
			value |= parse_term(c);
		else if (corrupt_take(c, "^"))
			value ^= parse_term(c);
		else if (corrupt_take(c, "&"))
			value &= parse_term(c);
		else if (corrupt_take(c, "/"))
			value = divide(c, value, parse_term(c));
		else
			return value;
	}
}

/* ---- places ---- */

static uint64_t parse_index(struct corrupt *c)
{
	uint64_t value;

	expect(c, "[");
	value = corrupt_parse_value(c);
	expect(c, "]");
	return value;
}

static struct place word_at(uint64_t offset)
{
	return (struct place){.offset = offset, .bits = 64};
}

static struct place parse_l1(struct corrupt *c, uint64_t l1_offset)
{
	uint64_t span = ox_qcow2_l2_entries(&c->h) << c->h.cluster_bits;

	if (corrupt_take(c, "@"))
		return word_at(l1_offset + parse_term(c) / span * 8);
	return word_at(l1_offset + parse_index(c) * 8);
}

static struct place parse_l2(struct corrupt *c, uint64_t l1_offset)
{
	bool second = corrupt_take(c, ".subclusters");

	expect(c, "@");
	return corrupt_l2_entry(c, l1_offset, parse_term(c), second);
}

static struct place parse_snapshot(struct corrupt *c)
{
	uint64_t number = parse_index(c);
	char name[MAX_NAME];

	expect(c, ".");
	if (corrupt_take(c, "l1"))
		return parse_l1(c, corrupt_l1(c, true, number));
	if (corrupt_take(c, "l2"))
		return parse_l2(c, corrupt_l1(c, true, number));
	take_name(c, name);
	return corrupt_snapshot_field(c, number, name);
}

static struct place parse_bitmap(struct corrupt *c)
{
	uint64_t number = parse_index(c);
	char name[MAX_NAME];

	expect(c, ".");
	if (corrupt_take(c, "table")) {
		uint64_t table = corrupt_get(c, corrupt_bitmap_field(c, number, "table_offset"));

		return word_at(table + parse_index(c) * 8);
	}
	take_name(c, name);
	return corrupt_bitmap_field(c, number, name);
}

static struct place parse_extension(struct corrupt *c)
{
	uint64_t at = corrupt_extension(c, parse_index(c));

	expect(c, ".");
	if (corrupt_take(c, "type"))
		return (struct place){.offset = at, .bits = 32};
	if (corrupt_take(c, "length"))
		return (struct place){.offset = at + 4, .bits = 32};
	expect(c, "data");
	return (struct place){.offset = at + 8 + parse_index(c), .bits = 8};
}

/* The places of a QED image; all others have been tried. */
static struct place parse_qed_place(struct corrupt *c)
{
	char name[MAX_NAME];

	if (corrupt_take(c, "l1")) {
		if (corrupt_take(c, "@"))
			return corrupt_qed_l1_entry(c, parse_term(c) / corrupt_qed_l1_span(c));
		return corrupt_qed_l1_entry(c, parse_index(c));
	}
	if (corrupt_take(c, "l2")) {
		expect(c, "@");
		return corrupt_qed_l2_entry(c, parse_term(c));
	}
	if (!corrupt_take(c, "header"))
		corrupt_fail(c, "'%.20s' is no place of a QED image", c->at);
	expect(c, ".");
	take_name(c, name);
	return corrupt_qed_header_field(c, name);
}

struct place corrupt_parse_place(struct corrupt *c)
{
	static const struct {
		const char *name;
		unsigned bits;
		bool is_little;
	} plain[] = {
		{"u8", 8, false},   {"u16", 16, false}, {"u32", 32, false},
		{"u64", 64, false}, {"le32", 32, true}, {"le64", 64, true},
	};
	char name[MAX_NAME];

	for (size_t i = 0; i < OX_ARRAY_SIZE(plain); i++) {
		if (!corrupt_take(c, plain[i].name))
			continue;
		expect(c, "@");
		return (struct place){
			.offset = parse_term(c),
			.bits = plain[i].bits,
			.is_little = plain[i].is_little,
		};
	}
	if (c->is_qed)
		return parse_qed_place(c);
	if (corrupt_take(c, "l1"))
		return parse_l1(c, corrupt_l1(c, false, 0));
	if (corrupt_take(c, "l2"))
		return parse_l2(c, corrupt_l1(c, false, 0));
	if (corrupt_take(c, "refcount"))
		return corrupt_refcount(c, parse_index(c));
	if (corrupt_take(c, "reftable"))
		return word_at(corrupt_reftable(c) + parse_index(c) * 8);
	if (corrupt_take(c, "snapshot"))
		return parse_snapshot(c);
	if (corrupt_take(c, "bitmap"))
		return parse_bitmap(c);
	if (corrupt_take(c, "extension"))
		return parse_extension(c);
	if (!corrupt_take(c, "header"))
		corrupt_fail(c, "'%.20s' is no place", c->at);
	expect(c, ".");
	take_name(c, name);
	return corrupt_header_field(c, name);
}
