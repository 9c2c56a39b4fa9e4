/* SPDX-License-Identifier: MIT */
/*
 * Changes to a closed, clean image that its own engine does not make: snapshots, compressed
 * clusters, bitmaps, header fields of a later version. Each leaves a sound image behind.
 */
#ifndef SIM_QCOW2_EDIT_H
#define SIM_QCOW2_EDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "qcow2/reader.h"
#include "image.h"
#include "random.h"

/* ---- edit.c: clusters and their counts ---- */

void sim_edit_put_refcount(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t cluster,
			   uint64_t value);
/* One name more, or less, for the clusters under the range. */
void sim_edit_add_names(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t offset,
			uint64_t bytes, int names);
/* A run of free clusters that the refcount blocks describe, zeroed, and the file long enough
 * (unless fixed: a device). Their refcounts are left at zero. The host offset, or 0: none. */
uint64_t sim_edit_find_free(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t clusters,
			    bool fixed);

/* COPIED goes from about half of the entries, as where a program deleted a snapshot and minded only
 * the counts: nothing is lost by it. */
void sim_edit_forget_copied(struct sim_bytes *b, struct sim_random *random);

/* ---- snapshot.c ---- */

/* Takes a snapshot the way that programs do: the L1 table is copied, what it names has one more
 * name, and COPIED goes. False, and nothing changed, where the refcounts have no room for it. */
bool sim_snapshot_take(struct sim_bytes *b, bool fixed);

/* ---- compress.c ---- */

/* Some of the guest's clusters are packed, as they read now; streams share host clusters, up to
 * most_names in one. Returns how many were packed. */
unsigned sim_compress_some(struct sim_bytes *b, const struct sim_backing *backing,
			   struct sim_random *random, unsigned most_names, bool fixed);

/* ---- extras.c ---- */

#define SIM_EXT_UNKNOWN 0x6f786269u
#define SIM_EXT_BITMAPS 0x23852875u
#define SIM_UNKNOWN_COMPATIBLE (UINT64_C(1) << 9)
#define SIM_UNKNOWN_AUTOCLEAR (UINT64_C(1) << 11)

/* An unknown header extension and unknown bits; with bitmap, a persistent bitmap as well. False,
 * and nothing changed, where there is no room. */
bool sim_extras_add(struct sim_bytes *b, struct sim_random *random, bool bitmap, bool fixed);

#endif
