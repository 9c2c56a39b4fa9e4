/* SPDX-License-Identifier: MIT */
#include "case.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/endian.h"
#include "check/check.h"
#include "config.h"
#include "image.h"
#include "img/img.h"
#include "model.h"
#include "oracle.h"
#include "qemu.h"
#include "snapshot.h"
#include "workload.h"

#define STEPS_MOST 2000000u

struct sim_case {
	struct sim_run *run;
	struct sim_config config;
	struct sim_random random;
	struct sim_trace trace;
	struct ox_reactor *reactor;
	struct sim_disk *disk;
	struct sim_disk *backing_disk;
	struct sim_backing backing;
	struct sim_model *model;
	struct sim_frozen frozen;
	struct sim_workload workload;
	struct ox_image *img;
	bool may_leak;	   /* a crash, or an error, may have left leaks */
	bool prepared;	   /* the image is made: cuts and faults may come */
	bool recovering;   /* it was dirty when it was opened, and is recovered meanwhile */
	bool recovery_hit; /* by a fault: it may fail, and what it would allow as well */
	bool over;	   /* nothing is promised of the image any more */
};

/*
 * When the power goes: after so many steps, or, as the dangerous moments are few, when the first
 * sector has been written and not yet synced, or when a sync is on its way.
 */
struct cut_plan {
	uint64_t steps;
	uint64_t header_writes; /* of the disk, absolute */
	uint64_t syncs;
};

static const struct cut_plan no_cut = {UINT64_MAX, UINT64_MAX, UINT64_MAX};

static bool is_due(const struct sim_case *c, const struct cut_plan *plan, uint64_t step)
{
	return step >= plan->steps || c->disk->header_writes >= plan->header_writes ||
	       c->disk->syncs >= plan->syncs;
}

static struct cut_plan draw_plan(struct sim_case *c, uint64_t most_steps)
{
	struct cut_plan plan = no_cut;
	uint64_t dice = sim_random_below(&c->random, 100);

	if (dice < 15)
		plan.header_writes = c->disk->header_writes + sim_random_between(&c->random, 1, 3);
	else if (dice < 40)
		plan.syncs = c->disk->syncs + sim_random_between(&c->random, 1, most_steps / 8 + 1);
	else
		plan.steps = sim_random_below(&c->random, most_steps);
	return plan;
}

static bool is_dirty(const struct sim_bytes *bytes)
{
	struct sim_image image;
	const char *why;

	return sim_image_parse(bytes, &image, &why) && image.incompatible & SIM_DIRTY;
}

/* ---- tasks of the case ---- */

struct job {
	struct sim_case *c;
	void (*fn)(struct job *job);
	int result;
	bool done;
	enum ox_repair repair;
	const struct sim_bytes *bytes; /* what the guest must read */
	struct ox_check_result found;
};

static void job_task_co(void *arg)
{
	struct job *job = arg;

	job->fn(job);
	job->done = true;
}

/* Goes on to the next instant at which something happens. */
static void step(struct sim_case *c, unsigned *stuck)
{
	uint64_t before = ox_reactor_now_ns(c->reactor);

	if (ox_reactor_run(c->reactor, true) < 0)
		sim_fail("sim", "the reactor failed");
	if (sim_image_planted.count > 0 && !is_dirty(&c->disk->durable))
		sim_image_planted.count = 0; /* recovered: from now on such an entry is meant */
	*stuck = ox_reactor_now_ns(c->reactor) == before ? *stuck + 1 : 0;
	if (*stuck > 3 && ox_reactor_tasks(c->reactor) > 0)
		sim_fail("progress", "%u tasks wait for each other", ox_reactor_tasks(c->reactor));
}

/* Runs the job to its end, or up to the cut. Returns whether it ended. */
static bool run_job(struct sim_case *c, struct job *job, const struct cut_plan *plan)
{
	unsigned stuck = 0;

	job->c = c;
	job->done = false;
	if (ox_co_spawn(c->reactor, job_task_co, job) < 0)
		sim_fail("sim", "out of memory");
	for (uint64_t i = 0; !job->done; i++) {
		if (is_due(c, plan, i))
			return false;
		if (i > STEPS_MOST)
			sim_fail("progress", "no end after %u steps", STEPS_MOST);
		step(c, &stuck);
	}
	return true;
}

