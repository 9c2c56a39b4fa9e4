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
};

/* Flags for the store that opts ask for. */
unsigned ox_store_flags(const struct ox_open_options *opts);

/* Carries out one request of the public API and stores its result. */
void ox_request_run_co(struct ox_image *image, struct ox_request *req);

#endif
