/* SPDX-License-Identifier: MIT */
/* A guest's memory: what is translated lies in it, and a file that is too short, or becomes so,
 * kills nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_guest.h"
#include "serve/vhost/mapping.h"

static struct fake_guest guest;

static int setup(void **state)
{
	(void)state;
	guest_init(&guest, 16);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	guest_free(&guest);
	return 0;
}

static int translate(uint64_t address, uint64_t bytes)
{
	struct iovec pieces[4];

	return ox_vhost_memory_translate(guest.memory, address, bytes, pieces, 4);
}

static int file_of(uint64_t bytes)
{
	int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

static void a_range_over_two_adjacent_regions_is_split(void **state)
{
	struct iovec pieces[2];

	(void)state;
	memcpy(guest_at(&guest, GUEST_B - 4), "abcd", 4);
	memcpy(guest_at(&guest, GUEST_B), "efgh", 4);
	assert_int_equal(ox_vhost_memory_translate(guest.memory, GUEST_B - 4, 8, pieces, 2), 2);
	assert_int_equal(pieces[0].iov_len, 4);
	assert_int_equal(pieces[1].iov_len, 4);
	assert_memory_equal(pieces[0].iov_base, "abcd", 4);
	assert_memory_equal(pieces[1].iov_base, "efgh", 4);
	assert_int_equal(ox_vhost_memory_translate(guest.memory, GUEST_B - 4, 8, pieces, 1),
			 -E2BIG);
	assert_int_equal(translate(GUEST_A, 2 * GUEST_REGION_BYTES), 2);
}

static void nothing_outside_of_the_regions_is_translated(void **state)
{
	const struct {
		uint64_t address;
		uint64_t bytes;
	} outside[] = {
		{GUEST_A - 1, 1},
		{GUEST_A - 1, 2},
		{GUEST_END, 1},
		{GUEST_END - 1, 2},
		{GUEST_B - 1, GUEST_REGION_BYTES + 2},
		{GUEST_A, UINT64_MAX},
		{GUEST_END - 1, UINT64_MAX},
		{UINT64_MAX, 1},
		{UINT64_MAX, UINT64_MAX},
		{0, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++)
		assert_int_equal(translate(outside[i].address, outside[i].bytes), -EFAULT);
	assert_int_equal(translate(GUEST_END - 1, 1), 1);
}

static void front_end_addresses_lie_within_one_region(void **state)
{
	uint64_t address;
	uint8_t *place = ox_vhost_memory_user(guest.memory, GUEST_USER_B + 5, 10);

	(void)state;
	*(uint8_t *)guest_at(&guest, GUEST_B + 5) = 77;
	assert_int_equal(*place, 77);
	assert_true(ox_vhost_memory_guest_address(guest.memory, place, &address));
	assert_int_equal(address, GUEST_B + 5);
	assert_false(ox_vhost_memory_guest_address(guest.memory, &address, &address));
	assert_null(ox_vhost_memory_user(guest.memory, GUEST_USER_A - 1, 1));
	assert_null(ox_vhost_memory_user(guest.memory, GUEST_USER_A, GUEST_REGION_BYTES + 1));
	assert_null(ox_vhost_memory_user(guest.memory, GUEST_USER_A + 1, UINT64_MAX));
	assert_null(ox_vhost_memory_user(guest.memory, UINT64_MAX, 2));
	assert_non_null(ox_vhost_memory_user(guest.memory, GUEST_USER_A, GUEST_REGION_BYTES));
}

static void a_region_may_end_where_addresses_end(void **state)
{
	const struct ox_vhost_region last = {UINT64_MAX - 0xfff, 0x1000, UINT64_MAX - 0xfff, 0};
	int fd = file_of(0x1000);

	(void)state;
	assert_int_equal(ox_vhost_memory_add(guest.memory, &last, fd), 0);
	assert_int_equal(translate(UINT64_MAX, 1), 1);
	assert_int_equal(translate(UINT64_MAX, 2), -EFAULT);
	assert_non_null(ox_vhost_memory_user(guest.memory, UINT64_MAX, 1));
	close(fd);
}

static void regions_that_make_no_sense_are_refused(void **state)
{
	const struct {
		struct ox_vhost_region region;
		int code;
	} rows[] = {
		{{0x1000, 0, 0x1000, 0}, -EINVAL},
		{{UINT64_MAX, 2, 0x1000, 0}, -EINVAL},
		{{0x1000, 0x1000, UINT64_MAX - 0xffe, 0}, -EINVAL},
		{{0x1000, 0x1000, 0x1000, UINT64_MAX}, -EINVAL},
		{{0x1000, 0x1000, 0x1000, UINT64_MAX - 0xfff}, -EINVAL},
		{{0x1000, 0x1000, 0x1000, INT64_MAX}, -EINVAL},
		{{0x1000, 0x1001, 0x1000, 0}, -EFBIG},
		{{0x1000, 0x1000, 0x1000, 1}, -EFBIG},
		{{0x1000, 0x1000, 0x1000, 0x100000}, -EFBIG},
		{{GUEST_A, 1, 0x1000, 0}, -EEXIST},
		{{GUEST_END - 1, 1, 0x1000, 0}, -EEXIST},
		{{GUEST_A - 1, 2, 0x1000, 0}, -EEXIST},
		{{0x1000, 2, GUEST_USER_B - 1, 0}, -EEXIST},
		{{GUEST_A - 0x1000, 2 * GUEST_REGION_BYTES, 0x1000, 0}, -EEXIST},
	};
	int fd = file_of(0x1000);

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(ox_vhost_memory_add(guest.memory, &rows[i].region, fd),
				 rows[i].code);
	assert_int_equal(ox_vhost_memory_count(guest.memory), 2);
	close(fd);
}

static void what_is_no_file_of_ours_to_write_is_refused(void **state)
{
	const struct ox_vhost_region region = {0x1000, 0x1000, 0x1000, 0};
	int sealed = file_of(0x1000);
	int pipes[2];
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	int read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(ox_vhost_memory_add(guest.memory, &region, -1), -EBADF);
	assert_int_equal(ox_vhost_memory_add(guest.memory, &region, zero), -EINVAL);
	assert_int_equal(ox_vhost_memory_add(guest.memory, &region, pipes[0]), -EINVAL);
	assert_int_equal(ox_vhost_memory_add(guest.memory, &region, read_only), -EACCES);
	assert_int_equal(ox_vhost_memory_add(guest.memory, &region, sealed), -EPERM);
	close(sealed);
	close(zero);
	close(read_only);
	close(pipes[0]);
	close(pipes[1]);
}

static void a_table_is_replaced_as_a_whole_or_not_at_all(void **state)
{
	struct ox_vhost_region regions[2] = {{0x1000, 0x1000, 0x1000, 0},
					     {0x2000, 0x1001, 0x2000, 0}};
	int fds[2] = {file_of(0x1000), file_of(0x1000)};

	(void)state;
	assert_int_equal(ox_vhost_memory_replace(guest.memory, regions, fds, 2), -EFBIG);
	assert_int_equal(translate(GUEST_A, 1), 1);
	assert_int_equal(translate(0x1000, 1), -EFAULT);
	regions[1].bytes = 0x1000;
	assert_int_equal(ox_vhost_memory_replace(guest.memory, regions, fds, 2), 0);
	assert_int_equal(translate(GUEST_A, 1), -EFAULT);
	assert_int_equal(translate(0x1000, 0x2000), 2);
	assert_int_equal(ox_vhost_memory_replace(guest.memory, NULL, NULL, 0), 0);
	assert_int_equal(translate(0x1000, 1), -EFAULT);
	close(fds[0]);
	close(fds[1]);
}

static void so_many_regions_are_served_and_no_more(void **state)
{
	struct ox_vhost_region region = {.bytes = 0x1000};
	int fd = file_of(0x1000);
	int code = 0;
	size_t count;

	(void)state;
	assert_int_equal(ox_vhost_memory_replace(guest.memory, NULL, NULL, 0), 0);
	/* From above, so that each is put in front of the others. */
	for (count = 0; code == 0; count++) {
		region.guest_address = region.user_address = 0x10000000 - count * 0x1000;
		code = ox_vhost_memory_add(guest.memory, &region, fd);
	}
	assert_int_equal(code, -ENOSPC);
	assert_int_equal(count - 1, OX_VHOST_REGIONS_MAX);
	for (count = 0; count < OX_VHOST_REGIONS_MAX; count++)
		assert_int_equal(translate(0x10000000 - count * 0x1000 + 0xfff, 1), 1);
	region.guest_address = region.user_address = 0x10000000 - 7 * 0x1000;
	assert_int_equal(ox_vhost_memory_remove(guest.memory, &region), 0);
	assert_int_equal(ox_vhost_memory_remove(guest.memory, &region), -ENOENT);
	assert_int_equal(translate(region.guest_address, 1), -EFAULT);
	assert_int_equal(translate(region.guest_address - 1, 1), 1);
	assert_int_equal(translate(region.guest_address - 1, 2), -EFAULT);
	close(fd);
}

