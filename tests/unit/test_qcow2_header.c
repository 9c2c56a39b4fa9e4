/* SPDX-License-Identifier: MIT */
/* The header and what the first cluster holds behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "fmt/qcow2.h"

#define CLUSTER_BYTES 4096u

static struct ox_qcow2_header sample(void)
{
	return (struct ox_qcow2_header){
		.version = 3,
		.cluster_bits = 12,
		.size_bytes = 10 << 20,
		.l1_entries = 5,
		.l1_offset = 3 * CLUSTER_BYTES,
		.reftable_offset = CLUSTER_BYTES,
		.reftable_clusters = 1,
		.refcount_order = 4,
		.compatible = OX_QCOW2_COMPAT_LAZY_REFCOUNTS,
	};
}

static void encode_sample(const char *backing, const char *format, uint8_t cluster[CLUSTER_BYTES])
{
	struct ox_qcow2_header h = sample();

	assert_int_equal(
		ox_qcow2_first_cluster_encode(&h, backing, format, cluster, CLUSTER_BYTES, NULL),
		0);
}

static void put_be(uint8_t *at, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

/* Takes the message over and checks it. */
static void assert_message(struct ox_error *err, const char *text)
{
	assert_string_equal(ox_error_message(err), text);
	ox_error_free(err);
}

static void a_header_survives_encoding(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	uint8_t again[512] = {0};
	struct ox_qcow2_header h;

	(void)state;
	encode_sample("base", "raw", cluster);
	assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, NULL), 0);
	assert_int_equal(h.version, 3);
	assert_int_equal(h.size_bytes, 10 << 20);
	assert_int_equal(h.l1_entries, 5);
	assert_int_equal(h.header_length, 112);
	ox_qcow2_header_encode(&h, again);
	assert_memory_equal(again, cluster, 112);
}

static void version_2_implies_what_it_has_no_field_for(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	struct ox_qcow2_header h = sample();
	struct ox_qcow2_header got;

	(void)state;
	h.version = 2;
	h.compatible = 0;
	assert_int_equal(
		ox_qcow2_first_cluster_encode(&h, NULL, NULL, cluster, CLUSTER_BYTES, NULL), 0);
	memset(cluster + 72, 0xff, 40);
	assert_int_equal(ox_qcow2_header_decode(cluster, 72, &got, NULL), 0);
	assert_int_equal(got.refcount_order, 4);
	assert_int_equal(got.header_length, 72);
	assert_int_equal(got.incompatible, 0);
	assert_int_equal(got.compression_type, OX_QCOW2_ZLIB);
}

/* What lies at 104 is then an extension, not a compression type. */
static void a_header_of_104_bytes_has_no_compression_type(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	struct ox_qcow2_header h;

	(void)state;
	encode_sample(NULL, NULL, cluster);
	put_be(cluster + 100, 4, 104);
	cluster[104] = 0xe2;
	assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, NULL), 0);
	assert_int_equal(h.compression_type, OX_QCOW2_ZLIB);
	ox_qcow2_header_encode(&h, cluster);
	assert_int_equal(cluster[104], 0xe2);
}

static void unknown_bytes_survive_a_header_update(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	uint8_t before[CLUSTER_BYTES];
	struct ox_qcow2_header h;

	(void)state;
	encode_sample("base", "raw", cluster);
	put_be(cluster + 100, 4, 160);
	memset(cluster + 105, 0x5a, 55);
	memcpy(before, cluster, sizeof(before));
	assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, NULL), 0);
	h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	ox_qcow2_header_encode(&h, cluster);
	before[79] |= 1;
	assert_memory_equal(cluster, before, sizeof(before));
}

static void a_magic_alone_makes_it_qcow2(void **state)
{
	(void)state;
	assert_true(ox_qcow2_probe((const uint8_t *)"QFI\xfb", 4));
	assert_false(ox_qcow2_probe((const uint8_t *)"QFI\xfb", 3));
	assert_false(ox_qcow2_probe((const uint8_t *)"QFI\xfa", 4));
}

struct bad_field {
	unsigned at;
	unsigned bytes;
	uint64_t value;
	int code;
	const char *message;
};

