/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "run.h"

static void create_job_co(struct sim_job *job)
{
	const struct sim_config *config = &job->c->config;
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = config->format->name;
	opts.virtual_bytes = config->sectors * SIM_SECTOR_BYTES;
	opts.cluster_bytes = 1u << config->cluster_bits;
	config->format->fill_create(config, &opts);
	if (config->backed_sectors > 0) {
		opts.backing_file = "b";
		opts.backing_format = "raw";
	}
	job->result = config->format->create_co(&job->c->disk->io, &opts, NULL);
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
	struct sim_job job = {.fn = create_job_co};

	old_bytes(&empty, c->config.disk.fixed_bytes);

	c->disk = sim_disk_open(c->reactor, &c->config.disk, &empty, &c->random, &c->trace);
	c->disk->instant = true;
	sim_run_whole_job(c, &job);
	c->disk->instant = false;
	c->trace.bytes = &c->disk->current;
	sim_bytes_clone(&c->made, &c->disk->current);
}

/* ---- what only other programs make ---- */

void sim_begin_edit(struct sim_case *c, struct sim_bytes *ret, bool work)
{
	struct sim_job open = {.fn = sim_open_job_co};
	struct sim_job close = {.fn = sim_close_job_co};

	if (work) {
		sim_run_whole_job(c, &open);
		(void)sim_guest_phase(c, &SIM_NO_CUT);
		sim_run_whole_job(c, &close);
		sim_drain(c);
		sim_model_flush_end(c->model, sim_model_flush_begin(c->model));
	}
	sim_bytes_clone(ret, &c->disk->durable);
	sim_disk_free(c->disk);
	c->disk = NULL;
	sim_settle_model(c, ret, sim_model_settle);
}

void sim_end_edit(struct sim_case *c, struct sim_bytes *bytes, bool clean)
{
	(void)sim_ask_oracle(c, bytes, clean, clean);
	c->disk = sim_disk_open(c->reactor, &c->config.disk, bytes, &c->random, &c->trace);
	c->trace.bytes = &c->disk->current;
}

void sim_freeze(struct sim_case *c, const struct sim_bytes *bytes, struct sim_frozen *ret)
{
	struct sim_image i;
	const char *why;

	if (!sim_image_parse(bytes, &i, &why))
		sim_fail("sim", "cannot freeze");
	ret->sectors = sim_model_sectors(c->model);
	ret->bytes = sim_alloc(ret->sectors, SIM_SECTOR_BYTES);
	for (uint64_t s = 0; s < ret->sectors; s++)
		sim_image_read(&i, &c->backing, s * SIM_SECTOR_BYTES,
			       ret->bytes + s * SIM_SECTOR_BYTES);
}

/* ---- an image that is nearly full ---- */

static void fill_job_co(struct sim_job *job)
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
	struct sim_job open = {.fn = sim_open_job_co};
	struct sim_job write = {.fn = fill_job_co};
	struct sim_job close = {.fn = sim_close_job_co};

	c->disk->instant = true;
	sim_run_whole_job(c, &open);
	sim_run_whole_job(c, &write);
	sim_run_whole_job(c, &close);
	sim_drain(c);
	c->disk->instant = false;
}

void sim_make_image(struct sim_case *c)
{
	make_backing(c);
	make_disk(c);
	if (c->config.filled)
		fill(c);
	c->config.format->make(c);
}
