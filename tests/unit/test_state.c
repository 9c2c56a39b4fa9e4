/* SPDX-License-Identifier: MIT */
/*
 * A process dies with an image open, and another one goes on with what it left (D10): no answered
 * write is lost, flushed or not, and nothing is recovered.
 */
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define DISK_BYTES (64 * MIB)
#define CLUSTER (64 * KIB)
#define WRITES 48u

static char path[] = "/tmp/ox-test-state-XXXXXX";
static int fd;
static int state_fd;
static uint64_t disk_bytes;

static int setup(void **state)
{
	(void)state;
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	disk_bytes = DISK_BYTES;
	fd = mkostemp(path, O_CLOEXEC);
	state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 || state_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)unlink(path);
	return close(fd) + close(state_fd);
}

static struct ox_context *new_context(void)
{
	struct ox_context *ctx;

	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
		abort();
	return ctx;
}

static void create(const char *format, bool lazy)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;
	struct ox_context *ctx = new_context();

	opts.format = format;
	opts.virtual_bytes = disk_bytes;
	opts.lazy_refcounts = lazy;
	assert_int_equal(ox_image_create_fd(ctx, fd, path, &opts, NULL), 0);
	ox_context_free(ctx);
}

static unsigned warnings;

static void warn(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
	warnings++;
}

static int open_image(struct ox_context *ctx, const char *format, struct ox_image **ret,
		      struct ox_error **err)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = format;
	opts.cache = OX_CACHE_WRITEBACK;
	opts.state_fd = state_fd;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	opts.warn = warn;
	return ox_image_open_fd(ctx, fd, path, &opts, ret, err);
}

static uint64_t place(unsigned i)
{
	return (uint64_t)(i * 7 % 512) * CLUSTER;
}

/* A life that ends by SIGKILL: writes from first on, of which none is flushed. */
static void live_and_die(const char *format, unsigned first, unsigned count)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct ox_context *ctx = new_context();
		struct ox_image *image;
		uint8_t *buf = malloc(CLUSTER);

		if (!buf || open_image(ctx, format, &image, NULL) < 0)
			_exit(1);
		for (unsigned i = first; i < first + count; i++) {
			memset(buf, (int)i + 1, CLUSTER);
			if (ox_pwrite(image, buf, CLUSTER, place(i), 0) < 0)
				_exit(2);
		}
		if (ox_discard(image, place(first), CLUSTER) < 0)
			_exit(3);
		(void)kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* In each life the first cluster was discarded again. */
static void check_content(struct ox_image *image, unsigned lives, unsigned each)
{
	uint8_t *buf = malloc(CLUSTER);

	assert_non_null(buf);
	for (unsigned i = 0; i < lives * each; i++) {
		uint8_t want = i % each == 0 ? 0 : (uint8_t)(i + 1);

		assert_int_equal(ox_pread(image, buf, CLUSTER, place(i)), 0);
		assert_int_equal(buf[0], want);
		assert_int_equal(buf[CLUSTER - 1], want);
	}
	free(buf);
}

static void check_file(void)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_context *ctx = new_context();
	struct ox_check_result result;

	assert_int_equal(ox_image_check_fd(ctx, fd, path, &opts, &result, NULL), 0);
	assert_int_equal(result.corruptions, 0);
	assert_int_equal(result.leaks, 0);
	assert_int_equal(result.check_errors, 0);
	ox_context_free(ctx);
}

static void lives_follow_each_other(const char *format, bool lazy)
{
	struct ox_context *ctx;
	struct ox_image *image;

	create(format, lazy);
	warnings = 0;
	for (unsigned life = 0; life < 4; life++)
		live_and_die(format, life * WRITES, WRITES);
	ctx = new_context();
	assert_int_equal(open_image(ctx, format, &image, NULL), 0);
	check_content(image, 4, WRITES);
	assert_int_equal(warnings, 0); /* it was adopted, not recovered */
	assert_int_equal(ox_image_close(image, NULL), 0);
	check_file();
	/* The state is spent: what it had is in the image. */
	assert_int_equal(open_image(ctx, format, &image, NULL), 0);
	check_content(image, 4, WRITES);
	assert_int_equal(ox_image_close(image, NULL), 0);
	ox_context_free(ctx);
}