static const struct bad_field bad_fields[] = {
	{0, 4, 0x514649fc, -EINVAL, "Image is not in qcow2 format"},
	{4, 4, 1, -ENOTSUP, "Unsupported qcow2 version 1"},
	{4, 4, 4, -ENOTSUP, "Unsupported qcow2 version 4"},
	{20, 4, 8, -EINVAL, "Unsupported cluster size: 2^8"},
	{20, 4, 22, -EINVAL, "Unsupported cluster size: 2^22"},
	{20, 4, UINT32_MAX, -EINVAL, "Unsupported cluster size: 2^4294967295"},
	{8, 8, 111, -EINVAL, "Invalid backing file offset"},
	{8, 8, CLUSTER_BYTES + 1, -EINVAL, "Invalid backing file offset"},
	{8, 8, UINT64_MAX, -EINVAL, "Invalid backing file offset"},
	{24, 8, UINT64_MAX, -EINVAL, "Image is too big"},
	{36, 4, 4, -EINVAL, "L1 table is too small"},
	{36, 4, 0, -EINVAL, "L1 table is too small"},
	{36, 4, (4 << 20) + 1, -EINVAL, "Active L1 table too large"},
	{40, 8, 0, -EINVAL, "Active L1 table offset invalid"},
	{40, 8, 3 * CLUSTER_BYTES + 512, -EINVAL, "Active L1 table offset invalid"},
	{40, 8, -(uint64_t)CLUSTER_BYTES, -EINVAL, "Active L1 table offset invalid"},
	{48, 8, 0, -EINVAL, "Reference count table offset invalid"},
	{48, 8, 1, -EINVAL, "Reference count table offset invalid"},
	{48, 8, INT64_MAX - (CLUSTER_BYTES - 1), -EINVAL, "Reference count table offset invalid"},
	{56, 4, 0, -EINVAL, "Image does not contain a reference count table"},
	{56, 4, 2049, -EINVAL, "Reference count table too large"},
	{60, 4, 65537, -EINVAL, "Snapshot table too large"},
	{60, 4, 1, -EINVAL, "Snapshot table offset invalid"},
	{72, 8, 8, -EINVAL, "qcow2: Compression type incompatible feature bit must not be set"},
	{104, 1, 1, -EINVAL, "qcow2: Compression type incompatible feature bit must be set"},
	{104, 1, 2, -ENOTSUP, "qcow2: unknown compression type: 2"},
	{72, 8, 16, -EINVAL,
	 "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"},
	{96, 4, 7, -EINVAL, "Reference count entry width too large; may not exceed 64 bits"},
	{100, 4, 96, -EINVAL, "qcow2 header too short"},
	{100, 4, 105, -EINVAL, "qcow2 header length is not a multiple of 8: 105"},
	{100, 4, CLUSTER_BYTES + 8, -EINVAL, "qcow2 header exceeds cluster size"},
};

static void each_bad_field_is_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(bad_fields); i++) {
		const struct bad_field *bad = &bad_fields[i];
		uint8_t cluster[CLUSTER_BYTES];
		struct ox_qcow2_header h = {.version = 77};
		struct ox_error *err = NULL;

		encode_sample(NULL, NULL, cluster);
		put_be(cluster + bad->at, bad->bytes, bad->value);
		assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, &err),
				 bad->code);
		assert_message(err, bad->message);
		assert_int_equal(h.version, 77);
	}
}

static void a_header_cut_short_is_refused(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	struct ox_qcow2_header h;

	(void)state;
	encode_sample(NULL, NULL, cluster);
	for (size_t count = 0; count < 112; count++) {
		uint8_t *part = malloc(count + 1);

		assert_non_null(part);
		memcpy(part, cluster, count);
		assert_int_equal(ox_qcow2_header_decode(part, count, &h, NULL), -EINVAL);
		free(part);
	}
	assert_int_equal(ox_qcow2_header_decode(cluster, 112, &h, NULL), 0);
}

static void a_backing_name_past_the_first_cluster_is_refused(void **state)
{
	uint8_t cluster[CLUSTER_BYTES];
	struct ox_qcow2_header h;
	struct ox_error *err = NULL;

	(void)state;
	encode_sample(NULL, NULL, cluster);
	put_be(cluster + 8, 8, CLUSTER_BYTES - 4);
	put_be(cluster + 16, 4, 5);
	assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, &err), -EINVAL);
	assert_message(err, "Backing file name too long");
	put_be(cluster + 8, 8, 1024);
	put_be(cluster + 16, 4, 1024);
	assert_int_equal(ox_qcow2_header_decode(cluster, sizeof(cluster), &h, NULL), -EINVAL);
}

static void tables_lie_within_the_file(void **state)
{
	struct ox_qcow2_header h = sample();
	struct ox_error *err = NULL;

	(void)state;
	h.header_length = 112;
	assert_int_equal(ox_qcow2_header_check_layout(&h, h.l1_offset + 40, NULL), 0);
	assert_int_equal(ox_qcow2_header_check_layout(&h, h.l1_offset + 39, &err), -EINVAL);
	assert_message(err, "Active L1 table lies beyond the end of the image file");
}

