/* SPDX-License-Identifier: MIT */
#include "qed/qed.h"
#include "run.h"

/* Bits of a later version, in both halves of the words. */
#define UNKNOWN_COMPATIBLE (UINT64_C(1) << 9 | UINT64_C(1) << 40)
#define UNKNOWN_AUTOCLEAR (UINT64_C(1) << 11 | UINT64_C(1) << 50)

void sim_qed_fill_create(const struct sim_config *c, struct ox_create_options *ret)
{
	ret->table_clusters = c->table_clusters;
}

static void make_extras(struct sim_case *c)
{
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, true);
	sim_bytes_put_le64(&bytes, SIM_QED_AT_COMPATIBLE, UNKNOWN_COMPATIBLE);
	sim_bytes_put_le64(&bytes, SIM_QED_AT_AUTOCLEAR, UNKNOWN_AUTOCLEAR);
	sim_freeze(c, &bytes, &c->vouched.guest);
	sim_bytes_clone(&c->vouched.bytes, &bytes);
	c->has_extras = true;
	sim_end_edit(c, &bytes, true);
}

/* Another program had it open when the host went down. */
static void make_left_open(struct sim_case *c)
{
	struct sim_bytes bytes;

	sim_begin_edit(c, &bytes, !c->config.extras);
	sim_bytes_put_le64(&bytes, SIM_QED_AT_FEATURES,
			   sim_bytes_le64(&bytes, SIM_QED_AT_FEATURES) | SIM_QED_NEED_CHECK);
	sim_qed_plant(c, &bytes);
	sim_end_edit(c, &bytes, false);
}

void sim_qed_make(struct sim_case *c)
{
	if (c->config.extras)
		make_extras(c);
	if (c->config.left_open)
		make_left_open(c);
}