static void drain(struct sim_case *c)
{
	unsigned stuck = 0;

	while (ox_reactor_tasks(c->reactor) > 0)
		step(c, &stuck);
}

static void note(struct sim_case *c, const char *what)
{
	struct sim_event event = {.time_ns = ox_reactor_now_ns(c->reactor), .what = what};

	sim_trace_add(&c->trace, &event);
}

/* ---- opening, reading, closing ---- */

static int open_image_co(struct sim_disk *disk, const char *format, unsigned flags,
			 const struct sim_config *config, struct ox_image **ret)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery, .io = &disk->io};
	struct ox_error *err = NULL;
	int r;

	opts.format = format;
	opts.flags = flags;
	opts.cache = config->cache;
	opts.l2_cache_bytes = config->tiny_caches ? 1 : 0;
	opts.refcount_cache_bytes = config->tiny_caches ? 1 : 0;
	opts.recover = config->recover_at_once ? OX_RECOVER_AUTO : OX_RECOVER_WAIT;
	r = ox_img_open_co(&disk->io, &how, ret, &err);
	if (r < 0 && !disk->dead && disk->faults_hit == 0)
		sim_fail("D9", "the image does not open: %s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

static void open_job_co(struct job *job)
{
	struct sim_case *c = job->c;
	struct ox_image *img;

	c->disk->io.read_only = false;
	job->result = open_image_co(c->disk, "qcow2", OX_OPEN_NO_BACKING, &c->config, &img);
	if (job->result < 0)
		return;
	if (c->backing.there) {
		c->backing_disk->io.read_only = true;
		if (open_image_co(c->backing_disk, "raw", OX_OPEN_READ_ONLY, &c->config,
				  &img->backing) < 0)
			sim_fail("sim", "the backing file does not open");
	}
	c->img = img;
}

static void close_job_co(struct job *job)
{
	struct ox_image *img = job->c->img;

	job->c->img = NULL;
	job->result = ox_img_close_co(img, NULL);
}

static void check_job_co(struct job *job)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.repair = job->repair;
	job->result = ox_check_qcow2_co(&job->c->disk->io, &opts, &job->found, NULL);
}

#define READ_SECTORS 128u

/* The engine reads what is on the disk. */
static void read_all_job_co(struct job *job)
{
	struct sim_case *c = job->c;
	uint64_t sectors = sim_model_sectors(c->model);
	uint8_t expected[SIM_SECTOR_BYTES];
	struct sim_image image;
	const char *why;
	uint8_t *buf = ox_io_buffer(READ_SECTORS * SIM_SECTOR_BYTES);

	if (!buf || !sim_image_parse(job->bytes, &image, &why))
		sim_fail("sim", "cannot read all");
	for (uint64_t at = 0; at < sectors; at += READ_SECTORS) {
		uint64_t n = ox_min_u64(READ_SECTORS, sectors - at);
		struct iovec iov = {buf, n * SIM_SECTOR_BYTES};
		int r = ox_img_preadv_co(c->img, &iov, 1, at * SIM_SECTOR_BYTES);

		if (r < 0)
			sim_fail("D1", "sector %llu on cannot be read: %s", (unsigned long long)at,
				 strerror(-r));
		for (uint64_t i = 0; i < n; i++) {
			sim_oracle_read(&image, image.l1_offset, image.l1_entries, &c->backing,
					(at + i) * SIM_SECTOR_BYTES, expected);
			if (memcmp(expected, buf + i * SIM_SECTOR_BYTES, sizeof(expected)) != 0)
				sim_fail("read", "sector %llu does not read as it is on the disk",
					 (unsigned long long)(at + i));
		}
	}
	free(buf);
}

/* ---- the oracle ---- */

static bool ask_oracle(struct sim_case *c, const struct sim_bytes *bytes, bool exact, bool clean)
{
	struct sim_expect expect = {
		.exact = exact,
		.clean = clean,
		.backing = &c->backing,
		.model = c->model,
		.frozen = c->frozen.bytes ? &c->frozen : NULL,
	};
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	c->trace.bytes = bytes;
	sim_model_found_size(c->model, image.size_bytes / SIM_SECTOR_BYTES,
			     bytes != &c->disk->current);
	return sim_oracle_check(bytes, &expect);
}

typedef void (*settle_fn)(struct sim_model *m, uint64_t sector, const uint8_t *bytes);

