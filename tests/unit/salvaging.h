/* SPDX-License-Identifier: MIT */
/* Salvaging a disk of lost_tables.h, and what came of it. */
#ifndef OX_TESTS_SALVAGING_H
#define OX_TESTS_SALVAGING_H

#include "check/check.h"
#include "lost_tables.h"

#define MAX_TABLES 8u
#define VICTIM 2u /* the L1 entry that is lost */
#define SHAPES 6u

struct run {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	struct ox_lost_table tables[MAX_TABLES];
	unsigned table_count;
	uint64_t in_doubt_bytes;
	int error;
	struct ox_error *err;
};

extern const struct shape shapes[SHAPES];

/* The group's setup and teardown. */
int salvaging_setup(void **state);
int salvaging_teardown(void **state);
struct ox_reactor *salvaging_reactor(void);

/* With links, so many; runs on the store. */
struct run run_on(struct ox_io *io, enum ox_repair repair, const struct ox_table_link *links,
		  size_t link_count);
/* The same on a disk, whose bytes it takes back. */
struct run run_links(struct disk *d, enum ox_repair repair, const struct ox_table_link *links,
		     size_t link_count);
struct run salvage(struct disk *d, enum ox_repair repair);
/* Without salvage; frees what may be a lost table, or not. */
struct run repair_plainly(struct disk *d, enum ox_repair repair, bool free_lost_tables);
uint64_t wrong(const struct run *run);
void check_guest(const struct disk *d, const struct guest *expected, const char *what);

void set_victim(struct disk *d, uint64_t raw);
void fill_random(struct disk *d, uint64_t cluster, unsigned seed);
void fill_words(struct disk *d, uint64_t cluster, uint64_t first, uint64_t step, unsigned count);

#endif
