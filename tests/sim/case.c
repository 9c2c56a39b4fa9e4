/* SPDX-License-Identifier: MIT */
#include "case.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/arith.h"
#include "death.h"
#include "image.h"
#include "memory.h"
#include "planted.h"
#include "qemu.h"
#include "run.h"

static struct sim_cut_plan draw_plan(struct sim_case *c, uint64_t most_steps)
{
	struct sim_cut_plan plan = SIM_NO_CUT;
	uint64_t dice = sim_random_below(&c->random, 100);

	if (dice < 15)
		plan.header_writes = c->disk->header_writes + sim_random_between(&c->random, 1, 3);
	else if (dice < 40)
		plan.syncs = c->disk->syncs + sim_random_between(&c->random, 1, most_steps / 8 + 1);
	else
		plan.steps = sim_random_below(&c->random, most_steps);
	return plan;
}

/* ---- memory ---- */

static void draw_memory_fault(struct sim_case *c, unsigned percent)
{
	if (!c->config.memory_ends || !sim_random_percent(&c->random, percent))
		return;
	sim_memory.after = (unsigned)sim_random_below(&c->random, 4096);
	sim_memory.after >>= sim_random_below(&c->random, 12);
	sim_memory.left =
		sim_random_percent(&c->random, 70) ? 1 : 1u << sim_random_below(&c->random, 16);
}

/* ---- the ends of a generation ---- */

/* Unsafe mode promises nothing after a power cut but that no program falls over the image. */
static void open_unsafe(struct sim_case *c)
{
	struct sim_job open = {.fn = sim_open_job_co};
	struct sim_job close = {.fn = sim_close_job_co};

	c->over = true;
	c->disk->faults_hit = 1; /* it need not open */
	c->disk->instant = true;
	sim_run_whole_job(c, &open);
	if (c->img)
		sim_run_whole_job(c, &close);
	sim_drain(c);
}

static void power_cut(struct sim_case *c)
{
	struct sim_bytes bytes;
	struct sim_space space;
	bool unsafe = c->config.cache == OX_CACHE_UNSAFE;

	c->adopting = false;
	c->run->totals.deaths[SIM_DEATH_BEFORE_CUT] += c->has_died;
	c->has_died = false;
	c->was_cut = true;
	sim_disk_cut(c->disk, &bytes, &space);
	sim_end_tasks(c);
	sim_give_up_guest(c);
	sim_void_state(c);
	c->run->totals.cuts++;
	if (!unsafe) {
		(void)sim_ask_oracle(c, &bytes, false, false);
		sim_settle_model(c, &bytes, sim_model_settle);
		c->config.format->plant(c, &bytes);
		sim_space_show(&space, &bytes);
	}
	sim_disk_free(c->disk);
	c->disk = sim_disk_open(c->reactor, &c->config.disk, &bytes, &c->random, &c->trace);
	sim_space_free(&c->disk->space);
	c->disk->space = space;
	c->trace.bytes = &c->disk->current;
	c->trace.cuts = c->run->totals.cuts;
	if (unsafe)
		open_unsafe(c);
}

/* Whether what ends the process leaves its host alive. */
static bool dies(struct sim_case *c, unsigned percent)
{
	return c->config.keeps_state && !c->disk->sync_failed &&
	       sim_random_percent(&c->random, percent);
}

/* ---- phases ---- */

static void draw_fault(struct sim_case *c, unsigned percent)
{
	static const unsigned classes[] = {SIM_FAULT_READ,
					   SIM_FAULT_WRITE,
					   SIM_FAULT_SYNC,
					   SIM_FAULT_GROW,
					   SIM_FAULT_PUNCH,
					   SIM_FAULT_HEADER,
					   SIM_FAULT_READ | SIM_FAULT_WRITE};
	struct sim_fault fault = {.error = -EIO};

	if (!c->config.faults || !sim_random_percent(&c->random, percent))
		return;
	fault.classes = classes[sim_random_below(&c->random, OX_ARRAY_SIZE(classes))];
	fault.after = (unsigned)sim_random_below(&c->random, 64);
	fault.after >>= sim_random_below(&c->random, 7);
	fault.left =
		sim_random_percent(&c->random, 60) ? 1 : 1u << sim_random_below(&c->random, 16);
	if (fault.classes == SIM_FAULT_GROW ||
	    (fault.classes == SIM_FAULT_HEADER && sim_random_percent(&c->random, 70)))
		fault.error = -ENOSPC;
	c->disk->fault = fault;
}

