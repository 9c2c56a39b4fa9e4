/* SPDX-License-Identifier: MIT */
/* What is in flight when a server dies: the next one knows it, at whatever instruction the death
 * came, and whatever a process that went astray has written there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "serve/flight.h"

#define MEMORY_MAX (128u << 10)

static int memory;

static int setup(void **state)
{
	(void)state;
	memory = ox_flight_make();
	return memory < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(memory);
	return 0;
}

static struct ox_flight_request request_at(uint64_t offset)
{
	return (struct ox_flight_request){OX_OP_WRITE, offset, offset + 1};
}

static uint32_t later_ms; /* that the servers die after their requests have begun */

static uint32_t died_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return ((uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000) +
		later_ms) &
	       UINT32_C(0x7fffffff);
}

static struct ox_flight *open_flight(bool blamed)
{
	struct ox_flight *flight = NULL;

	const struct ox_flight_death death = {.from_outside = !blamed, .ms = died_ms()};

	assert_int_equal(ox_flight_open(memory, &death, &flight), 0);
	return flight;
}

/* A server that begins the request, and dies. */
static void die_with(struct ox_flight_request request)
{
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_note note = {0};

	assert_int_equal(ox_flight_begin(flight, &request, &note), OX_FLIGHT_GO);
	ox_flight_close(flight);
}

/* What the next server says of it, to which nothing else happens. */
static enum ox_flight_verdict ask(struct ox_flight *flight, struct ox_flight_request request,
				  bool *ret_suspect)
{
	struct ox_flight_note note = {0};
	enum ox_flight_verdict verdict = ox_flight_begin(flight, &request, &note);

	*ret_suspect = note.suspect > 0;
	return verdict;
}

static void what_was_in_flight_at_two_deaths_is_refused_and_told_once(void **state)
{
	struct ox_flight_request told;
	struct ox_flight *flight;
	bool suspect;

	(void)state;
	die_with(request_at(4096));
	die_with(request_at(4096));
	for (unsigned i = 0; i < 3; i++) {
		flight = open_flight(i == 0);
		assert_int_equal(ox_flight_next_refused(flight, &told), i == 0);
		assert_int_equal(ask(flight, request_at(4096), &suspect), OX_FLIGHT_REFUSE);
		assert_int_equal(ask(flight, request_at(8192), &suspect), OX_FLIGHT_GO);
		assert_false(suspect);
		ox_flight_close(flight);
	}
	assert_int_equal(told.op, OX_OP_WRITE);
	assert_int_equal(told.offset, 4096);
	assert_int_equal(told.length, 4097);
}

static void what_completes_between_two_deaths_is_not_refused(void **state)
{
	struct ox_flight_request request = request_at(0);
	struct ox_flight_note note = {0};
	struct ox_flight *flight;
	bool suspect;

	(void)state;
	die_with(request);
	flight = open_flight(true);
	assert_int_equal(ox_flight_begin(flight, &request, &note), OX_FLIGHT_GO);
	ox_flight_end(flight, &note);
	ox_flight_close(flight);
	die_with(request);
	flight = open_flight(true);
	assert_int_equal(ask(flight, request, &suspect), OX_FLIGHT_GO);
	assert_true(suspect);
	ox_flight_close(flight);
}

static void deaths_that_came_from_outside_do_not_count(void **state)
{
	struct ox_flight *flight;
	bool suspect;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		die_with(request_at(0));
		ox_flight_close(open_flight(false));
	}
	flight = open_flight(true);
	assert_int_equal(ask(flight, request_at(0), &suspect), OX_FLIGHT_GO);
	assert_false(suspect);
	ox_flight_close(flight);
}

static void deaths_from_outside_count_for_what_takes_long(void **state)
{
	struct ox_flight *flight;
	bool suspect;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		die_with(request_at(0));
		later_ms = OX_FLIGHT_LONG_MS + 1;
		ox_flight_close(open_flight(false));
		later_ms = 0;
	}
	flight = open_flight(true);
	assert_int_equal(ask(flight, request_at(0), &suspect), OX_FLIGHT_REFUSE);
	ox_flight_close(flight);
}

static void other_deaths_between_two_do_not_make_a_request_innocent(void **state)
{
	struct ox_flight *flight;
	bool suspect;

	(void)state;
	die_with(request_at(0));
	die_with(request_at(4096));
	die_with(request_at(0));
	flight = open_flight(true);
	assert_int_equal(ask(flight, request_at(0), &suspect), OX_FLIGHT_REFUSE);
	assert_int_equal(ask(flight, request_at(4096), &suspect), OX_FLIGHT_GO);
	ox_flight_close(flight);
}

