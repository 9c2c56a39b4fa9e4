/* SPDX-License-Identifier: MIT */
#include "death.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "image.h"
#include "img/mapped/mapped.h"
#include "memory.h"
#include "run.h"

static const char *const names[SIM_DEATHS] = {
	[SIM_DEATH_ADOPTION] = "in an adoption",
	[SIM_DEATH_OPENING] = "in an opening",
	[SIM_DEATH_RECOVERY] = "in a recovery",
	[SIM_DEATH_RESIZE] = "in a resize",
	[SIM_DEATH_TABLE_MOVE] = "while a table moves",
	[SIM_DEATH_SETTING] = "while the dirty bit is set",
	[SIM_DEATH_CLEARING] = "while it is cleared",
	[SIM_DEATH_FULL_DISK] = "on a full disk",
	[SIM_DEATH_CLOSE] = "in a close",
	[SIM_DEATH_RINGS] = "amid requests in rings",
	[SIM_DEATH_LANDING] = "whose requests landed later",
	[SIM_DEATH_ERROR_TAKEN] = "that took an error along",
	[SIM_DEATH_AFTER_CUT] = "after a power cut",
	[SIM_DEATH_BEFORE_CUT] = "before one",
};

void sim_death_print(const struct sim_totals *t)
{
	printf("# deaths with a state:");
	for (unsigned i = 0; i < SIM_DEATHS; i++)
		printf("%s %llu %s", i > 0 ? "," : "", (unsigned long long)t->deaths[i], names[i]);
	putchar('\n');
}

const char *sim_death_missing(const struct sim_totals *t)
{
	for (unsigned i = 0; i < SIM_DEATHS; i++) {
		if (t->deaths[i] == 0)
			return names[i];
	}
	return NULL;
}

/* ---- amid what ---- */

static void count(struct sim_case *c, enum sim_death kind, bool occurs)
{
	c->run->totals.deaths[kind] += occurs;
}

static bool is_recovering(struct ox_image *img)
{
	struct ox_recovery_status status;

	img->ops->recovery(img, &status);
	return status.state == OX_RECOVERY_RUNNING;
}

static void count_death(struct sim_case *c)
{
	struct ox_image *img = c->img ? c->img : c->ending;

	if (img) {
		count(c, SIM_DEATH_RECOVERY, is_recovering(img));
		count(c, SIM_DEATH_SETTING, ox_mapped_of(img)->dirty.state == OX_DIRTY_SETTING);
		count(c, SIM_DEATH_CLEARING, ox_mapped_of(img)->dirty.state == OX_DIRTY_CLEARING);
	}
	count(c, SIM_DEATH_ADOPTION, !img && c->adopting);
	count(c, SIM_DEATH_OPENING, !img && !c->adopting);
	count(c, SIM_DEATH_CLOSE, c->ending);
	count(c, SIM_DEATH_RESIZE, c->img && c->workload.resizing);
	count(c, SIM_DEATH_TABLE_MOVE, sim_tables_move(c));
	count(c, SIM_DEATH_FULL_DISK,
	      c->disk->refusals > 0 && c->disk->space.room != SIM_ROOM_ENDLESS);
	count(c, SIM_DEATH_RINGS, sim_rings_in_flight(c->rings) > 0);
	count(c, SIM_DEATH_AFTER_CUT, c->was_cut);
	c->was_cut = false;
	c->has_died = true;
}

/* ---- what outlives it ---- */

void sim_void_state(struct sim_case *c)
{
	if (c->state)
		memset(c->state, 0, SIM_STATE_BYTES);
}

void sim_end_tasks(struct sim_case *c)
{
	struct sim_job job = {.fn = sim_close_job_co};

	c->workload.stop = true;
	sim_rings_die(c->rings);
	sim_drain(c);
	if (c->img)
		sim_run_whole_job(c, &job);
	sim_drain(c);
	sim_rings_end(c->rings);
	if (!c->rings)
		sim_model_abandon(c->model);
	c->may_leak = true;
	sim_forget_fault(c);
	c->run->totals.requests += c->disk->requests;
}

void sim_give_up_guest(struct sim_case *c)
{
	sim_rings_forget(c->rings);
	sim_model_abandon(c->model);
}

#define LIVE 1u

/* As a state begins (meta/state.c). */
struct head {
	char magic[8];
	uint64_t version;
	uint64_t phase; /* LIVE: there may be something to adopt; else it is new, or spent */
	uint64_t recovering;
	uint64_t poison;
};

static struct head head_of(const uint8_t *state)
{
	struct head head;

	memcpy(&head, state, sizeof(head));
	return head;
}

/* A poisoned image is the operator's to start again. */
static bool is_kept(const struct sim_case *c)
{
	return c->config.keeps_state && head_of(c->state).poison == 0;
}

static uint8_t *copy_state(const struct sim_case *c)
{
	uint8_t *state = sim_alloc(1, SIM_STATE_BYTES);

	memcpy(state, c->state, SIM_STATE_BYTES);
	return state;
}

/* The dead process's tasks had to end, and have gone on storing into its own. */
static void hand_over(struct sim_case *c, uint8_t *state)
{
	c->adopting = state && head_of(state).phase == LIVE;
	if (!state) {
		sim_void_state(c);
		return;
	}
	free(c->state);
	c->state = state;
	c->freed_before = ox_min_u64(c->freed_before + c->workload.freed_clusters, UINT64_MAX / 4);
}

#define ERRORS_TAKEN_PERCENT 20u

/* No process begins before the requests of the dead one have ended: with a state, as `serve`'s
 * keeper waits, and without one, as the lock goes with the last of them. */
static void wait_for_strays(struct sim_case *c)
{
	unsigned stuck = 0;

	while (c->disk->strays > 0)
		sim_step(c, &stuck);
}

/* Unsafe mode keeps none: an error that a dead process was told is nobody's any more, and the close
 * of the next one vouches for what is not there. */
static bool has_witnesses(const struct sim_case *c)
{
	return c->config.cache != OX_CACHE_UNSAFE;
}

void sim_kill_process(struct sim_case *c)
{
	struct sim_disk *next = sim_disk_kill(c->disk);
	bool kept = is_kept(c);
	uint8_t *state = kept ? copy_state(c) : NULL;
	bool may_leak = c->may_leak || sim_faulted(c) || c->disk->refusals > 0 ||
			c->workload.compressing > 0; /* what it has counted and not named */

	if (kept) {
		count_death(c);
		count(c, SIM_DEATH_LANDING, !ox_list_empty(&next->in_flight));
	}
	if (kept && c->disk->syncing > 0 && sim_random_percent(&c->random, ERRORS_TAKEN_PERCENT) &&
	    has_witnesses(c)) {
		sim_disk_take_error(c->disk, next);
		count(c, SIM_DEATH_ERROR_TAKEN, true);
	}
	sim_end_tasks(c);
	if (kept && head_of(state).phase == LIVE) /* an adoption leaks nothing */
		c->may_leak = may_leak;
	sim_disk_free(c->disk);
	c->disk = next;
	c->disk->has_witness = kept;
	c->run->totals.kills++;
	hand_over(c, state);
	if (!c->adopting)
		sim_give_up_guest(c);
	sim_disk_let_land(c->disk);
	wait_for_strays(c);
	c->disk->io.length = c->disk->current.length;
	(void)sim_ask_oracle(c, &c->disk->current, false, false);
	if (!c->adopting)
		sim_settle_model(c, &c->disk->current, sim_model_observe);
}
