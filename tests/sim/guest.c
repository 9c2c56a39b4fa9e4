/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/arith.h"
#include "memory.h"
#include "planted.h"
#include "run.h"

/* Each time another character: one guest overwrites, another frees more than it writes. */
static void draw_weights(struct sim_case *c)
{
	static const unsigned usual[SIM_GUEST_OPS] = {15, 35, 16, 12, 12, 8, 2};

	for (unsigned i = 0; i < SIM_GUEST_OPS; i++)
		c->workload.weights[i] = usual[i] * (unsigned)sim_random_below(&c->random, 8);
	c->workload.weights[SIM_GUEST_READ]++;
	if (c->config.keeps_clusters)
		c->workload.weights[SIM_GUEST_ZERO] = c->workload.weights[SIM_GUEST_DISCARD] = 0;
	/* one slice that owes an order beside one that does not, and both written */
	if (c->config.middle_sector > 0 && !c->config.keeps_clusters) {
		c->workload.weights[SIM_GUEST_ZERO] += 100;
		c->workload.weights[SIM_GUEST_FLUSH] += 100;
	}
}

/* The new size, or 0 for none. */
static uint64_t draw_resize(struct sim_case *c)
{
	/* what a dead process left in flight may lie past the new end */
	if (c->rings)
		return 0;
	/* the model knows of two sizes: not of one that a dead process set and nobody has synced */
	if (!sim_model_has_one_size(c->model) || c->config.room_sectors == c->config.sectors ||
	    !sim_random_percent(&c->random, 40))
		return 0;
	return sim_random_between(&c->random, 1, c->config.room_sectors);
}

/* When the room that lacks shall come; 0: never. */
static uint64_t draw_room_time(struct sim_case *c)
{
	if (c->disk->space.room == SIM_ROOM_ENDLESS || sim_random_percent(&c->random, 40))
		return 0;
	return sim_random_between(&c->random, 1, 50000000);
}

/* The write, or the sync after it: of QED, which sets its mark before it does anything else. */
static unsigned draw_header_class(struct sim_case *c)
{
	return c->config.format->count_lost && sim_random_percent(&c->random, 40)
		       ? SIM_FAULT_SYNC
		       : SIM_FAULT_HEADER;
}

/* The header's write is the moment at which a table moves, and at which QED's mark is set. */
static void draw_header_fault(struct sim_case *c)
{
	if (c->prepared && c->config.faults && sim_random_percent(&c->random, 30))
		c->disk->fault = (struct sim_fault){
			.classes = draw_header_class(c),
			.after = (unsigned)sim_random_below(&c->random, 3),
			.left = 1,
			.error = sim_random_percent(&c->random, 50) ? -EIO : -ENOSPC,
		};
}

static uint64_t draw_hot(struct sim_case *c, uint64_t sectors, uint64_t hot)
{
	uint64_t middle = c->config.middle_sector;

	if (middle > hot / 2 && middle - hot / 2 + hot <= sectors)
		return middle - hot / 2;
	return c->config.prefilled ? sectors - hot
				   : sim_random_below(&c->random, sectors - hot + 1);
}

static void start_guest(struct sim_case *c)
{
	const struct sim_config *config = &c->config;
	uint64_t per_cluster = UINT64_C(1) << (config->cluster_bits - 9);
	uint64_t resize = draw_resize(c);
	uint64_t sectors = ox_min_u64(resize ? resize : UINT64_MAX, sim_model_sectors(c->model));
	uint64_t hot = ox_min_u64(config->hot_clusters * per_cluster, sectors);

	if (resize || config->prefilled || config->format->count_lost)
		draw_header_fault(c);
	c->workload = (struct sim_workload){
		.img = c->img,
		.rings = c->rings,
		.model = c->model,
		.trace = &c->trace,
		.random = {sim_random_next(&c->random)},
		.cluster_bytes = UINT64_C(1) << config->cluster_bits,
		.operations = config->operations,
		.hot_first = draw_hot(c, sectors, hot),
		.hot_count = hot,
		.most_sectors = ox_min_u64(
			per_cluster * (sim_random_percent(&c->random, 15) ? 150 : 5), sectors),
		.quiet_percent = config->quiet_percent,
		.sectors = sectors,
		.errors_allowed = c->disk->fault.left + sim_memory.left > 0 || c->recovery_hit ||
				  c->disk->error_taken || c->disk->sync_failed,
		.may_be_full =
			config->disk.fixed_bytes > 0 || c->disk->space.room != SIM_ROOM_ENDLESS,
		.space = &c->disk->space,
		.room_comes_ns = draw_room_time(c),
		.resize_sectors = resize,
		.linger_ns =
			config->idle_ms == UINT32_MAX ? 0 : UINT64_C(3000000) * config->idle_ms,
		.whole_percent = config->filled ? 2 : 0,
		/* while it is made, other programs are to find room in the counts */
		.compressed_percent = c->prepared && sim_random_percent(&c->random, 40) ? 50 : 0,
	};
	draw_weights(c);
	sim_rings_start(c->rings, &c->workload);
	if (!sim_workload_start(&c->workload, c->reactor, config->tasks))
		sim_fail("sim", "out of memory");
}

#define GROWTH_SLACK 32u

/* A guest that frees what it writes does not make the file longer for ever: what nothing names is
 * taken before the file grows, but for what is not yet durably out of use, and what requests under
 * way have taken. */
static void check_growth(struct sim_case *c)
{
	const struct sim_format *format = c->config.format;
	uint64_t size = c->config.room_sectors * SIM_SECTOR_BYTES;
	struct sim_image image;
	const char *why;
	uint64_t per_cluster = UINT64_C(1) << (c->config.cluster_bits - 9);
	int64_t lost;
	int64_t most;

	if (c->growths == c->disk->growths || !format->count_lost)
		return;
	c->growths = c->disk->growths;
	if (c->may_leak || sim_faulted(c) || c->disk->refusals > 0 || sim_damage.count > 0 ||
	    !sim_image_parse(&c->disk->current, &image, &why))
		return;
	lost = (int64_t)(format->count_lost(&image) +
			 ox_div_up(c->disk->grown_from, image.cluster_bytes) -
			 ox_div_up(c->disk->current.length, image.cluster_bytes));
	most = (int64_t)(c->lost + format->count_needed(&image, size) +
			 c->config.tasks * ox_div_up(c->workload.most_sectors, per_cluster) +
			 GROWTH_SLACK);
	if (lost > most)
		sim_fail("growth",
			 "the file grows while nothing names %lld of its clusters, %lld at the "
			 "most may be on their way",
			 (long long)lost, (long long)most);
}

static void stop_rings(struct sim_case *c)
{
	unsigned stuck = 0;

	sim_rings_stop(c->rings);
	while (!sim_rings_have_stopped(c->rings))
		sim_step(c, &stuck);
	sim_rings_end(c->rings);
}

bool sim_guest_phase(struct sim_case *c, const struct sim_cut_plan *plan)
{
	unsigned stuck = 0;

	sim_note(c, "=== the guest works");
	start_guest(c);
	c->growths = c->disk->growths;
	for (uint64_t i = 0; c->workload.tasks > 0 || sim_rings_in_flight(c->rings) > 0; i++) {
		if (sim_is_due(c, plan, i))
			return false;
		if (i > SIM_STEPS_MOST)
			sim_fail("progress", "no end after %u steps", SIM_STEPS_MOST);
		sim_step(c, &stuck);
		check_growth(c);
	}
	stop_rings(c);
	return true;
}
