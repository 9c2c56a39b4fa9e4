/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "run.h"
#include "snapshot.h"

static void create_job_co(struct sim_job *job)
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
	struct sim_job job = {.fn = create_job_co};

	old_bytes(&empty, c->config.disk.fixed_bytes);

	c->disk = sim_disk_open(c->reactor, &c->config.disk, &empty, &c->random, &c->trace);
	c->disk->instant = true;
	sim_run_whole_job(c, &job);
	c->disk->instant = false;
	c->trace.bytes = &c->disk->current;
}

/* Some content, closed, and a snapshot of it. */
static void make_snapshot(struct sim_case *c)
{
	struct sim_job open = {.fn = sim_open_job_co};
	struct sim_job close = {.fn = sim_close_job_co};
	struct sim_bytes bytes;
	struct sim_image image;
	const char *why;
	bool taken;

	sim_run_whole_job(c, &open);
	(void)sim_guest_phase(c, &SIM_NO_CUT);
	sim_run_whole_job(c, &close);
	sim_drain(c);
	sim_model_flush_end(c->model, sim_model_flush_begin(c->model));
	sim_bytes_clone(&bytes, &c->disk->durable);
	sim_disk_free(c->disk);
	taken = sim_snapshot_take(&bytes);
	sim_settle_model(c, &bytes, sim_model_settle);
	if (taken && sim_image_parse(&bytes, &image, &why)) {
		c->frozen.sectors = sim_model_sectors(c->model);
		c->frozen.bytes = sim_alloc(c->frozen.sectors, SIM_SECTOR_BYTES);
		for (uint64_t s = 0; s < c->frozen.sectors; s++)
			sim_oracle_read(&image, image.l1_offset, image.l1_entries, &c->backing,
					s * SIM_SECTOR_BYTES,
					c->frozen.bytes + s * SIM_SECTOR_BYTES);
		(void)sim_ask_oracle(c, &bytes, true, true);
	}
	c->disk = sim_disk_open(c->reactor, &c->config.disk, &bytes, &c->random, &c->trace);
	c->trace.bytes = &c->disk->current;
}

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
	if (c->config.snapshot)
		make_snapshot(c);
	if (c->config.prefilled)
		fill(c);
}