static void tables_that_overlap_are_both_named(void **state)
{
	struct ox_qcow2_header h = sample();
	struct ox_error *err = NULL;

	(void)state;
	h.header_length = 112;
	h.l1_offset = h.reftable_offset;
	assert_int_equal(ox_qcow2_header_check_layout(&h, 1 << 20, &err), -EINVAL);
	assert_message(err, "Reference count table overlaps with Active L1 table");

	err = NULL;
	h = sample();
	h.header_length = 112;
	h.reftable_clusters = 3;
	assert_int_equal(ox_qcow2_header_check_layout(&h, 1 << 20, &err), -EINVAL);
	assert_message(err, "Reference count table overlaps with Active L1 table");
}

static int supported(uint64_t incompatible, uint32_t crypt, bool for_write,
		     const struct ox_qcow2_extensions *ext, struct ox_error **err)
{
	struct ox_qcow2_header h = sample();

	h.incompatible = incompatible;
	h.crypt_method = crypt;
	return ox_qcow2_header_check_supported(&h, ext, for_write, err);
}

static void unsupported_features_are_named(void **state)
{
	/* An unknown bit 40 that the image names, with an escape sequence in it. */
	uint8_t record[48] = {0, 40, 'a', '\033', 'b'};
	struct ox_qcow2_extensions ext = {.feature_names = record, .feature_name_count = 1};
	struct ox_error *err = NULL;

	(void)state;
	assert_int_equal(supported(0x14, 0, false, NULL, &err), -ENOTSUP);
	assert_message(err,
		       "Unsupported qcow2 feature(s): external data file, extended L2 entries");
	err = NULL;
	assert_int_equal(supported(UINT64_C(1) << 40 | 0x20, 0, false, &ext, &err), -ENOTSUP);
	assert_message(err, "Unsupported qcow2 feature(s): a?b, Unknown incompatible feature: 20");
	err = NULL;
	assert_int_equal(supported(0, OX_QCOW2_CRYPT_LUKS, false, NULL, &err), -ENOTSUP);
	assert_message(err, "Unsupported encryption method 2 (LUKS)");
	assert_int_equal(supported(1 | 8, 0, true, NULL, NULL), 0);
}

static void all_64_features_fit_into_the_message(void **state)
{
	uint8_t records[64][48];
	struct ox_qcow2_extensions ext = {.feature_names = records[0], .feature_name_count = 64};

	(void)state;
	memset(records, 'x', sizeof(records));
	for (unsigned bit = 0; bit < 64; bit++) {
		records[bit][0] = 0;
		records[bit][1] = (uint8_t)bit;
	}
	assert_int_equal(supported(UINT64_MAX, 0, false, &ext, NULL), -ENOTSUP);
}

static void a_corrupt_image_is_read_but_not_written(void **state)
{
	struct ox_error *err = NULL;

	(void)state;
	assert_int_equal(supported(OX_QCOW2_INCOMPAT_CORRUPT, 0, false, NULL, NULL), 0);
	assert_int_equal(supported(OX_QCOW2_INCOMPAT_CORRUPT, 0, true, NULL, &err), -EACCES);
	assert_message(err, "qcow2: Image is corrupt; cannot be opened read/write");
}

static void the_l1_table_covers_the_last_byte(void **state)
{
	struct ox_qcow2_header h = sample();

	(void)state;
	assert_int_equal(ox_qcow2_l1_needed(&h, 0), 0);
	assert_int_equal(ox_qcow2_l1_needed(&h, 2 << 20), 1);
	assert_int_equal(ox_qcow2_l1_needed(&h, (2 << 20) + 1), 2);
	h.incompatible = OX_QCOW2_INCOMPAT_EXTENDED_L2;
	assert_int_equal(ox_qcow2_l1_needed(&h, 2 << 20), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_survives_encoding),
		cmocka_unit_test(version_2_implies_what_it_has_no_field_for),
		cmocka_unit_test(a_header_of_104_bytes_has_no_compression_type),
		cmocka_unit_test(unknown_bytes_survive_a_header_update),
		cmocka_unit_test(a_magic_alone_makes_it_qcow2),
		cmocka_unit_test(each_bad_field_is_named),
		cmocka_unit_test(a_header_cut_short_is_refused),
		cmocka_unit_test(a_backing_name_past_the_first_cluster_is_refused),
		cmocka_unit_test(tables_lie_within_the_file),
		cmocka_unit_test(tables_that_overlap_are_both_named),
		cmocka_unit_test(unsupported_features_are_named),
		cmocka_unit_test(all_64_features_fit_into_the_message),
		cmocka_unit_test(a_corrupt_image_is_read_but_not_written),
		cmocka_unit_test(the_l1_table_covers_the_last_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
