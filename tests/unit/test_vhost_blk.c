/* SPDX-License-Identifier: MIT */
/* virtio-blk requests, out of a guest's ring and into an image: what the status says is so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blk_disk.h"

/* ---- requests that are right ---- */

static void what_is_written_is_read(void **state)
{
	(void)state;
	start();
	fill(0x5a, 8 * SECTOR);
	assert_int_equal(perform(OUT, 3, 8 * SECTOR, 0), OK);
	assert_int_equal(used_bytes(), 1);
	disk_has(2, 0);
	disk_has(3, 0x5a);
	disk_has(10, 0x5a);
	disk_has(11, 0);
	fill(0, 8 * SECTOR);
	assert_int_equal(perform(IN, 10, 0, 2 * SECTOR), OK);
	assert_int_equal(used_bytes(), 2 * SECTOR + 1);
	assert_int_equal(*(uint8_t *)guest_at(&guest, DATA + SECTOR - 1), 0x5a);
	assert_int_equal(*(uint8_t *)guest_at(&guest, DATA + SECTOR), 0);
	assert_int_equal(perform(FLUSH, 0, 0, 0), OK);
	assert_int_equal(asked.op, OX_OP_FLUSH);
	assert_int_equal(used_bytes(), 1);
}

/* The bytes of a chain are one row, whatever the descriptors are. */
static void header_data_and_status_may_be_split_anywhere(void **state)
{
	static const uint32_t splits[][4] = {
		{1, 15, 512, 0}, {15, 2, 511, 0},  {16, 1, 511, 0},	{527, 1, 0, 0},
		{528, 0, 0, 0},	 {7, 300, 221, 0}, {16, 256, 128, 128},
	};

	(void)state;
	start();
	for (size_t i = 0; i < sizeof(splits) / sizeof(splits[0]); i++) {
		uint64_t address = GUEST_B - 16; /* the header before the border */
		uint8_t *bytes = guest_at(&guest, address);
		const uint64_t sector = 100 + i;
		uint16_t at = 0;

		memset(bytes, 0, 16);
		bytes[0] = OUT;
		bytes[8] = (uint8_t)sector;
		memset(guest_at(&guest, GUEST_B), (int)(i + 1), SECTOR);
		*status() = NOTHING;
		for (int j = 0; j < 4; j++) {
			guest_describe(&guest, at, address, splits[i][j], GUEST_NEXT,
				       (uint16_t)(at + 1));
			address += splits[i][j];
			at++;
		}
		guest_describe(&guest, at, STATUS, 1, GUEST_WRITE, 0);
		guest_offer(&guest, 0);
		take_all();
		complete_all();
		assert_int_equal(*status(), OK);
		disk_has(sector, (uint8_t)(i + 1));
	}
}

/* Data and status share a descriptor, which lies in two regions. */
static void the_status_is_the_last_byte_of_what_is_written(void **state)
{
	uint8_t *end = guest_at(&guest, GUEST_B + SECTOR - 100);

	(void)state;
	start();
	fill(0x77, SECTOR);
	assert_int_equal(perform(OUT, 9, SECTOR, 0), OK);
	write_header(IN, 9);
	end[0] = NOTHING;
	end[1] = 0x11;
	guest_describe(&guest, 0, HEADER, 16, GUEST_NEXT, 1);
	guest_describe(&guest, 1, GUEST_B - 100, SECTOR + 1, GUEST_WRITE, 0);
	guest_offer(&guest, 0);
	take_all();
	complete_all();
	assert_int_equal(end[-1], 0x77);
	assert_int_equal(*(uint8_t *)guest_at(&guest, GUEST_B - 100), 0x77);
	assert_int_equal(end[0], OK);
	assert_int_equal(end[1], 0x11);
	assert_int_equal(used_bytes(), SECTOR + 1);
}

