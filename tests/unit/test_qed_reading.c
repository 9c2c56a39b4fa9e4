/* SPDX-License-Identifier: MIT */
/*
 * QED images under a reader, whatever their bytes claim: it reads what the format's description
 * says, or fails with -EIO and tells where and why, and changes nothing.
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "img/img.h"
#include "qed_image.h"

#define SMALL ((struct qed_shape){4096, 1, false})
#define WIDE ((struct qed_shape){4096, 16, false})
#define BACKED ((struct qed_shape){4096, 1, true})

static const struct qed_shape shapes[] = {SMALL, WIDE, BACKED, {65536, 2, false}};

static struct ox_io *store;
static struct ox_image *image;

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

/* ---- one open image ---- */

static int open_co(const struct qed_image *im, bool read_only)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};
	int r;

	assert_int_equal(ox_io_memory_open(reactor, im->length, &store), 0);
	memcpy(ox_io_memory_bytes(store), im->bytes, im->length);
	store->read_only = read_only;
	opts.format = "qed";
	opts.flags = OX_OPEN_NO_BACKING;
	r = ox_img_open_co(store, &how, &image, NULL);
	if (r < 0)
		image = NULL;
	return r;
}

static void close_co(const struct qed_image *im)
{
	assert_int_equal(store->length, im->length);
	assert_memory_equal(ox_io_memory_bytes(store), im->bytes, im->length);
	if (image)
		assert_int_equal(ox_img_close_co(image, NULL), 0);
	else
		ox_io_close(store);
}

static int read_co(uint64_t offset, uint8_t *buf, size_t count)
{
	struct iovec v = {buf, count};

	return ox_img_preadv_co(image, &v, 1, offset);
}

/* ---- headers ---- */

struct field {
	uint64_t at;
	uint64_t value;
	bool is_word; /* 64 bits */
	bool opens;
};

static const struct field fields[] = {
	{0, 0x51454400, false, false},
	{4, 0, false, false},
	{4, 2048, false, false},
	{4, 4097, false, false},
	{4, UINT32_C(128) << 20, false, false},
	{4, UINT32_C(64) << 20, false, false}, /* tables that the file has no room for */
	{8, 0, false, false},
	{8, 3, false, false},
	{8, 32, false, false},
	{8, UINT32_MAX, false, false},
	{12, 0, false, false},
	{12, 1000, false, false},
	{12, UINT32_MAX, false, false},
	{16, 8, true, false}, /* unknown features */
	{16, UINT64_MAX, true, false},
	{16, 2, true, true},	      /* NEED_CHECK */
	{24, UINT64_MAX, true, true}, /* compatible */
	{32, UINT64_MAX, true, true}, /* autoclear */
	{40, 0, true, false},
	{40, 8, true, false},
	{40, UINT64_C(1) << 40, true, false},
	{40, UINT64_MAX, true, false},
	{40, UINT64_MAX - 4095, true, false},
	{40, (UINT64_C(1) << 63) - 4096, true, false},
	{48, 511, true, false},
	{48, 0, true, true},
	{48, UINT64_MAX, true, false},
	{48, UINT64_MAX - 511, true, false},
	{48, UINT64_C(512) * 512 * 4096 + 512, true, false},
};

static void a_header_that_the_file_does_not_bear_out_is_refused_co(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(fields); i++) {
		struct qed_image *im = qed_image_new(SMALL);
		int r;

		if (fields[i].is_word)
			qed_put64(im->bytes, fields[i].at, fields[i].value);
		else
			qed_put32(im->bytes, fields[i].at, (uint32_t)fields[i].value);
		r = open_co(im, true);
		assert_int_equal(r == 0, fields[i].opens);
		close_co(im);
		qed_image_free(im);
	}
}

/* Of as much as its tables can map. */
static void the_last_byte_of_the_largest_disk_is_read_co(void *arg)
{
	struct qed_image *im = qed_image_new(WIDE);
	uint8_t byte;

	(void)arg;
	qed_put64(im->bytes, 48, UINT64_C(8192) * 8192 * 4096);
	assert_int_equal(open_co(im, true), 0);
	assert_int_equal(read_co(image->size_bytes - 1, &byte, 1), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(read_co(image->size_bytes, &byte, 1), -EINVAL);
	close_co(im);
	qed_image_free(im);
}

struct name {
	uint32_t offset;
	uint32_t count;
	uint8_t fill;
};

static void a_backing_name_that_is_none_is_refused_co(void *arg)
{
	static const struct name names[] = {
		{UINT32_MAX, 1, 'x'}, {64, UINT32_MAX, 'x'}, {64, 1024, 'x'},
		{4090, 7, 'x'},	      {64, 0, 'x'},	     {64, 5, 0},
	};

	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(names); i++) {
		struct qed_image *im = qed_image_new(BACKED);

		memset(im->bytes + 64, names[i].fill, 1023);
		qed_put32(im->bytes, 56, names[i].offset);
		qed_put32(im->bytes, 60, names[i].count);
		assert_int_equal(open_co(im, true), -EINVAL);
		close_co(im);
		qed_image_free(im);
	}
}

