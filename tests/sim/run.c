/* SPDX-License-Identifier: MIT */
#include "run.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/check.h"
#include "format.h"
#include "image.h"
#include "memory.h"
#include "planted.h"

bool sim_is_dirty(const struct sim_bytes *bytes)
{
	struct sim_image image;
	const char *why;

	return sim_image_parse(bytes, &image, &why) && image.marked;
}

bool sim_tables_move(const struct sim_case *c)
{
	struct sim_image now;
	struct sim_image durable;
	const char *why;

	return sim_image_parse(&c->disk->current, &now, &why) &&
	       sim_image_parse(&c->disk->durable, &durable, &why) && now.format->tables_moved &&
	       now.format->tables_moved(&durable, &now);
}

bool sim_is_due(const struct sim_case *c, const struct sim_cut_plan *plan, uint64_t step)
{
	return step >= plan->steps || c->disk->header_writes >= plan->header_writes ||
	       c->disk->syncs >= plan->syncs ||
	       (c->disk->header_writes > plan->moves_from && sim_tables_move(c));
}

static void job_task_co(void *arg)
{
	struct sim_job *job = arg;

	job->fn(job);
	job->done = true;
}

#define GLANCE_PERCENT 10u

/* The oracle looks at what a cut would leave while a sync is on its way, and all goes on: an order
 * that is broken seldom is seen more often than real cuts could. */
