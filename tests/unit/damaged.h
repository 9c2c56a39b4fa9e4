/* SPDX-License-Identifier: MIT */
/*
 * Images that are built entry by entry, with clusters of 512 bytes and a layout that every test
 * starts from, and ways to damage them.
 */
#ifndef OX_TESTS_DAMAGED_H
#define OX_TESTS_DAMAGED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fmt/qcow2.h"

#define CLUSTER UINT64_C(512)
#define MAX_IMAGE (UINT64_C(4) << 20)
#define COPIED OX_QCOW2_COPIED

/* Clusters of the layout: one refcount block, one L2 table, three clusters of data. */
enum { HEADER, REFTABLE, REFBLOCK, L1, L2, DATA, END = DATA + 3 };

struct image {
	uint8_t bytes[MAX_IMAGE];
	uint64_t length;
	struct ox_qcow2_header h;
};

uint64_t word(const struct image *im, uint64_t cluster, uint64_t index);
void set_word(struct image *im, uint64_t cluster, uint64_t index, uint64_t value);
/* Of the first refcount block. */
uint64_t refcount(const struct image *im, uint64_t cluster);
void set_refcount(struct image *im, uint64_t cluster, uint64_t value);
void put_header(struct image *im);
void decode_header(struct image *im);
void set_length(struct image *im, uint64_t clusters);

/* A sound image of 64 KiB: guest clusters 0 to 2 hold data. */
struct image *new_image(unsigned refcount_order);
void make_dirty(struct image *im);
bool is_dirty(struct image *im);
/* Adds a snapshot that shares the L2 table with the active L1; its counts are right. */
void add_snapshot(struct image *im);

/* What one damage is called. */
struct damage {
	const char *finding; /* and a blank */
	void (*make)(struct image *im);
	bool stays; /* no repair mends it */
};

extern const struct damage derived[];
extern const size_t derived_count;
extern const struct damage structural[];
extern const size_t structural_count;

void damage_leak(struct image *im);
void damage_past_end(struct image *im);
void damage_cross_link(struct image *im);
struct image *crashed_image(void);

#endif
