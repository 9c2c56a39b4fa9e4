/* SPDX-License-Identifier: MIT */
/*
 * The memory of a guest, as its front end describes it: regions of files, each with an address in
 * the guest and one in the front end. Guest addresses are in descriptors, front-end addresses are
 * those of rings.
 *
 * Invariants: no two regions overlap, in the guest nor in the front end; no range ends beyond 2^64;
 * a region is mapped for as long as it is in the table. Whatever is translated lies in regions,
 * every byte of it.
 *
 * Requests hold the memory while they are in flight. Regions are removed or replaced only when
 * nobody holds it (ox_assert: who serves rings drains them before), and may be added at any time.
 * Rings point into regions as well: they are stopped, or mapped anew (ox_vhost_ring_remap).
 */
#ifndef OX_SERVE_VHOST_MEMORY_H
#define OX_SERVE_VHOST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "oxbow.h"

#define OX_VHOST_REGIONS_MAX 509u

/* What a front end says of a region; every number may be anything. */
struct ox_vhost_region {
	uint64_t guest_address;
	uint64_t bytes;
	uint64_t user_address; /* in the front end */
	uint64_t file_offset;
};

struct ox_vhost_memory;

/* Without regions. */
int ox_vhost_memory_new(struct ox_vhost_memory **ret) OX_CHECKED;
/* Not held. NULL is allowed. */
void ox_vhost_memory_free(struct ox_vhost_memory *memory);

/*
 * Descriptors stay the caller's and are not needed afterwards. On failure the table is as it was:
 * -EINVAL, an empty region or one whose end no number holds; -EEXIST, it overlaps another;
 * -ENOSPC, too many; or what ox_vhost_mapping_open says.
 */
int ox_vhost_memory_add(struct ox_vhost_memory *memory, const struct ox_vhost_region *region,
			int fd) OX_CHECKED;
/* All of them, in place of those that are there. Not held. count may be 0. */
int ox_vhost_memory_replace(struct ox_vhost_memory *memory, const struct ox_vhost_region *regions,
			    const int *fds, size_t count) OX_CHECKED;
/* The region with these addresses and this length. Not held. -ENOENT: there is none. */
int ox_vhost_memory_remove(struct ox_vhost_memory *memory,
			   const struct ox_vhost_region *region) OX_CHECKED;
/* Notes in which slot the keeper has the descriptor of a region (park.h). */
void ox_vhost_memory_set_slot(struct ox_vhost_memory *memory, const struct ox_vhost_region *region,
			      uint16_t slot);
/* The region at a place of the table, at < count, and its slot. */
const struct ox_vhost_region *ox_vhost_memory_region(const struct ox_vhost_memory *memory,
						     size_t at, uint16_t *ret_slot);
size_t ox_vhost_memory_count(const struct ox_vhost_memory *memory);

/*
 * The places of [address, address + bytes) of the guest, bytes > 0, in their order. Returns how
 * many: more than one where the range lies in several regions that follow one another. -EFAULT:
 * some of it lies in none; -E2BIG: there are more than max.
 */
int ox_vhost_memory_translate(struct ox_vhost_memory *memory, uint64_t address, uint64_t bytes,
			      struct iovec *ret_pieces, int max) OX_CHECKED;
/* The place of [address, address + bytes) of the front end, bytes > 0, within one region. NULL:
 * there is none. */
void *ox_vhost_memory_user(const struct ox_vhost_memory *memory, uint64_t address, uint64_t bytes);
/* The guest's address of a place. False: it is in no region. */
bool ox_vhost_memory_guest_address(const struct ox_vhost_memory *memory, const void *place,
				   uint64_t *ret_address);

/* One request more or less that has translated addresses. */
void ox_vhost_memory_hold(struct ox_vhost_memory *memory);
void ox_vhost_memory_release(struct ox_vhost_memory *memory);
/* How many hold it. */
size_t ox_vhost_memory_held(const struct ox_vhost_memory *memory);

/* Whether a region's file became shorter and was touched there: the device is to end. */
bool ox_vhost_memory_is_broken(const struct ox_vhost_memory *memory);

/* Whoever is told of what is written into guest memory: the dirty log of a migration. */
struct ox_vhost_dirty {
	void (*mark)(void *opaque, uint64_t guest_address, uint64_t bytes);
	void *opaque;
};

#endif
