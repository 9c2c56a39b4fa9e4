/* SPDX-License-Identifier: MIT */
/*
 * The dirty log of a migration: a bit for each page of the guest, in a file of the front end's, set
 * when we have written into the page (specification of vhost-user, "Migration"). A page that the
 * log has no bit for is not noted: the front end knows no such page.
 */
#ifndef OX_SERVE_VHOST_LOG_H
#define OX_SERVE_VHOST_LOG_H

#include <stdint.h>

#include "oxbow.h"
#include "serve/vhost/mapping.h"
#include "serve/vhost/memory.h"

struct ox_vhost_log {
	struct ox_vhost_dirty dirty; /* for those who write */
	struct ox_vhost_mapping *mapping;
	uint8_t *bits;
	uint64_t bytes;
};

/* fd stays the caller's. What ox_vhost_mapping_open says. */
int ox_vhost_log_open(int fd, uint64_t offset, uint64_t bytes,
		      struct ox_vhost_log **ret) OX_CHECKED;
/* Nobody marks any more. NULL is allowed. */
void ox_vhost_log_close(struct ox_vhost_log *log);

#endif
