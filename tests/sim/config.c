/* SPDX-License-Identifier: MIT */
#include "config.h"

#include <stdio.h>

#include "base/arith.h"

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

static enum ox_cache_mode draw_cache(struct sim_random *random)
{
	static const enum ox_cache_mode choices[] = {
		OX_CACHE_WRITEBACK, OX_CACHE_WRITEBACK,	   OX_CACHE_WRITEBACK,
		OX_CACHE_WRITEBACK, OX_CACHE_WRITETHROUGH, OX_CACHE_WRITETHROUGH,
		OX_CACHE_NONE,	    OX_CACHE_NONE,	   OX_CACHE_DIRECTSYNC,
		OX_CACHE_UNSAFE,
	};

	return choices[sim_random_below(random, sizeof(choices) / sizeof(choices[0]))];
}

static void draw_disk(struct sim_disk_options *ret, struct sim_random *random)
{
	static const uint32_t aligns[] = {1, 1, 512, 512, 4096};

	ret->align_bytes = aligns[sim_random_below(random, 5)];
	ret->zero_align_bytes =
		sim_random_percent(random, 50) ? (uint32_t)ox_max_u64(ret->align_bytes, 512) : 4096;
	ret->fixed_bytes = 0;
	ret->can_punch = sim_random_percent(random, 80);
	ret->can_zero = sim_random_percent(random, 60);
	ret->short_counts = sim_random_percent(random, 20);
	ret->space_bytes = 0;
	if (sim_random_percent(random, 30))
		ret->space_bytes = sim_random_percent(random, 40)
					   ? (uint32_t)ox_max_u64(ret->align_bytes, 512)
					   : 4096;
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

void sim_config_draw(struct sim_config *ret, struct sim_random *random)
{
	struct sim_config c = {.version = sim_random_percent(random, 20) ? 2 : 3};

	c.cluster_bits = draw_cluster_bits(random);
	c.refcount_bits = 16;
	if (c.version == 3 && sim_random_percent(random, 60))
		c.refcount_bits = 1u << sim_random_below(random, 7);
	c.lazy = c.version == 3 && sim_random_percent(random, 50);
	c.sectors = draw_sectors(&c, random);
	if (sim_random_percent(random, 30))
		c.backed_sectors = sim_random_between(random, 1, c.sectors);
	if (c.cluster_bits == 13 && c.sectors > SIM_SLICE_SECTORS) {
		c.middle_sector = SIM_SLICE_SECTORS;
		if (sim_random_percent(random, 80)) /* so that one slice owes an order */
			c.backed_sectors = c.sectors;
	}
	draw_features(&c, random);
	c.tiny_caches = sim_random_percent(random, 50);
	c.faults = sim_random_percent(random, 35);
	c.plants_plain = sim_random_percent(random, 15);
	c.plants_stale = sim_random_percent(random, 40);
	c.recover_at_once = sim_random_percent(random, 75);
	c.memory_ends = sim_random_percent(random, 25);
	if (c.lazy && sim_random_percent(random, 60))
		c.idle_ms = sim_random_percent(random, 10)
				    ? UINT32_MAX
				    : (uint32_t)sim_random_between(random, 1, 12);
	c.cache = draw_cache(random);
	draw_disk(&c.disk, random);
	c.room_sectors = c.sectors;
	if (sim_random_percent(random, 25) && !(c.version == 2 && c.snapshots > 0))
		c.room_sectors += sim_random_below(random, c.sectors * 2);
	if (c.cluster_bits <= 16 && sim_random_percent(random, 20))
		make_device(&c, random);
	else if (sim_random_percent(random, 2))
		make_full(&c, random);
	/* such COPIED bits need a halted guest, and where allocations wait for the recovery (on a
	 * device, and in a header that has no room for the fence) it cannot be halted */
	if (c.stale && (c.disk.fixed_bytes > 0 || c.cluster_bits == 9))
		c.recover_at_once = false;
	/* so much that freeing it all is worth a commit of its own */
	c.filled = c.prefilled || (c.sectors > 4700 && c.cluster_bits == 9 && !c.disk.fixed_bytes &&
				   sim_random_percent(random, 50));
	c.tasks = (unsigned)sim_random_between(random, 1, 8);
	c.operations = (unsigned)sim_random_between(random, 5, 60);
	c.hot_clusters = sim_random_between(random, 1, 24);
	c.quiet_percent = (unsigned)sim_random_between(random, 0, 60);
	*ret = c;
}

void sim_config_describe(const struct sim_config *c, char *ret, size_t room)
{
	snprintf(ret, room,
		 "version %u, clusters of %u, refcounts of %u bits%s, %llu sectors "
		 "up to %llu (%llu backed)%s%s%s%s%s%s%s, "
		 "cache %s, disk blocks of %u/%u%s%s%s, room in %u, %u tasks%s%s, idle %u",
		 c->version, 1u << c->cluster_bits, c->refcount_bits, c->lazy ? ", lazy" : "",
		 (unsigned long long)c->sectors, (unsigned long long)c->room_sectors,
		 (unsigned long long)c->backed_sectors, c->disk.fixed_bytes ? ", device" : "",
		 c->snapshots ? ", snapshots" : "", c->compressed ? ", compressed" : "",
		 c->stale ? ", COPIED missing" : "",
		 c->bitmap   ? ", bitmap"
		 : c->extras ? ", extras"
			     : "",
		 c->tiny_caches ? ", tiny caches" : "",
		 c->lazy && c->recover_at_once ? ", recovery beside the guest" : "",
		 c->cache == OX_CACHE_WRITEBACK	     ? "writeback"
		 : c->cache == OX_CACHE_WRITETHROUGH ? "writethrough"
		 : c->cache == OX_CACHE_NONE	     ? "none"
		 : c->cache == OX_CACHE_DIRECTSYNC   ? "directsync"
						     : "unsafe",
		 c->disk.align_bytes, c->disk.zero_align_bytes, c->disk.can_punch ? ", punch" : "",
		 c->disk.can_zero ? ", zero" : "", c->disk.short_counts ? ", short" : "",
		 c->disk.space_bytes, c->tasks, c->faults ? ", faults" : "",
		 c->memory_ends ? ", memory" : "", c->idle_ms);
}