static void settle_model(struct sim_case *c, const struct sim_bytes *bytes, settle_fn settle)
{
	uint8_t sector[SIM_SECTOR_BYTES];
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why))
		sim_fail("sim", "cannot settle");
	for (uint64_t s = 0; s < sim_model_sectors(c->model); s++) {
		sim_oracle_read(&image, image.l1_offset, image.l1_entries, &c->backing,
				s * SIM_SECTOR_BYTES, sector);
		settle(c->model, s, sector);
	}
}

/* ---- the ends of a generation ---- */

/* Ends every task on the dead disk, and the image with them. */
static void end_tasks(struct sim_case *c)
{
	struct job job = {.fn = close_job_co};

	c->workload.stop = true;
	drain(c);
	if (c->img)
		(void)run_job(c, &job, &no_cut);
	drain(c);
	sim_model_abandon(c->model);
	c->may_leak = true;
	c->run->totals.faults += c->disk->faults_hit;
	c->run->totals.requests += c->disk->requests;
}

/* Unsafe mode promises nothing after a power cut but that no program falls over the image. */
static void open_unsafe(struct sim_case *c)
{
	struct job open = {.fn = open_job_co};
	struct job close = {.fn = close_job_co};

	c->over = true;
	c->disk->faults_hit = 1; /* it need not open */
	c->disk->instant = true;
	(void)run_job(c, &open, &no_cut);
	if (c->img)
		(void)run_job(c, &close, &no_cut);
	drain(c);
}

/* One entry past the file's end, where the guest's cluster has none. */
static void plant_one(struct sim_case *c, struct sim_bytes *bytes, const struct sim_image *i)
{
	uint64_t per_table = i->cluster_bytes / 8;
	uint64_t clusters = (i->size_bytes + i->cluster_bytes - 1) / i->cluster_bytes;
	uint64_t cluster = sim_random_below(&c->random, clusters);
	uint64_t l1 = sim_bytes_be64(bytes, i->l1_offset + cluster / per_table * 8);
	uint64_t at = (l1 & SIM_OFFSET_MASK) + cluster % per_table * 8;
	uint64_t end = ox_align_up(bytes->length, i->cluster_bytes);
	struct sim_planted *p = &sim_image_planted;
	struct ox_be64 disk;

	if (!(l1 & SIM_COPIED) || sim_bytes_be64(bytes, at) != 0)
		return;
	p->entries[p->count].at = at;
	p->entries[p->count].entry =
		SIM_COPIED | (end + sim_random_below(&c->random, 30) * i->cluster_bytes);
	disk = ox_be64(p->entries[p->count].entry);
	sim_bytes_write(bytes, at, &disk, sizeof(disk));
	p->count++;
}

/* What a program leaves that lets its entries reach the disk before the file's length. Not once a
 * recovery of ours has begun: nobody else was at the image since. */
static void plant_stale(struct sim_case *c, struct sim_bytes *bytes)
{
	struct sim_image image;
	const char *why;

	if (!c->config.plants_stale || c->config.disk.fixed_bytes > 0 || c->recovering ||
	    sim_image_planted.count > 0 || !is_dirty(bytes) ||
	    !sim_image_parse(bytes, &image, &why))
		return;
	for (unsigned i = 0; i < SIM_PLANTED_MOST; i++)
		plant_one(c, bytes, &image);
}

static void power_cut(struct sim_case *c)
{
	struct sim_bytes bytes;
	bool unsafe = c->config.cache == OX_CACHE_UNSAFE;

	sim_disk_cut(c->disk, &bytes);
	end_tasks(c);
	sim_disk_free(c->disk);
	c->run->totals.cuts++;
	if (!unsafe) {
		(void)ask_oracle(c, &bytes, false, false);
		settle_model(c, &bytes, sim_model_settle);
		plant_stale(c, &bytes);
	}
	c->disk = sim_disk_open(c->reactor, &c->config.disk, &bytes, &c->random, &c->trace);
	c->trace.bytes = &c->disk->current;
	c->trace.cuts = c->run->totals.cuts;
	if (unsafe)
		open_unsafe(c);
}

static void kill_process(struct sim_case *c)
{
	struct sim_disk *next = sim_disk_kill(c->disk);

	end_tasks(c);
	sim_disk_free(c->disk);
	c->disk = next;
	c->run->totals.kills++;
	(void)ask_oracle(c, &c->disk->current, false, false);
	settle_model(c, &c->disk->current, sim_model_observe);
}

