/* SPDX-License-Identifier: MIT */
/* Eventfds of others are signalled, and nobody is waited for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "serve/vhost/signal.h"

static struct ox_vhost_signals *signals;

static int setup(void **state)
{
	(void)state;
	return ox_vhost_signals_new(&signals);
}

static int teardown(void **state)
{
	(void)state;
	ox_vhost_signals_free(signals);
	return 0;
}

static void each_signal_counts(void **state)
{
	const int flags[] = {0, EFD_NONBLOCK};
	eventfd_t count;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const int fd = eventfd(0, flags[i]);

		for (int n = 0; n < 1000; n++) /* more than the kernel keeps completions of */
			ox_vhost_signal(signals, fd);
		assert_int_equal(eventfd_read(fd, &count), 0);
		assert_int_equal(count, 1000);
		close(fd);
	}
	ox_vhost_signal(signals, -1);
}

/* A write would wait here for ever. */
static void one_that_is_full_and_blocks_keeps_nobody_waiting(void **state)
{
	const int fd = eventfd(0, EFD_NONBLOCK);
	const uint64_t most = UINT64_MAX - 1;
	eventfd_t count;

	(void)state;
	assert_int_equal(write(fd, &most, sizeof(most)), sizeof(most));
	assert_int_equal(fcntl(fd, F_SETFL, O_RDWR), 0); /* it blocks from now on */
	for (int n = 0; n < 100; n++)
		ox_vhost_signal(signals, fd);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0); /* and that is left so */
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_true(count >= most);
	ox_vhost_signal(signals, fd);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 1);
	close(fd);
}

static void what_is_no_eventfd_is_left_alone(void **state)
{
	const int timer = timerfd_create(CLOCK_MONOTONIC, 0);
	const int file = memfd_create("no eventfd", 0);
	int pair[2];
	struct stat st;
	char byte;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ox_vhost_signal(signals, timer);
	ox_vhost_signal(signals, file);
	ox_vhost_signal(signals, pair[0]);
	assert_int_equal(fstat(file, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(recv(pair[1], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close(timer);
	close(file);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_signal_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_is_full_and_blocks_keeps_nobody_waiting,
						setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_no_eventfd_is_left_alone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