static void memory_that_requests_hold_is_not_unmapped(void **state)
{
	pid_t pid;
	int code;

	(void)state;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const struct rlimit none = {0, 0};

		(void)setrlimit(RLIMIT_CORE, &none);
		(void)signal(SIGABRT, SIG_DFL);
		ox_vhost_memory_hold(guest.memory);
		_exit(ox_vhost_memory_remove(guest.memory, guest_regions()) < 0);
	}
	assert_int_equal(waitpid(pid, &code, 0), pid);
	assert_true(WIFSIGNALED(code) && WTERMSIG(code) == SIGABRT);
	ox_vhost_memory_hold(guest.memory);
	assert_int_equal(ox_vhost_memory_held(guest.memory), 1);
	ox_vhost_memory_release(guest.memory);
	assert_int_equal(ox_vhost_memory_remove(guest.memory, guest_regions()), 0);
}

/* ---- files that become shorter ---- */

static volatile uint8_t *place_of(uint64_t address)
{
	struct iovec piece;

	assert_int_equal(ox_vhost_memory_translate(guest.memory, address, 1, &piece, 1), 1);
	return piece.iov_base;
}

static void a_file_that_shrinks_breaks_the_memory_and_not_the_process(void **state)
{
	volatile uint8_t *gone = place_of(GUEST_B + 0x8000);
	volatile uint8_t *other = place_of(GUEST_A + 0x8000);

	(void)state;
	guest_catches();
	*gone = 5;
	*other = 6;
	assert_int_equal(ftruncate(guest.fds[1], 0x4000), 0);
	assert_false(ox_vhost_memory_is_broken(guest.memory));
	assert_int_equal(*gone, 0);
	assert_true(ox_vhost_memory_is_broken(guest.memory));
	*gone = 7;
	assert_int_equal(*gone, 7);
	assert_int_equal(*other, 6);
	/* All of the region at once: what was left of the file is out of reach as well. */
	*place_of(GUEST_B) = 8;
	assert_int_equal(*(uint8_t *)guest_at(&guest, GUEST_B), 0);
	assert_true(ox_vhost_mapping_some_are_broken());
	/* New memory is not broken, also at the place of the old. */
	assert_int_equal(ftruncate(guest.fds[1], 0x3000 + (off_t)GUEST_REGION_BYTES), 0);
	assert_int_equal(ox_vhost_memory_replace(guest.memory, guest_regions(), guest.fds, 2), 0);
	assert_false(ox_vhost_memory_is_broken(guest.memory));
	assert_false(ox_vhost_mapping_some_are_broken());
}

