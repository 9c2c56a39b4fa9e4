/* SPDX-License-Identifier: MIT */
/* Damage, named as the check names it; the caller fails with -EIO. */
#include <errno.h>

#include "img/qcow2/qcow2.h"

void ox_corrupt_counts(struct ox_qcow2 *q, const char *finding, struct ox_host host, uint64_t bytes)
{
	ox_mapped_tell_damage(&q->m, finding, host, bytes, ox_guest(0), 0);
}

void ox_corrupt_stream(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes)
{
	ox_mapped_tell_damage(&q->m, "compressed-data", host, bytes, ox_guest(0), 0);
}

/* Why an entry's bits are no entry: as the check names it. */
static const char *name_bad_bits(const struct ox_qcow2 *q, uint64_t raw, const char *const names[3])
{
	const uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	if (raw == OX_QCOW2_COPIED)
		return names[2];
	if (!(raw & OX_QCOW2_COMPRESSED) && !ox_is_aligned(offset, q->m.cluster_bytes))
		return names[1];
	return names[0];
}

void ox_corrupt_l1(struct ox_qcow2 *q, uint64_t index, uint64_t raw)
{
	static const char *const names[] = {"l1-entry-reserved-bits", "l1-entry-unaligned",
					    "l1-entry-copied-empty"};
	const struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(ox_qcow2_hdr(q), raw);
	const struct ox_host at = ox_host(ox_qcow2_hdr(q)->l1_offset + index * 8);
	const uint64_t span = q->m.cluster_bytes / 8 << q->m.cluster_bits;
	const char *finding;

	if (e.bad || (e.l2.bytes == 0 && e.copied))
		finding = name_bad_bits(q, raw, names);
	else if (e.l2.bytes >= q->m.io->length)
		finding = "past-end";
	else
		finding = ox_mapped_host_ok(&q->m, e.l2, q->m.cluster_bytes) ? "cross-link-l2"
									     : "metadata-overlap";
	ox_mapped_tell_damage(&q->m, finding, at, 8, ox_guest(index * span), span);
}

int ox_corrupt_l2(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host at, uint64_t raw)
{
	static const char *const names[] = {"l2-entry-reserved-bits", "l2-entry-unaligned",
					    "l2-entry-copied-empty"};
	const struct ox_qcow2_entry e = ox_qcow2_l2_decode(ox_qcow2_hdr(q), raw);
	const struct ox_guest cluster = ox_guest(ox_align_down(guest.bytes, q->m.cluster_bytes));
	const char *finding = "metadata-overlap";
	bool overlaps = false;

	if (e.kind == OX_QCOW2_ENTRY_BAD)
		finding = name_bad_bits(q, raw, names);
	else if (ox_recover_is_stale(q, ox_host(ox_align_down(at.bytes, q->m.cluster_bytes)), &e))
		finding = "stale-entry";
	else if (e.host.bytes >= q->m.io->length)
		finding = "past-end";
	else
		overlaps = true;
	ox_mapped_tell_damage(&q->m, finding, at, 8, cluster, q->m.cluster_bytes);
	return overlaps ? -EUCLEAN : -EIO;
}

/* ---- fencing off ---- */

/* Another program that opens the image for writing is refused by the bit, until a repair has taken
 * it away. Version 2 has no room for one. */
int ox_qcow2_write_corrupt_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	struct ox_qcow2_header fields;
	int r = 0;

	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	if (fields.version >= 3) {
		fields.incompatible |= OX_QCOW2_INCOMPAT_CORRUPT;
		r = ox_header_write_co(q, &fields);
	}
	ox_header_unlock(q);
	return r;
}