static void suspects_are_tried_one_at_a_time(void **state)
{
	struct ox_flight_request both[] = {request_at(0), request_at(4096)};
	struct ox_flight_note notes[2] = {0};
	struct ox_flight *flight = open_flight(true);

	(void)state;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(ox_flight_begin(flight, &both[i], &notes[i]), OX_FLIGHT_GO);
	ox_flight_close(flight);
	flight = open_flight(true);
	assert_int_equal(ox_flight_begin(flight, &both[0], &notes[0]), OX_FLIGHT_GO);
	assert_true(ox_flight_tries(flight));
	assert_int_equal(ox_flight_begin(flight, &both[0], &notes[1]), OX_FLIGHT_WAIT);
	assert_int_equal(ox_flight_begin(flight, &both[1], &notes[1]), OX_FLIGHT_WAIT);
	ox_flight_end(flight, &notes[0]);
	assert_int_equal(ox_flight_begin(flight, &both[1], &notes[1]), OX_FLIGHT_GO);
	ox_flight_end(flight, &notes[1]);
	assert_false(ox_flight_tries(flight));
	ox_flight_close(flight);
}

static void requests_without_room_are_carried_out_all_the_same(void **state)
{
	static struct ox_flight_note notes[OX_FLIGHT_SLOTS + 1];
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_request request;

	(void)state;
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i <= OX_FLIGHT_SLOTS; i++) {
			request = request_at(i);
			assert_int_equal(ox_flight_begin(flight, &request, &notes[i]),
					 OX_FLIGHT_GO);
		}
		if (round == 0)
			for (unsigned i = 0; i <= OX_FLIGHT_SLOTS; i++)
				ox_flight_end(flight, &notes[i]);
	}
	ox_flight_close(flight);
	/* More are suspected than there is room for; none twice for one death. */
	flight = open_flight(true);
	assert_false(ox_flight_next_refused(flight, &request));
	ox_flight_close(flight);
}

static void turns_are_seen(void **state)
{
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_watch watch;

	(void)state;
	assert_int_equal(ox_flight_watch(memory, &watch), 0);
	assert_false(ox_flight_has_turned(&watch));
	++*ox_flight_turns(flight);
	assert_true(ox_flight_has_turned(&watch));
	assert_false(ox_flight_has_turned(&watch));
	ox_flight_close(flight);
}

/* ---- what others have written ---- */

static void memory_that_can_be_cut_short_is_refused(void **state)
{
	static const off_t lengths[] = {0, 4096, MEMORY_MAX};
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct ox_flight_watch watch;
	struct ox_flight *flight;
	struct stat st;

	(void)state;
	assert_int_equal(fstat(memory, &st), 0);
	for (unsigned i = 0; i < 4; i++) {
		int fd = memfd_create("other", MFD_ALLOW_SEALING);

		assert_int_equal(ftruncate(fd, i < 3 ? lengths[i] : st.st_size), 0);
		if (i < 3)
			assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
		assert_int_equal(ox_flight_open(fd, &(struct ox_flight_death){0}, &flight),
				 -EINVAL);
		assert_int_equal(ox_flight_watch(fd, &watch), -EINVAL);
		close(fd);
	}
	assert_int_equal(ox_flight_open(-1, &(struct ox_flight_death){0}, &flight), -EINVAL);
	assert_true(ftruncate(memory, 0) < 0);
}

static void fill(unsigned seed)
{
	struct stat st;

	assert_int_equal(fstat(memory, &st), 0);
	for (off_t at = 0; at < st.st_size; at += 8) {
		uint64_t word = seed == 0 ? UINT64_MAX
					  : ((uint64_t)rand() << 40 ^ (uint64_t)rand()) &
						    (seed % 2 ? UINT64_MAX : 0x0000000100000fff);

		assert_int_equal(pwrite(memory, &word, 8, at), 8);
	}
}

static void any_bytes_are_taken_in(void **state)
{
	(void)state;
	srand(7);
	for (unsigned seed = 0; seed < 20; seed++) {
		struct ox_flight_request told;
		struct ox_flight *flight;
		unsigned count = 0;

		fill(seed);
		flight = open_flight(true);
		for (; ox_flight_next_refused(flight, &told); count++)
			assert_true(told.op <= OX_OP_EXTENT);
		assert_true(count <= OX_FLIGHT_SUSPECTS);
		for (unsigned i = 0; i < 2 * OX_FLIGHT_SLOTS; i++) {
			struct ox_flight_request request = request_at(i % 64);
			struct ox_flight_note note = {0};

			if (ox_flight_begin(flight, &request, &note) == OX_FLIGHT_GO)
				ox_flight_end(flight, &note);
		}
		ox_flight_close(flight);
	}
}

/* ---- a death at any instruction ---- */

