/* SPDX-License-Identifier: MIT */
/* Records of variable length: header extensions, snapshots, bitmap directory. */
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

static const struct ox_qcow2_header base_header = {
	.version = 3,
	.cluster_bits = 12,
	.size_bytes = 1 << 20,
	.header_length = 112,
	.autoclear = OX_QCOW2_AUTOCLEAR_BITMAPS,
};

/* A growing record in memory. */
struct bytes {
	uint8_t at[CLUSTER_BYTES];
	size_t used;
};

static void put_be(struct bytes *b, unsigned width, uint64_t value)
{
	for (unsigned i = 0; i < width; i++)
		b->at[b->used++] = (uint8_t)(value >> 8 * (width - 1 - i));
}

static void put_text(struct bytes *b, const char *text)
{
	memcpy(b->at + b->used, text, strlen(text));
	b->used += strlen(text);
}

static void pad(struct bytes *b)
{
	b->used = ox_align_up(b->used, 8);
}

/* A fresh copy of exactly count bytes, so that a sanitizer sees the first byte read past it. */
static uint8_t *exact(const struct bytes *b, size_t count)
{
	uint8_t *copy = malloc(count ? count : 1);

	assert_non_null(copy);
	memcpy(copy, b->at, count);
	return copy;
}

/* ---- extensions ---- */

static void put_extension(struct bytes *b, uint32_t type, const char *text)
{
	put_be(b, 4, type);
	put_be(b, 4, strlen(text));
	put_text(b, text);
	pad(b);
}

static void put_bitmaps(struct bytes *b, uint32_t count, uint64_t size, uint64_t offset)
{
	put_be(b, 4, OX_QCOW2_EXT_BITMAPS);
	put_be(b, 4, 24);
	put_be(b, 4, count);
	put_be(b, 4, 0);
	put_be(b, 8, size);
	put_be(b, 8, offset);
}

static int decode_extensions(const struct bytes *b, struct ox_qcow2_extensions *ret)
{
	return ox_qcow2_extensions_decode(&base_header, b->at, sizeof(b->at), ret, NULL);
}

static void extensions_are_found_in_any_order(void **state)
{
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_extension(&b, 0x12345678, "something unknown");
	put_bitmaps(&b, 2, 100, 8192);
	put_extension(&b, OX_QCOW2_EXT_DATA_FILE, "data.raw");
	put_extension(&b, OX_QCOW2_EXT_BACKING_FORMAT, "qcow2");
	put_extension(&b, OX_QCOW2_EXT_FEATURE_NAMES,
		      "12345678901234567890123456789012345678901234567");
	assert_int_equal(decode_extensions(&b, &ext), 0);
	assert_string_equal(ext.backing_format, "qcow2");
	assert_string_equal(ext.data_file, "data.raw");
	assert_true(ext.has_bitmaps);
	assert_int_equal(ext.bitmaps.count, 2);
	assert_int_equal(ext.bitmaps.directory_bytes, 100);
	assert_int_equal(ext.bitmaps.directory_offset, 8192);
	/* A short record counts, and ends in zeroes. */
	assert_int_equal(ext.feature_name_count, 1);
	assert_int_equal(ext.feature_names[46], '7');
	assert_int_equal(ext.feature_names[47], 0);
	ox_qcow2_extensions_free(&ext);
	assert_null(ext.backing_format);
}

static void nothing_is_read_behind_the_end_marker(void **state)
{
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_be(&b, 8, 0);
	put_extension(&b, OX_QCOW2_EXT_BACKING_FORMAT, "raw");
	assert_int_equal(decode_extensions(&b, &ext), 0);
	assert_null(ext.backing_format);
	ox_qcow2_extensions_free(&ext);
}

static void extensions_end_where_the_backing_name_begins(void **state)
{
	struct ox_qcow2_header h = base_header;
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_extension(&b, OX_QCOW2_EXT_BACKING_FORMAT, "raw");
	h.backing_offset = 120;
	assert_int_equal(ox_qcow2_extensions_decode(&h, b.at, sizeof(b.at), &ext, NULL), -EINVAL);
	h.backing_offset = 128;
	assert_int_equal(ox_qcow2_extensions_decode(&h, b.at, sizeof(b.at), &ext, NULL), 0);
	assert_string_equal(ext.backing_format, "raw");
	ox_qcow2_extensions_free(&ext);
}

static void doubled_extensions_are_refused(void **state)
{
	const uint32_t types[] = {OX_QCOW2_EXT_BACKING_FORMAT, OX_QCOW2_EXT_DATA_FILE,
				  OX_QCOW2_EXT_FEATURE_NAMES};
	struct ox_qcow2_extensions ext;

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(types); i++) {
		struct bytes b = {.used = 112};

		put_extension(&b, types[i], "raw");
		put_extension(&b, types[i], "raw");
		assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	}
}

