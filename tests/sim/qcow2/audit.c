/* SPDX-License-Identifier: MIT */
/* What the oracle asks of a qcow2 image: D1 to D6, D8, the snapshots, the bits of a later version.
 */
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "qcow2/edit.h"
#include "qcow2/qcow2.h"
#include "trace.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)

enum role {
	ROLE_NONE,
	ROLE_HEADER,
	ROLE_REFTABLE,
	ROLE_REFBLOCK,
	ROLE_L1,
	ROLE_SNAPSHOTS,
	ROLE_L2,
	ROLE_DATA,
	ROLE_PACKED,
	ROLE_BITMAP,
};

static const char *const role_names[] = {
	"nothing",	   "the header",	 "the refcount table", "a refcount block",
	"an L1 table",	   "the snapshot table", "an L2 table",	       "data",
	"compressed data", "a bitmap",
};

struct audit {
	struct sim_qcow2 image;
	const struct sim_expect *expect;
	uint64_t clusters;
	uint32_t *refs;
	uint8_t *roles;
	uint8_t *copied;
};

static unsigned long long hex(uint64_t value)
{
	return value;
}

static bool may_share(enum role role)
{
	return role == ROLE_L2 || role == ROLE_DATA || role == ROLE_PACKED;
}

/* One more name of the clusters under [offset, offset + bytes). */
static void name_clusters(struct audit *a, enum role role, uint64_t offset, uint64_t bytes,
			  bool copied)
{
	uint64_t first = offset >> a->image.cluster_bits;
	uint64_t last = (offset + bytes - 1) >> a->image.cluster_bits;

	if (bytes == 0)
		return;
	if (last >= a->clusters ||
	    (role != ROLE_SNAPSHOTS && offset + bytes > a->image.bytes->length))
		sim_fail("D8", "%s at 0x%llx+0x%llx lies past the file's end, 0x%llx",
			 role_names[role], hex(offset), hex(bytes), hex(a->image.bytes->length));
	for (uint64_t c = first; c <= last; c++) {
		enum role old = a->roles[c];

		if (old != ROLE_NONE && (old != role || !may_share(role)))
			sim_fail("D2", "cluster %llu (0x%llx) is %s and %s", hex(c),
				 hex(c << a->image.cluster_bits), role_names[old],
				 role_names[role]);
		a->roles[c] = (uint8_t)role;
		a->refs[c]++;
		a->copied[c] = a->copied[c] || copied;
	}
}

static void name_data(struct audit *a, uint64_t table, uint64_t index)
{
	uint64_t entry = sim_qcow2_entry(&a->image, table + index * 8);
	uint64_t host = entry & SIM_OFFSET_MASK;
	uint64_t zero = a->image.version >= 3 ? entry & 1 : 0;
	uint64_t bytes;

	if (entry & SIM_COMPRESSED && !(entry & SIM_COPIED)) {
		host = sim_qcow2_packed(&a->image, entry, &bytes);
		name_clusters(a, ROLE_PACKED, host, bytes, false);
		return;
	}
	if (entry & (L2_RESERVED | SIM_COMPRESSED) || (entry & 1) != zero ||
	    host % a->image.cluster_bytes != 0 || (host == 0 && entry & SIM_COPIED))
		sim_fail("D1", "L2 table 0x%llx entry %llu is garbage: 0x%llx", hex(table),
			 hex(index), hex(entry));
	if (host != 0)
		name_clusters(a, ROLE_DATA, host, a->image.cluster_bytes, entry & SIM_COPIED);
}

static void name_tables(struct audit *a, uint64_t l1_offset, uint32_t l1_entries)
{
	for (uint64_t i = 0; i < l1_entries; i++) {
		uint64_t entry = sim_bytes_be64(a->image.bytes, l1_offset + i * 8);
		uint64_t table = entry & SIM_OFFSET_MASK;

		if (entry & L1_RESERVED || table % a->image.cluster_bytes != 0 ||
		    (table == 0 && entry != 0))
			sim_fail("D1", "L1 entry %llu is garbage: 0x%llx", hex(i), hex(entry));
		if (table == 0)
			continue;
		name_clusters(a, ROLE_L2, table, a->image.cluster_bytes, entry & SIM_COPIED);
		for (uint64_t k = 0; k < a->image.cluster_bytes / 8; k++)
			name_data(a, table, k);
	}
}

