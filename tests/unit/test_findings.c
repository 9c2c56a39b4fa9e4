/* SPDX-License-Identifier: MIT */
/* What a finding says beside its name: whose bytes it concerns; and a medium that fails. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/check.h"
#include "fmt/qcow2.h"
#include "io/io.h"
#include "rt/reactor.h"

#define CLUSTER UINT64_C(512)
#define L2_SPAN (64 * CLUSTER)
#define COPIED OX_QCOW2_COPIED

/* An image of 64 KiB with a snapshot that has an L2 table of its own, and data at guest offset 0.
 */
enum { HEADER, REFTABLE, REFBLOCK, L1, L2, DATA, SNAPSHOTS, SNAPSHOT_L1, SNAPSHOT_L2, END };

static struct ox_reactor *reactor;
static uint8_t image[END * CLUSTER];
static uint64_t unreadable_cluster; /* 0: none */
static const struct ox_io_ops *memory_ops;

static void set_word(uint64_t cluster, uint64_t index, uint64_t value)
{
	struct ox_be64 raw = ox_be64(value);

	memcpy(image + cluster * CLUSTER + index * 8, &raw, 8);
}

static void make_image(void)
{
	const struct ox_qcow2_header h = {
		.version = 3,
		.cluster_bits = 9,
		.size_bytes = 65536,
		.l1_entries = 2,
		.l1_offset = L1 * CLUSTER,
		.reftable_offset = REFTABLE * CLUSTER,
		.reftable_clusters = 1,
		.snapshot_count = 1,
		.snapshots_offset = SNAPSHOTS * CLUSTER,
		.refcount_order = 4,
		.header_length = 112,
	};
	uint8_t *record = image + SNAPSHOTS * CLUSTER;

	memset(image, 0, sizeof(image));
	ox_qcow2_header_encode(&h, image);
	set_word(REFTABLE, 0, REFBLOCK * CLUSTER);
	for (uint64_t c = 0; c < END; c++)
		ox_qcow2_refcount_set(image + REFBLOCK * CLUSTER, 4, c, 1);
	set_word(L1, 0, COPIED | L2 * CLUSTER);
	set_word(L2, 0, COPIED | DATA * CLUSTER);
	set_word(SNAPSHOTS, 0, SNAPSHOT_L1 * CLUSTER);
	record[11] = 2;	 /* L1 entries */
	record[13] = 1;	 /* bytes of the id */
	record[15] = 4;	 /* and of the name */
	record[39] = 16; /* extra data */
	memcpy(record + 40 + 16, "1then", 5);
	set_word(SNAPSHOT_L1, 1, COPIED | SNAPSHOT_L2 * CLUSTER);
}

/* ---- running ---- */

struct run {
	struct ox_io *io;
	struct ox_check_result result;
	char names[512];
	char snapshot[32]; /* of the last finding; "-": the disk itself */
	uint64_t guest_offset;
	uint64_t guest_length;
	bool has_fix;
	int error;
};

static int64_t preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	uint64_t bad = unreadable_cluster * CLUSTER;
	uint64_t size = 0;

	for (int i = 0; i < n; i++)
		size += iov[i].iov_len;
	if (bad && offset < bad + CLUSTER && bad < offset + size)
		return -EIO;
	return memory_ops->preadv_co(io, iov, n, offset);
}

static void note_finding(void *opaque, const struct ox_finding *f)
{
	struct run *run = opaque;
	size_t used = strlen(run->names);

	snprintf(run->names + used, sizeof(run->names) - used, "%s ", f->name);
	snprintf(run->snapshot, sizeof(run->snapshot), "%s", f->snapshot ? f->snapshot : "-");
	run->guest_offset = f->guest_offset;
	run->guest_length = f->guest_length;
	run->has_fix = f->fix && *f->fix;
}

static void run_co(void *arg)
{
	struct run *run = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.finding = note_finding;
	opts.opaque = run;
	run->error = ox_check_qcow2_co(run->io, &opts, &run->result, NULL);
}

static struct run check(void)
{
	static struct ox_io_ops ops;
	struct run run = {0};

	assert_int_equal(ox_io_memory_open(reactor, sizeof(image), &run.io), 0);
	memcpy(ox_io_memory_bytes(run.io), image, sizeof(image));
	memory_ops = run.io->ops;
	ops = *memory_ops;
	ops.preadv_co = preadv_co;
	run.io->ops = &ops;
	assert_int_equal(ox_reactor_call(reactor, run_co, &run), 0);
	run.io->ops = memory_ops;
	ox_io_close(run.io);
	assert_int_equal(run.error, 0);
	return run;
}

static void assert_found(const char *names, uint64_t guest_offset, uint64_t guest_length,
			 const char *snapshot)
{
	struct run run = check();

	assert_string_equal(run.names, names);
	assert_int_equal(run.guest_offset, guest_offset);
	assert_int_equal(run.guest_length, guest_length);
	assert_string_equal(run.snapshot, snapshot);
	assert_true(run.has_fix);
}

/* ---- tests ---- */

static void a_sound_image_has_no_findings(void **state)
{
	(void)state;
	make_image();
	assert_string_equal(check().names, "");
}

static void an_l2_entry_is_named_by_its_guest_cluster(void **state)
{
	(void)state;
	make_image();
	set_word(L2, 3, 2);
	assert_found("l2-entry-reserved-bits ", 3 * CLUSTER, CLUSTER, "-");
}

static void an_l1_entry_is_named_by_all_that_it_maps(void **state)
{
	(void)state;
	make_image();
	set_word(L1, 1, 1);
	assert_found("l1-entry-reserved-bits ", L2_SPAN, L2_SPAN, "-");
}

static void a_snapshots_entry_is_named_with_the_snapshot(void **state)
{
	(void)state;
	make_image();
	set_word(SNAPSHOT_L2, 5, 2);
	assert_found("l2-entry-reserved-bits ", L2_SPAN + 5 * CLUSTER, CLUSTER, "then");
	make_image();
	set_word(SNAPSHOT_L1, 0, 1);
	assert_found("l1-entry-reserved-bits ", 0, L2_SPAN, "then");
}

static void a_wrong_copied_bit_is_named_by_its_guest_cluster(void **state)
{
	(void)state;
	make_image();
	set_word(L2, 0, 0);
	set_word(L2, 7, DATA * CLUSTER);
	assert_found("copied-wrong-data ", 7 * CLUSTER, CLUSTER, "-");
}

static void what_cannot_be_read_is_an_error_of_the_check(void **state)
{
	static const uint64_t clusters[] = {REFTABLE, REFBLOCK, L1, L2, SNAPSHOTS, SNAPSHOT_L1};

	(void)state;
	make_image();
	for (size_t i = 0; i < OX_ARRAY_SIZE(clusters); i++) {
		struct run run;

		unreadable_cluster = clusters[i];
		run = check();
		unreadable_cluster = 0;
		assert_non_null(strstr(run.names, "unreadable "));
		assert_true(run.result.check_errors > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sound_image_has_no_findings),
		cmocka_unit_test(an_l2_entry_is_named_by_its_guest_cluster),
		cmocka_unit_test(an_l1_entry_is_named_by_all_that_it_maps),
		cmocka_unit_test(a_snapshots_entry_is_named_with_the_snapshot),
		cmocka_unit_test(a_wrong_copied_bit_is_named_by_its_guest_cluster),
		cmocka_unit_test(what_cannot_be_read_is_an_error_of_the_check),
	};
	int failed;

	if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	ox_reactor_destroy(reactor);
	return failed;
}
