/* SPDX-License-Identifier: MIT */
/*
 * What the header leads to that shares its clusters with nothing: the tables of an image but for L2
 * tables. Each is claimed in the ledger before it is read, so that all of them together are no
 * longer than the file; what they say goes into the view.
 */
#ifndef OX_CHECK_CLAIMS_H
#define OX_CHECK_CLAIMS_H

#include "check/ledger/ledger.h"
#include "check/view/view.h"

/* All of them. 0, -ENOMEM or what is no finding. */
int ox_claims_make_co(struct ox_view *v, struct ox_ledger *k);

/* ---- its parts ---- */

/* 1: the file ends in a table, or before it, though a count tells that it was there: a finding; 0
 * or -ENOMEM. */
int ox_claims_tell_cut_co(const struct ox_ledger *k, const char *word, uint64_t offset,
			  uint64_t size_bytes);
/* The same is known of a tree's L1 table: the finding, and what there is of it is followed. 0 or
 * -ENOMEM. */
int ox_claims_cut_l1(struct ox_view *v, struct ox_ledger *k, uint64_t tree, const char *word);

int ox_claims_snapshots_co(struct ox_view *v, struct ox_ledger *k);
/* Where the header's number or place of them is wrong: a patch, if the table tells. */
int ox_claims_judge_snapshot_fields_co(struct ox_view *v, const struct ox_ledger *k);
/* Where there are said to be none: a patch, if their table is there nevertheless. */
int ox_claims_judge_no_snapshots_co(struct ox_view *v, const struct ox_ledger *k);
/* Whether the bitmaps that are vouched for have their extension, and the right numbers in it: else
 * a patch, there and in the first cluster, where their directory tells. 0 or -ENOMEM. */
int ox_claims_judge_directory_co(struct ox_view *v, const struct ox_ledger *k, uint8_t *cluster);
/* 1: a cluster holds a directory and nothing else, which *ret then describes; 0 or -ENOMEM. */
int ox_claims_read_directory_co(const struct ox_ledger *k, uint64_t offset,
				struct ox_qcow2_bitmaps_ext *ret);
int ox_claims_bitmaps_co(struct ox_view *v, struct ox_ledger *k,
			 const struct ox_qcow2_bitmaps_ext *ext);
/* The extensions, the encryption header, the files that are named. */
int ox_claims_extensions_co(struct ox_view *v, struct ox_ledger *k);

#endif