static void the_id_has_twenty_bytes_padded_with_zeroes(void **state)
{
	const char id[21] = "oxbow-0123456789";

	(void)state;
	start();
	fill(0xff, 64);
	assert_int_equal(perform(GET_ID, 0, 0, 20), OK);
	assert_int_equal(used_bytes(), 21);
	assert_memory_equal(guest_at(&guest, DATA), id, 20);
	fill(0xff, 64);
	assert_int_equal(perform(GET_ID, 0, 0, 64), OK);
	assert_int_equal(used_bytes(), 21);
	assert_int_equal(*(uint8_t *)guest_at(&guest, DATA + 20), 0xff);
	assert_int_equal(perform(GET_ID, 0, 0, 5), OK);
	assert_int_equal(used_bytes(), 6);
	assert_int_equal(perform(GET_ID, 0, 0, 0), OK);
	assert_int_equal(used_bytes(), 1);
	assert_int_equal(submitted, 0);
}

/* ---- requests that are not ---- */

static void what_cannot_be_has_a_status_that_says_so(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t out_bytes;
		uint32_t in_bytes;
		uint8_t status;
	} rows[] = {
		{IN, SECTORS, 0, SECTOR, IOERR},
		{IN, SECTORS - 1, 0, 2 * SECTOR, IOERR},
		{IN, SECTORS - 1, 0, SECTOR, OK},
		{IN, UINT64_MAX, 0, SECTOR, IOERR},
		{IN, UINT64_MAX / SECTOR, 0, SECTOR, IOERR},
		{IN, UINT64_MAX / SECTOR + 1, 0, SECTOR, IOERR}, /* 0, if it wrapped */
		{IN, 0, 0, SECTOR - 1, IOERR},
		{IN, 0, 0, 1, IOERR},
		{IN, 0, 16, 0, OK}, /* of nothing */
		{IN, SECTORS, 0, 0, OK},
		{IN, SECTORS + 1, 0, 0, IOERR},
		{OUT, SECTORS, SECTOR, 0, IOERR},
		{OUT, UINT64_MAX / SECTOR + 1, SECTOR, 0, IOERR},
		{OUT, 0, SECTOR + 1, 0, IOERR},
		{OUT, 0, 1, SECTOR, IOERR},
		{2, 0, 0, SECTOR, UNSUPP},
		{3, 0, 0, SECTOR, UNSUPP},
		{5, 0, SECTOR, 0, UNSUPP},
		{10, 0, 0, SECTOR, UNSUPP},
		{14, 0, 16, 0, UNSUPP}, /* secure erase */
		{0x80000000, 0, 0, SECTOR, UNSUPP},
		{UINT32_MAX, UINT64_MAX, 0, 0, UNSUPP},
	};

	(void)state;
	start();
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
			perform(rows[i].type, rows[i].sector, rows[i].out_bytes, rows[i].in_bytes),
			rows[i].status);
		assert_int_equal(used_bytes(), 1 + (rows[i].status == OK ? rows[i].in_bytes : 0));
		assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_STARTED);
	}
}

static void a_header_that_is_too_short_fails(void **state)
{
	(void)state;
	start();
	write_header(IN, 0);
	guest_describe(&guest, 0, HEADER, 15, GUEST_NEXT, 1);
	guest_describe(&guest, 1, STATUS, 1, GUEST_WRITE, 0);
	guest_offer(&guest, 0);
	guest_offer(&guest, 1); /* no header at all; once the other is answered */
	assert_int_equal(ox_vhost_blk_take(blk_ring, 1), 1);
	assert_int_equal(*status(), IOERR);
	(void)!ox_vhost_ring_publish(ring);
	*status() = NOTHING;
	assert_int_equal(ox_vhost_blk_take(blk_ring, 2), 1);
	assert_int_equal(*status(), IOERR);
	(void)!ox_vhost_ring_publish(ring);
	assert_int_equal(*guest_used_index(&guest), 2);
}

static void a_chain_without_a_place_for_its_status_breaks_the_ring(void **state)
{
	(void)state;
	start();
	write_header(IN, 0);
	guest_describe(&guest, 0, HEADER, 16, 0, 0);
	guest_offer(&guest, 0);
	assert_int_equal(ox_vhost_blk_take(blk_ring, 1), -EPROTO);
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
	assert_int_equal(ox_vhost_ring_in_flight(ring), 0);
	(void)!ox_vhost_ring_publish(ring);
	(void)ox_vhost_ring_stop(ring);
}