/* ---- phases ---- */

static void draw_fault(struct sim_case *c, unsigned percent)
{
	static const unsigned classes[] = {SIM_FAULT_READ,  SIM_FAULT_WRITE,
					   SIM_FAULT_SYNC,  SIM_FAULT_GROW,
					   SIM_FAULT_PUNCH, SIM_FAULT_READ | SIM_FAULT_WRITE};
	struct sim_fault fault = {.error = -EIO};

	if (!c->config.faults || !sim_random_percent(&c->random, percent))
		return;
	fault.classes = classes[sim_random_below(&c->random, OX_ARRAY_SIZE(classes))];
	fault.after = (unsigned)sim_random_below(&c->random, 64);
	fault.after >>= sim_random_below(&c->random, 7);
	fault.left =
		sim_random_percent(&c->random, 60) ? 1 : 1u << sim_random_below(&c->random, 16);
	if (fault.classes == SIM_FAULT_GROW)
		fault.error = -ENOSPC;
	c->disk->fault = fault;
}

static void forget_fault(struct sim_case *c)
{
	c->disk->fault.left = 0;
	c->run->totals.faults += c->disk->faults_hit;
	c->disk->faults_hit = 0;
}

static struct cut_plan draw_cut(struct sim_case *c, unsigned percent, uint64_t most)
{
	return sim_random_percent(&c->random, percent) ? draw_plan(c, most) : no_cut;
}

/* Repairs the closed image. A cut may strike; then the next opening finds what there is. */
static void repair_phase(struct sim_case *c)
{
	struct job job = {.fn = check_job_co};
	struct cut_plan plan;

	/* the refcounts of a dirty image are more than leaks */
	job.repair = is_dirty(&c->disk->current) || sim_random_percent(&c->random, 50)
			     ? OX_REPAIR_ALL
			     : OX_REPAIR_LEAKS;
	note(c, "=== repair");
	c->disk->io.read_only = false;
	plan = draw_cut(c, 50, 30);
	if (!run_job(c, &job, &plan)) {
		c->run->totals.cuts_opening++;
		power_cut(c);
		return;
	}
	if (job.result < 0 || job.found.corruptions || job.found.leaks || job.found.check_errors)
		sim_fail("D9", "a repair ended with %d, %llu corruptions, %llu leaks, %llu errors",
			 job.result, (unsigned long long)job.found.corruptions,
			 (unsigned long long)job.found.leaks,
			 (unsigned long long)job.found.check_errors);
	/* where there was nothing to repair, what a killed process left may still be lost */
	(void)ask_oracle(c, &c->disk->current, true, true);
	c->may_leak = !ox_list_empty(&c->disk->journal);
}

/* Opens the image, however many cuts that takes. */
static void open_phase(struct sim_case *c)
{
	bool dirty = false;
	struct job read = {.fn = read_all_job_co};

	while (!c->img && !c->over) {
		struct job open = {.fn = open_job_co};
		bool marked = is_dirty(&c->disk->durable);
		struct cut_plan plan;

		dirty = is_dirty(&c->disk->current);
		draw_fault(c, 20);
		note(c, "=== open");
		plan = draw_cut(c, dirty ? 40 : 10, dirty ? 40 : 5);
		if (!run_job(c, &open, &plan)) {
			c->run->totals.cuts_opening++;
			power_cut(c);
			/* the bit went off: then every count was right (D6), but what a recovery
			 * beside the guest had in reserve */
			if (marked && !c->over && !is_dirty(&c->disk->current))
				(void)ask_oracle(c, &c->disk->durable, !c->config.recover_at_once,
						 true);
			continue;
		}
		c->recovery_hit = c->disk->faults_hit > 0;
		if (open.result < 0 && c->disk->sync_failed)
			power_cut(c);
		else
			forget_fault(c);
	}
	if (c->over)
		return;
	c->recovering = dirty && c->config.recover_at_once;
	c->recovery_hit = c->recovery_hit && c->recovering;
	if (dirty)
		c->run->totals.recoveries++;
	if (dirty && !c->recovering) {
		c->may_leak = false;
		(void)ask_oracle(c, &c->disk->durable, true, true);
	}
	if (!dirty && c->config.cache != OX_CACHE_UNSAFE)
		(void)ask_oracle(c, &c->disk->durable, false, true);
	/* the reading would give the recovery the time to end */
	if (c->recovering && sim_random_percent(&c->random, 80))
		return;
	c->disk->instant = true;
	read.bytes = &c->disk->current;
	(void)run_job(c, &read, &no_cut);
	c->disk->instant = false;
}

