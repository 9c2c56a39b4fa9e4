/* SPDX-License-Identifier: MIT */
/*
 * An image that contradicts itself: told where it is met, and fenced off where believing it would
 * overwrite a table.
 *
 * Refusal: the request, or the work in the background, that would have written over metadata fails
 * and nothing was written. Then, beside everything else:
 *
 *   1. no new request changes anything (ox_mapped_check_change)
 *   2. a commit makes durable what was accepted before (D7)
 *   3. the format says so on disk, if it can: one sector, synced (H9)
 *   4. the order is poisoned: nothing is written any more, not at close either (M3)
 *
 * Reads go on. While a recovery runs nothing is fenced off: what its tables name is not judged yet.
 */
#include <errno.h>

#include "img/mapped/mapped.h"

void ox_mapped_tell_damage(struct ox_mapped *m, const char *finding, struct ox_host host,
			   uint64_t host_bytes, struct ox_guest guest, uint64_t guest_bytes)
{
	ox_notice_tell(m->img, &(struct ox_notice){
				       .kind = OX_NOTICE_DAMAGE,
				       .error = -EIO,
				       .finding = finding,
				       .host_offset = host.bytes,
				       .host_length = host_bytes,
				       .guest_offset = guest.bytes,
				       .guest_length = guest_bytes,
			       });
}

int ox_mapped_check_change(const struct ox_mapped *m)
{
	return ox_order_error(&m->order) || m->refused ? -EIO : 0;
}

static void mark_task_co(void *arg)
{
	struct ox_mapped *m = arg;
	int r = ox_commit_co(m);

	if (r == 0)
		r = m->ops->write_corrupt_co(m);
	/* A failure has poisoned the order, or is about to be told by this. */
	if (r == 0 || ox_order_error(&m->order) == 0)
		ox_order_poison(&m->order, -EIO);
	ox_latch_done(&m->background);
}

static void begin_to_mark(struct ox_mapped *m)
{
	if (m->refused)
		return;
	m->refused = true;
	m->img->notices.poison_told = true; /* this is what it is told as */
	ox_latch_add(&m->background);
	if (ox_co_spawn(m->img->reactor, mark_task_co, m) < 0) {
		ox_order_poison(&m->order, -EIO);
		ox_latch_done(&m->background);
	}
}

void ox_mapped_refuse(struct ox_mapped *m, const char *finding, struct ox_host host, uint64_t bytes)
{
	if (ox_recover_active(m)) {
		ox_mapped_tell_damage(m, finding, host, bytes, ox_guest(0), 0);
		return;
	}
	if (!m->refused)
		ox_notice_tell(m->img, &(struct ox_notice){
					       .kind = OX_NOTICE_REFUSED,
					       .error = -EIO,
					       .finding = finding,
					       .host_offset = host.bytes,
					       .host_length = bytes,
				       });
	begin_to_mark(m);
}

void ox_mapped_refused(struct ox_image *img, uint64_t offset, uint64_t length)
{
	struct ox_mapped *m = ox_mapped_of(img);

	if (ox_recover_active(m))
		return;
	if (!m->refused)
		ox_notice_tell(img, &(struct ox_notice){
					    .kind = OX_NOTICE_REFUSED,
					    .error = -EIO,
					    .finding = "metadata-overlap",
					    .guest_offset = offset,
					    .guest_length = length,
				    });
	begin_to_mark(m);
}
