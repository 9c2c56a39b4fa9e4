/* SPDX-License-Identifier: MIT */
/* ox_image_info_read, on files that the test lays out itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/path.h"
#include "fmt/qcow2.h"
#include "oxbow.h"

#define CLUSTER_BYTES 4096u
#define SNAPSHOTS_AT (4 * CLUSTER_BYTES)
#define BITMAPS_AT (5 * CLUSTER_BYTES)
#define FILE_BYTES (6 * CLUSTER_BYTES)

struct rig {
	struct ox_context *ctx;
	char dir[32];
	char path[64];
	uint8_t bytes[FILE_BYTES];
	struct ox_qcow2_header header;
	struct ox_image_info *info;
	struct ox_error *err;
};

static void put_be(uint8_t **at, unsigned width, uint64_t value)
{
	for (unsigned i = 0; i < width; i++)
		*(*at)++ = (uint8_t)(value >> 8 * (width - 1 - i));
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	if (!rig || ox_context_new(OX_ENGINE_THREAD_POOL, &rig->ctx, NULL) < 0)
		return -1;
	strcpy(rig->dir, "/tmp/ox-test-info-XXXXXX");
	if (!mkdtemp(rig->dir))
		return -1;
	snprintf(rig->path, sizeof(rig->path), "%s/image", rig->dir);
	rig->header = (struct ox_qcow2_header){
		.version = 3,
		.cluster_bits = 12,
		.size_bytes = 10 << 20,
		.l1_entries = 5,
		.l1_offset = 3 * CLUSTER_BYTES,
		.reftable_offset = CLUSTER_BYTES,
		.reftable_clusters = 1,
		.refcount_order = 4,
	};
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	ox_image_info_free(rig->info);
	ox_error_free(rig->err);
	unlink(rig->path);
	rmdir(rig->dir);
	ox_context_free(rig->ctx);
	free(rig);
	return 0;
}

static void encode_first_cluster(struct rig *rig, const char *backing, const char *format)
{
	assert_int_equal(ox_qcow2_first_cluster_encode(&rig->header, backing, format, rig->bytes,
						       CLUSTER_BYTES, NULL),
			 0);
}

static void write_file(struct rig *rig, size_t bytes)
{
	FILE *f = fopen(rig->path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(rig->bytes, 1, bytes, f), bytes);
	assert_int_equal(fclose(f), 0);
}

static int read_info(struct rig *rig, const char *format, unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = format;
	opts.flags = flags;
	return ox_image_info_read(rig->ctx, rig->path, &opts, &rig->info, &rig->err);
}

static void a_raw_file_has_sizes_alone(void **state)
{
	struct rig *rig = *state;

	memset(rig->bytes, 'x', sizeof(rig->bytes));
	write_file(rig, 1000);
	assert_int_equal(read_info(rig, NULL, OX_OPEN_PROBE), 0);
	assert_string_equal(rig->info->format, "raw");
	assert_string_equal(rig->info->filename, rig->path);
	assert_int_equal(rig->info->virtual_bytes, 1024);
	assert_int_equal(rig->info->file_bytes, 1000);
	assert_int_equal(rig->info->cluster_bytes, 0);
	assert_null(rig->info->compression_type);
}

static void a_format_is_probed_only_when_asked(void **state)
{
	struct rig *rig = *state;

	encode_first_cluster(rig, NULL, NULL);
	write_file(rig, FILE_BYTES);
	assert_int_equal(read_info(rig, NULL, 0), -EINVAL);
	assert_null(rig->info);
	ox_error_free(rig->err);
	rig->err = NULL;
	assert_int_equal(read_info(rig, NULL, OX_OPEN_PROBE), 0);
	assert_string_equal(rig->info->format, "qcow2");
}

static void a_stated_format_is_believed(void **state)
{
	struct rig *rig = *state;

	encode_first_cluster(rig, NULL, NULL);
	write_file(rig, FILE_BYTES);
	assert_int_equal(read_info(rig, "raw", 0), 0);
	assert_string_equal(rig->info->format, "raw");
	assert_int_equal(rig->info->virtual_bytes, FILE_BYTES);
}

static void an_unknown_format_is_refused(void **state)
{
	struct rig *rig = *state;

	write_file(rig, 512);
	assert_int_equal(read_info(rig, "floppy", 0), -EINVAL);
	assert_string_equal(ox_error_message(rig->err), "Unknown driver 'floppy'");
}

static void what_the_engine_refuses_is_described(void **state)
{
	struct rig *rig = *state;

	rig->header.incompatible = OX_QCOW2_INCOMPAT_DATA_FILE | OX_QCOW2_INCOMPAT_DIRTY |
				   OX_QCOW2_INCOMPAT_CORRUPT | UINT64_C(1) << 50;
	rig->header.autoclear = OX_QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	rig->header.crypt_method = OX_QCOW2_CRYPT_AES;
	encode_first_cluster(rig, NULL, NULL);
	write_file(rig, FILE_BYTES);
	assert_int_equal(read_info(rig, "qcow2", 0), 0);
	assert_true(rig->info->dirty);
	assert_true(rig->info->corrupt);
	assert_true(rig->info->data_file_raw);
	assert_string_equal(rig->info->encryption, "aes");
}

/* Nothing of the name is interpreted: it is a file beside the image. */
static void a_backing_name_is_a_path_beside_the_image(void **state)
{
	struct rig *rig = *state;
	char want[128];

	encode_first_cluster(rig, "json:{\"driver\":\"nbd\"}", "raw");
	write_file(rig, FILE_BYTES);
	assert_int_equal(read_info(rig, "qcow2", 0), 0);
	assert_string_equal(rig->info->backing_file, "json:{\"driver\":\"nbd\"}");
	snprintf(want, sizeof(want), "%s/json:{\"driver\":\"nbd\"}", rig->dir);
	assert_string_equal(rig->info->backing_path, want);
	assert_string_equal(rig->info->backing_format, "raw");
}

