/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blk_disk.h"

static char path[] = "/tmp/ox-test-vhost-XXXXXX";
static struct ox_context *ctx;
struct ox_image *image;
static struct ox_queue *queue;
struct fake_guest guest;
struct ox_vhost_ring *ring;
struct ox_vhost_blk blk;
struct ox_vhost_blk_ring *blk_ring;

/* What the library was asked for. */
unsigned submitted;
struct ox_request asked; /* last */
bool hold;
int refuse_with;
struct ox_vhost_blk_request *held[SIZE];
unsigned held_count;

static int submit(void *opaque, struct ox_vhost_blk_request *request)
{
	assert_ptr_equal(opaque, &blk);
	assert_ptr_equal(request->request.user, request);
	submitted++;
	asked = request->request;
	if (refuse_with < 0)
		return refuse_with;
	if (hold) {
		held[held_count++] = request;
		return 0;
	}
	return ox_queue_submit(queue, &request->request);
}

static int make_image(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options open = OX_OPEN_OPTIONS_INIT;
	int fd = mkstemp(path);

	if (fd < 0)
		return -1;
	close(fd);
	create.format = open.format = "qcow2";
	create.virtual_bytes = DISK_BYTES;
	create.lazy_refcounts = true;
	if (ox_image_create(ctx, path, &create, NULL) < 0 ||
	    ox_image_open(ctx, path, &open, &image, NULL) < 0)
		return -1;
	return ox_queue_new(image, &queue);
}

int setup(void **state)
{
	(void)state;
	guest_init(&guest, SIZE);
	blk = (struct ox_vhost_blk){
		.size_bytes = DISK_BYTES,
		.mode = OX_CACHE_WRITEBACK,
		.block_bytes = SECTOR,
		.physical_bytes = 4096,
		.cluster_bytes = 65536,
		.queues = 2,
		.queue_size = SIZE,
		.serial = "oxbow-0123456789",
		.wce = OX_VHOST_WCE_UNSET,
		.submit = submit,
		.opaque = &blk,
	};
	blk.acked = ox_vhost_blk_features(&blk);
	submitted = held_count = 0;
	hold = false;
	refuse_with = 0;
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0 || make_image() < 0 ||
	    ox_vhost_ring_new(guest.memory, &ring) < 0)
		return -1;
	return ox_vhost_blk_ring_new(&blk, ring, guest.memory, &blk_ring);
}

int teardown(void **state)
{
	int code;

	(void)state;
	ox_vhost_blk_ring_free(blk_ring);
	ox_vhost_ring_free(ring);
	ox_queue_free(queue);
	code = ox_image_close(image, NULL);
	ox_context_free(ctx);
	unlink(path);
	strcpy(path, "/tmp/ox-test-vhost-XXXXXX");
	assert_int_equal(ox_vhost_memory_held(guest.memory), 0);
	guest_free(&guest);
	return code;
}

void start(void)
{
	const struct ox_vhost_ring_setup how = guest_setup(&guest);

	assert_int_equal(ox_vhost_ring_start(ring, &how), 0);
}

void release_held(void)
{
	for (unsigned i = 0; i < held_count; i++)
		assert_int_equal(ox_queue_submit(queue, &held[i]->request), 0);
	held_count = 0;
}

void complete_all(void)
{
	struct ox_request *done;

	while (ox_queue_pending(queue) > 0) {
		assert_int_equal(ox_context_wait(ctx), 0);
		while (ox_queue_reap(queue, &done, 1) == 1)
			ox_vhost_blk_completed(done->user);
	}
	(void)!ox_vhost_ring_publish(ring);
}

/* ---- the driver ---- */

uint8_t *status(void)
{
	return guest_at(&guest, STATUS);
}

void write_header(uint32_t type, uint64_t sector)
{
	uint32_t *header = guest_at(&guest, HEADER);

	header[0] = type;
	header[1] = 0xffffffff; /* reserved: not looked at */
	memcpy(&header[2], &sector, sizeof(sector));
	*status() = NOTHING;
}

void offer_request(uint32_t type, uint64_t sector, uint32_t out_bytes, uint32_t in_bytes)
{
	uint16_t at = 0;

	write_header(type, sector);
	guest_describe(&guest, at++, HEADER, 16, GUEST_NEXT, 1);
	if (out_bytes > 0) {
		guest_describe(&guest, at, DATA, out_bytes, GUEST_NEXT, (uint16_t)(at + 1));
		at++;
	}
	if (in_bytes > 0) {
		guest_describe(&guest, at, DATA, in_bytes, GUEST_NEXT | GUEST_WRITE,
			       (uint16_t)(at + 1));
		at++;
	}
	guest_describe(&guest, at, STATUS, 1, GUEST_WRITE, 0);
	guest_offer(&guest, 0);
}

void take_all(void)
{
	assert_true(ox_vhost_blk_take(blk_ring, UINT32_MAX) >= 0);
}

uint8_t perform(uint32_t type, uint64_t sector, uint32_t out_bytes, uint32_t in_bytes)
{
	offer_request(type, sector, out_bytes, in_bytes);
	take_all();
	complete_all();
	assert_int_equal(*guest_used_index(&guest), guest.offered);
	return *status();
}

uint32_t used_bytes(void)
{
	return guest_used_bytes(&guest, (uint16_t)(guest.offered - 1));
}

void write_nth_range(unsigned n, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	uint8_t *range = guest_at(&guest, DATA + 16 * n);

	memcpy(range, &sector, 8);
	memcpy(range + 8, &sectors, 4);
	memcpy(range + 12, &flags, 4);
}

void write_range(uint64_t sector, uint32_t sectors, uint32_t flags)
{
	write_nth_range(0, sector, sectors, flags);
}

void disk_has(uint64_t sector, uint8_t byte)
{
	uint8_t is[SECTOR];
	uint8_t should[SECTOR];

	memset(should, byte, SECTOR);
	assert_int_equal(ox_pread(image, is, SECTOR, sector * SECTOR), 0);
	assert_memory_equal(is, should, SECTOR);
}

void fill(uint8_t byte, uint32_t bytes)
{
	memset(guest_at(&guest, DATA), byte, bytes);
}
