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

int ox_claims_snapshots_co(struct ox_view *v, struct ox_ledger *k);
/* Where the header's number or place of them is wrong: a patch, if the table tells. */
int ox_claims_judge_snapshot_fields_co(struct ox_view *v, const struct ox_ledger *k);
int ox_claims_bitmaps_co(struct ox_view *v, struct ox_ledger *k,
			 const struct ox_qcow2_bitmaps_ext *ext);
/* The extensions, the encryption header, the files that are named. */
int ox_claims_extensions_co(struct ox_view *v, struct ox_ledger *k);

#endif
