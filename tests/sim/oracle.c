/* SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <stdlib.h>
#include <string.h>

#include "image.h"
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
};

static const char *const role_names[] = {
	"nothing",     "the header",	     "the refcount table", "a refcount block",
	"an L1 table", "the snapshot table", "an L2 table",	   "data",
};

struct audit {
	struct sim_image image;
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

		if (old != ROLE_NONE && (old != role || (role != ROLE_L2 && role != ROLE_DATA)))
			sim_fail("D2", "cluster %llu (0x%llx) is %s and %s", hex(c),
				 hex(c << a->image.cluster_bits), role_names[old],
				 role_names[role]);
		a->roles[c] = role;
		a->refs[c]++;
		a->copied[c] = a->copied[c] || copied;
	}
}

static void name_data(struct audit *a, uint64_t table, uint64_t index)
{
	uint64_t entry = sim_image_entry(&a->image, table + index * 8);
	uint64_t host = entry & SIM_OFFSET_MASK;
	uint64_t zero = a->image.version >= 3 ? entry & 1 : 0;

	if (entry & SIM_COMPRESSED)
		sim_fail("D1", "L2 table 0x%llx entry %llu is garbage: 0x%llx", hex(table),
			 hex(index), hex(entry));
	if (entry & L2_RESERVED || (entry & 1) != zero || host % a->image.cluster_bytes != 0 ||
	    (host == 0 && entry & SIM_COPIED))
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
	const struct sim_image *i = &a->image;
	uint64_t bytes = i->reftable_clusters * i->cluster_bytes;

	name_clusters(a, ROLE_REFTABLE, i->reftable_offset, bytes, false);
	for (uint64_t k = 0; k < bytes / 8; k++) {
		uint64_t block = sim_image_refblock(i, k);

		if (block % i->cluster_bytes != 0)
			sim_fail("D1", "refcount table entry %llu is garbage: 0x%llx", hex(k),
				 hex(block));
		if (block)
			name_clusters(a, ROLE_REFBLOCK, block, i->cluster_bytes, false);
	}
}

static void name_snapshots(struct audit *a)
{
	const struct sim_image *i = &a->image;
	uint64_t at = i->snapshots_offset;

	for (uint32_t k = 0; k < i->snapshot_count; k++) {
		struct sim_snapshot s = sim_image_snapshot(i, at);

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
		count = sim_image_refcount(&a->image, c);
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

void sim_oracle_read(const struct sim_image *i, uint64_t l1_offset, uint32_t l1_entries,
		     const struct sim_backing *backing, uint64_t guest, uint8_t *ret)
{
	uint64_t host = 0;

	switch (sim_image_find(i, l1_offset, l1_entries, guest, &host)) {
	case SIM_PLACE_DATA:
		sim_bytes_read(i->bytes, host, ret, SIM_SECTOR_BYTES);
		return;
	case SIM_PLACE_ABSENT:
		if (backing->there && guest < backing->bytes.length) {
			sim_bytes_read(&backing->bytes, guest, ret, SIM_SECTOR_BYTES);
			return;
		}
		break;
	case SIM_PLACE_ZERO:
		break;
	}
	memset(ret, 0, SIM_SECTOR_BYTES);
}

static void check_content(const struct audit *a)
{
	const struct sim_image *i = &a->image;
	uint8_t sector[SIM_SECTOR_BYTES];
	uint64_t count = sim_model_sectors(a->expect->model);

	for (uint64_t s = 0; s < count; s++) {
		sim_oracle_read(i, i->l1_offset, i->l1_entries, a->expect->backing,
				s * SIM_SECTOR_BYTES, sector);
		sim_model_check(a->expect->model, s, sector, "on the disk");
	}
}

static void check_frozen(const struct audit *a)
{
	const struct sim_image *i = &a->image;
	struct sim_snapshot snapshot = sim_image_snapshot(i, i->snapshots_offset);
	const struct sim_frozen *frozen = a->expect->frozen;
	uint8_t sector[SIM_SECTOR_BYTES];

	if (i->snapshot_count == 0)
		sim_fail("D9", "the snapshot is gone");
	for (uint64_t s = 0; s < frozen->sectors; s++) {
		sim_oracle_read(i, snapshot.l1_offset, snapshot.l1_entries, a->expect->backing,
				s * SIM_SECTOR_BYTES, sector);
		if (memcmp(sector, frozen->bytes + s * SIM_SECTOR_BYTES, sizeof(sector)) != 0)
			sim_fail("D2", "sector %llu of the snapshot has changed", hex(s));
	}
}

bool sim_oracle_check(const struct sim_bytes *bytes, const struct sim_expect *expect)
{
	struct audit a = {.expect = expect};
	const char *why;
	bool dirty;

	if (!sim_image_parse(bytes, &a.image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	dirty = a.image.incompatible & SIM_DIRTY;
	if (dirty && expect->clean)
		sim_fail("D6", "the dirty bit is set after a clean end");
	if (dirty && !(a.image.compatible & SIM_LAZY))
		sim_fail("D5", "the dirty bit of an image that is not lazy is set");
	a.clusters = (bytes->length + a.image.cluster_bytes - 1) >> a.image.cluster_bits;
	a.refs = sim_alloc(a.clusters, sizeof(*a.refs));
	a.roles = sim_alloc(a.clusters, 1);
	a.copied = sim_alloc(a.clusters, 1);
	name_clusters(&a, ROLE_HEADER, 0, a.image.cluster_bytes, false);
	name_refcounts(&a);
	name_clusters(&a, ROLE_L1, a.image.l1_offset, (uint64_t)a.image.l1_entries * 8, false);
	name_tables(&a, a.image.l1_offset, a.image.l1_entries);
	if (a.image.snapshot_count > 0)
		name_snapshots(&a);
	check_counts(&a, dirty);
	if (expect->model)
		check_content(&a);
	if (expect->frozen)
		check_frozen(&a);
	free(a.refs);
	free(a.roles);
	free(a.copied);
	return dirty;
}
