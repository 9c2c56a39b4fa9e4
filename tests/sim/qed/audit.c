/* SPDX-License-Identifier: MIT */
/*
 * What the oracle asks of a QED image (docs/qed.md, "Invariants for writing"): no two entries name
 * one cluster, nothing that is named lies past the file's end, and NEED_CHECK stands before the
 * first entry of a session. NEED_CHECK excuses nothing here but what other programs have left.
 */
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "planted.h"
#include "qed/qed.h"
#include "trace.h"

struct audit {
	const struct sim_qed *q;
	const struct sim_expect *expect; /* NULL: names are counted, and nothing is judged */
	bool marked;
	uint64_t clusters;		 /* of the file; the last need not be whole */
	uint64_t *named_at;		 /* by the entry there; of the header and L1: 1 */
	bool standing[SIM_PLANTED_MOST]; /* of the damage */
};

static unsigned long long hex(uint64_t value)
{
	return value;
}

/* ---- names ---- */

static void name_clusters(struct audit *a, uint64_t entry_at, uint64_t offset, uint64_t bytes)
{
	uint64_t cluster_bytes = a->q->cluster_bytes;

	for (uint64_t c = offset / cluster_bytes; c < (offset + bytes) / cluster_bytes; c++) {
		if (a->named_at[c] != 0 && a->expect)
			sim_fail("D2",
				 "cluster %llu (0x%llx) is named by the entry at 0x%llx and by the "
				 "one at 0x%llx",
				 hex(c), hex(c * cluster_bytes), hex(a->named_at[c]),
				 hex(entry_at));
		a->named_at[c] = entry_at;
	}
}

/* D5: without the mark nothing names what was not durably named before. */
static void check_session(const struct audit *a, uint64_t at, uint64_t entry)
{
	if (!a->marked && a->expect && a->expect->durable &&
	    sim_bytes_le64(a->expect->durable, at) != entry)
		sim_fail("D5",
			 "NEED_CHECK is clear, and the entry at 0x%llx names 0x%llx, which was not "
			 "durable",
			 hex(at), hex(entry));
}

static bool is_stale(const struct audit *a, uint64_t at)
{
	uint64_t raw = sim_bytes_le64(a->q->bytes, at);

	if (raw == sim_qed_entry(a->q, at))
		return false;
	if (a->expect && raw < a->q->bytes->length)
		sim_fail("D8", "the stale entry at 0x%llx, 0x%llx, has got a meaning", hex(at),
			 hex(raw));
	return true;
}

/* While the mark stands, what other programs left is no mistake of ours. */
static bool is_damage(struct audit *a, uint64_t at, uint64_t entry)
{
	int number = a->marked ? sim_planted_find(&sim_damage, at, entry) : -1;

	if (number >= 0)
		a->standing[number] = true;
	return number >= 0;
}

/* Whether the entry names something that can be followed. least: of the entry's own values. */
static bool name_entry(struct audit *a, uint64_t at, uint64_t bytes, uint64_t least)
{
	uint64_t entry = sim_qed_entry(a->q, at);

	if (is_stale(a, at) || entry < least || is_damage(a, at, entry))
		return false;
	if (!sim_qed_is_place(a->q, entry, bytes)) {
		if (a->expect && entry % a->q->cluster_bytes == 0 &&
		    entry + bytes > a->q->bytes->length)
			sim_fail("D8",
				 "the entry at 0x%llx names 0x%llx+0x%llx past the file's end, "
				 "0x%llx",
				 hex(at), hex(entry), hex(bytes), hex(a->q->bytes->length));
		if (a->expect)
			sim_fail("D1", "the entry at 0x%llx is garbage: 0x%llx", hex(at),
				 hex(entry));
		return false;
	}
	check_session(a, at, entry);
	name_clusters(a, at, entry, bytes);
	return true;
}

static void name_all(struct audit *a)
{
	const struct sim_qed *q = a->q;

	name_clusters(a, 1, 0, q->header_bytes);
	name_clusters(a, 1, q->l1_offset, q->table_bytes);
	for (uint64_t n = 0; n < q->table_entries; n++) {
		uint64_t at = q->l1_offset + n * 8;
		uint64_t table;

		if (!name_entry(a, at, q->table_bytes, 1))
			continue;
		table = sim_qed_entry(q, at);
		for (uint64_t k = 0; k < q->table_entries; k++)
			name_entry(a, table + k * 8, q->cluster_bytes, SIM_QED_ZERO + 1);
	}
}