static void a_file_that_ends_before_its_l1_table_is_refused_co(void *arg)
{
	static const uint64_t lengths[] = {0, 3, 63, 64, 4096, 8191};

	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(lengths); i++) {
		struct qed_image *im = qed_image_new(SMALL);

		im->length = lengths[i];
		assert_true(open_co(im, true) < 0);
		close_co(im);
		qed_image_free(im);
	}
}

/* ---- entries ---- */

static bool is_on_l1(const struct qed_image *im, uint64_t value, uint64_t count)
{
	return value < im->l1 + im->table_bytes && im->l1 < value + count;
}

/* Whether the L1 entry names a table that is in the file. */
static bool has_table(const struct qed_image *im, uint64_t l1, uint64_t *ret_table)
{
	*ret_table = qed_get64(im->bytes, im->l1 + 8 * l1);
	return *ret_table % im->shape.cluster == 0 && *ret_table >= im->shape.cluster &&
	       *ret_table < im->length && im->table_bytes <= im->length - *ret_table;
}

/* How many L1 entries name tables that have a part of the bytes. */
static unsigned tables_on(const struct qed_image *im, uint64_t offset, uint64_t bytes)
{
	unsigned count = 0;
	uint64_t table;

	for (uint64_t l1 = 0; l1 < im->entries; l1++)
		count += has_table(im, l1, &table) && table < offset + bytes &&
			 offset < table + im->table_bytes;
	return count;
}

/* What never became durable: an image that was not closed says nothing with it. */
static bool is_stale(const struct qed_image *im, uint64_t value, uint64_t bytes)
{
	return qed_is_marked(im->bytes) && value % im->shape.cluster == 0 && value != 0 &&
	       (value >= im->length || bytes > im->length - value);
}

/* What a guest reads at the cluster, of L1 entry l1: as the description has it, but that nothing is
 * read out of tables, nor through one that something else has. */
static enum qed_reads expected(const struct qed_image *im, uint64_t l1, uint64_t l2,
			       uint64_t *ret_at)
{
	const enum qed_reads none = im->shape.has_backing ? QED_HOLE : QED_ZEROES;
	uint64_t table = qed_get64(im->bytes, im->l1 + 8 * l1);
	enum qed_reads reads = qed_read(im, im->bytes, im->length, l1, l2, ret_at);

	if (is_stale(im, table, im->table_bytes))
		return none;
	if (has_table(im, l1, &table)) {
		if (is_on_l1(im, table, im->table_bytes) ||
		    tables_on(im, table, im->table_bytes) > 1)
			return QED_EIO;
		if (is_stale(im, qed_get64(im->bytes, table + 8 * l2), 1))
			return none;
	}
	if (reads == QED_BYTES && (is_on_l1(im, *ret_at, im->shape.cluster) ||
				   tables_on(im, *ret_at, im->shape.cluster) > 0))
		return QED_EIO;
	return reads;
}

static void check_extent_co(const struct qed_image *im, uint64_t offset, enum qed_reads reads,
			    uint64_t at)
{
	struct ox_extent e;
	int r = ox_img_extent_co(image, offset, im->shape.cluster, &e);

	assert_int_equal(r, reads == QED_EIO ? -EIO : 0);
	if (r < 0)
		return;
	assert_int_equal(e.flags & (OX_EXTENT_DATA | OX_EXTENT_ZERO),
			 reads == QED_BYTES    ? OX_EXTENT_DATA
			 : reads == QED_ZEROES ? OX_EXTENT_ZERO
					       : 0);
	assert_true(e.length > 0 && e.length <= im->shape.cluster);
	if (reads == QED_BYTES)
		assert_int_equal(e.host_offset, at);
}