static void glance(struct sim_case *c)
{
	struct sim_expect expect = sim_expectation(c);
	struct sim_image image;
	struct sim_bytes bytes;
	const char *why;

	if (c->disk->syncs == c->glanced)
		return;
	c->glanced = c->disk->syncs;
	if (!c->prepared || c->disk->instant || c->disk->dead ||
	    c->config.cache == OX_CACHE_UNSAFE || !sim_random_percent(&c->random, GLANCE_PERCENT))
		return;
	sim_disk_imagine(c->disk, &bytes);
	if (!sim_image_parse(&bytes, &image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	/* a disk that is being resized has one of two sizes */
	if (image.size_bytes == sim_model_sectors(c->model) * SIM_SECTOR_BYTES) {
		sim_note(c, "=== what a power cut would leave");
		(void)sim_oracle_check(&bytes, &expect);
		c->run->totals.glances++;
	}
	sim_bytes_free(&bytes);
}

/* Recovered: from now on such an entry is meant. */
static void forget_stale(struct sim_case *c)
{
	struct sim_image image;
	const char *why;

	if (sim_stale.count > 0 && sim_image_parse(&c->disk->durable, &image, &why))
		image.format->forget_stale(&image);
}

void sim_step(struct sim_case *c, unsigned *stuck)
{
	uint64_t before = ox_reactor_now_ns(c->reactor);
	int r;

	sim_memory.armed = true;
	r = ox_reactor_run(c->reactor, true);
	sim_memory.armed = false;
	if (r < 0)
		sim_fail("sim", "the reactor failed");
	forget_stale(c);
	glance(c);
	*stuck = ox_reactor_now_ns(c->reactor) == before ? *stuck + 1 : 0;
	if (*stuck > 3 && ox_reactor_tasks(c->reactor) > 0)
		sim_fail("progress", "%u tasks wait for each other", ox_reactor_tasks(c->reactor));
}

bool sim_run_job(struct sim_case *c, struct sim_job *job, const struct sim_cut_plan *plan)
{
	unsigned stuck = 0;

	job->c = c;
	job->done = false;
	if (ox_co_spawn(c->reactor, job_task_co, job) < 0)
		sim_fail("sim", "out of memory");
	for (uint64_t i = 0; !job->done; i++) {
		if (sim_is_due(c, plan, i))
			return false;
		if (i > SIM_STEPS_MOST)
			sim_fail("progress", "no end after %u steps", SIM_STEPS_MOST);
		sim_step(c, &stuck);
	}
	return true;
}

void sim_run_whole_job(struct sim_case *c, struct sim_job *job)
{
	(void)sim_run_job(c, job, &SIM_NO_CUT);
}

void sim_drain(struct sim_case *c)
{
	unsigned stuck = 0;

	while (ox_reactor_tasks(c->reactor) > 0)
		sim_step(c, &stuck);
}

void sim_note(struct sim_case *c, const char *what)
{
	struct sim_event event = {.time_ns = ox_reactor_now_ns(c->reactor), .what = what};

	sim_trace_add(&c->trace, &event);
}

bool sim_faulted(const struct sim_case *c)
{
	return c->disk->faults_hit + sim_memory.hits > 0;
}

void sim_forget_fault(struct sim_case *c)
{
	c->disk->fault.left = 0;
	c->run->totals.faults += c->disk->faults_hit;
	c->run->totals.memory_faults += sim_memory.hits;
	c->disk->faults_hit = 0;
	sim_memory.left = 0;
	sim_memory.hits = 0;
}

/* ---- opening, reading, closing ---- */

/* A recovery tells whether it kept what is not named: then it may leak. */
static void note_warning(void *opaque, const char *message)
{
	struct sim_case *c = opaque;

	if (strstr(message, "they are kept"))
		c->kept = true;
}

/* As who holds one hands it to the process that goes on (witness_fd). Its number says nothing. */
static void give_witness(struct sim_disk *disk, const struct sim_config *config)
{
	int fd;

	if (!disk->has_witness || config->cache == OX_CACHE_UNSAFE)
		return;
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		sim_fail("sim", "no descriptor");
	disk->has_witness = false;
	ox_io_set_witness(&disk->io, fd, NULL, NULL);
}

static int open_image_co(struct sim_disk *disk, const char *format, unsigned flags,
			 const struct sim_config *config, struct sim_case *c, struct ox_image **ret)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	struct ox_error *err = NULL;
	int r;

	opts.format = format;
	opts.flags = flags;
	opts.cache = config->cache;
	opts.warn = note_warning;
	opts.opaque = c;
	opts.lazy_idle_ms = config->idle_ms;
	opts.table_age_ms = config->age_ms;
	opts.recover = config->recover_at_once ? OX_RECOVER_AUTO : OX_RECOVER_WAIT;
	opts.l2_cache_bytes = config->tiny_caches ? 1 : 0;
	opts.refcount_cache_bytes = config->tiny_caches ? 1 : 0;
	if (config->keeps_state && !(flags & OX_OPEN_READ_ONLY)) {
		how.state = c->state;
		how.state_bytes = SIM_STATE_BYTES;
		give_witness(disk, config);
	}
	r = ox_img_open_co(&disk->io, &how, ret, &err);
	/* where stale entries have to be dropped first, that may find no room; and what cannot be
	 * mended is not opened where that is found out first */
	if (r < 0 && !disk->dead && disk->faults_hit + sim_memory.hits == 0 &&
	    !(r == -ENOSPC && disk->refusals > 0 && config->format->count_lost) &&
	    (sim_damage.count == 0 || config->recover_at_once))
		sim_fail("D9", "the image does not open: %s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

void sim_open_job_co(struct sim_job *job)
{
	struct sim_case *c = job->c;
	struct ox_image *img;

	c->disk->io.read_only = false;
	if (sim_is_dirty(&c->disk->current))
		c->kept = false;
	job->result = open_image_co(c->disk, c->config.format->name, OX_OPEN_NO_BACKING, &c->config,
				    c, &img);
	if (job->result < 0)
		return;
	if (c->backing.there) {
		c->backing_disk->io.read_only = true;
		job->result = open_image_co(c->backing_disk, "raw", OX_OPEN_READ_ONLY, &c->config,
					    c, &img->backing);
		if (job->result < 0) {
			if (ox_img_close_co(img, NULL) < 0 && !sim_faulted(c))
				sim_fail("close", "closing failed without a fault");
			return;
		}
	}
	c->img = img;
}

void sim_close_job_co(struct sim_job *job)
{
	struct ox_image *img = job->c->img;

	job->c->img = NULL;
	job->c->ending = img;
	job->result = ox_img_close_co(img, NULL);
	job->c->ending = NULL;
}

void sim_check_job_co(struct sim_job *job)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.repair = job->repair;
	opts.free_lost_tables = job->free_lost_tables;
	job->result = job->c->config.format->check_co(&job->c->disk->io, &opts, &job->found, NULL);
}

#define READ_SECTORS 128u

static void read_some_co(struct sim_case *c, const struct sim_image *image, uint64_t first,
			 uint64_t count, uint8_t *buf)
{
	uint8_t expected[SIM_SECTOR_BYTES];
	struct iovec iov = {buf, count * SIM_SECTOR_BYTES};
	int r = ox_img_preadv_co(c->img, &iov, 1, first * SIM_SECTOR_BYTES);

	if (r < 0)
		sim_fail("D1", "sector %llu on cannot be read: %s", (unsigned long long)first,
			 strerror(-r));
	for (uint64_t i = 0; i < count; i++) {
		sim_image_read(image, &c->backing, (first + i) * SIM_SECTOR_BYTES, expected);
		if (memcmp(expected, buf + i * SIM_SECTOR_BYTES, sizeof(expected)) != 0)
			sim_fail("read", "sector %llu does not read as it is on the disk",
				 (unsigned long long)(first + i));
	}
}

void sim_read_all_job_co(struct sim_job *job)
{
	struct sim_case *c = job->c;
	uint64_t sectors = sim_model_sectors(c->model);
	struct sim_image image;
	const char *why;
	uint8_t *buf = sim_buffer(READ_SECTORS * SIM_SECTOR_BYTES);
	uint64_t n;

	if (!sim_image_parse(job->bytes, &image, &why))
		sim_fail("sim", "cannot read all");
	for (uint64_t at = 0; at < sectors; at += n) {
		n = ox_min_u64(READ_SECTORS, sectors - at);
		while (n > 1 && sim_model_is_wild(c->model, at, n))
			n /= 2;
		if (!sim_model_is_wild(c->model, at, n))
			read_some_co(c, &image, at, n, buf);
	}
	free(buf);
}

void sim_read_promised_job_co(struct sim_job *job)
{
	struct sim_case *c = job->c;
	uint64_t sectors = sim_model_sectors(c->model);
	uint8_t *buf = sim_buffer(READ_SECTORS * SIM_SECTOR_BYTES);
	uint64_t n;

	for (uint64_t at = 0; at < sectors; at += n) {
		uint64_t began = sim_model_read_begin(c->model);
		struct iovec iov = {.iov_base = buf};
		int r;

		n = ox_min_u64(READ_SECTORS, sectors - at);
		iov.iov_len = n * SIM_SECTOR_BYTES;
		r = ox_img_preadv_co(c->img, &iov, 1, at * SIM_SECTOR_BYTES);
		if (r < 0 && sim_damage.count == 0)
			sim_fail("D10", "a read after an adoption failed: %d", r);
		sim_model_read_end(c->model, began, at, n, r == 0 ? buf : NULL);
	}
	free(buf);
}

/* ---- the oracle ---- */

void sim_notice(struct sim_case *c, const struct sim_bytes *bytes)
{
	struct sim_image image;
	const char *why;

	if (c->config.format->notice && sim_image_parse(bytes, &image, &why))
		c->config.format->notice(c, &image);
}

struct sim_expect sim_expectation(struct sim_case *c)
{
	return (struct sim_expect){
		.backing = &c->backing,
		.model = c->model,
		.frozen = c->frozen,
		.frozen_count = c->frozen_count,
		.vouched = c->has_extras ? &c->vouched : NULL,
		.durable = c->disk ? &c->disk->durable : NULL,
		.made = &c->made,
		.sealed = c->is_sealed ? &c->sealed : NULL,
		.lost_most = UINT64_MAX,
	};
}

bool sim_ask(struct sim_case *c, const struct sim_bytes *bytes, const struct sim_expect *expect)
{
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	sim_notice(c, bytes);
	c->trace.bytes = bytes;
	sim_model_found_size(c->model, image.size_bytes / SIM_SECTOR_BYTES,
			     !c->disk || bytes != &c->disk->current);
	return sim_oracle_check(bytes, expect);
}

bool sim_ask_oracle(struct sim_case *c, const struct sim_bytes *bytes, bool exact, bool clean)
{
	struct sim_expect expect = sim_expectation(c);

	expect.exact = exact;
	expect.clean = clean;
	return sim_ask(c, bytes, &expect);
}

void sim_settle_model(struct sim_case *c, const struct sim_bytes *bytes, sim_settle_fn settle)
{
	uint8_t sector[SIM_SECTOR_BYTES];
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why))
		sim_fail("sim", "cannot settle");
	for (uint64_t s = 0; s < sim_model_sectors(c->model); s++) {
		if (sim_model_is_wild(c->model, s, 1))
			continue;
		sim_image_read(&image, &c->backing, s * SIM_SECTOR_BYTES, sector);
		settle(c->model, s, sector);
	}
}