/* The memory as it is, for a successor that has it to itself. */
static int copy_memory(void)
{
	static uint8_t bytes[MEMORY_MAX];
	int copy = ox_flight_make();
	struct stat st;

	assert_int_equal(fstat(memory, &st), 0);
	assert_true(copy >= 0 && st.st_size <= (off_t)sizeof(bytes));
	assert_int_equal(pread(memory, bytes, (size_t)st.st_size, 0), st.st_size);
	assert_int_equal(pwrite(copy, bytes, (size_t)st.st_size, 0), st.st_size);
	return copy;
}

/* Runs act in a process that is stopped after each instruction, where check looks at what its death
 * would leave. Returns the instructions; 0 where a process cannot be traced. */
static unsigned at_every_instruction(void (*act)(void *arg), void *arg, void (*check)(void))
{
	const char *preloaded = getenv("LD_PRELOAD");
	unsigned count = 0;
	pid_t pid;
	int code;

	if (preloaded && strstr(preloaded, "vgpreload"))
		return 0; /* valgrind runs other instructions than these */
	pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		raise(SIGSTOP);
		act(arg);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &code, 0), pid);
	if (WIFEXITED(code))
		return 0;
	for (; WIFSTOPPED(code); count++) {
		int whole = memory;

		memory = copy_memory();
		check();
		close(memory);
		memory = whole;
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &code, 0), pid);
	}
	assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
	return count;
}

static void begin_and_end(void *arg)
{
	struct ox_flight *flight = arg;
	struct ox_flight_request request = request_at(8192);
	struct ox_flight_note note = {0};

	if (ox_flight_begin(flight, &request, &note) != OX_FLIGHT_GO)
		_exit(1);
	ox_flight_end(flight, &note);
}

/* The slot held the other request before: halves of both would be a third. */
static void no_third_is_suspected(void)
{
	const struct ox_flight_request mixed[] = {
		{OX_OP_WRITE, 4096, 8193}, {OX_OP_WRITE, 8192, 4097}, {OX_OP_WRITE, 4096, 4097}};
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_request refused;
	bool suspect;

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ask(flight, mixed[i], &suspect), OX_FLIGHT_GO);
		assert_false(suspect);
	}
	assert_false(ox_flight_next_refused(flight, &refused));
	ox_flight_close(flight);
}

static void a_death_between_two_stores_suspects_nothing_else(void **state)
{
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_request other = request_at(4096);
	struct ox_flight_note note = {0};

	(void)state;
	assert_int_equal(ox_flight_begin(flight, &other, &note), OX_FLIGHT_GO);
	ox_flight_end(flight, &note);
	if (at_every_instruction(begin_and_end, flight, no_third_is_suspected) == 0)
		print_message("a process cannot be traced here: not tried\n");
	ox_flight_close(flight);
}

static void take_in(void *arg)
{
	struct ox_flight *flight;

	(void)arg;
	if (ox_flight_open(memory, &(struct ox_flight_death){0}, &flight) < 0)
		_exit(1);
}

/* Of the two that were in flight at the last death, one had been in flight at the one before. */
static void one_is_refused_and_one_suspected(void)
{
	struct ox_flight *flight = open_flight(true);
	struct ox_flight_request told;
	bool suspect;

	assert_true(ox_flight_next_refused(flight, &told));
	assert_int_equal(told.offset, 4096);
	assert_false(ox_flight_next_refused(flight, &told));
	assert_int_equal(ask(flight, request_at(8192), &suspect), OX_FLIGHT_GO);
	assert_true(suspect);
	ox_flight_close(flight);
}

static void a_death_while_deaths_are_counted_counts_none_twice(void **state)
{
	struct ox_flight_request both[] = {request_at(4096), request_at(8192)};
	struct ox_flight_note note = {0};
	struct ox_flight *flight;

	(void)state;
	die_with(both[0]);
	flight = open_flight(true);
	for (unsigned i = 0; i < 2; i++) {
		/* The suspect is taken first: the other is none. */
		assert_int_equal(ox_flight_begin(flight, &both[i], &note), OX_FLIGHT_GO);
	}
	ox_flight_close(flight);
	if (at_every_instruction(take_in, NULL, one_is_refused_and_one_suspected) == 0)
		print_message("a process cannot be traced here: not tried\n");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_in_flight_at_two_deaths_is_refused_and_told_once),
		TEST(what_completes_between_two_deaths_is_not_refused),
		TEST(deaths_that_came_from_outside_do_not_count),
		TEST(deaths_from_outside_count_for_what_takes_long),
		TEST(other_deaths_between_two_do_not_make_a_request_innocent),
		TEST(suspects_are_tried_one_at_a_time),
		TEST(requests_without_room_are_carried_out_all_the_same),
		TEST(turns_are_seen),
		TEST(memory_that_can_be_cut_short_is_refused),
		TEST(any_bytes_are_taken_in),
		TEST(a_death_between_two_stores_suspects_nothing_else),
		TEST(a_death_while_deaths_are_counted_counts_none_twice),
	};

	return cmocka_run_group_tests_name("flight", tests, NULL, NULL);
}
