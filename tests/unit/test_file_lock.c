/* SPDX-License-Identifier: MIT */
/* The image locks, among themselves and against the real qemu-io. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file_lock.h"

static const struct ox_file_lock none;
static const struct ox_file_lock writer = {
	OX_FILE_LOCK_READ | OX_FILE_LOCK_WRITE | OX_FILE_LOCK_RESIZE,
	OX_FILE_LOCK_WRITE | OX_FILE_LOCK_RESIZE,
};
static const struct ox_file_lock reader = {
	OX_FILE_LOCK_READ,
	OX_FILE_LOCK_WRITE | OX_FILE_LOCK_RESIZE,
};
static const struct ox_file_lock sharer = {OX_FILE_LOCK_READ, 0};

static char dir[] = "/tmp/ox-test-lock-XXXXXX";
static char path[64];

static int make_image(void **state)
{
	char command[160];

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/a.qcow2", dir);
	snprintf(command, sizeof(command), "qemu-img create -q -f qcow2 %s 1M", path);
	return system(command);
}

static int remove_image(void **state)
{
	(void)state;
	return unlink(path) || rmdir(dir);
}

static int open_image(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int take(int fd, struct ox_file_lock *have, struct ox_file_lock want, struct ox_error **err)
{
	struct ox_file_lock_taker taker = {.fd = fd, .name = path};

	return ox_file_lock_take(&taker, have, want, err);
}

/* A descriptor that has the locks. */
static int open_locked(struct ox_file_lock want)
{
	struct ox_file_lock have = none;
	int fd = open_image();

	assert_int_equal(take(fd, &have, want, NULL), 0);
	assert_int_equal(have.held, want.held);
	assert_int_equal(have.unshared, want.unshared);
	return fd;
}

static void assert_allowed(struct ox_file_lock want)
{
	close(open_locked(want));
}

static void assert_refused(struct ox_file_lock want, const char *message)
{
	struct ox_file_lock have = none;
	struct ox_error *err = NULL;
	int fd = open_image();

	assert_int_equal(take(fd, &have, want, &err), -EAGAIN);
	assert_int_equal(have.held | have.unshared, 0);
	if (!strstr(ox_error_message(err), message))
		fail_msg("'%s' lacks '%s'", ox_error_message(err), message);
	ox_error_free(err);
	close(fd);
}

static void a_writer_keeps_writers_and_readers_out(void **state)
{
	int fd = open_locked(writer);
	char message[256];

	(void)state;
	snprintf(message, sizeof(message),
		 "Failed to get \"write\" lock\nIs another process using the image [%s]?", path);
	assert_refused(writer, message);
	snprintf(message, sizeof(message),
		 "Failed to get shared \"write\" lock\n"
		 "Is another process using the image [%s]?\n(held by this process itself)",
		 path);
	assert_refused(reader, message);
	assert_allowed(sharer);
	close(fd);
	assert_allowed(writer);
}

static void a_reader_keeps_writers_out_only(void **state)
{
	int fd = open_locked(reader);

	(void)state;
	assert_refused(writer, "Failed to get \"write\" lock");
	assert_allowed(reader);
	assert_allowed(sharer);
	close(fd);
}

static void a_refused_taker_leaves_no_lock_behind(void **state)
{
	int fd = open_locked(reader);
	struct ox_file_lock have = none;
	int other = open_image();

	(void)state;
	assert_int_equal(take(other, &have, writer, NULL), -EAGAIN);
	assert_allowed(reader);
	close(fd);
	assert_allowed(writer);
	close(other);
}

static void a_refused_upgrade_keeps_what_was_there(void **state)
{
	struct ox_file_lock have = none;
	int other = open_locked(reader);
	int fd = open_image();

	(void)state;
	assert_int_equal(take(fd, &have, reader, NULL), 0);
	assert_int_equal(take(fd, &have, writer, NULL), -EAGAIN);
	assert_int_equal(have.held, reader.held);
	assert_int_equal(have.unshared, reader.unshared);
	close(other);
	assert_refused(writer, "Failed to get \"write\" lock");
	assert_int_equal(take(fd, &have, writer, NULL), 0);
	close(fd);
}

static void what_is_not_kept_is_free_for_others(void **state)
{
	struct ox_file_lock have = none;
	int fd = open_image();

	(void)state;
	assert_int_equal(take(fd, &have, writer, NULL), 0);
	ox_file_lock_keep(fd, &have, reader);
	assert_int_equal(have.held, reader.held);
	assert_allowed(reader);
	ox_file_lock_keep(fd, &have, none);
	assert_allowed(writer);
	close(fd);
}

static void copied_locks_outlive_the_first_descriptor(void **state)
{
	int fd = open_locked(writer);
	int copy = open_image();

	(void)state;
	assert_int_equal(ox_file_lock_copy(copy, path, writer, NULL), 0);
	close(fd);
	assert_refused(writer, "Failed to get \"write\" lock");
	close(copy);
}

/* ---- against qemu-io ---- */