static void check_cluster_co(const struct qed_image *im, uint64_t l1, uint64_t l2)
{
	const uint32_t cluster = im->shape.cluster;
	uint64_t offset = (l1 * im->entries + l2) * cluster;
	uint64_t told = ox_notice_count(image);
	uint8_t *buf = malloc(cluster);
	uint8_t *want = calloc(1, cluster);
	struct ox_notice notice;
	uint64_t at = 0;
	enum qed_reads reads = expected(im, l1, l2, &at);
	int r = read_co(offset, buf, cluster);

	/* What the chain, which is closed here, would have is not taken for zeroes. */
	assert_int_equal(r, reads == QED_EIO || reads == QED_HOLE ? -EIO : 0);
	if (reads == QED_BYTES)
		memcpy(want, im->bytes + at, ox_min_u64(cluster, im->length - at));
	if (r == 0)
		assert_memory_equal(buf, want, cluster);
	if (reads == QED_EIO) {
		assert_true(ox_notice_count(image) > told && ox_notice_last(image, &notice));
		assert_int_equal(notice.kind, OX_NOTICE_DAMAGE);
		assert_non_null(notice.finding);
		assert_true(offset >= notice.guest_offset &&
			    offset - notice.guest_offset < notice.guest_length);
	}
	check_extent_co(im, offset, reads, at);
	free(buf);
	free(want);
}

static void check_image_co(const struct qed_image *im)
{
	assert_int_equal(open_co(im, true), 0);
	for (uint64_t l1 = 0; l1 < 2; l1++) {
		for (uint64_t l2 = 0; l2 < 10; l2++)
			check_cluster_co(im, l1, l2);
		check_cluster_co(im, l1, im->entries - 1);
	}
	close_co(im);
}

static uint64_t hostile(const struct qed_image *im, unsigned i)
{
	const uint64_t cluster = im->shape.cluster;
	const uint64_t values[] = {
		1,
		2,
		7,
		512,
		0,
		cluster / 2,
		cluster,
		im->l1,
		im->l1 + im->table_bytes - cluster,
		im->l2[0],
		im->l2[1],
		im->data,
		im->data + 1,
		im->length - cluster,
		im->length,
		im->length + cluster,
		UINT64_MAX,
		UINT64_MAX - cluster + 1,
		UINT64_C(1) << 63,
		(UINT64_C(1) << 63) - cluster,
	};

	return i < OX_ARRAY_SIZE(values) ? values[i] : UINT64_MAX - 1;
}

#define HOSTILE 21u

static void an_entry_that_leads_nowhere_is_told_and_all_else_is_read_co(void *arg)
{
	(void)arg;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (unsigned i = 0; i < 3 * HOSTILE; i++) {
			struct qed_image *im = qed_image_new(shapes[s]);
			uint64_t value = hostile(im, i / 3);

			if (i % 3 == 0)
				qed_set_l1(im, 1, value);
			else
				qed_set_l2(im, 0, i % 3 == 1 ? 0 : 3, value);
			if (i % 2)
				qed_mark(im);
			check_image_co(im);
			qed_image_free(im);
		}
	}
}

/* The file ends within its last cluster: what is missing reads as zeroes. */
static void the_rest_of_a_cut_cluster_is_zeroes_co(void *arg)
{
	struct qed_image *im = qed_image_new(SMALL);

	(void)arg;
	im->length -= 4096 - 100;
	check_image_co(im);
	qed_image_free(im);
}

struct damage {
	bool is_l1;
	uint64_t value;
	const char *finding;
};

static void damage_has_the_name_that_the_check_gives_it_co(void *arg)
{
	static const struct damage cases[] = {
		{true, 8, "qed-l1-entry"},
		{true, UINT64_C(1) << 40, "past-end"},
		{true, 4096, "metadata-overlap"},
		{false, 8, "qed-l2-entry"},
		{false, UINT64_C(1) << 40, "past-end"},
		{false, 4096, "metadata-overlap"},
	};

	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(cases); i++) {
		struct qed_image *im = qed_image_new(SMALL);
		struct ox_notice notice;
		uint8_t byte;

		if (cases[i].is_l1)
			qed_set_l1(im, 0, cases[i].value);
		else
			qed_set_l2(im, 0, 0, cases[i].value);
		assert_int_equal(open_co(im, true), 0);
		assert_int_equal(read_co(0, &byte, 1), -EIO);
		assert_true(ox_notice_last(image, &notice));
		assert_string_equal(notice.finding, cases[i].finding);
		assert_int_equal(notice.host_offset, cases[i].is_l1 ? im->l1 : im->l2[0]);
		close_co(im);
		qed_image_free(im);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_header_that_the_file_does_not_bear_out_is_refused),
		TASK_TEST(the_last_byte_of_the_largest_disk_is_read),
		TASK_TEST(a_backing_name_that_is_none_is_refused),
		TASK_TEST(a_file_that_ends_before_its_l1_table_is_refused),
		TASK_TEST(an_entry_that_leads_nowhere_is_told_and_all_else_is_read),
		TASK_TEST(the_rest_of_a_cut_cluster_is_zeroes),
		TASK_TEST(damage_has_the_name_that_the_check_gives_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
