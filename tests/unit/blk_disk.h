/* SPDX-License-Identifier: MIT */
/* A virtio-blk device over a real image, and its driver, which has one request at a time: for tests
 * of requests. */
#ifndef OX_TESTS_BLK_DISK_H
#define OX_TESTS_BLK_DISK_H

#include "fake_guest.h"
#include "serve/vhost/blk.h"

#define SIZE 64u
#define SECTOR 512u
#define DISK_BYTES (UINT64_C(4) << 20)
#define SECTORS (DISK_BYTES / SECTOR)

#define IN 0u
#define OUT 1u
#define FLUSH 4u
#define GET_ID 8u
#define DISCARD 11u
#define WRITE_ZEROES 13u

#define OK 0u
#define IOERR 1u
#define UNSUPP 2u
#define NOTHING 0xeeu /* no status was written */

#define HEADER GUEST_FREE
#define STATUS (GUEST_FREE + 0x800)
#define DATA (GUEST_B + 0x10000)

extern struct ox_image *image;
extern struct fake_guest guest;
extern struct ox_vhost_ring *ring;
extern struct ox_vhost_blk blk;
extern struct ox_vhost_blk_ring *blk_ring;
/* What the library was asked for. */
extern unsigned submitted;
extern struct ox_request asked; /* last */
/* Whether it keeps requests in held, and with what it refuses them; 0: it does not. */
extern bool hold;
extern int refuse_with;
extern struct ox_vhost_blk_request *held[SIZE];
extern unsigned held_count;

/* For cmocka. */
int setup(void **state);
int teardown(void **state);
void start(void);
/* Hands those that are held to the library, and answers all that it has. */
void release_held(void);
void complete_all(void);
uint8_t *status(void);
void write_header(uint32_t type, uint64_t sector);
/* Header, data to be read, data to be written, status. */
void offer_request(uint32_t type, uint64_t sector, uint32_t out_bytes, uint32_t in_bytes);
void take_all(void);
/* A request, to its status. */
uint8_t perform(uint32_t type, uint64_t sector, uint32_t out_bytes, uint32_t in_bytes);
/* Of the last one, as the used ring has it. */
uint32_t used_bytes(void);
/* Into the data of the next request. */
void write_nth_range(unsigned n, uint64_t sector, uint32_t sectors, uint32_t flags);
void write_range(uint64_t sector, uint32_t sectors, uint32_t flags);
/* The image, at a sector. */
void disk_has(uint64_t sector, uint8_t byte);
/* The data of the next request. */
void fill(uint8_t byte, uint32_t bytes);

#endif
