/* SPDX-License-Identifier: MIT */
/* What stands behind the opaque types of oxbow.h. */
#ifndef OX_LIB_CONTEXT_H
#define OX_LIB_CONTEXT_H

#include "img/img.h"
#include "oxbow.h"
#include "rt/reactor.h"

#define OX_EXPORT __attribute__((visibility("default")))

struct ox_context {
	struct ox_reactor *reactor;
	unsigned images; /* open */
	unsigned jobs;	 /* not ended */
};

/* Flags for the store that opts ask for. */
unsigned ox_store_flags(const struct ox_open_options *opts);

/* Whether every request of the image's queues was reaped. */
bool ox_queues_are_idle(const struct ox_image *image);
/* The image goes: its queues can only be freed from now on. */
void ox_queues_detach(struct ox_image *image);

#endif
