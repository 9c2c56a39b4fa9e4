/* SPDX-License-Identifier: MIT */
/*
 * The QED format on disk: a header, an L1 table and L2 tables of the same size, data. Integers are
 * little-endian. There are no reference counts: what nothing names is lost space, and the file
 * grows for each new cluster.
 */
#ifndef OX_FMT_QED_H
#define OX_FMT_QED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/endian.h"

#define OX_QED_HEADER_BYTES 64u
#define OX_QED_CLUSTER_BYTES_MIN (UINT32_C(4) << 10)
#define OX_QED_CLUSTER_BYTES_MAX (UINT32_C(64) << 20)
#define OX_QED_TABLE_CLUSTERS_MAX 16u
#define OX_QED_BACKING_BYTES_MAX 1023u
/* All programs write one; a bound for what is done for each. */
#define OX_QED_HEADER_CLUSTERS_MAX 1024u

enum ox_qed_features {
	OX_QED_BACKING = 1 << 0,
	OX_QED_NEED_CHECK = 1 << 1, /* entries may be inconsistent */
	OX_QED_BACKING_RAW = 1 << 2,
};

#define OX_QED_KNOWN_FEATURES (OX_QED_BACKING | OX_QED_NEED_CHECK | OX_QED_BACKING_RAW)

/* A data entry that reads as zeroes whatever a backing file holds. Any other but 0 is an offset. */
#define OX_QED_ZERO UINT64_C(1)

struct ox_qed_header {
	unsigned cluster_bits;
	uint32_t table_clusters; /* of the L1 table, and of each L2 table */
	uint32_t header_clusters;
	uint64_t features;
	uint64_t autoclear;
	uint64_t l1_offset;
	uint64_t size_bytes; /* of the disk */
	uint32_t backing_offset;
	uint32_t backing_bytes;
};

static inline uint64_t ox_qed_cluster_bytes(const struct ox_qed_header *h)
{
	return UINT64_C(1) << h->cluster_bits;
}

static inline uint64_t ox_qed_table_bytes(const struct ox_qed_header *h)
{
	return (uint64_t)h->table_clusters << h->cluster_bits;
}

static inline uint64_t ox_qed_table_entries(const struct ox_qed_header *h)
{
	return ox_qed_table_bytes(h) / 8;
}

static inline uint64_t ox_qed_header_bytes(const struct ox_qed_header *h)
{
	return (uint64_t)h->header_clusters << h->cluster_bits;
}

enum ox_qed_place {
	OX_QED_SOUND,
	OX_QED_MISPLACED, /* not aligned, or in the header */
	OX_QED_PAST_END,
};

/* Of what an entry says of a data cluster (size_bytes 1: it begins in the file), or of a table. */
enum ox_qed_place ox_qed_judge_place(const struct ox_qed_header *h, uint64_t offset,
				     uint64_t size_bytes, uint64_t file_bytes);

bool ox_qed_probe(const uint8_t *bytes, size_t count);

/* The OX_QED_HEADER_BYTES of a header. NULL, or what makes it impossible to say where anything is;
 * other fields are not judged. */
const char *ox_qed_header_decode(const uint8_t *bytes, struct ox_qed_header *ret);
/* What is wrong with the disk's size, or the place of the backing file's name; NULL: nothing. */
const char *ox_qed_judge_size(const struct ox_qed_header *h);
const char *ox_qed_judge_backing(const struct ox_qed_header *h);
/* The same of the places of the header and of the L1 table, without which no byte can be found. */
const char *ox_qed_judge_l1(const struct ox_qed_header *h, uint64_t file_bytes);
/* The reverse of decode, into OX_QED_HEADER_BYTES. */
void ox_qed_header_encode(const struct ox_qed_header *h, uint8_t *bytes);
/* Sets in a header what changes in an image's life: features, autoclear bits, size,
 * the place of the backing file's name. */
void ox_qed_header_patch(const struct ox_qed_header *h, uint8_t *bytes);
/* Sets the features word; the autoclear bits, none of which is known, are cleared as the format has
 * it for a program that changes the image. All else stays as it is. */
void ox_qed_set_features(uint8_t *bytes, uint64_t features);

#endif
