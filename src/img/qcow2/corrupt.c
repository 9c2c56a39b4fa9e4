/* SPDX-License-Identifier: MIT */
/*
 * An image that contradicts itself: told where it is met, and fenced off where believing it would
 * overwrite a table.
 *
 * Refusal: the request, or the work in the background, that would have written over metadata fails
 * and nothing was written. Then, beside everything else:
 *
 *   1. no new request changes anything (ox_qcow2_prepare_write_co)
 *   2. a commit makes durable what was accepted before (D7)
 *   3. the corrupt bit is written, one sector, and synced (H9); version 2 has no room for one
 *   4. the order is poisoned: nothing is written any more, not at close either (M3)
 *
 * Reads go on. While a recovery runs nothing is fenced off: what its tables name is not judged yet.
 * Another program that opens the image for writing is refused by the bit, until a
 * repair has taken it away.
 */
#include <errno.h>

#include "img/qcow2/qcow2.h"

/* ---- telling ---- */

static void tell_damage(struct ox_qcow2 *q, const char *finding, struct ox_host host,
			uint64_t host_bytes, struct ox_guest guest, uint64_t guest_bytes)
{
	ox_notice_tell(q->img, &(struct ox_notice){
				       .kind = OX_NOTICE_DAMAGE,
				       .error = -EIO,
				       .finding = finding,
				       .host_offset = host.bytes,
				       .host_length = host_bytes,
				       .guest_offset = guest.bytes,
				       .guest_length = guest_bytes,
			       });
}

void ox_corrupt_counts(struct ox_qcow2 *q, const char *finding, struct ox_host host, uint64_t bytes)
{
	tell_damage(q, finding, host, bytes, ox_guest(0), 0);
}

void ox_corrupt_stream(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes)
{
	tell_damage(q, "compressed-data", host, bytes, ox_guest(0), 0);
}

/* Why an entry's bits are no entry: as the check names it. */
static const char *name_bad_bits(const struct ox_qcow2 *q, uint64_t raw, const char *const names[3])
{
	const uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	if (raw == OX_QCOW2_COPIED)
		return names[2];
	if (!(raw & OX_QCOW2_COMPRESSED) && !ox_is_aligned(offset, q->cluster_bytes))
		return names[1];
	return names[0];
}

void ox_corrupt_l1(struct ox_qcow2 *q, uint64_t index, uint64_t raw)
{
	static const char *const names[] = {"l1-entry-reserved-bits", "l1-entry-unaligned",
					    "l1-entry-copied-empty"};
	const struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(ox_qcow2_hdr(q), raw);
	const struct ox_host at = ox_host(ox_qcow2_hdr(q)->l1_offset + index * 8);
	const uint64_t span = q->cluster_bytes / 8 << q->cluster_bits;
	const char *finding;

	if (e.bad || (e.l2.bytes == 0 && e.copied))
		finding = name_bad_bits(q, raw, names);
	else if (e.l2.bytes >= q->io->length)
		finding = "past-end";
	else
		finding = ox_map_host_ok(q, e.l2, q->cluster_bytes) ? "cross-link-l2"
								    : "metadata-overlap";
	tell_damage(q, finding, at, 8, ox_guest(index * span), span);
}

int ox_corrupt_l2(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host at, uint64_t raw)
{
	static const char *const names[] = {"l2-entry-reserved-bits", "l2-entry-unaligned",
					    "l2-entry-copied-empty"};
	const struct ox_qcow2_entry e = ox_qcow2_l2_decode(ox_qcow2_hdr(q), raw);
	const struct ox_guest cluster = ox_guest(ox_align_down(guest.bytes, q->cluster_bytes));
	const char *finding = "metadata-overlap";
	bool overlaps = false;

	if (e.kind == OX_QCOW2_ENTRY_BAD)
		finding = name_bad_bits(q, raw, names);
	else if (ox_recover_is_stale(q, ox_host(ox_align_down(at.bytes, q->cluster_bytes)), &e))
		finding = "stale-entry";
	else if (e.host.bytes >= q->io->length)
		finding = "past-end";
	else
		overlaps = true;
	tell_damage(q, finding, at, 8, cluster, q->cluster_bytes);
	return overlaps ? -EUCLEAN : -EIO;
}

/* ---- fencing off ---- */

static void mark_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;
	struct ox_qcow2_header fields;
	int r = ox_commit_co(q);

	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	if (r == 0 && fields.version >= 3) {
		fields.incompatible |= OX_QCOW2_INCOMPAT_CORRUPT;
		r = ox_header_write_co(q, &fields);
	}
	ox_header_unlock(q);
	/* A failure has poisoned the order, or is about to be told by this. */
	if (r == 0 || ox_order_error(&q->order) == 0)
		ox_order_poison(&q->order, -EIO);
	ox_latch_done(&q->background);
}

static void begin_to_mark(struct ox_qcow2 *q)
{
	if (q->refused)
		return;
	q->refused = true;
	q->img->notices.poison_told = true; /* this is what it is told as */
	ox_latch_add(&q->background);
	if (ox_co_spawn(q->img->reactor, mark_task_co, q) < 0) {
		ox_order_poison(&q->order, -EIO);
		ox_latch_done(&q->background);
	}
}

void ox_corrupt_refuse(struct ox_qcow2 *q, const char *finding, struct ox_host host, uint64_t bytes)
{
	if (ox_recover_active(q)) {
		ox_corrupt_counts(q, finding, host, bytes);
		return;
	}
	if (!q->refused)
		ox_notice_tell(q->img, &(struct ox_notice){
					       .kind = OX_NOTICE_REFUSED,
					       .error = -EIO,
					       .finding = finding,
					       .host_offset = host.bytes,
					       .host_length = bytes,
				       });
	begin_to_mark(q);
}

void ox_qcow2_refused(struct ox_image *img, uint64_t offset, uint64_t length)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);

	if (ox_recover_active(q))
		return;
	if (!q->refused)
		ox_notice_tell(img, &(struct ox_notice){
					    .kind = OX_NOTICE_REFUSED,
					    .error = -EIO,
					    .finding = "metadata-overlap",
					    .guest_offset = offset,
					    .guest_length = length,
				    });
	begin_to_mark(q);
}