static void qcow2_is_adopted(void **state)
{
	(void)state;
	lives_follow_each_other("qcow2", false);
}

static void lazy_qcow2_is_adopted(void **state)
{
	(void)state;
	lives_follow_each_other("qcow2", true);
}

static void qed_is_adopted(void **state)
{
	(void)state;
	lives_follow_each_other("qed", false);
}

/* Also where another process has put it there. */
static void what_is_free_at_the_end_is_cut_off(void **state)
{
	static const char *const formats[] = {"qcow2", "qed"};
	struct ox_context *ctx = new_context();
	struct ox_image *image;
	struct stat before;
	struct stat after;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		const char *format = formats[i / 2];

		assert_int_equal(ftruncate(fd, 0) + ftruncate(state_fd, 0), 0);
		create(format, i == 1);
		assert_int_equal(fstat(fd, &before), 0);
		live_and_die(format, 0, WRITES);
		assert_int_equal(open_image(ctx, format, &image, NULL), 0);
		assert_int_equal(ox_discard(image, 0, DISK_BYTES), 0);
		assert_int_equal(ox_image_close(image, NULL), 0);
		check_file();
		assert_int_equal(fstat(fd, &after), 0);
		/* but for a table that stays */
		assert_true(after.st_size <= before.st_size + (off_t)(8 * CLUSTER));
		close(state_fd);
		state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	ox_context_free(ctx);
}

