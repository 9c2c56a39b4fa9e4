/* SPDX-License-Identifier: MIT */
/* Whether a process turns, hangs, or waits in the kernel: what a keeper makes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/keeper/watch.h"

#define HANG_MS 8000u
#define LOOKS 8

static struct ox_watch watch;
static struct ox_flight *flight;
static pid_t child;
static int64_t now_ms;

static int setup(void **state)
{
	(void)state;
	now_ms = 1000;
	child = 0;
	if (ox_watch_make(&watch, HANG_MS) < 0)
		return -1;
	return ox_flight_open(watch.memory, &(struct ox_flight_death){0}, &flight);
}

static int teardown(void **state)
{
	(void)state;
	ox_watch_end(&watch);
	ox_flight_close(flight);
	close(watch.memory);
	if (child > 0) {
		kill(-child, SIGKILL);
		assert_int_equal(waitpid(child, NULL, 0), child);
	}
	return 0;
}

/* In a process group of its own; in_kernel: it waits for a child of its own, as vfork has it, in a
 * state that looks like that of a disk. */
static void start(bool in_kernel)
{
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		setpgid(0, 0);
		if (in_kernel && vfork() != 0)
			_exit(0);
		for (;;)
			pause();
	}
	(void)setpgid(child, child);
}

static char state_of(pid_t pid)
{
	char path[64];
	char text[512] = "";
	const char *end;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	end = strrchr(text, ')');
	assert_non_null(end);
	return end[2];
}

static enum ox_watch_verdict look(void)
{
	now_ms = watch.look_ms;
	return ox_watch_look(&watch, now_ms);
}

static void a_process_that_stands_still_hangs_after_the_last_look(void **state)
{
	(void)state;
	start(false);
	ox_watch_begin(&watch, child, now_ms);
	for (int i = 0; i < LOOKS - 1; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
	++*ox_flight_turns(flight); /* in time */
	for (int i = 0; i < LOOKS; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
	assert_int_equal(look(), OX_WATCH_HANGS);
}

static void half_of_the_time_is_told_of_until_it_turns(void **state)
{
	(void)state;
	start(false);
	assert_false(ox_watch_stands_still(&watch)); /* nobody is watched */
	ox_watch_begin(&watch, child, now_ms);
	for (int i = 0; i < LOOKS / 2; i++) {
		assert_false(ox_watch_stands_still(&watch));
		assert_int_equal(look(), OX_WATCH_TURNS);
	}
	assert_true(ox_watch_stands_still(&watch));
	++*ox_flight_turns(flight);
	assert_int_equal(look(), OX_WATCH_TURNS);
	assert_false(ox_watch_stands_still(&watch));
}

/* The keeper did not run either: one look is one look, however late it comes. */
static void a_look_that_comes_late_counts_once(void **state)
{
	(void)state;
	start(false);
	ox_watch_begin(&watch, child, now_ms);
	assert_int_equal(ox_watch_look(&watch, now_ms + 100 * (int64_t)HANG_MS), OX_WATCH_TURNS);
	assert_true(watch.look_ms > now_ms + 100 * (int64_t)HANG_MS);
	assert_int_equal(look(), OX_WATCH_TURNS);
}

static void a_process_that_waits_in_the_kernel_is_told_of_once(void **state)
{
	const char *preloaded = getenv("LD_PRELOAD");

	(void)state;
	if (preloaded && strstr(preloaded, "vgpreload"))
		return; /* valgrind makes vfork a fork */
	start(true);
	while (state_of(child) != 'D')
		usleep(1000);
	ox_watch_begin(&watch, child, now_ms);
	for (int i = 0; i < LOOKS - 1; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
	assert_false(ox_watch_stands_still(&watch));
	assert_int_equal(look(), OX_WATCH_WAITS_FOR_DISK);
	for (int i = 0; i < 3 * LOOKS; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
}

static void the_next_process_has_all_its_time(void **state)
{
	(void)state;
	start(false);
	ox_watch_begin(&watch, child, now_ms);
	for (int i = 0; i < LOOKS - 1; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
	ox_watch_begin(&watch, child, now_ms);
	for (int i = 0; i < LOOKS - 1; i++)
		assert_int_equal(look(), OX_WATCH_TURNS);
	assert_int_equal(look(), OX_WATCH_HANGS);
}

static void nobody_is_watched_who_need_not_be(void **state)
{
	(void)state;
	start(false);
	watch.hang_ms = UINT_MAX;
	ox_watch_begin(&watch, child, now_ms);
	assert_true(watch.look_ms == INT64_MAX);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_process_that_stands_still_hangs_after_the_last_look),
		TEST(half_of_the_time_is_told_of_until_it_turns),
		TEST(a_look_that_comes_late_counts_once),
		TEST(a_process_that_waits_in_the_kernel_is_told_of_once),
		TEST(the_next_process_has_all_its_time),
		TEST(nobody_is_watched_who_need_not_be),
	};

	return cmocka_run_group_tests_name("watch", tests, NULL, NULL);
}