static void same_cluster(const struct audit *a, uint64_t cluster)
{
	uint64_t at = cluster * a->q->cluster_bytes;

	for (uint64_t end = at + a->q->cluster_bytes; at < end; at += 8)
		if (sim_bytes_le64(a->q->bytes, at) != sim_bytes_le64(a->expect->sealed, at))
			sim_fail("D2", "cluster %llu was written, though two entries name it",
				 hex(cluster));
}

/* What was named twice when it was found is not handed out, and not written once that is known. */
static void check_damage(const struct audit *a)
{
	for (unsigned k = 0; k < sim_damage.count; k++) {
		uint64_t partner_at = sim_damage.entries[k].partner_at;
		uint64_t cluster = sim_damage.entries[k].entry / a->q->cluster_bytes;

		if (!a->standing[k] || partner_at == 0)
			continue;
		if (a->named_at[cluster] == partner_at && a->expect->sealed)
			same_cluster(a, cluster);
		if (a->named_at[cluster] != 0 && a->named_at[cluster] != partner_at)
			sim_fail("D2",
				 "cluster %llu, which the entry at 0x%llx names, was handed out to "
				 "the one at 0x%llx",
				 hex(cluster), hex(sim_damage.entries[k].at),
				 hex(a->named_at[cluster]));
	}
}

static void begin(struct audit *a, const struct sim_image *i, const struct sim_expect *expect)
{
	*a = (struct audit){.q = &i->qed, .expect = expect, .marked = i->marked};
	a->clusters = (i->bytes->length + i->cluster_bytes - 1) / i->cluster_bytes;
	a->named_at = sim_alloc(a->clusters, sizeof(*a->named_at));
	name_all(a);
}

static uint64_t count_lost(const struct audit *a)
{
	uint64_t lost = 0;

	for (uint64_t c = 0; c < a->clusters; c++)
		lost += a->named_at[c] == 0;
	return lost;
}

uint64_t sim_qed_count_lost(const struct sim_image *i)
{
	struct audit a;
	uint64_t lost;

	begin(&a, i, NULL);
	lost = count_lost(&a);
	free(a.named_at);
	return lost;
}

/* ---- the header ---- */

/* But for the mark, the disk's size and the autoclear bits it is as it was made, with what is not
 * known of it. */
static void check_header(const struct audit *a)
{
	const struct sim_bytes *then =
		a->expect->vouched ? &a->expect->vouched->bytes : a->expect->made;

	for (uint64_t at = 0; then && at < a->q->header_bytes; at += 8) {
		uint64_t changed = sim_bytes_le64(a->q->bytes, at) ^ sim_bytes_le64(then, at);

		if (at == SIM_QED_AT_FEATURES)
			changed &= ~SIM_QED_NEED_CHECK;
		if (at == SIM_QED_AT_SIZE || (at == SIM_QED_AT_AUTOCLEAR && a->q->autoclear == 0))
			changed = 0;
		if (changed != 0)
			sim_fail("H9", "the header has changed at 0x%llx", hex(at));
	}
}

/* While the bits of a later version stand, the guest has changed nothing. */
static void check_vouched(const struct audit *a)
{
	const struct sim_frozen *guest = &a->expect->vouched->guest;
	uint8_t sector[SIM_SECTOR_BYTES];

	if (a->q->autoclear == 0)
		return;
	if (a->q->size_bytes != guest->sectors * SIM_SECTOR_BYTES)
		sim_fail("D6", "the size has changed under autoclear bits");
	for (uint64_t s = 0; s < guest->sectors; s++) {
		if (a->expect->model && sim_model_is_wild(a->expect->model, s, 1))
			continue;
		sim_qed_read(a->q, a->expect->backing, s * SIM_SECTOR_BYTES, sector);
		if (memcmp(sector, guest->bytes + s * SIM_SECTOR_BYTES, sizeof(sector)) != 0)
			sim_fail("D6", "sector %llu has changed under autoclear bits", hex(s));
	}
}

void sim_qed_audit(const struct sim_image *i, const struct sim_expect *expect)
{
	struct audit a;
	uint64_t lost;

	begin(&a, i, expect);
	check_damage(&a);
	check_header(&a);
	lost = count_lost(&a);
	if (lost > expect->lost_most)
		sim_fail("D6", "%llu clusters are lost, %llu at the most may be", hex(lost),
			 hex(expect->lost_most));
	sim_oracle_content(i, expect);
	if (expect->vouched)
		check_vouched(&a);
	free(a.named_at);
}