static void an_image_without_its_state_is_as_after_a_power_cut(void **state)
{
	struct ox_context *ctx = new_context();
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image;

	(void)state;
	create("qcow2", true);
	live_and_die("qcow2", 0, WRITES);
	opts.format = "qcow2";
	opts.recover = OX_RECOVER_WAIT;
	assert_int_equal(ox_image_open_fd(ctx, fd, path, &opts, &image, NULL), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	check_file();
	ox_context_free(ctx);
}

/* ---- states that are none ---- */

static void refused(const char *format, const char *why)
{
	struct ox_context *ctx = new_context();
	struct ox_error *err = NULL;
	struct ox_image *image;

	assert_int_equal(open_image(ctx, format, &image, &err), -ENOTRECOVERABLE);
	assert_non_null(strstr(ox_error_message(err), why));
	ox_error_free(err);
	ox_context_free(ctx);
}

static void poke(off_t at, uint64_t value)
{
	assert_int_equal(pwrite(state_fd, &value, sizeof(value), at), sizeof(value));
}

static void what_is_no_state_of_the_image_is_refused(void **state)
{
	uint64_t version;
	struct stat st;

	(void)state;
	create("qcow2", false);
	live_and_die("qcow2", 0, 4);
	assert_int_equal(pread(state_fd, &version, sizeof(version), 8), sizeof(version));
	poke(8, 99);
	refused("qcow2", "another version");
	poke(8, version);
	poke(4096, 12345); /* the first slot's name: of no slice */
	refused("qcow2", "cannot be adopted");
	poke(4096, UINT64_MAX);
	refused("qcow2", "cannot be adopted");
	poke(4096, 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(ftruncate(fd, st.st_size - 512), 0);
	refused("qcow2", "has been cut since");
	assert_int_equal(ftruncate(fd, st.st_size), 0);
	assert_int_equal(fstat(state_fd, &st), 0);
	assert_true(ftruncate(state_fd, st.st_size - 1) < 0); /* it is sealed */
	create("qed", false);
	refused("qed", "another image");
}

/* Where the end of the first note of that kind lies (src/meta/notes.c). */
static off_t find_note(unsigned kind)
{
	struct stat st;
	uint64_t word;

	assert_int_equal(fstat(state_fd, &st), 0);
	for (off_t at = 4096; at < st.st_size; at += (off_t)sizeof(word)) {
		at = lseek(state_fd, at, SEEK_DATA);
		if (at < 0)
			break;
		assert_int_equal(pread(state_fd, &word, sizeof(word), at), sizeof(word));
		if (word >> 56 == kind && (word & UINT32_MAX) == (word << 8 >> 8))
			return at;
	}
	fail_msg("no note of kind %u", kind);
	return 0;
}

static uint64_t peek(off_t at)
{
	uint64_t word;

	assert_int_equal(pread(state_fd, &word, sizeof(word), at), sizeof(word));
	return word;
}

/* What a note says is held to the bounds of the file, and no two say the same. */
static void notes_that_cannot_be_are_refused(void **state)
{
	off_t end_at;
	uint64_t start;
	uint64_t end;

	(void)state;
	create("qcow2", true);
	live_and_die("qcow2", 0, 5);
	end_at = find_note(3);
	start = peek(end_at - 8);
	end = peek(end_at);
	poke(end_at, end + (1 << 20)); /* past the file's end */
	refused("qcow2", "cannot be adopted");
	poke(end_at, (end & UINT32_MAX) | UINT64_C(200) << 56); /* of no kind */
	refused("qcow2", "cannot be adopted");
	poke(end_at, end);
	poke(end_at - 8, 0); /* the header */
	refused("qcow2", "cannot be adopted");
	poke(end_at - 8, end & UINT32_MAX);
	poke(end_at - 8, (end & UINT32_MAX) + 1); /* ends before it begins */
	refused("qcow2", "cannot be adopted");
	poke(end_at - 8, 1); /* on top of tables */
	refused("qcow2", "cannot be adopted");
	poke(end_at - 8, start);
	poke(end_at + 24, start); /* a second note of the same clusters */
	poke(end_at + 32, end);
	poke(40, peek(40) + 1);
	refused("qcow2", "cannot be adopted");
	poke(40, UINT64_MAX); /* more notes than there is room for */
	refused("qcow2", "contradict");
}

/* Each is looked at once. */
static void as_many_batches_as_there_is_room_for_are_adopted(void **state)
{
	enum { NOTES = 1 << 20, WORDS = 4 };
	const uint64_t batch = UINT64_C(1) << 56 | 2000;
	uint64_t *notes = calloc(NOTES, WORDS * sizeof(*notes));
	struct ox_context *ctx = new_context();
	struct ox_image *image;
	struct stat st;

	(void)state;
	assert_non_null(notes);
	disk_bytes = NOTES * CLUSTER; /* there is a note for each cluster */
	create("qcow2", false);
	live_and_die("qcow2", 0, WRITES);
	for (size_t i = 0; i < NOTES; i++) {
		notes[i * WORDS] = 1999;
		notes[i * WORDS + 1] = batch;
	}
	assert_int_equal(fstat(state_fd, &st), 0);
	/* before the page that has room for the L1 table */
	assert_int_equal(pwrite(state_fd, notes, NOTES * WORDS * sizeof(*notes),
				st.st_size - 4096 - NOTES * WORDS * (off_t)sizeof(*notes)),
			 NOTES * WORDS * sizeof(*notes));
	poke(40, NOTES);
	assert_int_equal(open_image(ctx, "qcow2", &image, NULL), 0);
	check_content(image, 1, WRITES);
	assert_int_equal(ox_image_close(image, NULL), 0);
	ox_context_free(ctx);
	free(notes);
}

static void a_file_that_can_be_cut_short_is_refused(void **state)
{
	struct ox_context *ctx = new_context();
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image;
	char name[] = "/tmp/ox-test-no-state-XXXXXX";
	int file = mkostemp(name, O_CLOEXEC);

	(void)state;
	create("qcow2", false);
	opts.format = "qcow2";
	opts.state_fd = file;
	assert_true(ox_image_open_fd(ctx, fd, path, &opts, &image, NULL) < 0);
	(void)unlink(name);
	(void)close(file);
	ox_context_free(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(qcow2_is_adopted, setup, teardown),
		cmocka_unit_test_setup_teardown(lazy_qcow2_is_adopted, setup, teardown),
		cmocka_unit_test_setup_teardown(qed_is_adopted, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_free_at_the_end_is_cut_off, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_image_without_its_state_is_as_after_a_power_cut,
						setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_no_state_of_the_image_is_refused, setup,
						teardown),
		cmocka_unit_test_setup_teardown(notes_that_cannot_be_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(as_many_batches_as_there_is_room_for_are_adopted,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_can_be_cut_short_is_refused, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
