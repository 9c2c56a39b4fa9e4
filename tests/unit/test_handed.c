/* SPDX-License-Identifier: MIT */
/* What a service manager says to a process that it starts, and is told by it: words of the
 * environment, names of descriptors, and the queue of what it has not taken yet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/keeper/handed.h"
#include "cli/notify.h"

/* ---- descriptors that are handed over ---- */

static char taken[256];

static void take(void *opaque, int fd, const char *name, size_t length)
{
	size_t at = strlen(taken);

	assert_ptr_equal(opaque, taken);
	snprintf(taken + at, sizeof(taken) - at, "%d=%.*s ", fd, (int)length, name);
}

static void assert_taken(const char *pid, const char *fds, const char *names, int ret,
			 const char *text)
{
	const struct ox_handed_words words = {pid, fds, names};

	taken[0] = '\0';
	assert_int_equal(ox_handed_each(&words, 42, take, taken), ret);
	assert_string_equal(taken, text);
}

static void descriptors_are_taken_with_their_names(void **state)
{
	(void)state;
	assert_taken("42", "2", "a:bc", 0, "3=a 4=bc ");
	assert_taken("42", "3", "::x", 0, "3= 4= 5=x ");
	assert_taken("42", "1", "", 0, "3= ");
	assert_taken("42", "2", NULL, 0, "3= 4= ");
	assert_taken("42", "0", "", 0, "");
	assert_taken("42", "0", NULL, 0, "");
}

static void those_of_another_process_are_not_taken(void **state)
{
	(void)state;
	assert_taken("43", "2", "a:bc", 0, "");
	assert_taken(NULL, "2", "a:bc", 0, "");
	assert_taken("42", NULL, "a:bc", 0, "");
}

static void words_that_contradict_each_other_are_refused(void **state)
{
	(void)state;
	assert_taken("42", "2", "a", -EINVAL, "");
	assert_taken("42", "2", "a:b:c", -EINVAL, "");
	for (const char *const *word = (const char *const[]){"", "-1", " 1", "1 ", "0x1", "x",
							     "1.0", "99999999999999999999", NULL};
	     *word; word++) {
		assert_taken("42", *word, "a", -EINVAL, "");
		assert_taken(*word, "1", "a", -EINVAL, "");
	}
	assert_taken("42", "65537", NULL, -EINVAL, "");
}

/* ---- names ---- */

static void names_are_read_as_they_are_written(void **state)
{
	const struct ox_stored_name names[] = {
		{.kind = OX_STORED_STATE},   {.kind = OX_STORED_BARRIER},
		{.kind = OX_STORED_USED_UP}, {OX_STORED_FILE, 0, 1},
		{OX_STORED_FILE, 999, 1000}, {OX_STORED_WITNESS, 123456789, 2},
	};
	char text[OX_STORED_NAME_BYTES + 8];

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct ox_stored_name again;

		ox_stored_name_print(&names[i], text);
		again = ox_stored_name_parse(text, strlen(text));
		assert_int_equal(again.kind, names[i].kind);
		assert_int_equal(again.first, names[i].first);
		assert_int_equal(again.second, names[i].second);
		/* Neither more nor less than that. */
		again = ox_stored_name_parse(text, strlen(text) - 1);
		assert_true(again.kind == OX_STORED_FOREIGN || again.first != names[i].first ||
			    again.second != names[i].second);
		strcat(text, ".");
		assert_int_equal(ox_stored_name_parse(text, strlen(text)).kind, OX_STORED_FOREIGN);
	}
}

static void other_names_are_foreign(void **state)
{
	static const char *const names[] = {
		"",
		"oxbow",
		"oxbow-",
		"oxbow-stat",
		"oxbow-states",
		"Oxbow-state",
		"oxbow-file-",
		"oxbow-file-1",
		"oxbow-file-1.",
		"oxbow-file-.1",
		"oxbow-file-01.2",
		"oxbow-file-+1.2",
		"oxbow-file- 1.2",
		"oxbow-file--1.2",
		"oxbow-file-0x1.2",
		"oxbow-file-1.2.3",
		"oxbow-file-4294967296.4294967297",
		"oxbow-witness-1.2 ",
		"oxbow-witness-111111111111111111111111111111111111111111.1",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (ox_stored_name_parse(names[i], strlen(names[i])).kind != OX_STORED_FOREIGN)
			fail_msg("'%s' is taken for one of ours", names[i]);
}

/* ---- what the manager is told ---- */

static int manager = -1;

static void listen_as_manager(bool abstract)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char name[64];

	snprintf(name, sizeof(name), "%s/oxbow-test-notify-%d", abstract ? "@" : "/tmp",
		 (int)getpid());
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	if (abstract)
		address.sun_path[0] = '\0';
	else
		(void)unlink(name);
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(manager, (struct sockaddr *)&address,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
			 0);
	assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
}

static void stop_as_manager(void)
{
	char name[64];

	close(manager);
	snprintf(name, sizeof(name), "/tmp/oxbow-test-notify-%d", (int)getpid());
	(void)unlink(name);
}

