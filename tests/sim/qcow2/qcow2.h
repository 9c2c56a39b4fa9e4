/* SPDX-License-Identifier: MIT */
/* The parts of the simulator's table for qcow2 (format.h says what each does). */
#ifndef SIM_QCOW2_QCOW2_H
#define SIM_QCOW2_QCOW2_H

#include "format.h"

/* ---- shape.c ---- */

void sim_qcow2_draw_image(struct sim_config *c, struct sim_random *random);
void sim_qcow2_draw_rest(struct sim_config *c, struct sim_random *random);
int sim_qcow2_describe(const struct sim_config *c, char *ret, size_t room);

/* ---- making.c ---- */

void sim_qcow2_fill_create(const struct sim_config *c, struct ox_create_options *ret);
void sim_qcow2_make(struct sim_case *c);

/* ---- plant.c ---- */

void sim_qcow2_plant(struct sim_case *c, struct sim_bytes *bytes);

/* ---- audit.c ---- */

void sim_qcow2_audit(const struct sim_image *i, const struct sim_expect *expect);

#endif
