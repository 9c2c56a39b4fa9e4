/* SPDX-License-Identifier: MIT */
/*
 * QED images under a writer, whatever their bytes claim: nothing is written over what an entry
 * names, nothing gets worse, and the mark goes only where nothing is wrong (D6).
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/check.h"
#include "img/img.h"
#include "qed_image.h"

#define SMALL ((struct qed_shape){4096, 1, false})
#define WIDE ((struct qed_shape){4096, 16, false})

static const struct qed_shape shapes[] = {SMALL, WIDE, {65536, 2, false}};

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

static int open_co(const struct qed_image *im, enum ox_recover_mode recover)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	int r;

	assert_int_equal(ox_io_memory_open(reactor, im->length, &store), 0);
	memcpy(ox_io_memory_bytes(store), im->bytes, im->length);
	opts.format = "qed";
	opts.recover = recover;
	r = ox_img_open_co(store, &how, &image, NULL);
	if (r < 0)
		ox_io_close(store);
	return r;
}

/* What the file holds once the image is closed. To be freed. An image whose data entries name
 * tables may be fenced off, and then nothing more is written. */
static uint8_t *close_co(bool is_sound, uint64_t *ret_length)
{
	bool fenced;
	uint8_t *bytes;

	fenced = ox_img_flush_co(image) < 0;
	fenced = image->ops->deactivate_co(image, NULL) < 0 || fenced;
	assert_false(is_sound && fenced);
	*ret_length = store->length;
	bytes = malloc(store->length);
	assert_non_null(bytes);
	memcpy(bytes, ox_io_memory_bytes(store), store->length);
	image->read_only = true;
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	return bytes;
}

static int write_co(uint64_t cluster, uint32_t cluster_bytes, uint8_t byte)
{
	uint8_t *buf = malloc(cluster_bytes);
	struct iovec v = {buf, cluster_bytes};
	int r;

	memset(buf, byte, cluster_bytes);
	r = ox_img_pwritev_co(image, &v, 1, cluster * cluster_bytes, 0);
	free(buf);
	return r;
}

/* ---- hostile entries ---- */

#define HOSTILE 19u

static uint64_t hostile(const struct qed_image *im, unsigned i)
{
	const uint64_t cluster = im->shape.cluster;
	const uint64_t values[HOSTILE] = {
		1,
		2,
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
		im->length + 3 * cluster,
		UINT64_MAX,
		UINT64_MAX - cluster + 1,
		UINT64_C(1) << 63,
		(UINT64_C(1) << 63) - cluster,
	};

	return values[i];
}

/* Guest clusters, as L1 and L2 index. */
static const uint64_t written[][2] = {{0, 2}, {0, 8}, {1, 1}, {0, 0}, {1, 9}};
static const uint64_t discarded[][2] = {{0, 5}, {1, 3}};

static bool is_changed(uint64_t l1, uint64_t l2)
{
	for (size_t i = 0; i < OX_ARRAY_SIZE(written); i++) {
		if (written[i][0] == l1 && written[i][1] == l2)
			return true;
	}
	for (size_t i = 0; i < OX_ARRAY_SIZE(discarded); i++) {
		if (discarded[i][0] == l1 && discarded[i][1] == l2)
			return true;
	}
	return false;
}

static void use_co(const struct qed_image *im)
{
	const uint32_t cluster = im->shape.cluster;

	for (size_t i = 0; i < OX_ARRAY_SIZE(written); i++) {
		int r = write_co(written[i][0] * im->entries + written[i][1], cluster, 0xee);

		assert_true(r == 0 || r == -EIO);
	}
	for (size_t i = 0; i < OX_ARRAY_SIZE(discarded); i++) {
		uint64_t at = (discarded[i][0] * im->entries + discarded[i][1]) * cluster;
		int r = ox_img_discard_co(image, at, cluster);

		assert_true(r == 0 || r == -EIO);
	}
}

/* What nobody has changed reads as it did, where it was data and no table. A write in place
 * to a cluster with two names is seen under both only in an image that calls itself clean. */