static void name_refcounts(struct audit *a)
{
	const struct sim_qcow2 *i = &a->image;
	uint64_t bytes = i->reftable_clusters * i->cluster_bytes;

	name_clusters(a, ROLE_REFTABLE, i->reftable_offset, bytes, false);
	for (uint64_t k = 0; k < bytes / 8; k++) {
		uint64_t block = sim_qcow2_refblock(i, k);

		if (block % i->cluster_bytes != 0)
			sim_fail("D1", "refcount table entry %llu is garbage: 0x%llx", hex(k),
				 hex(block));
		if (block)
			name_clusters(a, ROLE_REFBLOCK, block, i->cluster_bytes, false);
	}
}

static void name_snapshots(struct audit *a)
{
	const struct sim_qcow2 *i = &a->image;
	uint64_t at = i->snapshots_offset;

	for (uint32_t k = 0; k < i->snapshot_count; k++) {
		struct sim_snapshot s = sim_qcow2_snapshot(i, at);

		name_clusters(a, ROLE_L1, s.l1_offset, (uint64_t)s.l1_entries * 8, false);
		name_tables(a, s.l1_offset, s.l1_entries);
		at += s.record_bytes;
	}
	name_clusters(a, ROLE_SNAPSHOTS, i->snapshots_offset, at - i->snapshots_offset, false);
}

static void check_counts(const struct audit *a, bool dirty)
{
	for (uint64_t c = 0; c < a->clusters; c++) {
		uint64_t count;

		if (a->copied[c] && a->refs[c] > 1)
			sim_fail("D2", "cluster %llu (0x%llx), %s, has %u names, one with COPIED",
				 hex(c), hex(c << a->image.cluster_bits), role_names[a->roles[c]],
				 a->refs[c]);
		if (dirty)
			continue;
		count = sim_qcow2_refcount(&a->image, c);
		if (count < a->refs[c])
			sim_fail("D3", "cluster %llu (0x%llx), %s, has refcount %llu and %u names",
				 hex(c), hex(c << a->image.cluster_bits), role_names[a->roles[c]],
				 hex(count), a->refs[c]);
		if (a->expect->exact && count != a->refs[c])
			sim_fail("D6", "cluster %llu (0x%llx), %s, leaks: refcount %llu, %u names",
				 hex(c), hex(c << a->image.cluster_bits), role_names[a->roles[c]],
				 hex(count), a->refs[c]);
	}
}

/* The sectors that read otherwise than they did through this L1 table; the first, or UINT64_MAX. */
static uint64_t find_change(const struct audit *a, uint64_t l1_offset, uint32_t l1_entries,
			    const struct sim_frozen *frozen)
{
	uint8_t sector[SIM_SECTOR_BYTES];

	for (uint64_t s = 0; s < frozen->sectors; s++) {
		sim_qcow2_read(&a->image, l1_offset, l1_entries, a->expect->backing,
			       s * SIM_SECTOR_BYTES, sector);
		if (memcmp(sector, frozen->bytes + s * SIM_SECTOR_BYTES, sizeof(sector)) != 0)
			return s;
	}
	return UINT64_MAX;
}

static void check_snapshots(const struct audit *a)
{
	const struct sim_qcow2 *i = &a->image;
	uint64_t at = i->snapshots_offset;

	if (i->snapshot_count != a->expect->frozen_count)
		sim_fail("D9", "of %u snapshots there are %u", a->expect->frozen_count,
			 i->snapshot_count);
	for (unsigned k = 0; k < i->snapshot_count; k++) {
		struct sim_snapshot snapshot = sim_qcow2_snapshot(i, at);
		uint64_t change = find_change(a, snapshot.l1_offset, snapshot.l1_entries,
					      &a->expect->frozen[k]);

		if (change != UINT64_MAX)
			sim_fail("D2", "sector %llu of snapshot %u has changed", hex(change), k);
		at += snapshot.record_bytes;
	}
}

/* ---- what the engine does not know, or vouches for ---- */

