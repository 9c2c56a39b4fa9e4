/* SPDX-License-Identifier: MIT */
/*
 * The write layer of a repair: a store on top of the image's own (docs/check.md).
 *
 * What is written stays in memory, where later reads see it, until a sync. A dry run never goes
 * further. With an undo file, a sync first makes durable there what it is about to overwrite, and
 * then writes the image and syncs it. Only one task writes; others may read meanwhile.
 */
#ifndef OX_CHECK_EDIT_H
#define OX_CHECK_EDIT_H

#include "base/error.h"
#include "check/undo/undo.h"
#include "io/io.h"

/* The most that a dry run keeps in memory: then writes fail with -ENOBUFS. */
#define OX_EDIT_DRY_BYTES (UINT64_C(256) << 20)

/* Layers a store over base, which stays the caller's and must outlive it. undo is where old bytes
 * go, or NULL for a dry run, which leaves base alone, may it be read-only. 0 or -ENOMEM. */
int ox_edit_open(struct ox_io *base, struct ox_undo_log *undo, struct ox_io **ret)
	__attribute__((warn_unused_result));
/* The blocks in which it holds what is written, and in which an undo file has them. */
size_t ox_edit_block_bytes(const struct ox_io *base);
/* Whether a store is such a layer, of a dry run. */
bool ox_edit_is_dry(const struct ox_io *io);
/* Writes guest data. A dry run keeps their length alone, since no walk reads them. */
int ox_edit_write_data_co(struct ox_io *io, const void *bytes, size_t count, uint64_t offset);

#endif
