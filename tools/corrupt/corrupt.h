/* SPDX-License-Identifier: MIT */
/*
 * oxbow-corrupt: damages an image as a recipe says. corrupt(1) has the language.
 *
 * The image's structures are found by what its header said before the first line ran, and by what
 * its tables say when a line runs. Whatever goes wrong ends the program with the line's number.
 */
#ifndef OX_TOOLS_CORRUPT_H
#define OX_TOOLS_CORRUPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fmt/qcow2.h"
#include "fmt/qed.h"

struct corrupt {
	int fd;
	struct ox_qcow2_header h;
	bool is_qed;		  /* h is then all zeroes, */
	struct ox_qed_header qed; /* and this is not */
	uint64_t cluster_bytes;
	uint64_t random; /* the generator's state */
	const char *recipe;
	unsigned line;
	const char *at; /* what is left of the line */
};

/* A number in the image. */
struct place {
	uint64_t offset;
	unsigned bits; /* 8 and more: whole bytes; less: bits from bit shift of a byte on */
	unsigned shift;
	bool is_little; /* endian */
};

_Noreturn void corrupt_fail(const struct corrupt *c, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- image.c ---- */

void corrupt_read(const struct corrupt *c, void *to, size_t size_bytes, uint64_t offset);
void corrupt_write(const struct corrupt *c, const void *from, size_t size_bytes, uint64_t offset);
uint64_t corrupt_length(const struct corrupt *c);
uint64_t corrupt_get(const struct corrupt *c, struct place p);
void corrupt_set(const struct corrupt *c, struct place p, uint64_t value);
uint64_t corrupt_random(struct corrupt *c);

struct corrupt_field {
	const char *name;
	unsigned offset;
	unsigned bits;
};

/* The field of the name, of a record at base. */
struct place corrupt_find_field(const struct corrupt *c, const struct corrupt_field *fields,
				size_t count, const char *name, uint64_t base);
struct place corrupt_header_field(const struct corrupt *c, const char *name);
/* Where the active L1 table, or a snapshot's, begins. */
uint64_t corrupt_l1(const struct corrupt *c, bool of_snapshot, uint64_t snapshot);
/* An L2 entry's word, or its second one. */
struct place corrupt_l2_entry(const struct corrupt *c, uint64_t l1_offset, uint64_t guest,
			      bool second_word);
uint64_t corrupt_reftable(const struct corrupt *c);
struct place corrupt_refcount(const struct corrupt *c, uint64_t cluster);
struct place corrupt_snapshot_field(const struct corrupt *c, uint64_t number, const char *name);
struct place corrupt_bitmap_field(const struct corrupt *c, uint64_t number, const char *name);
/* Where an extension's type stands. */
uint64_t corrupt_extension(const struct corrupt *c, uint64_t type);

/* ---- qed.c: the same of a QED image ---- */

struct place corrupt_qed_header_field(const struct corrupt *c, const char *name);
struct place corrupt_qed_l1_entry(const struct corrupt *c, uint64_t index);
struct place corrupt_qed_l2_entry(const struct corrupt *c, uint64_t guest);
/* Guest bytes under one L1 entry. */
uint64_t corrupt_qed_l1_span(const struct corrupt *c);

/* ---- parse.c ---- */

/* Takes a word off the line if it comes next. */
bool corrupt_take(struct corrupt *c, const char *word);
bool corrupt_line_is_empty(struct corrupt *c);
uint64_t corrupt_parse_value(struct corrupt *c);
struct place corrupt_parse_place(struct corrupt *c);

/* ---- actions.c ---- */

void corrupt_run_line(struct corrupt *c);

#endif
