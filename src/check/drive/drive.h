/* SPDX-License-Identifier: MIT */
/*
 * What leads a repair, whatever the format: rounds of walks. A step that changed what the image's
 * tables name ends its round, for what the walk knew no longer holds.
 */
#ifndef OX_CHECK_DRIVE_H
#define OX_CHECK_DRIVE_H

#include "base/error.h"
#include "check/drive/why.h"
#include "io/io.h"

/* Each round ends with fewer structural findings than the last: an image needs a few. */
#define OX_DRIVE_ROUNDS 16u

/* One round. */
typedef int (*ox_drive_round_fn)(void *arg, struct ox_io *io, unsigned round, bool *ret_again,
				 struct ox_error **err);
/* Rounds, from 1 on, until one changes nothing. */
int ox_drive_rounds_co(struct ox_io *io, ox_drive_round_fn round_co, void *arg,
		       struct ox_error **err);
/* Before a walk that repairs: makes durable what it is about to judge. A process that died may have
 * left tables that only the page cache has, and a count that was lowered for their sake would
 * outlive them (D3, D9). */
int ox_drive_settle_co(struct ox_io *io, struct ox_error **err);

/* A journal as the user's options have it. */
void ox_drive_journal(struct ox_journal *j, const struct ox_check_options *opts,
		      const struct ox_why *why);
/* Says what could not be done, and returns r. */
int ox_drive_failed(struct ox_io *io, const char *doing, int r, struct ox_error **err);
/* Changes bytes within one sector. Not synced. */
int ox_drive_write_within_sector_co(struct ox_io *io, uint64_t offset, const void *bytes,
				    size_t size);

#endif