static void an_extension_longer_than_its_area_is_refused(void **state)
{
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_be(&b, 4, 0x12345678);
	put_be(&b, 4, CLUSTER_BYTES - 120 + 1);
	assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	b.used = 116;
	put_be(&b, 4, UINT32_MAX);
	assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	b.used = 116;
	put_be(&b, 4, CLUSTER_BYTES - 120);
	assert_int_equal(decode_extensions(&b, &ext), 0);
	ox_qcow2_extensions_free(&ext);
}

static void names_with_nul_bytes_are_refused(void **state)
{
	struct ox_qcow2_header h = base_header;
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;
	char *name;

	(void)state;
	put_extension(&b, OX_QCOW2_EXT_BACKING_FORMAT, "raw");
	b.at[121] = '\0';
	assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	h.backing_offset = 120;
	h.backing_size = 3;
	assert_int_equal(ox_qcow2_backing_name(&h, b.at, sizeof(b.at), &name, NULL), -EINVAL);
}

static void bitmaps_count_only_where_the_autoclear_bit_vouches(void **state)
{
	struct ox_qcow2_header h = base_header;
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_bitmaps(&b, 0, 0, 1);
	h.autoclear = 0;
	assert_int_equal(ox_qcow2_extensions_decode(&h, b.at, sizeof(b.at), &ext, NULL), 0);
	assert_false(ext.has_bitmaps);
	assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
}

static void bitmap_extensions_beyond_the_limits_are_refused(void **state)
{
	static const uint64_t bad[][3] = {{0, 24, 8192},
					  {65536, 24, 8192},
					  {1, 24, 8192 + 512},
					  {1, 24, 0},
					  {1, 1 << 20, 8192}};
	struct ox_qcow2_extensions ext;

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(bad); i++) {
		struct bytes b = {.used = 112};

		put_bitmaps(&b, (uint32_t)bad[i][0], bad[i][1], bad[i][2]);
		assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	}
}

static void a_crypto_pointer_needs_luks(void **state)
{
	struct ox_qcow2_header h = base_header;
	struct bytes b = {.used = 112};
	struct ox_qcow2_extensions ext;

	(void)state;
	put_be(&b, 4, OX_QCOW2_EXT_CRYPTO);
	put_be(&b, 4, 16);
	put_be(&b, 8, 0x30000);
	put_be(&b, 8, 0x1f8000);
	assert_int_equal(decode_extensions(&b, &ext), -EINVAL);
	h.crypt_method = OX_QCOW2_CRYPT_LUKS;
	assert_int_equal(ox_qcow2_extensions_decode(&h, b.at, sizeof(b.at), &ext, NULL), 0);
	assert_true(ext.has_crypto);
	assert_int_equal(ext.crypto_offset, 0x30000);
	assert_int_equal(ext.crypto_bytes, 0x1f8000);
	ox_qcow2_extensions_free(&ext);
}

static void the_first_cluster_bears_its_names(void **state)
{
	struct ox_qcow2_header h = base_header;
	uint8_t cluster[CLUSTER_BYTES];
	struct ox_qcow2_extensions ext;
	char *name;

	(void)state;
	assert_int_equal(ox_qcow2_first_cluster_encode(&h, "json:{}", "qcow2", cluster,
						       sizeof(cluster), NULL),
			 0);
	assert_int_equal(ox_qcow2_extensions_decode(&h, cluster, sizeof(cluster), &ext, NULL), 0);
	assert_string_equal(ext.backing_format, "qcow2");
	assert_int_equal(ext.feature_name_count, 8);
	assert_string_equal((const char *)ext.feature_names + 48 + 2, "corrupt bit");
	ox_qcow2_extensions_free(&ext);
	assert_int_equal(ox_qcow2_backing_name(&h, cluster, sizeof(cluster), &name, NULL), 0);
	assert_string_equal(name, "json:{}");
	free(name);
}

static void names_that_do_not_fit_are_refused(void **state)
{
	struct ox_qcow2_header h = {.version = 3, .cluster_bits = 9};
	uint8_t cluster[512];
	char name[1025];
	size_t most = 512 - 112 - 16 - 8;

	(void)state;
	memset(name, 'x', sizeof(name));
	name[most + 1] = '\0';
	assert_int_equal(ox_qcow2_first_cluster_encode(&h, name, "raw", cluster, 512, NULL),
			 -EINVAL);
	name[most] = '\0';
	assert_int_equal(ox_qcow2_first_cluster_encode(&h, name, "raw", cluster, 512, NULL), 0);
	assert_int_equal(h.backing_offset + h.backing_size, 512);
}

