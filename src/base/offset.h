/* SPDX-License-Identifier: MIT */
/* Guest and host byte offsets are different types, so that one is never passed for the other. */
#ifndef OX_BASE_OFFSET_H
#define OX_BASE_OFFSET_H

#include <stdint.h>

/* A byte offset in the virtual disk, as the guest sees it. */
struct ox_guest {
	uint64_t bytes;
};

/* A byte offset in the image file. */
struct ox_host {
	uint64_t bytes;
};

static inline struct ox_guest ox_guest(uint64_t bytes)
{
	return (struct ox_guest){bytes};
}

static inline struct ox_host ox_host(uint64_t bytes)
{
	return (struct ox_host){bytes};
}

#endif
