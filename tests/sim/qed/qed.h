/* SPDX-License-Identifier: MIT */
/* The parts of the simulator's table for QED (format.h says what each does). */
#ifndef SIM_QED_QED_H
#define SIM_QED_QED_H

#include "format.h"

/* ---- shape.c ---- */

void sim_qed_draw_image(struct sim_config *c, struct sim_random *random);
void sim_qed_draw_rest(struct sim_config *c, struct sim_random *random);
int sim_qed_describe(const struct sim_config *c, char *ret, size_t room);

/* ---- making.c ---- */

void sim_qed_fill_create(const struct sim_config *c, struct ox_create_options *ret);
void sim_qed_make(struct sim_case *c);

/* ---- plant.c ---- */

void sim_qed_plant(struct sim_case *c, struct sim_bytes *bytes);

/* ---- audit.c ---- */

void sim_qed_audit(const struct sim_image *i, const struct sim_expect *expect);
uint64_t sim_qed_count_lost(const struct sim_image *i);

#endif
