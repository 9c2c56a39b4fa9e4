/* SPDX-License-Identifier: MIT */
/*
 * A guest's memory and the driver's side of one split ring, made up: two regions that follow one
 * another in the guest and nowhere else, each a memory file. The ring lies in the first.
 */
#ifndef OX_TESTS_FAKE_GUEST_H
#define OX_TESTS_FAKE_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/vhost/memory.h"
#include "serve/vhost/ring.h"

#define GUEST_REGION_BYTES UINT64_C(0x100000)
#define GUEST_A UINT64_C(0x100000)
#define GUEST_B (GUEST_A + GUEST_REGION_BYTES)
#define GUEST_END (GUEST_B + GUEST_REGION_BYTES)
#define GUEST_USER_A UINT64_C(0x7f0000000000)
#define GUEST_USER_B UINT64_C(0x7e0000000000)

/* Guest addresses; behind the ring, what a test likes. */
#define GUEST_DESCRIPTORS GUEST_A
#define GUEST_AVAILABLE (GUEST_A + 0x80000)
#define GUEST_USED (GUEST_A + 0xa0000)
#define GUEST_FREE (GUEST_A + 0xf0000)

#define GUEST_NEXT 1u
#define GUEST_WRITE 2u
#define GUEST_INDIRECT 4u

struct fake_guest {
	int fds[2];
	uint8_t *regions[2]; /* the driver's own mappings */
	struct ox_vhost_memory *memory;
	uint16_t size;
	uint16_t offered; /* the available index */
};

struct guest_descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags;
	uint16_t next;
};

void guest_init(struct fake_guest *guest, uint16_t size);
void guest_free(struct fake_guest *guest);
const struct ox_vhost_region *guest_regions(void);
struct ox_vhost_ring_setup guest_setup(const struct fake_guest *guest);

/* The driver's view of an address, up to the end of its region. */
void *guest_at(const struct fake_guest *guest, uint64_t address);
void guest_describe(struct fake_guest *guest, uint16_t index, uint64_t address, uint32_t bytes,
		    uint16_t flags, uint16_t next);
/* Makes a chain available. */
void guest_offer(struct fake_guest *guest, uint16_t head);
uint16_t *guest_available_index(const struct fake_guest *guest);
uint16_t *guest_available_flags(const struct fake_guest *guest);
uint16_t *guest_used_event(const struct fake_guest *guest);
uint16_t *guest_used_index(const struct fake_guest *guest);
uint16_t *guest_used_flags(const struct fake_guest *guest);
uint16_t *guest_avail_event(const struct fake_guest *guest);
/* Of the used ring: the number of an answer since the beginning. */
uint32_t guest_used_head(const struct fake_guest *guest, uint16_t number);
uint32_t guest_used_bytes(const struct fake_guest *guest, uint16_t number);

/* For a test that touches pages which are gone: the handler is in its place, where cmocka has put
 * another. Under valgrind, which does not go on where such a signal came, the test is skipped. */
void guest_catches(void);
bool guest_is_under_valgrind(void);

#endif