/* Hardly any room, mostly; now and then none at all. */
static void draw_room(struct sim_case *c)
{
	struct sim_space *s = &c->disk->space;

	if (s->block_bytes == 0)
		return;
	s->room = SIM_ROOM_ENDLESS;
	if (sim_random_percent(&c->random, 80))
		s->room = s->used +
			  (sim_random_below(&c->random, 320) >> sim_random_below(&c->random, 10));
}

static struct sim_cut_plan draw_cut(struct sim_case *c, unsigned percent, uint64_t most)
{
	return sim_random_percent(&c->random, percent) ? draw_plan(c, most) : SIM_NO_CUT;
}

/* The damage is over, by a repair or because the guest has overwritten it. */
static void forget_damage(struct sim_case *c)
{
	if (sim_damage.count == 0 || sim_is_dirty(&c->disk->current))
		return;
	sim_damage.count = 0;
	c->is_sealed = false;
	sim_model_tame_all(c->model);
	sim_settle_model(c, &c->disk->current, sim_model_observe);
}

/* Repairs the closed image. A cut may strike; then the next opening finds what there is. */
static void repair_phase(struct sim_case *c)
{
	struct sim_job job = {.fn = sim_check_job_co};
	struct sim_cut_plan plan;
	bool kept;

	/* the refcounts of a dirty image are more than leaks, and so are COPIED bits */
	job.repair = sim_is_dirty(&c->disk->current) || c->config.stale ||
				     sim_random_percent(&c->random, 50)
			     ? OX_REPAIR_ALL
			     : OX_REPAIR_LEAKS;
	job.free_lost_tables = sim_random_percent(&c->random, 50);
	sim_note(c, "=== repair");
	c->disk->space.room = SIM_ROOM_ENDLESS; /* new blocks may be needed */
	c->disk->io.read_only = false;
	draw_memory_fault(c, 50);
	plan = draw_cut(c, 50, 30);
	if (!sim_run_job(c, &job, &plan)) {
		c->run->totals.cuts_opening++;
		power_cut(c);
		return;
	}
	if (job.result < 0 && sim_memory.hits > 0) {
		sim_forget_fault(c);
		(void)sim_ask_oracle(c, &c->disk->current, false, false);
		c->may_leak = true;
		return;
	}
	sim_forget_fault(c);
	/* a table that was made and never named may be one that was lost: it is kept, unless asked
	 */
	kept = !job.free_lost_tables && job.found.lost_tables > 0;
	if (job.result < 0 || job.found.corruptions ||
	    (job.found.leaks && !kept && !c->config.format->count_lost) || job.found.check_errors)
		sim_fail("D9", "a repair ended with %d, %llu corruptions, %llu leaks, %llu errors",
			 job.result, (unsigned long long)job.found.corruptions,
			 (unsigned long long)job.found.leaks,
			 (unsigned long long)job.found.check_errors);
	/* where there was nothing to repair, what a killed process left may still be lost */
	forget_damage(c);
	(void)sim_ask_oracle(c, &c->disk->current, !kept, true);
	c->may_leak = kept || !ox_list_empty(&c->disk->journal);
}

