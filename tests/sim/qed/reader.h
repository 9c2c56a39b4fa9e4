/* SPDX-License-Identifier: MIT */
/* A reader of QED that shares nothing with the one it judges: no cache, no cleverness. */
#ifndef SIM_QED_READER_H
#define SIM_QED_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

#define SIM_QED_BACKING UINT64_C(1)
#define SIM_QED_NEED_CHECK UINT64_C(2)
#define SIM_QED_BACKING_RAW UINT64_C(4)
#define SIM_QED_ZERO UINT64_C(1) /* a data entry: zeroes */

/* Where the header's fields are. */
enum sim_qed_field {
	SIM_QED_AT_FEATURES = 16,
	SIM_QED_AT_COMPATIBLE = 24,
	SIM_QED_AT_AUTOCLEAR = 32,
	SIM_QED_AT_L1 = 40,
	SIM_QED_AT_SIZE = 48,
	SIM_QED_AT_BACKING = 56,
	SIM_QED_FIELDS_END = 64,
};

struct sim_qed {
	const struct sim_bytes *bytes;
	uint64_t cluster_bytes;
	uint64_t header_bytes;
	uint64_t table_bytes;	/* of the L1 table, and of each L2 table */
	uint64_t table_entries; /* the same */
	uint64_t features;
	uint64_t compatible;
	uint64_t autoclear;
	uint64_t l1_offset;
	uint64_t size_bytes;
};

/* False, and why, where the header is not one. */
bool sim_qed_parse(const struct sim_bytes *bytes, struct sim_qed *ret, const char **ret_why);
/* The entry at an offset of the file, 0 for a stale one of a marked image (planted.h). */
uint64_t sim_qed_entry(const struct sim_qed *i, uint64_t at);
/* Whether a cluster, or a table, may be there: aligned, behind the header, not on L1, all of it in
 * the file. */
bool sim_qed_is_place(const struct sim_qed *i, uint64_t offset, uint64_t bytes);
/* Where in the file the L2 entry of the guest's byte is; 0: it has no table. */
uint64_t sim_qed_entry_at(const struct sim_qed *i, uint64_t guest);

/* The sector as it reads; what an entry that leads nowhere reads as is not judged: zeroes. */
struct sim_backing;
void sim_qed_read(const struct sim_qed *i, const struct sim_backing *backing, uint64_t guest,
		  uint8_t *ret);
/* What an offset of the file is, in words. */
void sim_qed_name(const struct sim_qed *i, uint64_t offset, char *ret, size_t room);

#endif