/* The next message, with its descriptor if it has one. */
static bool hear(char *text, size_t size, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {text, size - 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(manager, &msg, MSG_CMSG_CLOEXEC);

	*ret_fd = -1;
	if (got < 0)
		return false;
	text[got] = '\0';
	if (CMSG_FIRSTHDR(&msg))
		memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return true;
}

static void assert_heard(const char *expected, int same_as)
{
	struct stat a;
	struct stat b;
	char text[256];
	int fd;

	assert_true(hear(text, sizeof(text), &fd));
	assert_string_equal(text, expected);
	assert_int_equal(fd >= 0, same_as >= 0);
	if (fd < 0)
		return;
	assert_int_equal(fstat(fd, &a) | fstat(same_as, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	close(fd);
}

static void the_manager_hears_what_it_is_told(void **state)
{
	struct ox_notify n;
	int pipes[2];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	for (int abstract = 0; abstract < 2; abstract++) {
		listen_as_manager(abstract);
		assert_int_equal(ox_notify_open(&n), 0);
		assert_null(getenv("NOTIFY_SOCKET"));
		ox_notify_send(&n, -1, "READY=%d", 1);
		ox_notify_send(&n, pipes[0], "FDSTORE=1");
		assert_false(ox_notify_waits(&n));
		assert_heard("READY=1", -1);
		assert_heard("FDSTORE=1", pipes[0]);
		ox_notify_close(&n);
		stop_as_manager();
	}
	close(pipes[0]);
	close(pipes[1]);
}

static void what_it_has_no_room_for_waits_in_its_order(void **state)
{
	struct ox_notify n;
	unsigned heard = 0;
	char text[256];
	int fd;

	(void)state;
	listen_as_manager(true);
	assert_int_equal(ox_notify_open(&n), 0);
	for (unsigned i = 0; i < 1000; i++) {
		int pipes[2];

		assert_int_equal(pipe(pipes), 0);
		ox_notify_send(&n, i % 2 ? pipes[0] : -1, "X=%u", i);
		close(pipes[0]); /* it has one of its own */
		close(pipes[1]);
	}
	assert_true(ox_notify_waits(&n));
	assert_false(ox_notify_drain(&n, 10));
	while (heard < 1000) {
		char expected[32];

		snprintf(expected, sizeof(expected), "X=%u", heard);
		assert_true(hear(text, sizeof(text), &fd));
		assert_string_equal(text, expected);
		assert_int_equal(fd >= 0, heard % 2);
		if (fd >= 0)
			close(fd);
		heard++;
		ox_notify_go_on(&n);
	}
	assert_false(ox_notify_waits(&n));
	assert_true(ox_notify_drain(&n, 0));
	ox_notify_close(&n);
	close(manager);
}

static void a_manager_that_is_gone_is_told_nothing(void **state)
{
	struct ox_notify n;

	(void)state;
	listen_as_manager(true);
	assert_int_equal(ox_notify_open(&n), 0);
	close(manager);
	ox_notify_send(&n, STDERR_FILENO, "X=1");
	assert_int_equal(n.error, -ECONNREFUSED);
	assert_false(ox_notify_drain(&n, 0));
	ox_notify_send(&n, STDERR_FILENO, "X=2");
	assert_false(ox_notify_waits(&n));
	ox_notify_close(&n);

	assert_int_equal(setenv("NOTIFY_SOCKET", "/nowhere/at/all", 1), 0);
	assert_int_equal(ox_notify_open(&n), -ENOENT);
	for (const char *const *name = (const char *const[]){"x", "@", "/", "vsock:2:1", NULL};
	     *name; name++) {
		assert_int_equal(setenv("NOTIFY_SOCKET", *name, 1), 0);
		assert_int_equal(ox_notify_open(&n), -EINVAL);
		assert_int_equal(n.socket, -1);
	}
	assert_int_equal(ox_notify_open(&n), 0); /* the variable is gone */
	assert_int_equal(n.socket, -1);
	assert_true(ox_notify_drain(&n, 0));
}

static void a_watchdog_has_the_time_that_is_said(void **state)
{
	(void)state;
	assert_int_equal(ox_notify_watchdog_ms("30000000", NULL, 42), 30000);
	assert_int_equal(ox_notify_watchdog_ms("30000000", "42", 42), 30000);
	assert_int_equal(ox_notify_watchdog_ms("30000000", "43", 42), 0);
	assert_int_equal(ox_notify_watchdog_ms("30000000", "x", 42), 0);
	assert_int_equal(ox_notify_watchdog_ms("1", NULL, 42), 1);
	assert_int_equal(ox_notify_watchdog_ms("0", NULL, 42), 0);
	assert_int_equal(ox_notify_watchdog_ms("-1", NULL, 42), 0);
	assert_int_equal(ox_notify_watchdog_ms("1s", NULL, 42), 0);
	assert_int_equal(ox_notify_watchdog_ms(NULL, NULL, 42), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors_are_taken_with_their_names),
		cmocka_unit_test(those_of_another_process_are_not_taken),
		cmocka_unit_test(words_that_contradict_each_other_are_refused),
		cmocka_unit_test(names_are_read_as_they_are_written),
		cmocka_unit_test(other_names_are_foreign),
		cmocka_unit_test(the_manager_hears_what_it_is_told),
		cmocka_unit_test(what_it_has_no_room_for_waits_in_its_order),
		cmocka_unit_test(a_manager_that_is_gone_is_told_nothing),
		cmocka_unit_test(a_watchdog_has_the_time_that_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
