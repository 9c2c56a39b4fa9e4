/* SPDX-License-Identifier: MIT */
/* What a case's qcow2 image looks like. */
#include <stdio.h>

#include "base/arith.h"
#include "qcow2/qcow2.h"

/* What a slice of the metadata cache maps, 4096 bytes of entries, with clusters of 8 KiB. */
#define SIM_SLICE_SECTORS 8192u

static unsigned draw_cluster_bits(struct sim_random *random)
{
	/* small clusters make small images with many tables */
	static const unsigned choices[] = {9,  9,  9,  9,  9,  9,  10, 10,
					   11, 12, 12, 12, 13, 13, 14, 16};

	/* one table maps all of the disk, and one cluster may be the disk */
	if (sim_random_percent(random, 2))
		return (unsigned)sim_random_between(random, 17, 21);
	return choices[sim_random_below(random, sizeof(choices) / sizeof(choices[0]))];
}

static uint64_t draw_sectors(const struct sim_config *c, struct sim_random *random)
{
	uint64_t per_cluster = UINT64_C(1) << (c->cluster_bits - 9);
	uint64_t most = ox_max_u64(UINT64_C(2048) / per_cluster, 20);
	uint64_t clusters = sim_random_between(random, 8, ox_min_u64(most, 640));
	uint64_t sectors;

	if (c->cluster_bits > 16)
		return sim_random_between(random, 8, ox_min_u64(per_cluster * 3, 1500));
	/* an L2 table of two slices of the cache */
	if (c->cluster_bits == 13 && sim_random_percent(random, 60))
		return sim_random_between(random, SIM_SLICE_SECTORS + 500, 11000);
	/* the L1 table fills some sectors */
	if (c->cluster_bits == 9 && sim_random_percent(random, 4))
		return sim_random_between(random, 4000, 12000);
	if (sim_random_percent(random, 50))
		clusters = ox_min_u64(clusters, 100);
	sectors = clusters * per_cluster;
	/* a disk need not end with a cluster */
	if (per_cluster > 1 && sim_random_percent(random, 30))
		sectors -= sim_random_below(random, per_cluster);
	return sectors;
}

/* A block device, with hardly more room than the disk needs: what is freed is used again soon. */
static void make_device(struct sim_config *c, struct sim_random *random)
{
	uint64_t cluster = UINT64_C(1) << c->cluster_bits;
	uint64_t clusters = c->sectors * SIM_SECTOR_BYTES / cluster + 1;

	clusters += clusters / (cluster / 8) + 12 + sim_random_below(random, clusters / 2 + 20);
	c->disk.fixed_bytes = ox_align_up(clusters * cluster, 4096);
	c->disk.space_bytes = 0;
}

/* The smallest image whose refcount table has to move soon. */
static void make_full(struct sim_config *c, struct sim_random *random)
{
	c->version = 3;
	c->cluster_bits = 9;
	c->refcount_bits = 64;
	c->sectors = 4300;
	c->room_sectors = c->sectors + sim_random_below(random, 2) * 4500;
	c->backed_sectors = 0;
	c->snapshots = 0;
	c->compressed = false;
	c->stale = false;
	c->extras = false;
	c->prefilled = true;
	c->hot_clusters = 400;
}

static void draw_features(struct sim_config *c, struct sim_random *random)
{
	if (c->refcount_bits > 1 && sim_random_percent(random, 30))
		c->snapshots = sim_random_percent(random, 40) ? 2 : 1;
	c->compressed = c->cluster_bits <= 14 && sim_random_percent(random, 25);
	c->stale = c->cluster_bits <= 16 && sim_random_percent(random, 8);
	c->extras = c->version >= 3 && sim_random_percent(random, 20);
	c->bitmap = c->extras && sim_random_percent(random, 75);
}

void sim_qcow2_draw_image(struct sim_config *c, struct sim_random *random)
{
	c->version = sim_random_percent(random, 20) ? 2 : 3;
	c->cluster_bits = draw_cluster_bits(random);
	c->refcount_bits = 16;
	if (c->version == 3 && sim_random_percent(random, 60))
		c->refcount_bits = 1u << sim_random_below(random, 7);
	c->lazy = c->version == 3 && sim_random_percent(random, 50);
	c->sectors = draw_sectors(c, random);
	if (sim_random_percent(random, 30))
		c->backed_sectors = sim_random_between(random, 1, c->sectors);
	if (c->cluster_bits == 13 && c->sectors > SIM_SLICE_SECTORS) {
		c->middle_sector = SIM_SLICE_SECTORS;
		if (sim_random_percent(random, 80)) /* so that one slice owes an order */
			c->backed_sectors = c->sectors;
	}
	draw_features(c, random);
	c->keeps_size = c->version == 2 && c->snapshots > 0;
}

void sim_qcow2_draw_rest(struct sim_config *c, struct sim_random *random)
{
	if (c->cluster_bits <= 16 && sim_random_percent(random, 20))
		make_device(c, random);
	else if (sim_random_percent(random, 2))
		make_full(c, random);
	/* such COPIED bits need a halted guest, and where allocations wait for the recovery (on a
	 * device, and in a header that has no room for the fence) it cannot be halted */
	if (c->stale && (c->disk.fixed_bytes > 0 || c->cluster_bits == 9))
		c->recover_at_once = false;
	/* so much that freeing it all is worth a commit of its own */
	c->filled = c->prefilled || (c->sectors > 4700 && c->cluster_bits == 9 &&
				     !c->disk.fixed_bytes && sim_random_percent(random, 50));
}

int sim_qcow2_describe(const struct sim_config *c, char *ret, size_t room)
{
	return snprintf(ret, room, "version %u, refcounts of %u bits%s%s%s%s%s", c->version,
			c->refcount_bits, c->lazy ? ", lazy" : "",
			c->snapshots ? ", snapshots" : "", c->compressed ? ", compressed" : "",
			c->stale ? ", COPIED missing" : "",
			c->bitmap   ? ", bitmap"
			: c->extras ? ", extras"
				    : "");
}