/* Each time another character: one guest overwrites, another frees more than it writes. */
static void draw_weights(struct sim_case *c)
{
	static const unsigned usual[SIM_GUEST_OPS] = {15, 35, 16, 12, 12, 8, 2};

	for (unsigned i = 0; i < SIM_GUEST_OPS; i++)
		c->workload.weights[i] = usual[i] * (unsigned)sim_random_below(&c->random, 8);
	c->workload.weights[SIM_GUEST_READ]++;
}

/* The new size, or 0 for none. */
static uint64_t draw_resize(struct sim_case *c)
{
	if (c->config.room_sectors == c->config.sectors || !sim_random_percent(&c->random, 40))
		return 0;
	return sim_random_between(&c->random, 1, c->config.room_sectors);
}

/* The header's write is the moment at which a table moves. */
static void draw_header_fault(struct sim_case *c)
{
	if (c->prepared && c->config.faults && sim_random_percent(&c->random, 30))
		c->disk->fault = (struct sim_fault){
			.classes = SIM_FAULT_HEADER,
			.after = (unsigned)sim_random_below(&c->random, 3),
			.left = 1,
			.error = -EIO,
		};
}

static void start_guest(struct sim_case *c)
{
	const struct sim_config *config = &c->config;
	uint64_t per_cluster = UINT64_C(1) << (config->cluster_bits - 9);
	uint64_t resize = draw_resize(c);
	uint64_t sectors = ox_min_u64(resize ? resize : UINT64_MAX, sim_model_sectors(c->model));
	uint64_t hot = ox_min_u64(config->hot_clusters * per_cluster, sectors);

	if (resize || config->prefilled)
		draw_header_fault(c);
	c->workload = (struct sim_workload){
		.img = c->img,
		.model = c->model,
		.trace = &c->trace,
		.random = {sim_random_next(&c->random)},
		.cluster_bytes = UINT64_C(1) << config->cluster_bits,
		.operations = config->operations,
		.hot_first = config->prefilled ? sectors - hot
					       : sim_random_below(&c->random, sectors - hot + 1),
		.hot_count = hot,
		.most_sectors = ox_min_u64(
			per_cluster * (sim_random_percent(&c->random, 15) ? 150 : 5), sectors),
		.quiet_percent = config->quiet_percent,
		.sectors = sectors,
		.errors_allowed = c->disk->fault.left > 0 || c->recovery_hit,
		.may_be_full = config->disk.fixed_bytes > 0,
		.resize_sectors = resize,
	};
	draw_weights(c);
	if (!sim_workload_start(&c->workload, c->reactor, config->tasks))
		sim_fail("sim", "out of memory");
}

/* Lets the guest work until it has done or up to the step of the end. */
static bool guest_phase(struct sim_case *c, const struct cut_plan *plan)
{
	unsigned stuck = 0;

	note(c, "=== the guest works");
	start_guest(c);
	for (uint64_t i = 0; c->workload.tasks > 0; i++) {
		if (is_due(c, plan, i))
			return false;
		if (i > STEPS_MOST)
			sim_fail("progress", "no end after %u steps", STEPS_MOST);
		step(c, &stuck);
	}
	return true;
}

/* A closed image is durable, clean, and counts what it names. */
static void check_closed(struct sim_case *c)
{
	uint64_t began = sim_model_flush_begin(c->model);

	sim_model_flush_end(c->model, began);
	c->run->totals.closes++;
	/* a recovery that met an error leaves the image dirty */
	if (c->recovering && (c->recovery_hit || c->disk->faults_hit > 0) &&
	    is_dirty(&c->disk->durable)) {
		(void)ask_oracle(c, &c->disk->durable, false, false);
		return;
	}
	(void)ask_oracle(c, &c->disk->durable, !c->may_leak, true);
	if (c->run->qemu_dir && c->run->totals.closes % c->run->qemu_every == 0) {
		sim_qemu_check(c->run->qemu_dir, &c->disk->durable, c->may_leak);
		c->run->totals.checked++;
	}
}