/* ---- snapshots ---- */

static void put_snapshot(struct bytes *b, unsigned extra, const char *id, const char *name)
{
	put_be(b, 8, 0x50000);
	put_be(b, 4, 7);
	put_be(b, 2, strlen(id));
	put_be(b, 2, strlen(name));
	put_be(b, 4, 1700000000);
	put_be(b, 4, 5);
	put_be(b, 8, 99);
	put_be(b, 4, 1234);
	put_be(b, 4, extra);
	for (unsigned i = 1; i <= extra / 8; i++)
		put_be(b, 8, i * 1000);
	put_text(b, id);
	put_text(b, name);
}

static void snapshots_follow_each_other_padded(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_snapshot s;
	size_t pos = 0;

	(void)state;
	put_snapshot(&b, 24, "1", "first");
	pad(&b);
	put_snapshot(&b, 16, "2", "");
	assert_int_equal(ox_qcow2_snapshot_decode(&base_header, b.at, b.used, &pos, &s, NULL), 0);
	assert_string_equal(s.id, "1");
	assert_string_equal(s.name, "first");
	assert_int_equal(s.l1_offset, 0x50000);
	assert_int_equal(s.l1_entries, 7);
	assert_int_equal(s.vm_state_bytes, 1000);
	assert_int_equal(s.disk_bytes, 2000);
	assert_int_equal(s.icount, 3000);
	ox_qcow2_snapshot_free(&s);
	/* The last record's padding is not there. */
	assert_int_equal(ox_qcow2_snapshot_decode(&base_header, b.at, b.used, &pos, &s, NULL), 0);
	assert_string_equal(s.id, "2");
	assert_string_equal(s.name, "");
	assert_int_equal(s.icount, UINT64_MAX);
	assert_int_equal(pos, b.used);
	ox_qcow2_snapshot_free(&s);
	assert_int_equal(ox_qcow2_snapshot_decode(&base_header, b.at, b.used, &pos, &s, NULL),
			 -EINVAL);
}

static void a_snapshot_without_extra_data_takes_the_images_size(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_snapshot s;
	size_t pos = 0;

	(void)state;
	put_snapshot(&b, 0, "1", "old");
	assert_int_equal(ox_qcow2_snapshot_decode(&base_header, b.at, b.used, &pos, &s, NULL), 0);
	assert_int_equal(s.vm_state_bytes, 1234);
	assert_int_equal(s.disk_bytes, 1 << 20);
	assert_int_equal(s.extra_bytes, 0);
	ox_qcow2_snapshot_free(&s);
}

static void a_snapshot_is_written_as_it_was_read(void **state)
{
	static const unsigned extras[] = {24, 16, 0};
	struct ox_qcow2_header v2 = base_header;

	(void)state;
	v2.version = 2;
	for (size_t i = 0; i < OX_ARRAY_SIZE(extras); i++) {
		const struct ox_qcow2_header *h = extras[i] ? &base_header : &v2;
		struct bytes b = {0};
		struct ox_qcow2_snapshot s;
		uint8_t again[256] = {0};
		size_t pos = 0;

		put_snapshot(&b, extras[i], "1", "first");
		pad(&b);
		assert_int_equal(ox_qcow2_snapshot_decode(h, b.at, b.used, &pos, &s, NULL), 0);
		/* With extra data, the field of version 2 holds what fits of it. */
		if (extras[i]) {
			b.at[34] = 1000 >> 8;
			b.at[35] = 1000 & 0xff;
		}
		assert_int_equal(ox_qcow2_snapshot_bytes(h, &s), b.used);
		assert_int_equal(ox_qcow2_snapshot_encode(h, &s, again), b.used);
		assert_memory_equal(again, b.at, b.used);
		ox_qcow2_snapshot_free(&s);
	}
}

static void a_snapshot_cut_anywhere_is_refused(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_snapshot s;

	(void)state;
	put_snapshot(&b, 24, "1", "first");
	for (size_t count = 0; count < b.used; count++) {
		uint8_t *part = exact(&b, count);
		size_t pos = 0;

		assert_int_equal(
			ox_qcow2_snapshot_decode(&base_header, part, count, &pos, &s, NULL),
			-EINVAL);
		assert_int_equal(pos, 0);
		free(part);
	}
}

static void a_snapshot_with_too_much_extra_data_is_refused(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_snapshot s;
	size_t pos = 0;

	(void)state;
	put_snapshot(&b, 1032, "1", "x");
	assert_int_equal(ox_qcow2_snapshot_decode(&base_header, b.at, b.used, &pos, &s, NULL),
			 -EINVAL);
}