static void check_kept(const struct qed_image *im, const uint8_t *bytes, uint64_t length)
{
	uint64_t from = 0;
	uint64_t to = 0;

	for (uint64_t l1 = 0; l1 < 2; l1++) {
		for (uint64_t l2 = 0; l2 < 10; l2++) {
			enum qed_reads was = qed_read(im, im->bytes, im->length, l1, l2, &from);
			enum qed_reads is = qed_read(im, bytes, length, l1, l2, &to);
			uint64_t n = ox_min_u64(im->shape.cluster,
						ox_min_u64(im->length - from, length - to));

			if (is_changed(l1, l2) || was != QED_BYTES || from < im->data ||
			    qed_get64(im->bytes, im->l1 + 8 * l1) != im->l2[l1])
				continue;
			assert_int_equal(is, QED_BYTES);
			assert_memory_equal(bytes + to, im->bytes + from, n);
		}
	}
}

static void check_one_co(const struct qed_image *im, enum ox_recover_mode recover)
{
	const bool was_marked = qed_is_marked(im->bytes);
	const unsigned problems = qed_problems(im, im->bytes, im->length);
	uint64_t length;
	uint8_t *bytes;

	if (open_co(im, recover) < 0) {
		assert_int_equal(recover, OX_RECOVER_WAIT);
		return;
	}
	use_co(im);
	bytes = close_co(problems == 0, &length);
	assert_true(qed_problems(im, bytes, length) <= problems);
	/* A copy may have mended what the walk found: then the mark stays all the same. */
	if (was_marked && qed_problems(im, bytes, length) > 0)
		assert_true(qed_is_marked(bytes));
	if (problems == 0)
		assert_false(qed_is_marked(bytes));
	if (was_marked || problems == 0)
		check_kept(im, bytes, length);
	free(bytes);
}

static void no_entry_makes_a_writer_harm_another_co(void *arg)
{
	const enum ox_recover_mode modes[] = {OX_RECOVER_AUTO, OX_RECOVER_WAIT};

	(void)arg;
	for (unsigned i = 0; i < OX_ARRAY_SIZE(shapes) * 3 * HOSTILE * 2; i++) {
		struct qed_image *im = qed_image_new(shapes[i % OX_ARRAY_SIZE(shapes)]);
		unsigned n = i / OX_ARRAY_SIZE(shapes);
		uint64_t value = hostile(im, n / 2 / 3 % HOSTILE);

		if (n / 2 % 3 == 0)
			qed_set_l1(im, 1, value);
		else
			qed_set_l2(im, 0, n / 2 % 3 == 1 ? 1 : 3, value);
		if (n % 2)
			qed_mark(im);
		for (size_t k = 0; k < OX_ARRAY_SIZE(modes); k++)
			check_one_co(im, modes[k]);
		qed_image_free(im);
	}
}

/* ---- what a session leaves ---- */

static void trimmed_clusters_are_used_again_co(void *arg)
{
	struct qed_image *im = qed_image_new(SMALL);
	uint64_t length = 0;
	uint8_t *bytes;

	(void)arg;
	assert_int_equal(open_co(im, OX_RECOVER_AUTO), 0);
	for (unsigned round = 0; round < 20; round++) {
		for (uint64_t i = 0; i < 64; i++)
			assert_int_equal(write_co(100 + i, 4096, (uint8_t)round + 1), 0);
		assert_int_equal(ox_img_discard_co(image, 100 * 4096, UINT64_C(64) * 4096), 0);
		assert_int_equal(ox_img_flush_co(image), 0);
		length = ox_max_u64(length, store->length);
	}
	/* Twice what is in use at once, and a reserve as large: not twenty times. */
	assert_true(length <= im->length + UINT64_C(4) * 64 * 4096);
	bytes = close_co(true, &length);
	assert_int_equal(qed_problems(im, bytes, length), 0);
	assert_false(qed_is_marked(bytes));
	/* All of it was cut off again, but for what the table's place may keep. */
	assert_true(length <= im->length + UINT64_C(8) * 4096);
	free(bytes);
	qed_image_free(im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(no_entry_makes_a_writer_harm_another),
		TASK_TEST(trimmed_clusters_are_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
