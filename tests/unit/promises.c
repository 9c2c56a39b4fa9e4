/* SPDX-License-Identifier: MIT */
#include "promises.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"
#include "fmt/qcow2.h"

#define MOST_CLUSTERS UINT64_C(8192)

struct cluster {
	uint32_t refs;
	bool copied; /* by an entry of the disk with COPIED */
	bool under;  /* its count is below refs */
	bool over;   /* COPIED, and named more than once */
};

struct promises {
	struct ox_qcow2_header h;
	const uint8_t *bytes; /* while it is read */
	uint64_t length;
	uint64_t cluster_bytes;
	struct cluster clusters[MOST_CLUSTERS];
};

static uint64_t word_at(const struct promises *p, uint64_t offset)
{
	struct ox_be64 raw = {0};

	if (offset <= p->length && p->length - offset >= sizeof(raw))
		memcpy(&raw, p->bytes + offset, sizeof(raw));
	return ox_be64_get(raw);
}

static void refer(struct promises *p, uint64_t offset, uint64_t size_bytes, bool copied)
{
	for (uint64_t c = offset / p->cluster_bytes;
	     size_bytes > 0 && c <= (offset + size_bytes - 1) / p->cluster_bytes; c++) {
		/* What lies past the end names nothing, until the file grows beneath it. */
		if (c >= MOST_CLUSTERS || c * p->cluster_bytes >= p->length)
			return;
		p->clusters[c].refs++;
		p->clusters[c].copied |= copied;
	}
}

static void read_l2(struct promises *p, uint64_t table, bool active)
{
	unsigned words = ox_qcow2_l2_words(&p->h);

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&p->h); i++) {
		struct ox_qcow2_entry e =
			ox_qcow2_l2_decode(&p->h, word_at(p, table + i * words * 8));

		/* No stream begins in the header: such an entry names nothing. */
		if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.host.bytes < p->cluster_bytes)
			continue;
		if (e.kind == OX_QCOW2_ENTRY_COMPRESSED)
			refer(p, e.host.bytes, e.compressed_bytes, false);
		else if (e.kind == OX_QCOW2_ENTRY_DATA || e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
			refer(p, e.host.bytes, p->cluster_bytes, active && e.copied);
	}
}

/* Each L2 entry as often as it can be reached: a table that is named twice names twice. */
static void read_l1(struct promises *p, uint64_t offset, uint64_t entries, bool active)
{
	refer(p, offset, entries * 8, false);
	for (uint64_t i = 0; i < entries && offset + i * 8 < p->length; i++) {
		struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&p->h, word_at(p, offset + i * 8));

		if (e.bad || e.l2.bytes == 0 || e.l2.bytes >= p->length)
			continue;
		refer(p, e.l2.bytes, p->cluster_bytes, active && e.copied);
		read_l2(p, e.l2.bytes, active);
	}
}

static void read_snapshots(struct promises *p)
{
	uint64_t offset = p->h.snapshots_offset;
	size_t at = 0;

	if (p->h.snapshot_count == 0 || offset >= p->length)
		return;
	for (uint32_t i = 0; i < p->h.snapshot_count; i++) {
		struct ox_qcow2_snapshot s;

		if (ox_qcow2_snapshot_decode(&p->h, p->bytes + offset, p->length - offset, &at, &s,
					     NULL) < 0)
			break;
		if (s.l1_offset < p->length && s.l1_entries < MOST_CLUSTERS)
			read_l1(p, s.l1_offset, s.l1_entries, false);
		ox_qcow2_snapshot_free(&s);
	}
	refer(p, offset, at, false);
}

/* A count that cannot be read is not held against anybody. */
static uint64_t stored_of(const struct promises *p, uint64_t cluster)
{
	uint64_t entries = ox_qcow2_refblock_entries(&p->h);
	uint64_t index = cluster / entries;
	uint64_t raw = word_at(p, p->h.reftable_offset + index * 8);
	struct ox_host block = {0};

	if (index >= (uint64_t)p->h.reftable_clusters * p->cluster_bytes / 8 || raw == 0)
		return 0;
	if (!ox_qcow2_reftable_decode(&p->h, raw, &block) ||
	    block.bytes + p->cluster_bytes > p->length)
		return UINT64_MAX;
	return ox_qcow2_refcount_get(p->bytes + block.bytes, p->h.refcount_order,
				     cluster % entries);
}

static void judge(struct promises *p)
{
	uint64_t table_bytes = p->h.reftable_clusters * p->cluster_bytes;

	refer(p, 0, p->cluster_bytes, false);
	refer(p, p->h.reftable_offset, table_bytes, false);
	for (uint64_t i = 0; i < table_bytes / 8; i++) {
		struct ox_host block = {0};

		if (ox_qcow2_reftable_decode(&p->h, word_at(p, p->h.reftable_offset + i * 8),
					     &block) &&
		    block.bytes != 0)
			refer(p, block.bytes, p->cluster_bytes, false);
	}
	for (uint64_t c = 0; c < MOST_CLUSTERS; c++) {
		struct cluster *cluster = &p->clusters[c];

		if (cluster->refs == 0)
			continue;
		cluster->under = stored_of(p, c) < cluster->refs;
		cluster->over = cluster->copied && cluster->refs > 1;
	}
}

struct promises *promises_of(const uint8_t *bytes, uint64_t length)
{
	struct promises *p = calloc(1, sizeof(*p));

	ox_assert(p);
	*p = (struct promises){.bytes = bytes, .length = length};
	if (ox_qcow2_header_decode(bytes, length, &p->h, NULL) < 0) {
		free(p);
		return NULL;
	}
	p->cluster_bytes = ox_qcow2_cluster_bytes(&p->h);
	read_l1(p, p->h.l1_offset, p->h.l1_entries, true);
	read_snapshots(p);
	judge(p);
	p->bytes = NULL;
	return p;
}

void promises_free(struct promises *p)
{
	free(p);
}

static void check_cluster(const struct cluster *before, const struct cluster *now, uint64_t number,
			  const char *what)
{
	if (now->under && !before->under)
		fail_msg("%s: cluster %" PRIu64 " is named %u times and counted less (D3)", what,
			 number, now->refs);
	if (now->over && !before->over)
		fail_msg("%s: cluster %" PRIu64 " is named %u times, with COPIED (D2)", what,
			 number, now->refs);
}

void promises_check(const struct promises *before, const uint8_t *bytes, uint64_t length,
		    const char *what)
{
	struct promises *now = before ? promises_of(bytes, length) : NULL;

	for (uint64_t c = 0; now && c < MOST_CLUSTERS; c++)
		check_cluster(&before->clusters[c], &now->clusters[c], c, what);
	promises_free(now);
}