/* What is lost when the guest begins, of a format whose space nothing counts. */
static void count_lost(struct sim_case *c)
{
	struct sim_image image;
	const char *why;

	if (!c->config.format->count_lost)
		return;
	if (!sim_image_parse(&c->disk->current, &image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	c->lost = c->config.format->count_lost(&image);
	c->freed_before = 0;
	c->may_leak = false;
}

/* Whether the recovery beside the guest has ended, one way or the other, and nothing that was made
 * to fail has kept it from reading all. */
static bool knows_damage(struct sim_case *c)
{
	struct ox_recovery_status status;
	unsigned stuck = 0;

	if (sim_damage.count == 0 || !c->recovering || c->recovery_hit ||
	    sim_random_percent(&c->random, 40))
		return false;
	for (unsigned n = 0; n < 1000; n++) {
		c->img->ops->recovery(c->img, &status);
		if (status.state !=
		    OX_RECOVERY_RUNNING) /* an error may have ended the walk early */
			return !sim_faulted(c) && !c->recovery_hit;
		sim_step(c, &stuck);
	}
	return false;
}

/* From now on the engine knows what is damaged, or it has to find out anew. */
static void seal(struct sim_case *c, bool knows)
{
	sim_bytes_free(&c->sealed);
	c->is_sealed = knows && sim_damage.count > 0;
	if (c->is_sealed)
		sim_bytes_clone(&c->sealed, &c->disk->current);
}

static bool is_recovered(const struct sim_case *c)
{
	struct ox_recovery_status status;

	c->img->ops->recovery(c->img, &status);
	return status.state != OX_RECOVERY_NONE;
}

/* D10: the guest finds all that was answered. */
static void read_adopted(struct sim_case *c)
{
	struct sim_job read = {.fn = sim_read_promised_job_co};

	c->disk->instant = true;
	sim_run_whole_job(c, &read);
	c->disk->instant = false;
}

/* What a process that died has left is adopted. True: nothing had to be recovered for it. */
static bool begin_adopted(struct sim_case *c)
{
	bool recovers = is_recovered(c);

	c->adopting = false;
	c->resumed = true;
	/* the reading would give a recovery that is gone on with the time to end */
	if (!recovers || sim_random_percent(&c->random, 50))
		read_adopted(c);
	if (recovers)
		return false;
	c->run->totals.adoptions++;
	c->recovering = false;
	seal(c, false);
	return true;
}

/* marked: it was dirty. */
static void end_opening(struct sim_case *c, bool marked)
{
	if (dies(c, c->adopting ? 70 : 30)) {
		sim_kill_process(c);
		return;
	}
	c->run->totals.cuts_opening++;
	power_cut(c);
	/* recovery put the bit out: then every count was right (D6), but what a recovery beside the
	 * guest had in reserve */
	if (marked && !c->over && !sim_is_dirty(&c->disk->current))
		(void)sim_ask_oracle(c, &c->disk->durable, !c->config.recover_at_once && !c->kept,
				     true);
}

/* Damage that is found out first keeps an image from being opened. With a state it is tried again
 * where something was made to fail; else the state is given up for the repair. */
static void repair_unopened(struct sim_case *c)
{
	if (c->adopting && c->recovery_hit)
		return;
	if (c->adopting) {
		c->adopting = false;
		sim_void_state(c);
		sim_give_up_guest(c);
		sim_settle_model(c, &c->disk->current, sim_model_observe);
	}
	repair_phase(c);
}

/* Opens the image, however many cuts and deaths that takes. */
static void open_phase(struct sim_case *c)
{
	bool dirty = false;
	struct sim_job read = {.fn = sim_read_all_job_co};
	bool adopted;

	while (!c->img && !c->over) {
		struct sim_job open = {.fn = sim_open_job_co};
		bool marked = sim_is_dirty(&c->disk->durable) && sim_is_dirty(&c->disk->current);
		struct sim_cut_plan plan;

		forget_damage(c);
		dirty = sim_is_dirty(&c->disk->current);
		draw_fault(c, 20);
		draw_memory_fault(c, 40);
		sim_note(c, "=== open");
		plan = draw_cut(c, dirty || c->adopting ? 40 : 10, dirty ? 40 : 5);
		if (!sim_run_job(c, &open, &plan)) {
			end_opening(c, marked);
			continue;
		}
		c->recovery_hit = sim_faulted(c);
		if (open.result < 0 && c->disk->sync_failed) {
			power_cut(c);
			continue;
		}
		sim_forget_fault(c);
		if (open.result == -ENOSPC)
			c->disk->space.room = SIM_ROOM_ENDLESS;
		else if (open.result < 0 && sim_damage.count > 0)
			repair_unopened(c);
	}
	if (c->over)
		return;
	adopted = c->adopting;
	c->resumed = false;
	if (adopted && begin_adopted(c))
		return;
	count_lost(c);
	c->recovering = dirty && c->config.recover_at_once;
	c->recovery_hit = c->recovery_hit && c->recovering;
	seal(c, knows_damage(c));
	if (dirty)
		c->run->totals.recoveries++;
	if (dirty && !c->recovering) {
		sim_notice(c, &c->disk->durable);
		c->may_leak = c->kept;
		(void)sim_ask_oracle(c, &c->disk->durable, !c->kept, sim_damage.count == 0);
	}
	if (!dirty && c->config.cache != OX_CACHE_UNSAFE)
		(void)sim_ask_oracle(c, &c->disk->durable, false, true);
	/* the reading would give the recovery the time to end; and what was adopted is not all on
	 * the disk */
	if (adopted || (c->recovering && sim_random_percent(&c->random, 80)))
		return;
	c->disk->instant = true;
	read.bytes = &c->disk->current;
	sim_run_whole_job(c, &read);
	c->disk->instant = false;
}

/* What is lost was lost before, or the guest has freed it. */
static void ask_closed(struct sim_case *c)
{
	struct sim_expect expect = sim_expectation(c);

	expect.clean = true;
	expect.exact = !c->may_leak;
	/* where there is no room, a request may fail and leave what it took */
	if (c->config.format->count_lost && !c->may_leak && c->disk->refusals == 0)
		expect.lost_most = c->lost + c->freed_before + c->workload.freed_clusters;
	(void)sim_ask(c, &c->disk->durable, &expect);
}

/* Without refcounts a walk that met an error cannot tell what is free: the mark stays. */
static bool may_stay_marked(const struct sim_case *c)
{
	return c->config.format->count_lost && sim_faulted(c);
}

/* A closed image is durable, clean, and counts what it names. */
static void check_closed(struct sim_case *c)
{
	uint64_t began = sim_model_flush_begin(c->model);

	sim_model_flush_end(c->model, began);
	c->run->totals.closes++;
	c->has_died = c->was_cut = false;
	/* a recovery that met an error, or found no room for its counts, leaves the image dirty,
	 * and so does one that found what it cannot mend */
	if (((c->recovering && (c->recovery_hit || sim_faulted(c) || c->disk->refusals > 0)) ||
	     sim_damage.count > 0 || may_stay_marked(c)) &&
	    sim_is_dirty(&c->disk->durable)) {
		(void)sim_ask_oracle(c, &c->disk->durable, false, false);
		return;
	}
	sim_notice(c, &c->disk->durable);
	ask_closed(c);
	if (c->run->qemu_dir && !c->config.stale && c->config.table_clusters != 1 &&
	    c->run->totals.closes % c->run->qemu_every == 0) {
		sim_qemu_check(c->run->qemu_dir, c->config.format->name, &c->disk->durable,
			       c->may_leak || c->config.format->count_lost);
		c->run->totals.checked++;
	}
}

/* In a sparse copy a part of a refcount slice may be a hole, and the disk full: then what is free
 * is not counted so. */
static bool lacks_counts(const struct sim_case *c)
{
	const struct sim_config *config = &c->config;

	return c->disk->refusals > 0 && config->disk.space_bytes < 4096 &&
	       (config->compressed || config->extras || config->stale || c->frozen_count > 0);
}

static void close_phase(struct sim_case *c)
{
	struct sim_job job = {.fn = sim_close_job_co};
	struct sim_cut_plan plan;

	sim_note(c, "=== close");
	plan = draw_cut(c, 50, 40);
	if (!sim_run_job(c, &job, &plan)) {
		if (dies(c, 30)) {
			sim_kill_process(c);
			return;
		}
		c->run->totals.cuts_closing++;
		power_cut(c);
		return;
	}
	sim_drain(c);
	/* all that is not named was found free, but for what was kept */
	if (c->recovering && !c->resumed)
		c->may_leak = c->kept;
	if (sim_faulted(c) || lacks_counts(c))
		c->may_leak = true;
	/* a sync that was on its way when the opening ended may have failed since */
	if (job.result < 0 && !sim_faulted(c) && !c->disk->sync_failed)
		sim_fail("close", "closing failed without a fault: %s", strerror(-job.result));
	if (c->disk->sync_failed) {
		power_cut(c);
	} else if (job.result < 0) {
		sim_kill_process(c);
	} else {
		check_closed(c);
		sim_forget_fault(c);
	}
}

static void generation(struct sim_case *c)
{
	uint64_t busy = (uint64_t)c->config.tasks * c->config.operations * 8;
	unsigned end = (unsigned)sim_random_below(&c->random, 100);
	unsigned kill_below = c->config.keeps_state ? 50 : 30;
	struct sim_cut_plan plan = SIM_NO_CUT;

	if (c->config.cache != OX_CACHE_UNSAFE && !c->adopting && sim_random_percent(&c->random, 8))
		repair_phase(c);
	draw_room(c);
	open_phase(c);
	if (c->over)
		return;
	draw_fault(c, 50);
	draw_memory_fault(c, 70);
	if (end >= 20)
		plan = draw_plan(c, busy / (end % 4 + 1) + 2);
	if (c->config.prefilled && end >= kill_below) { /* the table moves but once */
		plan = SIM_NO_CUT;
	} else if (end >= 20 && end < kill_below && c->config.keeps_state) {
		plan.moves_from = c->disk->header_writes;
		plan.header_writes = c->disk->header_writes + (c->config.lazy ? 2 : 1);
	}
	if (!sim_guest_phase(c, &plan) && (end >= kill_below || c->disk->sync_failed))
		power_cut(c);
	else if (end >= 20 && end < kill_below && !c->disk->sync_failed)
		sim_kill_process(c);
	else
		close_phase(c);
}

/* ---- the case ---- */

static void case_free(struct sim_case *c)
{
	struct sim_job close = {.fn = sim_close_job_co};

	if (c->img)
		sim_run_whole_job(c, &close);
	sim_drain(c);
	sim_rings_free(c->rings);
	sim_disk_free(c->disk);
	sim_disk_free(c->backing_disk);
	sim_bytes_free(&c->backing.bytes);
	sim_model_free(c->model);
	for (unsigned i = 0; i < c->frozen_count; i++)
		free(c->frozen[i].bytes);
	free(c->state);
	free(c->vouched.guest.bytes);
	sim_bytes_free(&c->vouched.bytes);
	sim_bytes_free(&c->made);
	sim_bytes_free(&c->sealed);
	ox_reactor_destroy(c->reactor);
	sim_trace_current = NULL;
	free(c);
}

#define GENERATIONS_MOST 12u
/* One case in so many is a guest's disk over vhost-user; of the number alone, as the format is. */
#define RINGS_EVERY 8u

#define CASE_SECONDS_MOST 300

/* Of the program's own time: a busy machine is no failure. */
static void set_alarm(time_t seconds)
{
	struct itimerval timer = {.it_value.tv_sec = seconds};

	if (setitimer(ITIMER_PROF, &timer, NULL) < 0)
		sim_fail("sim", "no timer");
}

void sim_case_run(struct sim_run *run, const struct sim_format *format, uint64_t seed)
{
	struct sim_case *c = sim_alloc(1, sizeof(*c));
	uint64_t generations;

	c->run = run;
	c->random.state = seed;
	c->random.state = sim_random_next(&c->random); /* neighbours shall not be alike */
	c->trace.seed = seed;
	c->trace.format = format->name;
	c->trace.all_rings = run->all_rings;
	c->trace.cuts = run->totals.cuts;
	sim_trace_current = &c->trace;
	sim_memory = (struct sim_memory){0};
	sim_stale.count = 0;
	sim_damage.count = 0;
	set_alarm(CASE_SECONDS_MOST);
	sim_config_draw(&c->config, format, &c->random);
	c->config.rings = run->all_rings || seed % RINGS_EVERY == RINGS_EVERY - 1;
	sim_config_describe(&c->config, c->trace.scene, sizeof(c->trace.scene));
	if (run->verbose)
		printf("%llu: %s\n", (unsigned long long)seed, c->trace.scene);
	if (ox_reactor_create_simulated(seed, &c->reactor) < 0)
		sim_fail("sim", "out of memory");
	c->model =
		sim_model_new(c->config.sectors, c->config.room_sectors, c->config.backed_sectors);
	if (c->config.keeps_state)
		c->state = sim_alloc(1, SIM_STATE_BYTES);
	sim_make_image(c);
	if (c->config.rings)
		c->rings = sim_rings_new(c->model, c->config.cache, seed, &run->totals.rings);
	run->totals.rings.cases += c->config.rings;
	c->prepared = true;
	generations = sim_random_between(&c->random, 3, GENERATIONS_MOST);
	for (uint64_t i = 0; i < generations && !c->over; i++)
		generation(c);
	run->totals.cases++;
	case_free(c);
	set_alarm(0);
}