static void close_phase(struct sim_case *c)
{
	struct job job = {.fn = close_job_co};
	struct cut_plan plan;

	note(c, "=== close");
	plan = draw_cut(c, 50, 40);
	if (!run_job(c, &job, &plan)) {
		c->run->totals.cuts_closing++;
		power_cut(c);
		return;
	}
	drain(c);
	if (c->recovering) /* all that is not named was found free */
		c->may_leak = false;
	if (c->disk->faults_hit > 0)
		c->may_leak = true;
	if (job.result < 0 && c->disk->faults_hit == 0)
		sim_fail("close", "closing failed without a fault: %s", strerror(-job.result));
	if (c->disk->sync_failed) {
		power_cut(c);
	} else if (job.result < 0) {
		kill_process(c);
	} else {
		check_closed(c);
		forget_fault(c);
	}
}

static void generation(struct sim_case *c)
{
	uint64_t busy = (uint64_t)c->config.tasks * c->config.operations * 8;
	unsigned end = (unsigned)sim_random_below(&c->random, 100);
	struct cut_plan plan = no_cut;

	if (c->config.cache != OX_CACHE_UNSAFE && sim_random_percent(&c->random, 8))
		repair_phase(c);
	open_phase(c);
	if (c->over)
		return;
	draw_fault(c, 50);
	if (end >= 20)
		plan = draw_plan(c, busy / (end % 4 + 1) + 2);
	if (c->config.prefilled && end >= 30) { /* the table moves but once */
		plan = no_cut;
		plan.header_writes = c->disk->header_writes + (c->config.lazy ? 2 : 1);
	}
	if (!guest_phase(c, &plan) && (end >= 30 || c->disk->sync_failed))
		power_cut(c);
	else if (end >= 20 && end < 30 && !c->disk->sync_failed)
		kill_process(c);
	else
		close_phase(c);
}

/* ---- the case ---- */

static void create_job_co(struct job *job)
{
	const struct sim_config *config = &job->c->config;
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.virtual_bytes = config->sectors * SIM_SECTOR_BYTES;
	opts.version = config->version;
	opts.cluster_bytes = 1u << config->cluster_bits;
	opts.refcount_bits = config->refcount_bits;
	opts.lazy_refcounts = config->lazy;
	if (config->backed_sectors > 0) {
		opts.backing_file = "b";
		opts.backing_format = "raw";
	}
	job->result = ox_qcow2_create_co(&job->c->disk->io, &opts, NULL);
	if (job->result < 0)
		sim_fail("sim", "the image was not created: %s", strerror(-job->result));
}

static void make_backing(struct sim_case *c)
{
	uint8_t sector[SIM_SECTOR_BYTES];
	struct sim_bytes copy;

	if (c->config.backed_sectors == 0)
		return;
	c->backing.there = true;
	for (uint64_t s = 0; s < c->config.backed_sectors; s++) {
		sim_model_pattern(SIM_ID_BACKING, s, sector);
		sim_bytes_write(&c->backing.bytes, s * SIM_SECTOR_BYTES, sector, sizeof(sector));
	}
	c->backing.bytes.length = c->config.backed_sectors * SIM_SECTOR_BYTES;
	sim_bytes_clone(&copy, &c->backing.bytes);
	c->backing_disk = sim_disk_open(c->reactor, &c->config.disk, &copy, &c->random, &c->trace);
}

/* A device has bytes of an earlier use on it. */
static void old_bytes(struct sim_bytes *b, uint64_t length)
{
	uint8_t sector[SIM_SECTOR_BYTES];

	memset(sector, 0xc3, sizeof(sector));
	for (uint64_t at = 0; at < length; at += sizeof(sector))
		sim_bytes_write(b, at, sector, sizeof(sector));
	b->length = length;
}

static void make_disk(struct sim_case *c)
{
	struct sim_bytes empty = {0};
	struct job job = {.fn = create_job_co};

	old_bytes(&empty, c->config.disk.fixed_bytes);

	c->disk = sim_disk_open(c->reactor, &c->config.disk, &empty, &c->random, &c->trace);
	c->disk->instant = true;
	(void)run_job(c, &job, &no_cut);
	c->disk->instant = false;
	c->trace.bytes = &c->disk->current;
}

