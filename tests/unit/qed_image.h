/* SPDX-License-Identifier: MIT */
/*
 * QED images made byte by byte, and what a guest reads of them; from the format's description
 * alone.
 *
 * Header, L1, two L2 tables (of L1 entries 0 and 1), data. Guest clusters 0 to 5 under the first
 * table have data, 7 is an explicit zero; 0 to 3 under the second have data.
 */
#ifndef OX_TESTS_QED_IMAGE_H
#define OX_TESTS_QED_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QED_DATA 10u  /* clusters */
#define QED_FIRST 6u  /* of them under the first table */
#define QED_ZERO_AT 7 /* guest cluster */

struct qed_shape {
	uint32_t cluster;
	uint32_t table_clusters;
	bool has_backing;
};

struct qed_image {
	struct qed_shape shape;
	uint64_t table_bytes;
	uint64_t entries; /* of a table */
	uint64_t l1;	  /* offsets */
	uint64_t l2[2];
	uint64_t data;
	uint64_t length;
	uint64_t room; /* bytes has so many */
	uint8_t *bytes;
};

struct qed_image *qed_image_new(struct qed_shape shape);
void qed_image_free(struct qed_image *im);

void qed_put32(uint8_t *bytes, uint64_t offset, uint32_t value);
void qed_put64(uint8_t *bytes, uint64_t offset, uint64_t value);
uint64_t qed_get64(const uint8_t *bytes, uint64_t offset);
void qed_set_l1(struct qed_image *im, uint64_t index, uint64_t value);
/* Of one of the two tables. */
void qed_set_l2(struct qed_image *im, unsigned table, uint64_t index, uint64_t value);
/* Where the data cluster of the number is. */
uint64_t qed_data(const struct qed_image *im, unsigned number);
void qed_mark(struct qed_image *im); /* NEED_CHECK */
bool qed_is_marked(const uint8_t *bytes);

enum qed_reads { QED_EIO, QED_HOLE, QED_ZEROES, QED_BYTES };

/* What a guest reads there; *ret_at: of bytes, their place. The shape is the image's. */
enum qed_reads qed_read(const struct qed_image *im, const uint8_t *bytes, uint64_t length,
			uint64_t l1_index, uint64_t l2_index, uint64_t *ret_at);
/* Entries that cannot be followed, and clusters that are named again. */
unsigned qed_problems(const struct qed_image *im, const uint8_t *bytes, uint64_t length);

#endif
