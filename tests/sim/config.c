/* SPDX-License-Identifier: MIT */
#include "config.h"

#include <stdio.h>

#include "base/arith.h"
#include "format.h"

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

void sim_config_draw(struct sim_config *ret, const struct sim_format *format,
		     struct sim_random *random)
{
	struct sim_config c = {.format = format};

	format->draw_image(&c, random);
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
	c.age_ms = sim_random_percent(random, 50) ? (uint32_t)sim_random_between(random, 1, 12)
						  : UINT32_MAX;
	c.keeps_state = sim_random_percent(random, 50);
	c.cache = draw_cache(random);
	draw_disk(&c.disk, random);
	c.room_sectors = c.sectors;
	if (sim_random_percent(random, 25) && !c.keeps_size)
		c.room_sectors += sim_random_below(random, c.sectors * 2);
	format->draw_rest(&c, random);
	c.tasks = (unsigned)sim_random_between(random, 1, 8);
	c.operations = (unsigned)sim_random_between(random, 5, 60);
	c.hot_clusters = sim_random_between(random, 1, 24);
	c.quiet_percent = (unsigned)sim_random_between(random, 0, 60);
	*ret = c;
}

static const char *name_cache(enum ox_cache_mode cache)
{
	switch (cache) {
	case OX_CACHE_WRITEBACK:
		return "writeback";
	case OX_CACHE_WRITETHROUGH:
		return "writethrough";
	case OX_CACHE_NONE:
		return "none";
	case OX_CACHE_DIRECTSYNC:
		return "directsync";
	default:
		return "unsafe";
	}
}

void sim_config_describe(const struct sim_config *c, char *ret, size_t room)
{
	int used = snprintf(ret, room, "%s, ", c->format->name);

	used += c->format->describe(c, ret + used, room - (size_t)used);
	snprintf(ret + used, room - (size_t)used,
		 ", clusters of %u, %llu sectors up to %llu (%llu backed)%s%s%s, cache %s, "
		 "disk blocks of %u/%u%s%s%s, room in %u, %u tasks%s%s%s%s, idle %u, age %u",
		 1u << c->cluster_bits, (unsigned long long)c->sectors,
		 (unsigned long long)c->room_sectors, (unsigned long long)c->backed_sectors,
		 c->disk.fixed_bytes ? ", device" : "", c->tiny_caches ? ", tiny caches" : "",
		 c->lazy && c->recover_at_once ? ", recovery beside the guest" : "",
		 name_cache(c->cache), c->disk.align_bytes, c->disk.zero_align_bytes,
		 c->disk.can_punch ? ", punch" : "", c->disk.can_zero ? ", zero" : "",
		 c->disk.short_counts ? ", short" : "", c->disk.space_bytes, c->tasks,
		 c->faults ? ", faults" : "", c->memory_ends ? ", memory" : "",
		 c->keeps_state ? ", state" : "", c->rings ? ", rings" : "", c->idle_ms, c->age_ms);
}
