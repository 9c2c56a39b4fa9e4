/* SPDX-License-Identifier: MIT */
/* A call that never returns ends the process all the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/deadline.h"

/* A child that never comes back from its call; its standard error is fd. Returns how it ended. */
static int hang_with_deadline(int fd)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		dup2(fd, STDERR_FILENO);
		ox_cli_deadline_begin(20, "time is up\n");
		for (;;)
			pause();
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static void test_a_call_that_never_returns_ends_the_process(void **state)
{
	char text[32] = {0};
	int ends[2];
	int status;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	status = hang_with_deadline(ends[1]);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_int_equal(read(ends[0], text, sizeof(text)), strlen("time is up\n"));
	assert_string_equal(text, "time is up\n");
	close(ends[0]);
	close(ends[1]);
}

static void test_nor_does_a_full_pipe_keep_it(void **state)
{
	static char much[65536];
	int ends[2];
	int status;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	while (write(ends[1], much, sizeof(much)) > 0)
		;
	assert_int_equal(fcntl(ends[1], F_SETFL, 0), 0);
	status = hang_with_deadline(ends[1]);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	close(ends[0]);
	close(ends[1]);
}

static void test_a_call_that_returns_in_time_ends_nothing(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0) {
		ox_cli_deadline_begin(20, "");
		ox_cli_deadline_end();
		usleep(100000);
		_exit(7);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_call_that_never_returns_ends_the_process),
		cmocka_unit_test(test_nor_does_a_full_pipe_keep_it),
		cmocka_unit_test(test_a_call_that_returns_in_time_ends_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
