/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes one ring of a virtio-blk device, its inflight region and its requests, over a disk in
 * memory instead of the library. The input is
 *
 *   0     the world, as below
 *   1     the ring has 2^(this % 8) descriptors, and memory changes in so many places (this / 8)
 *   2, 3  the front end's base
 *   4 ... the inflight region, where there is one (16 bytes, and 16 for each descriptor), then the
 *         guest's memory from address 0 on: descriptors at 0, the available ring at AVAILABLE, the
 *         used one at USED
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#include "serve/vhost/blk.h"
#include "serve/vhost/mapping.h"

#define DISK_BYTES (256u << 10)
#define REGION_BYTES UINT64_C(0x4000)
#define AVAILABLE 0x800u
#define USED 0xa00u
#define USER UINT64_C(0x10000000)
#define ROUNDS 4u
#define SECTOR 512u

enum world {
	EVENT_IDX = 1 << 0,
	INDIRECT = 1 << 1,
	INFLIGHT = 1 << 2,
	READ_ONLY = 1 << 3,
	SHRINK = 1 << 4, /* the second region's file, while requests are in flight */
	FAIL_SOME = 1 << 5,
	CHANGE = 1 << 6, /* the driver changes memory between rounds */
	WRITE_THROUGH = 1 << 7,
};

struct input {
	const uint8_t *data;
	size_t size;
};

static uint8_t disk[DISK_BYTES];
static int fds[2];
static uint8_t *memories[2]; /* as the driver sees them */
static int inflight_fd;
static struct ox_vhost_blk_request *submitted[OX_VHOST_IN_FLIGHT_MAX];
static unsigned submitted_count;
static unsigned completed_count;
static struct ox_vhost_blk blk;

static uint8_t next_byte(struct input *in)
{
	uint8_t byte = 0;

	if (in->size > 0) {
		byte = *in->data++;
		in->size--;
	}
	return byte;
}

static void copy_out(struct input *in, uint8_t *to, size_t bytes)
{
	const size_t there = in->size < bytes ? in->size : bytes;

	memset(to, 0, bytes);
	if (there > 0)
		memcpy(to, in->data, there);
	in->data += there;
	in->size -= there;
}

/* ---- the library ---- */

static int submit(void *opaque, struct ox_vhost_blk_request *request)
{
	(void)opaque;
	assert(submitted_count < OX_VHOST_IN_FLIGHT_MAX);
	if (submitted_count == 7)
		return -ENOMEM;
	submitted[submitted_count++] = request;
	return 0;
}

static void move(const struct ox_request *request)
{
	uint64_t offset = request->offset;

	for (int i = 0; i < request->iov_count; i++) {
		const struct iovec *piece = &request->iov[i];

		assert(piece->iov_len > 0 && piece->iov_len <= DISK_BYTES - offset);
		if (request->op == OX_OP_READ)
			memcpy(piece->iov_base, disk + offset, piece->iov_len);
		else
			memcpy(disk + offset, piece->iov_base, piece->iov_len);
		offset += piece->iov_len;
	}
}

/* That the device asks for nothing outside of the disk is its promise. */
static void carry_out(const struct ox_request *request)
{
	assert(request->offset <= DISK_BYTES);
	assert(!blk.read_only || request->op == OX_OP_READ || request->op == OX_OP_FLUSH);
	assert(request->op != OX_OP_WRITE || blk.mode != OX_CACHE_WRITETHROUGH ||
	       request->flags == OX_REQ_FUA);
	switch (request->op) {
	case OX_OP_READ:
	case OX_OP_WRITE:
		move(request);
		break;
	case OX_OP_WRITE_ZEROES:
	case OX_OP_DISCARD:
		assert(request->length <= DISK_BYTES - request->offset);
		memset(disk + request->offset, 0, request->length);
		break;
	case OX_OP_FLUSH:
		break;
	case OX_OP_EXTENT:
		abort();
	}
}

static void complete_one(uint8_t world)
{
	struct ox_vhost_blk_request *request = submitted[--submitted_count];

	carry_out(&request->request);
	completed_count++;
	request->request.result = (world & FAIL_SOME) && completed_count % 3 == 0 ? -EIO : 0;
	ox_vhost_blk_completed(request);
}

/* ---- the guest ---- */

static uint8_t *make_memory(int *ret_fd)
{
	void *map;

	*ret_fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (*ret_fd < 0 || ftruncate(*ret_fd, (off_t)REGION_BYTES) < 0)
		abort();
	map = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
	if (map == MAP_FAILED)
		abort();
	return map;
}

static void make_world(void)
{
	if (memories[0])
		return;
	for (int i = 0; i < 2; i++)
		memories[i] = make_memory(&fds[i]);
	inflight_fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (inflight_fd < 0 || ftruncate(inflight_fd, 0x1000) < 0)
		abort();
}