static void *touch(void *arg)
{
	volatile uint8_t *place = arg;

	for (size_t i = 0; i < GUEST_REGION_BYTES; i += 64)
		place[i]++;
	return NULL;
}

static void threads_that_meet_the_end_together_live(void **state)
{
	volatile uint8_t *start = place_of(GUEST_B);
	pthread_t threads[4];

	(void)state;
	guest_catches();
	assert_int_equal(ftruncate(guest.fds[1], 0), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, touch, (void *)(uintptr_t)start),
				 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_true(ox_vhost_memory_is_broken(guest.memory));
}

static void the_kernel_asked_to_read_into_what_is_gone_says_so(void **state)
{
	volatile uint8_t *gone = place_of(GUEST_B);
	int fd = file_of(0x1000);

	(void)state;
	assert_int_equal(ftruncate(guest.fds[1], 0), 0);
	assert_int_equal(pread(fd, (void *)(uintptr_t)gone, 0x1000, 0), -1);
	assert_int_equal(errno, EFAULT);
	assert_false(ox_vhost_memory_is_broken(guest.memory));
	close(fd);
}

static volatile uint8_t *foreign_page(void)
{
	int fd = file_of(0x1000);
	uint8_t *map = mmap(NULL, 0x1000, PROT_READ, MAP_SHARED, fd, 0);

	assert_true(map != MAP_FAILED);
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	return map;
}

static void tell(int signal_number)
{
	(void)signal_number;
	_exit(42);
}

/* What becomes of a child whose SIGBUS had this handler before ours. */
static int die_with(void (*handler)(int), void (*act)(void))
{
	const struct rlimit none = {0, 0};
	pid_t pid = fork();
	int code;

	assert_true(pid >= 0);
	if (pid == 0) {
		(void)setrlimit(RLIMIT_CORE, &none);
		(void)signal(SIGBUS, handler);
		if (ox_vhost_mapping_catch() == 0)
			act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &code, 0), pid);
	return code;
}

static void touch_foreign_page(void)
{
	_exit(*foreign_page());
}

static void send_it(void)
{
	(void)raise(SIGBUS);
}

static void a_bus_error_of_somebody_else_goes_on_as_ever(void **state)
{
	void (*const acts[])(void) = {touch_foreign_page, send_it};
	int code;

	(void)state;
	for (int i = 0; i < 2; i++) {
		code = die_with(SIG_DFL, acts[i]);
		assert_true(WIFSIGNALED(code) && WTERMSIG(code) == SIGBUS);
		code = die_with(tell, acts[i]);
		assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 42);
	}
	code = die_with(SIG_IGN, send_it);
	assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)
		TEST(a_range_over_two_adjacent_regions_is_split),
		TEST(nothing_outside_of_the_regions_is_translated),
		TEST(front_end_addresses_lie_within_one_region),
		TEST(a_region_may_end_where_addresses_end),
		TEST(regions_that_make_no_sense_are_refused),
		TEST(what_is_no_file_of_ours_to_write_is_refused),
		TEST(a_table_is_replaced_as_a_whole_or_not_at_all),
		TEST(so_many_regions_are_served_and_no_more),
		TEST(memory_that_requests_hold_is_not_unmapped),
		TEST(a_file_that_shrinks_breaks_the_memory_and_not_the_process),
		TEST(threads_that_meet_the_end_together_live),
		TEST(the_kernel_asked_to_read_into_what_is_gone_says_so),
		TEST(a_bus_error_of_somebody_else_goes_on_as_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
