/* SPDX-License-Identifier: MIT */
/*
 * Processes that die while they recover an image, and leave a state: the next one goes on with the
 * same lines, so that no death has a table copied once more (D10).
 */
#include "recovery_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image_bytes.h"

#define DEATHS 6u
#define TOUCHED 40u /* tables that each process changes */

static int state_fd;
static struct ox_image *living;
static unsigned *answered; /* requests, in memory that outlives the process */

static int setup_state(void **state)
{
	state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return state_fd < 0 || answered == MAP_FAILED ? -1 : setup(state);
}

static int teardown_state(void **state)
{
	(void)munmap(answered, 4096);
	close(state_fd);
	return teardown(state);
}

static uint64_t place(unsigned life, unsigned table)
{
	return table * TABLE_SPAN + MIB + life * CLUSTER;
}

static struct ox_image *open_life(void)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);

	opts.state_fd = state_fd;
	return open_with("disk.qcow2", &opts);
}

/* One cluster written, and one of the filled ones discarded, in each of the tables. */
static void live(unsigned life)
{
	struct ox_image *image = open_life();

	living = image;
	assert_running(image);
	for (unsigned table = 0; table < TOUCHED; table++) {
		assert_int_equal(write_block(image, place(life, table), (char)('a' + life), 0), 0);
		++*answered;
		if (life < FILLED_CLUSTERS)
			assert_int_equal(
				ox_discard(image, table * TABLE_SPAN + life * CLUSTER, CLUSTER), 0);
	}
	if (life ==
	    0) /* its copies are named on disk, the later ones' changes in the state alone */
		assert_int_equal(ox_flush(image), 0);
	assert_running(image);
}

/* The same, of a process that was told to end, and was killed before it had closed the image. */
static void live_and_leave(unsigned life)
{
	(void)life;
	live(0);
	ox_image_leave_recovery(living);
	assert_fails_with(living, "left to the next opening");
	assert_int_equal(ox_flush(living), 0);
}

static void die_after(void (*life_of)(unsigned life), unsigned life)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
			_exit(1);
		life_of(life);
		_exit(42);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void live_and_die(unsigned life)
{
	die_after(live, life);
}

static void assert_lives(struct ox_image *image, unsigned lives)
{
	for (unsigned life = 0; life < lives; life++) {
		for (unsigned table = 0; table < TOUCHED; table++) {
			assert_reads(image, place(life, table), (char)('a' + life));
			if (life < FILLED_CLUSTERS)
				assert_reads(image, table * TABLE_SPAN + life * CLUSTER, 0);
		}
	}
}

static uint64_t length(void)
{
	struct stat st;

	assert_int_equal(stat("disk.qcow2", &st), 0);
	return (uint64_t)st.st_size;
}

static void deaths_have_no_table_copied_again(void **state)
{
	struct ox_image *image;
	struct ox_check_result result;
	uint64_t table;
	uint64_t grown;

	(void)state;
	use_large();
	grown = length();
	live_and_die(0);
	table = l2_entry_at("disk.qcow2", place(0, 0));
	assert_true(table >= grown); /* a copy, past the old end */
	grown = length();
	for (unsigned life = 1; life < DEATHS; life++)
		live_and_die(life);
	assert_int_equal(*answered, DEATHS * TOUCHED);
	/* clusters for what was written, with as many in reserve at the most; and no table */
	assert_true(length() - grown < 4 * DEATHS * TOUCHED * CLUSTER);
	image = open_life();
	assert_lives(image, DEATHS);
	assert_recovers(image);
	assert_lives(image, DEATHS);
	close_image(image);
	assert_int_equal(l2_entry_at("disk.qcow2", place(0, 0)), table);
	result = check("disk.qcow2");
	assert_int_equal(result.leaks, 0);
	(void)assert_clean("disk.qcow2");
}

static void a_power_cut_after_deaths_begins_anew(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	live_and_die(0);
	live_and_die(1);
	close(state_fd);
	state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	image = open_life();
	assert_filled(image, TOUCHED, FILLED);
	assert_recovers(image);
	close_image(image);
	(void)assert_clean("disk.qcow2");
}

static void one_who_does_not_recover_beside_the_guest_begins_anew(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_WAIT);
	struct ox_image *image;

	(void)state;
	use_large();
	live_and_die(0);
	live_and_die(1);
	opts.state_fd = state_fd;
	image = open_with("disk.qcow2", &opts);
	assert_lives(image, 2);
	close_image(image);
	(void)assert_clean("disk.qcow2");
}

/* What it had done away with for that, the notes of clusters, nobody goes on without. */
static void an_opening_that_was_refused_has_the_next_one_begin_anew(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_NEVER);
	struct ox_image *image;

	(void)state;
	use_large();
	live_and_die(0);
	live_and_die(1);
	opts.state_fd = state_fd;
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), -EROFS);
	image = open_life();
	assert_lives(image, 2);
	assert_recovers(image);
	assert_lives(image, 2);
	close_image(image);
	assert_int_equal(check("disk.qcow2").leaks, 0);
	(void)assert_clean("disk.qcow2");
}

/* What was freed since was forgotten. */
static void a_recovery_that_was_left_is_begun_anew(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	die_after(live_and_leave, 0);
	image = open_life();
	assert_lives(image, 1);
	assert_recovers(image);
	assert_lives(image, 1);
	close_image(image);
	assert_int_equal(check("disk.qcow2").leaks, 0);
	(void)assert_clean("disk.qcow2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(deaths_have_no_table_copied_again, setup_state,
						teardown_state),
		cmocka_unit_test_setup_teardown(a_power_cut_after_deaths_begins_anew, setup_state,
						teardown_state),
		cmocka_unit_test_setup_teardown(
			one_who_does_not_recover_beside_the_guest_begins_anew, setup_state,
			teardown_state),
		cmocka_unit_test_setup_teardown(a_recovery_that_was_left_is_begun_anew, setup_state,
						teardown_state),
		cmocka_unit_test_setup_teardown(
			an_opening_that_was_refused_has_the_next_one_begin_anew, setup_state,
			teardown_state),
	};

	return cmocka_run_group_tests(tests, make_templates, remove_templates);
}