static void a_read_only_disk_takes_no_change(void **state)
{
	const uint64_t writing = OX_VIRTIO_BLK_F_FLUSH | OX_VIRTIO_BLK_F_CONFIG_WCE |
				 OX_VIRTIO_BLK_F_DISCARD | OX_VIRTIO_BLK_F_WRITE_ZEROES;

	(void)state;
	blk.read_only = true;
	assert_int_equal(ox_vhost_blk_features(&blk) & writing, 0);
	assert_true(ox_vhost_blk_features(&blk) & OX_VIRTIO_BLK_F_RO);
	start();
	write_range(0, 1, 0);
	assert_int_equal(perform(OUT, 0, SECTOR, 0), IOERR);
	assert_int_equal(perform(DISCARD, 0, 16, 0), IOERR);
	assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), IOERR);
	assert_int_equal(submitted, 0);
	assert_int_equal(perform(IN, 0, 0, SECTOR), OK);
	assert_int_equal(perform(FLUSH, 0, 0, 0), OK);
}

static void a_disk_that_is_to_fail_fails_everything(void **state)
{
	static const uint32_t types[] = {IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99};

	(void)state;
	blk.failing = true;
	start();
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		assert_int_equal(perform(types[i], 0, 0, SECTOR), IOERR);
	assert_int_equal(submitted, 0);
}

static void what_the_library_refuses_or_fails_is_an_error(void **state)
{
	static const struct {
		int result;
		uint8_t status;
	} rows[] = {
		{0, OK}, {-EIO, IOERR}, {-ENOSPC, IOERR}, {-ECANCELED, IOERR}, {-ENOTSUP, UNSUPP}};

	(void)state;
	start();
	refuse_with = -ENOMEM;
	assert_int_equal(perform(IN, 0, 0, SECTOR), IOERR);
	refuse_with = 0;
	hold = true;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		offer_request(IN, 0, 0, SECTOR);
		take_all();
		assert_int_equal(ox_vhost_memory_held(guest.memory), 1);
		held[--held_count]->request.result = rows[i].result;
		ox_vhost_blk_completed(held[held_count]);
		(void)!ox_vhost_ring_publish(ring);
		assert_int_equal(*status(), rows[i].status);
		assert_int_equal(used_bytes(), rows[i].result == 0 ? SECTOR + 1 : 1);
	}
}

static void a_disk_that_grows_is_larger_for_the_next_request(void **state)
{
	(void)state;
	start();
	assert_int_equal(perform(IN, SECTORS, 0, SECTOR), IOERR);
	assert_int_equal(ox_resize(image, 2 * DISK_BYTES, NULL), 0);
	blk.size_bytes = 2 * DISK_BYTES;
	assert_int_equal(perform(IN, SECTORS, 0, SECTOR), OK);
}

/* ---- the write cache ---- */

static void a_change_of_the_cache_counts_from_the_next_request_on(void **state)
{
	const uint8_t off = 0;
	const uint8_t on = 1;

	(void)state;
	start();
	write_range(0, 1, 0);
	assert_int_equal(perform(OUT, 0, SECTOR, 0), OK);
	assert_int_equal(asked.flags, 0);
	assert_int_equal(ox_vhost_blk_config_write(&blk, OX_VHOST_BLK_CONFIG_WCE, 1, &off), 0);
	assert_int_equal(perform(OUT, 0, SECTOR, 0), OK);
	assert_int_equal(asked.flags, OX_REQ_FUA);
	write_range(0, 1, 0);
	assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), OK);
	assert_int_equal(asked.flags, OX_REQ_FUA);
	assert_int_equal(perform(IN, 0, 0, SECTOR), OK);
	assert_int_equal(asked.flags, 0);
	write_range(0, 1, 0);
	assert_int_equal(perform(DISCARD, 0, 16, 0), OK);
	assert_int_equal(asked.flags, 0);
	assert_int_equal(ox_vhost_blk_config_write(&blk, OX_VHOST_BLK_CONFIG_WCE, 1, &on), 0);
	assert_int_equal(perform(OUT, 0, SECTOR, 0), OK);
	assert_int_equal(asked.flags, 0);
}

/* ---- memory ---- */