/* ---- bitmaps ---- */

static void put_bitmap(struct bytes *b, uint32_t flags, unsigned type, unsigned granularity,
		       unsigned extra, const char *name)
{
	put_be(b, 8, 0x70000);
	put_be(b, 4, 3);
	put_be(b, 4, flags);
	put_be(b, 1, type);
	put_be(b, 1, granularity);
	put_be(b, 2, strlen(name));
	put_be(b, 4, extra);
	b->used += extra;
	put_text(b, name);
	pad(b);
}

static void bitmaps_follow_each_other_padded(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_bitmap bm;
	size_t pos = 0;

	(void)state;
	put_bitmap(&b, OX_QCOW2_BITMAP_AUTO, 1, 16, 0, "one");
	put_bitmap(&b, OX_QCOW2_BITMAP_IN_USE | OX_QCOW2_BITMAP_EXTRA_COMPATIBLE, 1, 31, 13, "two");
	assert_int_equal(ox_qcow2_bitmap_decode(&base_header, b.at, b.used, &pos, &bm, NULL), 0);
	assert_string_equal(bm.name, "one");
	assert_int_equal(bm.table_offset, 0x70000);
	assert_int_equal(bm.table_entries, 3);
	assert_int_equal(bm.flags, OX_QCOW2_BITMAP_AUTO);
	assert_int_equal(bm.granularity_bits, 16);
	ox_qcow2_bitmap_free(&bm);
	assert_int_equal(ox_qcow2_bitmap_decode(&base_header, b.at, b.used, &pos, &bm, NULL), 0);
	assert_string_equal(bm.name, "two");
	assert_int_equal(pos, b.used);
	ox_qcow2_bitmap_free(&bm);
}

static void bitmaps_beyond_the_limits_are_refused(void **state)
{
	static const unsigned bad[][3] = {
		{8, 1, 16}, {0, 0, 16}, {0, 2, 16}, {0, 1, 8}, {0, 1, 32}};
	struct ox_qcow2_bitmap bm;

	(void)state;
	for (size_t i = 0; i <= OX_ARRAY_SIZE(bad); i++) {
		bool nameless = i == OX_ARRAY_SIZE(bad);
		struct bytes b = {0};
		size_t pos = 0;

		if (nameless)
			put_bitmap(&b, 0, 1, 16, 0, "");
		else
			put_bitmap(&b, bad[i][0], bad[i][1], bad[i][2], 0, "x");
		assert_int_equal(
			ox_qcow2_bitmap_decode(&base_header, b.at, b.used, &pos, &bm, NULL),
			-EINVAL);
		assert_int_equal(pos, 0);
	}
}

static void a_bitmap_cut_anywhere_is_refused(void **state)
{
	struct bytes b = {0};
	struct ox_qcow2_bitmap bm;

	(void)state;
	put_bitmap(&b, 0, 1, 16, 4, "name");
	for (size_t count = 0; count < 24 + 4 + 4; count++) {
		uint8_t *part = exact(&b, count);
		size_t pos = 0;

		assert_int_equal(ox_qcow2_bitmap_decode(&base_header, part, count, &pos, &bm, NULL),
				 -EINVAL);
		free(part);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(extensions_are_found_in_any_order),
		cmocka_unit_test(nothing_is_read_behind_the_end_marker),
		cmocka_unit_test(extensions_end_where_the_backing_name_begins),
		cmocka_unit_test(doubled_extensions_are_refused),
		cmocka_unit_test(an_extension_longer_than_its_area_is_refused),
		cmocka_unit_test(names_with_nul_bytes_are_refused),
		cmocka_unit_test(bitmaps_count_only_where_the_autoclear_bit_vouches),
		cmocka_unit_test(bitmap_extensions_beyond_the_limits_are_refused),
		cmocka_unit_test(a_crypto_pointer_needs_luks),
		cmocka_unit_test(the_first_cluster_bears_its_names),
		cmocka_unit_test(names_that_do_not_fit_are_refused),
		cmocka_unit_test(snapshots_follow_each_other_padded),
		cmocka_unit_test(a_snapshot_without_extra_data_takes_the_images_size),
		cmocka_unit_test(a_snapshot_is_written_as_it_was_read),
		cmocka_unit_test(a_snapshot_cut_anywhere_is_refused),
		cmocka_unit_test(a_snapshot_with_too_much_extra_data_is_refused),
		cmocka_unit_test(bitmaps_follow_each_other_padded),
		cmocka_unit_test(bitmaps_beyond_the_limits_are_refused),
		cmocka_unit_test(a_bitmap_cut_anywhere_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
