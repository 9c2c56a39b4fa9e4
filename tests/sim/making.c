/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "edit.h"
#include "image.h"
#include "run.h"

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

/* ---- what only other programs make ---- */

/* Some content, closed; the bytes are the caller's to change. */
static void begin_edit(struct sim_case *c, struct sim_bytes *ret, bool work)
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
	sim_settle_model(c, ret, sim_model_settle);
}

static void end_edit(struct sim_case *c, struct sim_bytes *bytes)
{
	(void)sim_ask_oracle(c, bytes, true, true);
	c->disk = sim_disk_open(c->reactor, &c->config.disk, bytes, &c->random, &c->trace);
	c->trace.bytes = &c->disk->current;
}

/* What the guest sees now. */
static void freeze(struct sim_case *c, const struct sim_bytes *bytes, struct sim_frozen *ret)
{
	struct sim_image i;
	const char *why;

	if (!sim_image_parse(bytes, &i, &why))
		sim_fail("sim", "cannot freeze");
	ret->sectors = sim_model_sectors(c->model);
	ret->bytes = sim_alloc(ret->sectors, SIM_SECTOR_BYTES);
	for (uint64_t s = 0; s < ret->sectors; s++)
		sim_oracle_read(&i, i.l1_offset, i.l1_entries, &c->backing, s * SIM_SECTOR_BYTES,
				ret->bytes + s * SIM_SECTOR_BYTES);
}

static void make_compressed(struct sim_case *c)
{
	const struct sim_config *config = &c->config;
	unsigned bits = config->refcount_bits < 8 ? config->refcount_bits : 8;
	struct sim_bytes bytes;

	begin_edit(c, &bytes, true);
	(void)sim_compress_some(&bytes, &c->backing, &c->random,
				((1u << bits) - 1) / (1 + config->snapshots),
				config->disk.fixed_bytes > 0);
	end_edit(c, &bytes);
}

static void make_snapshot(struct sim_case *c)
{
	struct sim_bytes bytes;

	begin_edit(c, &bytes, true);
	if (sim_snapshot_take(&bytes, c->config.disk.fixed_bytes > 0))
		freeze(c, &bytes, &c->frozen[c->frozen_count++]);
	end_edit(c, &bytes);
}

static void make_stale(struct sim_case *c)
{
	struct sim_bytes bytes;

	begin_edit(c, &bytes, c->frozen_count == 0);
	sim_edit_forget_copied(&bytes, &c->random);
	end_edit(c, &bytes);
}

static void make_extras(struct sim_case *c)
{
	struct sim_bytes bytes;

	begin_edit(c, &bytes, c->frozen_count == 0 && !c->config.stale);
	c->has_extras = sim_extras_add(&bytes, &c->random, c->config.bitmap,
				       c->config.disk.fixed_bytes > 0);
	if (c->has_extras) {
		freeze(c, &bytes, &c->vouched.guest);
		sim_bytes_clone(&c->vouched.bytes, &bytes);
		c->bitmap_kept = c->config.bitmap;
	}
	end_edit(c, &bytes);
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
	if (c->config.compressed)
		make_compressed(c);
	for (unsigned k = 0; k < c->config.snapshots; k++)
		make_snapshot(c);
	if (c->config.stale)
		make_stale(c);
	if (c->config.extras)
		make_extras(c);
}