static unsigned marked_bytes;
static unsigned marked_status;

static void note(void *opaque, uint64_t address, uint64_t bytes)
{
	(void)opaque;
	if (address == STATUS)
		marked_status++;
	else if (address >= GUEST_B - 100 && address + bytes <= GUEST_B + SECTOR)
		marked_bytes += (unsigned)bytes;
	else
		fail();
}

static void what_is_written_into_buffers_is_marked_as_dirty(void **state)
{
	const struct ox_vhost_dirty dirty = {note, NULL};

	(void)state;
	marked_bytes = marked_status = 0;
	start();
	blk.dirty = &dirty;
	assert_int_equal(perform(OUT, 0, SECTOR, 0), OK);
	assert_int_equal(marked_bytes, 0);
	assert_int_equal(marked_status, 1);
	write_header(IN, 0);
	guest_describe(&guest, 0, HEADER, 16, GUEST_NEXT, 1);
	guest_describe(&guest, 1, GUEST_B - 100, SECTOR, GUEST_NEXT | GUEST_WRITE, 2);
	guest_describe(&guest, 2, STATUS, 1, GUEST_WRITE, 0);
	guest_offer(&guest, 0);
	take_all();
	assert_int_equal(marked_bytes, 0); /* not before it is written */
	complete_all();
	assert_int_equal(marked_bytes, SECTOR);
	assert_int_equal(marked_status, 2);
}

/* Whether the kernel met the end or this process did, nobody is told that all went well. */
static void a_request_whose_memory_goes_is_not_answered_as_if_it_were_there(void **state)
{
	static const uint32_t types[] = {IN, OUT};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		guest_catches();
		ox_vhost_ring_set_base(ring, *guest_used_index(&guest));
		guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest);
		start();
		hold = true;
		if (types[i] == OUT)
			offer_request(OUT, 8, 64 * SECTOR, 0);
		else
			offer_request(IN, 8, 0, 64 * SECTOR);
		take_all();
		assert_int_equal(ftruncate(guest.fds[1], 0), 0);
		release_held();
		complete_all();
		if (*guest_used_index(&guest) == guest.offered)
			assert_int_equal(*status(), IOERR);
		else
			assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
		(void)ox_vhost_ring_stop(ring);
		assert_int_equal(ftruncate(guest.fds[1], 0x3000 + (off_t)GUEST_REGION_BYTES), 0);
		assert_int_equal(
			ox_vhost_memory_replace(guest.memory, guest_regions(), guest.fds, 2), 0);
	}
}

/* Whether a thread that may touch memory has the signal blocked; the kernel's own workers do not.
 */
static bool blocks_the_signal(const char *task)
{
	unsigned long long blocked = 0;
	bool is_kernels = false;
	char name[300];
	char line[256];
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/task/%s/status", task);
	f = task[0] == '.' ? NULL : fopen(name, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "Name:\tiou-", 10) == 0)
			is_kernels = true;
		(void)!sscanf(line, "SigBlk: %llx", &blocked);
	}
	if (f)
		fclose(f);
	return !is_kernels && blocked >> (SIGBUS - 1) & 1;
}

static bool a_thread_blocks_the_signal(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	bool found = false;

	assert_non_null(tasks);
	while ((entry = readdir(tasks)))
		found = found || blocks_the_signal(entry->d_name);
	closedir(tasks);
	return found;
}

/* It would kill, blocked, where the handler could have helped. The C library starts a thread with
 * every signal blocked, and may be seen before it lets them in. */
static void no_thread_blocks_the_signal_of_memory_that_is_gone(void **state)
{
	bool blocked = true;

	(void)state;
	start();
	assert_int_equal(perform(OUT, 0, SECTOR, 0), OK); /* the engine has its threads */
	assert_int_equal(perform(FLUSH, 0, 0, 0), OK);
	for (unsigned i = 0; blocked && i < 60000; i++) {
		blocked = a_thread_blocks_the_signal();
		if (blocked)
			usleep(1000);
	}
	assert_false(blocked);
}

/* ---- many ---- */

