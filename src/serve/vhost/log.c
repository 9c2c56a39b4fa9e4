/* SPDX-License-Identifier: MIT */
#include "serve/vhost/log.h"

#include <errno.h>
#include <stdlib.h>

#define PAGE_SHIFT 12 /* the protocol's, whatever the machine's */

/* The front end takes bits while we set others. */
static void mark(void *opaque, uint64_t guest_address, uint64_t bytes)
{
	const struct ox_vhost_log *log = opaque;
	uint64_t last;

	if (bytes == 0 || bytes - 1 > UINT64_MAX - guest_address)
		return;
	last = (guest_address + bytes - 1) >> PAGE_SHIFT;
	for (uint64_t page = guest_address >> PAGE_SHIFT; page <= last; page++) {
		if (page / 8 >= log->bytes)
			return;
		__atomic_fetch_or(&log->bits[page / 8], (uint8_t)(1u << page % 8),
				  __ATOMIC_RELEASE);
	}
}

int ox_vhost_log_open(int fd, uint64_t offset, uint64_t bytes, struct ox_vhost_log **ret)
{
	struct ox_vhost_log *log = calloc(1, sizeof(*log));
	int code;

	if (!log)
		return -ENOMEM;
	code = ox_vhost_mapping_open(fd, offset, bytes, &log->mapping);
	if (code < 0) {
		free(log);
		return code;
	}
	log->bits = ox_vhost_mapping_start(log->mapping);
	log->bytes = bytes;
	log->dirty = (struct ox_vhost_dirty){mark, log};
	*ret = log;
	return 0;
}

void ox_vhost_log_close(struct ox_vhost_log *log)
{
	if (!log)
		return;
	ox_vhost_mapping_close(log->mapping);
	free(log);
}