static void paths_are_resolved_against_the_images_directory(void **state)
{
	static const char *const cases[][3] = {
		{"image", "base", "base"},
		{"dir/image", "base", "dir/base"},
		{"/a/b/image", "../base", "/a/b/../base"},
		{"/a/image", "/base", "/base"},
		{"a/image", "nbd://host/x", "a/nbd://host/x"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *path = ox_path_beside(cases[i][0], cases[i][1]);

		assert_non_null(path);
		assert_string_equal(path, cases[i][2]);
		free(path);
	}
}

static void add_snapshot(uint8_t **at, const char *id, const char *name)
{
	uint8_t *start = *at;

	put_be(at, 8, 0);
	put_be(at, 4, 0);
	put_be(at, 2, strlen(id));
	put_be(at, 2, strlen(name));
	put_be(at, 4, 1700000000);
	put_be(at, 4, 500);
	put_be(at, 8, 12345);
	put_be(at, 4, 0);
	put_be(at, 4, 16);
	put_be(at, 8, 4096);
	put_be(at, 8, 5 << 20);
	memcpy(*at, id, strlen(id));
	*at += strlen(id);
	memcpy(*at, name, strlen(name));
	*at += strlen(name);
	*at = start + (size_t)((*at - start + 7) & ~7);
}

static void snapshots_and_bitmaps_are_listed(void **state)
{
	struct rig *rig = *state;
	uint8_t *at = rig->bytes + SNAPSHOTS_AT;

	rig->header.snapshot_count = 2;
	rig->header.snapshots_offset = SNAPSHOTS_AT;
	rig->header.autoclear = OX_QCOW2_AUTOCLEAR_BITMAPS;
	encode_first_cluster(rig, NULL, NULL);
	add_snapshot(&at, "1", "before");
	add_snapshot(&at, "2", "after");
	at = rig->bytes + rig->header.header_length;
	put_be(&at, 4, OX_QCOW2_EXT_BITMAPS);
	put_be(&at, 4, 24);
	put_be(&at, 8, UINT64_C(1) << 32);
	put_be(&at, 8, 32);
	put_be(&at, 8, BITMAPS_AT);
	put_be(&at, 8, 0);
	at = rig->bytes + BITMAPS_AT;
	put_be(&at, 8, 0);
	put_be(&at, 4, 0);
	put_be(&at, 4, OX_QCOW2_BITMAP_AUTO);
	put_be(&at, 4, 1 << 24 | 16 << 16 | 4);
	put_be(&at, 4, 0);
	memcpy(at, "dirt", 4);
	write_file(rig, FILE_BYTES);

	assert_int_equal(read_info(rig, "qcow2", 0), 0);
	assert_int_equal(rig->info->snapshot_count, 2);
	assert_string_equal(rig->info->snapshots[0].name, "before");
	assert_string_equal(rig->info->snapshots[1].id, "2");
	assert_int_equal(rig->info->snapshots[1].vm_state_bytes, 4096);
	assert_int_equal(rig->info->snapshots[1].disk_bytes, 5 << 20);
	assert_int_equal(rig->info->snapshots[1].icount, UINT64_MAX);
	assert_int_equal(rig->info->bitmap_count, 1);
	assert_string_equal(rig->info->bitmaps[0].name, "dirt");
	assert_int_equal(rig->info->bitmaps[0].granularity_bytes, 65536);
	assert_true(rig->info->bitmaps[0].automatic);
	assert_false(rig->info->bitmaps[0].in_use);
}

/* The count is the header's claim; memory is taken by the file's length. */
static void tables_past_the_end_are_refused(void **state)
{
	struct rig *rig = *state;

	rig->header.snapshot_count = 65536;
	rig->header.snapshots_offset = SNAPSHOTS_AT;
	encode_first_cluster(rig, NULL, NULL);
	write_file(rig, FILE_BYTES);
	assert_int_equal(read_info(rig, "qcow2", 0), -EINVAL);
	assert_string_equal(ox_error_message(rig->err),
			    "Could not read snapshots: Snapshot table lies beyond the end of the "
			    "file");
	assert_null(rig->info);
}

static void an_empty_file_is_no_qcow2(void **state)
{
	struct rig *rig = *state;

	write_file(rig, 0);
	assert_int_equal(read_info(rig, "qcow2", 0), -EINVAL);
	assert_string_equal(ox_error_message(rig->err), "Image is not in qcow2 format");
}

static void a_missing_file_is_named(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(read_info(rig, "qcow2", 0), -ENOENT);
	assert_non_null(strstr(ox_error_message(rig->err), rig->path));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_raw_file_has_sizes_alone),
		TEST(a_format_is_probed_only_when_asked),
		TEST(a_stated_format_is_believed),
		TEST(an_unknown_format_is_refused),
		TEST(what_the_engine_refuses_is_described),
		TEST(a_backing_name_is_a_path_beside_the_image),
		TEST(paths_are_resolved_against_the_images_directory),
		TEST(snapshots_and_bitmaps_are_listed),
		TEST(tables_past_the_end_are_refused),
		TEST(an_empty_file_is_no_qcow2),
		TEST(a_missing_file_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