static void requests_in_flight_fill_the_ring_and_are_answered_once(void **state)
{
	(void)state;
	start();
	hold = true;
	for (unsigned round = 0; round < 3; round++) {
		*status() = NOTHING;
		write_header(IN, 0);
		for (uint16_t i = 0; i < SIZE; i += 2) {
			guest_describe(&guest, i, HEADER, 16, GUEST_NEXT, (uint16_t)(i + 1));
			guest_describe(&guest, (uint16_t)(i + 1), STATUS, 1, GUEST_WRITE, 0);
			guest_offer(&guest, i);
		}
		assert_int_equal(ox_vhost_blk_take(blk_ring, 10), 10);
		assert_int_equal(ox_vhost_blk_take(blk_ring, 1000), SIZE / 2 - 10);
		assert_int_equal(ox_vhost_memory_held(guest.memory), SIZE / 2);
		release_held();
		complete_all();
		assert_int_equal(*guest_used_index(&guest), (round + 1) * (SIZE / 2));
	}
}

struct vandal {
	bool stop;
	uint32_t seed;
};

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static void scribble(uint32_t *seed)
{
	static const uint32_t types[] = {IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99};
	uint32_t *header = guest_at(&guest, HEADER);
	const uint32_t kind = next_random(seed) % 8;

	header[0] = types[next_random(seed) % 7];
	header[2] = next_random(seed) % (SECTORS + 8);
	header[3] = kind == 0 ? UINT32_MAX : 0;
	write_range(next_random(seed) % (SECTORS + 8), next_random(seed) % 64, kind);
	guest_describe(&guest, 1, kind == 1 ? GUEST_B - 40 : DATA, kind == 2 ? 16 : SECTOR,
		       (uint16_t)(GUEST_NEXT | (next_random(seed) & GUEST_WRITE)), 2);
}

/* Headers, ranges and descriptors change at all times. */
static void *ravage(void *arg)
{
	struct vandal *vandal = arg;

	while (!__atomic_load_n(&vandal->stop, __ATOMIC_RELAXED))
		scribble(&vandal->seed);
	return NULL;
}

static void a_guest_that_changes_requests_while_they_are_read_reaches_nothing(void **state)
{
	struct vandal vandal = {.seed = 11};
	uint32_t seed = 12;
	pthread_t thread;

	(void)state;
	start();
	guest_describe(&guest, 0, HEADER, 16, GUEST_NEXT, 1);
	guest_describe(&guest, 1, DATA, SECTOR, GUEST_NEXT, 2);
	guest_describe(&guest, 2, STATUS, 1, GUEST_WRITE, 0);
	assert_int_equal(pthread_create(&thread, NULL, ravage, &vandal), 0);
	for (unsigned i = 0; i < 3000; i++) {
		scribble(&seed); /* something each time, where the thread has no core */
		*status() = NOTHING;
		guest_offer(&guest, 0);
		take_all();
		complete_all();
		assert_true(*status() <= UNSUPP);
	}
	__atomic_store_n(&vandal.stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(*guest_used_index(&guest), 3000);
	assert_true(submitted > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)
		TEST(what_is_written_is_read),
		TEST(header_data_and_status_may_be_split_anywhere),
		TEST(the_status_is_the_last_byte_of_what_is_written),
		TEST(the_id_has_twenty_bytes_padded_with_zeroes),
		TEST(what_cannot_be_has_a_status_that_says_so),
		TEST(a_header_that_is_too_short_fails),
		TEST(a_chain_without_a_place_for_its_status_breaks_the_ring),
		TEST(a_read_only_disk_takes_no_change),
		TEST(a_disk_that_is_to_fail_fails_everything),
		TEST(what_the_library_refuses_or_fails_is_an_error),
		TEST(a_disk_that_grows_is_larger_for_the_next_request),
		TEST(a_change_of_the_cache_counts_from_the_next_request_on),
		TEST(what_is_written_into_buffers_is_marked_as_dirty),
		TEST(a_request_whose_memory_goes_is_not_answered_as_if_it_were_there),
		TEST(no_thread_blocks_the_signal_of_memory_that_is_gone),
		TEST(requests_in_flight_fill_the_ring_and_are_answered_once),
		TEST(a_guest_that_changes_requests_while_they_are_read_reaches_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
