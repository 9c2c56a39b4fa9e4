/* SPDX-License-Identifier: MIT */
#include "qcow2/edit.h"
#include "qcow2/qcow2.h"
#include "run.h"

void sim_qcow2_fill_create(const struct sim_config *c, struct ox_create_options *ret)
{
	ret->version = c->version;
	ret->refcount_bits = c->refcount_bits;
	ret->lazy_refcounts = c->lazy;
}

static void make_compressed(struct sim_case *c)
{
	const struct sim_config *config = &c->config;
	unsigned bits = config->refcount_bits < 8 ? config->refcount_bits : 8;
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, true);
	(void)sim_compress_some(&bytes, &c->backing, &c->random,
				((1u << bits) - 1) / (1 + config->snapshots),
				config->disk.fixed_bytes > 0);
	sim_end_edit(c, &bytes, true);
}

static void make_snapshot(struct sim_case *c)
{
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, true);
	if (sim_snapshot_take(&bytes, c->config.disk.fixed_bytes > 0))
		sim_freeze(c, &bytes, &c->frozen[c->frozen_count++]);
	sim_end_edit(c, &bytes, true);
}

static void make_stale(struct sim_case *c)
{
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, c->frozen_count == 0);
	sim_edit_forget_copied(&bytes, &c->random);
	sim_end_edit(c, &bytes, true);
}

static void make_extras(struct sim_case *c)
{
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, c->frozen_count == 0 && !c->config.stale);
	c->has_extras = sim_extras_add(&bytes, &c->random, c->config.bitmap,
				       c->config.disk.fixed_bytes > 0);
	if (c->has_extras) {
		sim_freeze(c, &bytes, &c->vouched.guest);
		sim_bytes_clone(&c->vouched.bytes, &bytes);
		c->bitmap_kept = c->config.bitmap;
	}
	sim_end_edit(c, &bytes, true);
}

void sim_qcow2_make(struct sim_case *c)
{
	if (c->config.compressed)
		make_compressed(c);
	for (unsigned k = 0; k < c->config.snapshots; k++)
		make_snapshot(c);
	if (c->config.stale)
		make_stale(c);
	if (c->config.extras)
		make_extras(c);
}