/* In the first region alone where the second is gone. */
static void change(struct input *in, unsigned places, uint8_t world)
{
	const unsigned regions = world & SHRINK ? 1 : 2;

	for (unsigned i = 0; i < places; i++) {
		const unsigned at = next_byte(in) | (unsigned)next_byte(in) << 8;

		memories[at / REGION_BYTES % regions][at % REGION_BYTES] = next_byte(in);
	}
}

static struct ox_vhost_inflight *open_inflight(struct input *in, uint16_t size)
{
	struct ox_vhost_inflight *inflight;
	uint8_t bytes[0x1000] = {0};

	copy_out(in, bytes, 16 + 16ul * size);
	if (pwrite(inflight_fd, bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes) ||
	    ox_vhost_inflight_open(inflight_fd, 0, sizeof(bytes), 1, size, &inflight) < 0)
		abort();
	return inflight;
}

static void serve(struct ox_vhost_ring *ring, struct ox_vhost_blk_ring *blk_ring, struct input *in,
		  uint8_t world, unsigned places)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		(void)!ox_vhost_blk_take(blk_ring, 5);
		/* valgrind does not go on where the signal came. */
		if ((world & SHRINK) && round == 1 && !RUNNING_ON_VALGRIND &&
		    ftruncate(fds[1], 0) < 0)
			abort();
		while (submitted_count > round % 2)
			complete_one(world);
		(void)!ox_vhost_ring_publish(ring);
		ox_vhost_ring_quiet(ring);
		if (world & CHANGE)
			change(in, places, world);
		(void)!ox_vhost_ring_listen(ring);
	}
	while (submitted_count > 0)
		complete_one(world);
	(void)!ox_vhost_ring_publish(ring);
	assert(ox_vhost_ring_in_flight(ring) == 0);
}

static struct ox_vhost_memory *make_guest(struct input *in)
{
	const struct ox_vhost_region regions[2] = {
		{0, REGION_BYTES, USER, 0},
		{REGION_BYTES, REGION_BYTES, USER + REGION_BYTES, 0},
	};
	struct ox_vhost_memory *memory;

	if (ftruncate(fds[1], (off_t)REGION_BYTES) < 0)
		abort();
	for (int i = 0; i < 2; i++)
		copy_out(in, memories[i], REGION_BYTES);
	if (ox_vhost_memory_new(&memory) < 0 ||
	    ox_vhost_memory_replace(memory, regions, fds, 2) < 0)
		abort();
	return memory;
}

static void describe_disk(uint8_t world)
{
	blk = (struct ox_vhost_blk){
		.size_bytes = DISK_BYTES,
		.mode = world & WRITE_THROUGH ? OX_CACHE_WRITETHROUGH : OX_CACHE_NONE,
		.read_only = world & READ_ONLY,
		.block_bytes = SECTOR,
		.physical_bytes = SECTOR,
		.queues = 1,
		.queue_size = 128,
		.wce = OX_VHOST_WCE_UNSET,
		.submit = submit,
	};
	blk.acked = ox_vhost_blk_features(&blk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	const uint8_t world = next_byte(&in);
	const uint8_t shape = next_byte(&in);
	const uint16_t base = (uint16_t)(next_byte(&in) | next_byte(&in) << 8);
	struct ox_vhost_ring_setup setup = {
		.size = 1u << shape % 8,
		.descriptors = USER,
		.available = USER + AVAILABLE,
		.used = USER + USED,
		.event_idx = world & EVENT_IDX,
		.indirect = world & INDIRECT,
	};
	struct ox_vhost_memory *memory;
	struct ox_vhost_ring *ring;
	struct ox_vhost_blk_ring *blk_ring;

	make_world();
	completed_count = 0;
	describe_disk(world);
	if (world & INFLIGHT)
		setup.inflight = open_inflight(&in, (uint16_t)setup.size);
	memory = make_guest(&in);
	if (ox_vhost_ring_new(memory, &ring) < 0 ||
	    ox_vhost_blk_ring_new(&blk, ring, memory, &blk_ring) < 0)
		abort();
	ox_vhost_ring_set_base(ring, base);
	/* Twice: what the first leaves in the inflight region, the second finds. */
	for (int i = 0; i < 2; i++)
		if (ox_vhost_ring_start(ring, &setup) == 0) {
			serve(ring, blk_ring, &in, world, shape / 8);
			(void)ox_vhost_ring_stop(ring);
		}
	assert(ox_vhost_memory_held(memory) == 0);
	ox_vhost_blk_ring_free(blk_ring);
	ox_vhost_ring_free(ring);
	ox_vhost_memory_free(memory);
	ox_vhost_inflight_close(setup.inflight);
	return 0;
}
