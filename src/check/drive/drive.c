/* SPDX-License-Identifier: MIT */
#include "check/drive/drive.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/undo/edit.h"

#define SECTOR_BYTES 512u

int ox_drive_failed(struct ox_io *io, const char *doing, int r, struct ox_error **err)
{
	if (r == -ENOBUFS && ox_edit_is_dry(io))
		return ox_error_set(err, r,
				    "A dry run of this repair needs more than %llu MiB of "
				    "memory",
				    (unsigned long long)(OX_EDIT_DRY_BYTES >> 20));
	return ox_error_set_errno(err, r, "Could not %s '%s'", doing, io->name);
}

void ox_drive_journal(struct ox_journal *j, const struct ox_check_options *opts,
		      const struct ox_why *why)
{
	*j = (struct ox_journal){
		.finding = opts->finding,
		.progress = opts->progress,
		.opaque = opts->opaque,
		.why_not = opts->repair == OX_REPAIR_NONE ? NULL : ox_why_not,
		.why_arg = why,
		.dry_run = opts->dry_run,
		.mends_told = opts->repair == OX_REPAIR_ALL,
	};
}

int ox_drive_settle_co(struct ox_io *io, struct ox_error **err)
{
	int r = io->read_only ? 0 : ox_io_sync_co(io);

	return r < 0 ? ox_error_set_errno(err, r, "Could not sync '%s'", io->name) : 0;
}

int ox_drive_rounds_co(struct ox_io *io, ox_drive_round_fn round_co, void *arg,
		       struct ox_error **err)
{
	bool again = true;
	int r = ox_drive_settle_co(io, err);

	for (unsigned round = 1; again && r == 0 && round <= OX_DRIVE_ROUNDS; round++) {
		again = false;
		r = round_co(arg, io, round, &again, err);
	}
	return r;
}

int ox_drive_write_within_sector_co(struct ox_io *io, uint64_t offset, const void *bytes,
				    size_t size)
{
	uint64_t start = ox_align_down(offset, SECTOR_BYTES);
	uint8_t sector[SECTOR_BYTES];
	int r;

	ox_assert(offset - start + size <= SECTOR_BYTES);
	r = ox_io_pread_co(io, sector, sizeof(sector), start);
	if (r < 0)
		return r;
	memcpy(sector + (offset - start), bytes, size);
	return ox_io_pwrite_co(io, sector, sizeof(sector), start, 0);
}
