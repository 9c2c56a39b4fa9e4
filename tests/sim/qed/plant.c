/* SPDX-License-Identifier: MIT */
/* What the crashes of other programs leave in a QED image that is marked: bytes that nothing names,
 * entries past the file's end, entries that contradict each other. */
#include "base/arith.h"
#include "planted.h"
#include "qed/qed.h"
#include "run.h"
#include "trace.h"

static uint64_t clusters_of(const struct sim_qed *i)
{
	return ox_div_up(i->size_bytes, i->cluster_bytes);
}

/* Where the L2 entry of one of the guest's clusters is; 0: it has no table. */
static uint64_t draw_entry_at(struct sim_case *c, const struct sim_qed *i, uint64_t *ret_cluster)
{
	*ret_cluster = sim_random_below(&c->random, clusters_of(i));
	return sim_qed_entry_at(i, *ret_cluster * i->cluster_bytes);
}

/* ---- lost space ---- */

/* Not zero, and the last cluster need not be whole. */
static void plant_lost(struct sim_case *c, struct sim_bytes *bytes, const struct sim_qed *i)
{
	uint64_t from = bytes->length;
	uint64_t count = sim_random_below(&c->random, 5) * i->cluster_bytes;

	/* nobody grows a file under a stale entry */
	if (!sim_random_percent(&c->random, 50) || sim_stale.count > 0)
		return;
	if (sim_random_percent(&c->random, 20))
		count += sim_random_between(&c->random, 1, i->cluster_bytes / SIM_SECTOR_BYTES) *
			 SIM_SECTOR_BYTES;
	sim_bytes_set_length(bytes, from + count);
	for (uint64_t at = from; at < from + count; at += 8)
		sim_bytes_put_le64(bytes, at, UINT64_C(0xc3c3c3c3c3c3c3c3));
}

/* ---- stale entries ---- */

/* An entry that is 0: of a cluster, or of a whole table. */
static uint64_t draw_empty_at(struct sim_case *c, const struct sim_qed *i)
{
	uint64_t cluster;
	uint64_t at = draw_entry_at(c, i, &cluster);

	if (at == 0)
		at = i->l1_offset + cluster / i->table_entries * 8;
	return sim_bytes_le64(i->bytes, at) == 0 ? at : 0;
}

static void plant_stale(struct sim_case *c, struct sim_bytes *bytes, const struct sim_qed *i)
{
	uint64_t end = ox_align_up(bytes->length, i->cluster_bytes);

	if (!c->config.plants_stale || sim_stale.count > 0)
		return;
	for (unsigned n = 0; n < SIM_PLANTED_MOST; n++) {
		uint64_t at = draw_empty_at(c, i);
		uint64_t entry = end + sim_random_below(&c->random, 30) * i->cluster_bytes;

		if (at == 0)
			continue;
		sim_planted_add(&sim_stale, at, entry, 0);
		sim_bytes_put_le64(bytes, at, entry);
	}
}

/* ---- damage ---- */

static void make_wild(struct sim_case *c, const struct sim_qed *i, uint64_t cluster)
{
	uint64_t per_cluster = i->cluster_bytes / SIM_SECTOR_BYTES;

	sim_model_make_wild(c->model, cluster * per_cluster, per_cluster);
}

/* What leads nowhere, or to what is no data. */
static uint64_t draw_garbage(struct sim_case *c, const struct sim_qed *i, uint64_t entry_at)
{
	uint64_t table = entry_at / i->table_bytes * i->table_bytes;

	switch (sim_random_below(&c->random, 5)) {
	case 0:
		return i->l1_offset;
	case 1: /* the table that it stands in, or what lies there */
		return ox_align_down(entry_at, i->cluster_bytes);
	case 2:
		return table + i->cluster_bytes + SIM_SECTOR_BYTES;
	case 3:
		return i->cluster_bytes | 1;
	default:
		return i->header_bytes - i->cluster_bytes + 8;
	}
}

static bool is_data(const struct sim_qed *i, uint64_t entry)
{
	return sim_qed_is_place(i, entry, i->cluster_bytes);
}

static void plant_damage(struct sim_case *c, struct sim_bytes *bytes, const struct sim_qed *i)
{
	uint64_t cluster;
	uint64_t other;
	uint64_t at = draw_entry_at(c, i, &cluster);
	uint64_t other_at = draw_entry_at(c, i, &other);
	uint64_t entry;

	if (at == 0 || other_at == 0 || at == other_at)
		return;
	entry = sim_qed_entry(i, other_at);
	if (sim_planted_find(&sim_damage, other_at, entry) >= 0)
		return;
	if (sim_random_percent(&c->random, 40) || !is_data(i, entry)) {
		entry = draw_garbage(c, i, at);
		other_at = 0;
	}
	if (sim_qed_entry(i, at) != sim_bytes_le64(bytes, at))
		return; /* it is stale */
	sim_planted_add(&sim_damage, at, entry, other_at);
	sim_bytes_put_le64(bytes, at, entry);
	make_wild(c, i, cluster);
	if (other_at != 0)
		make_wild(c, i, other);
}

void sim_qed_plant(struct sim_case *c, struct sim_bytes *bytes)
{
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why) || !image.marked)
		return;
	plant_lost(c, bytes, &image.qed);
	plant_stale(c, bytes, &image.qed);
	if (!c->config.plants_damage || sim_damage.count > 0 || !sim_random_percent(&c->random, 50))
		return;
	for (uint64_t n = sim_random_between(&c->random, 1, 3); n > 0; n--)
		plant_damage(c, bytes, &image.qed);
}