/* Some content, closed, and a snapshot of it. */
static void make_snapshot(struct sim_case *c)
{
	struct job open = {.fn = open_job_co};
	struct job close = {.fn = close_job_co};
	struct sim_bytes bytes;
	struct sim_image image;
	const char *why;
	bool taken;

	(void)run_job(c, &open, &no_cut);
	(void)guest_phase(c, &no_cut);
	(void)run_job(c, &close, &no_cut);
	drain(c);
	sim_model_flush_end(c->model, sim_model_flush_begin(c->model));
	sim_bytes_clone(&bytes, &c->disk->durable);
	sim_disk_free(c->disk);
	taken = sim_snapshot_take(&bytes);
	settle_model(c, &bytes, sim_model_settle);
	if (taken && sim_image_parse(&bytes, &image, &why)) {
		c->frozen.sectors = sim_model_sectors(c->model);
		c->frozen.bytes = sim_alloc(c->frozen.sectors, SIM_SECTOR_BYTES);
		for (uint64_t s = 0; s < c->frozen.sectors; s++)
			sim_oracle_read(&image, image.l1_offset, image.l1_entries, &c->backing,
					s * SIM_SECTOR_BYTES,
					c->frozen.bytes + s * SIM_SECTOR_BYTES);
		(void)ask_oracle(c, &bytes, true, true);
	}
	c->disk = sim_disk_open(c->reactor, &c->config.disk, &bytes, &c->random, &c->trace);
	c->trace.bytes = &c->disk->current;
}

static void fill_job_co(struct job *job)
{
	struct sim_case *c = job->c;
	uint64_t count = sim_model_sectors(c->model) - 500;
	uint8_t *buf = sim_alloc(count, SIM_SECTOR_BYTES);
	struct iovec iov = {buf, count * SIM_SECTOR_BYTES};
	struct sim_write w;

	sim_model_begin(c->model, &w, SIM_MODEL_WRITE, 0, count);
	for (uint64_t i = 0; i < count; i++)
		sim_model_pattern(w.id, i, buf + i * SIM_SECTOR_BYTES);
	job->result = ox_img_pwritev_co(c->img, &iov, 1, 0, OX_REQ_FUA);
	sim_model_end(c->model, &w, job->result == 0, true);
	free(buf);
}

/* Data up to shortly before the refcount table's reach. */
static void fill(struct sim_case *c)
{
	struct job open = {.fn = open_job_co};
	struct job write = {.fn = fill_job_co};
	struct job close = {.fn = close_job_co};

	c->disk->instant = true;
	(void)run_job(c, &open, &no_cut);
	(void)run_job(c, &write, &no_cut);
	(void)run_job(c, &close, &no_cut);
	drain(c);
	c->disk->instant = false;
}

static void case_free(struct sim_case *c)
{
	struct job close = {.fn = close_job_co};

	if (c->img)
		(void)run_job(c, &close, &no_cut);
	drain(c);
	sim_disk_free(c->disk);
	sim_disk_free(c->backing_disk);
	sim_bytes_free(&c->backing.bytes);
	sim_model_free(c->model);
	free(c->frozen.bytes);
	ox_reactor_destroy(c->reactor);
	sim_trace_current = NULL;
	free(c);
}

#define GENERATIONS_MOST 12u

void sim_case_run(struct sim_run *run, uint64_t seed)
{
	struct sim_case *c = sim_alloc(1, sizeof(*c));
	uint64_t generations;

	c->run = run;
	c->random.state = seed;
	c->random.state = sim_random_next(&c->random); /* neighbours shall not be alike */
	c->trace.seed = seed;
	c->trace.cuts = run->totals.cuts;
	sim_trace_current = &c->trace;
	alarm(60);
	sim_config_draw(&c->config, &c->random);
	sim_config_describe(&c->config, c->trace.scene, sizeof(c->trace.scene));
	if (run->verbose)
		printf("%llu: %s\n", (unsigned long long)seed, c->trace.scene);
	if (ox_reactor_create_simulated(seed, &c->reactor) < 0)
		sim_fail("sim", "out of memory");
	c->model =
		sim_model_new(c->config.sectors, c->config.room_sectors, c->config.backed_sectors);
	make_backing(c);
	make_disk(c);
	if (c->config.snapshot)
		make_snapshot(c);
	if (c->config.prefilled)
		fill(c);
	c->prepared = true;
	generations = sim_random_between(&c->random, 3, GENERATIONS_MOST);
	for (uint64_t i = 0; i < generations && !c->over; i++)
		generation(c);
	run->totals.cases++;
	sim_image_planted.count = 0;
	case_free(c);
	alarm(0);
}