static void name_bitmap(struct audit *a)
{
	const struct sim_qcow2 *i = &a->image;
	uint32_t bytes;
	uint64_t at = sim_qcow2_extension(i, SIM_EXT_BITMAPS, &bytes);
	uint64_t directory = sim_bytes_be64(i->bytes, at + 16);
	uint64_t table = sim_bytes_be64(i->bytes, directory);
	uint64_t entries = sim_bytes_be32(i->bytes, directory + 8);

	name_clusters(a, ROLE_BITMAP, directory, sim_bytes_be64(i->bytes, at + 8), false);
	name_clusters(a, ROLE_BITMAP, table, entries * 8, false);
	for (uint64_t k = 0; k < entries; k++)
		name_clusters(a, ROLE_BITMAP, sim_bytes_be64(i->bytes, table + k * 8),
			      i->cluster_bytes, false);
}

static void same_bytes(const struct audit *a, uint64_t offset, uint64_t count, const char *what)
{
	const struct sim_bytes *then = &a->expect->vouched->bytes;

	for (uint64_t at = offset; at < offset + count; at += 8)
		if (sim_bytes_be64(a->image.bytes, at) != sim_bytes_be64(then, at))
			sim_fail("H9", "%s has changed at 0x%llx", what, hex(at));
}

/* The engine may add an extension of its own; these it does not touch. */
static void same_extension(const struct audit *a, uint32_t type)
{
	struct sim_qcow2 then;
	const char *why;
	uint32_t bytes = 0;
	uint32_t bytes_then = 0;
	uint64_t at = sim_qcow2_extension(&a->image, type, &bytes);

	if (!sim_qcow2_parse(&a->expect->vouched->bytes, &then, &why))
		sim_fail("sim", "nothing to compare with: %s", why);
	if (at != sim_qcow2_extension(&then, type, &bytes_then) || (at != 0 && bytes != bytes_then))
		sim_fail("H9", "header extension 0x%x is gone, or moved", type);
	if (at != 0)
		same_bytes(a, at, bytes, "a header extension");
}

static void check_vouched(const struct audit *a)
{
	const struct sim_qcow2 *i = &a->image;
	const struct sim_vouched *v = a->expect->vouched;
	uint64_t then = sim_bytes_be64(&v->bytes, 88);
	uint64_t change;

	same_extension(a, SIM_EXT_UNKNOWN);
	same_extension(a, SIM_EXT_BITMAPS);
	if (!(i->compatible & SIM_UNKNOWN_COMPATIBLE))
		sim_fail("H9", "an unknown compatible bit is gone");
	if (i->autoclear != 0 && i->autoclear != then)
		sim_fail("H9", "autoclear bits 0x%llx, of 0x%llx", hex(i->autoclear), hex(then));
	if (i->autoclear == 0)
		return;
	change = find_change(a, i->l1_offset, i->l1_entries, &v->guest);
	if (change != UINT64_MAX || i->size_bytes != v->guest.sectors * SIM_SECTOR_BYTES)
		sim_fail("D6", "sector %llu has changed under a bitmap that is vouched for",
			 hex(change));
	for (uint64_t c = 0; c < a->clusters; c++)
		if (a->roles[c] == ROLE_BITMAP)
			same_bytes(a, c << i->cluster_bits, i->cluster_bytes, "the bitmap");
}

void sim_qcow2_audit(const struct sim_image *i, const struct sim_expect *expect)
{
	struct audit a = {.expect = expect, .image = i->qcow2};

	if (i->marked && !(a.image.compatible & SIM_LAZY))
		sim_fail("D5", "the dirty bit of an image that is not lazy is set");
	a.clusters = (i->bytes->length + a.image.cluster_bytes - 1) >> a.image.cluster_bits;
	a.refs = sim_alloc(a.clusters, sizeof(*a.refs));
	a.roles = sim_alloc(a.clusters, 1);
	a.copied = sim_alloc(a.clusters, 1);
	name_clusters(&a, ROLE_HEADER, 0, a.image.cluster_bytes, false);
	name_refcounts(&a);
	name_clusters(&a, ROLE_L1, a.image.l1_offset, (uint64_t)a.image.l1_entries * 8, false);
	name_tables(&a, a.image.l1_offset, a.image.l1_entries);
	if (a.image.snapshot_count > 0)
		name_snapshots(&a);
	if (a.image.autoclear & SIM_BITMAPS)
		name_bitmap(&a);
	check_counts(&a, i->marked);
	sim_oracle_content(i, expect);
	check_snapshots(&a);
	if (expect->vouched)
		check_vouched(&a);
	free(a.refs);
	free(a.roles);
	free(a.copied);
}