struct qemu {
	pid_t pid;
	int to;
	FILE *from;
};

/* Starts qemu-io on the image and returns once it has it open. */
static void qemu_start(struct qemu *q, const char *mode)
{
	int to[2];
	int from[2];
	char line[256] = "";

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	q->pid = fork();
	assert_true(q->pid >= 0);
	if (q->pid == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		dup2(from[1], 2);
		execlp("qemu-io", "qemu-io", "-f", "qcow2", path, mode, (char *)NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	q->to = to[1];
	q->from = fdopen(from[0], "r");
	assert_int_equal(write(q->to, "read 0 512\n", 11), 11);
	while (!strstr(line, "read 512/512"))
		assert_non_null(fgets(line, sizeof(line), q->from));
}

static void qemu_stop(struct qemu *q)
{
	char line[256];
	int status;

	close(q->to);
	while (fgets(line, sizeof(line), q->from))
		;
	fclose(q->from);
	assert_int_equal(waitpid(q->pid, &status, 0), q->pid);
	assert_int_equal(status, 0);
}

/* Whether qemu-io can read the image; the refusal, if it is one, must hold message. */
static bool qemu_reads(const char *options, const char *message)
{
	char command[256];
	char text[1024] = "";
	bool reads;
	FILE *out;

	snprintf(command, sizeof(command), "qemu-io %s -f qcow2 %s -c 'read 0 512' 2>&1", options,
		 path);
	out = popen(command, "re");
	assert_non_null(out);
	text[fread(text, 1, sizeof(text) - 1, out)] = '\0';
	pclose(out);
	reads = strstr(text, "read 512/512") != NULL;
	if (!reads && !strstr(text, message))
		fail_msg("'%s' lacks '%s'", text, message);
	return reads;
}

static void qemu_as_writer_keeps_us_out(void **state)
{
	struct qemu q;
	char message[256];

	(void)state;
	qemu_start(&q, "--cache=writeback");
	snprintf(message, sizeof(message),
		 "Failed to get \"write\" lock\n"
		 "Is another process using the image [%s]?\n(held by qemu-io, process %d)",
		 path, (int)q.pid);
	assert_refused(writer, message);
	assert_refused(reader, "Failed to get shared \"write\" lock");
	assert_allowed(sharer);
	qemu_stop(&q);
	assert_allowed(writer);
}

static void qemu_as_reader_lets_us_read_only(void **state)
{
	struct qemu q;

	(void)state;
	qemu_start(&q, "-r");
	assert_refused(writer, "Failed to get \"write\" lock");
	assert_allowed(reader);
	qemu_stop(&q);
}

static void our_writer_keeps_qemu_out(void **state)
{
	int fd = open_locked(writer);

	(void)state;
	assert_false(qemu_reads("", "Failed to get \"write\" lock"));
	assert_false(qemu_reads("-r", "Failed to get shared \"write\" lock"));
	assert_true(qemu_reads("-r -U", ""));
	close(fd);
	assert_true(qemu_reads("", ""));
}

static void our_reader_lets_qemu_read_only(void **state)
{
	int fd = open_locked(reader);

	(void)state;
	assert_false(qemu_reads("", "Failed to get \"write\" lock"));
	assert_true(qemu_reads("-r", ""));
	close(fd);
}

/* A process of that name, with the descriptors of this one. */
static pid_t start_named(const char *name)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (prctl(PR_SET_NAME, name) == 0 && write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end_named(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void a_lock_in_the_store_of_systemd_is_told_as_the_service_s(void **state)
{
	int fd = open_locked(writer);
	pid_t manager = start_named("systemd");
	pid_t service = start_named("service");
	char message[256];

	(void)state;
	close(fd);
	snprintf(message, sizeof(message), "\n(held by service, process %d)", (int)service);
	assert_refused(writer, message);
	end_named(service);
	snprintf(message, sizeof(message),
		 "\n(held by systemd, process %d, for a service that has died and may be started "
		 "again)",
		 (int)manager);
	assert_refused(writer, message);
	end_named(manager);
	assert_allowed(writer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_writer_keeps_writers_and_readers_out),
		cmocka_unit_test(a_reader_keeps_writers_out_only),
		cmocka_unit_test(a_refused_taker_leaves_no_lock_behind),
		cmocka_unit_test(a_refused_upgrade_keeps_what_was_there),
		cmocka_unit_test(what_is_not_kept_is_free_for_others),
		cmocka_unit_test(copied_locks_outlive_the_first_descriptor),
		cmocka_unit_test(qemu_as_writer_keeps_us_out),
		cmocka_unit_test(qemu_as_reader_lets_us_read_only),
		cmocka_unit_test(our_writer_keeps_qemu_out),
		cmocka_unit_test(our_reader_lets_qemu_read_only),
		cmocka_unit_test(a_lock_in_the_store_of_systemd_is_told_as_the_service_s),
	};

	return cmocka_run_group_tests(tests, make_image, remove_image);
}
