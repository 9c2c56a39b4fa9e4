/* SPDX-License-Identifier: MIT */
/*
 * J4: commit, rebase and a shrinking resize, cut at each of their writes and syncs, by the death of
 * the process (all that was written is there) and by the loss of power (what was not synced is
 * there or not). After each cut the chain reads the same, nothing of it is damaged, and the work
 * can be begun anew and comes to its end.
 */
#include "task_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "check/check.h"
#include "cut_io.h"
#include "img/img.h"
#include "job/chain.h"

#define CLUSTER 4096u
#define TOP_BYTES (20u * CLUSTER + 512u)
#define BASE_BYTES (12u * CLUSTER)
#define POWER_CUTS 3u /* seeds of each */

struct shape {
	const char *name;
	const char *format;
	unsigned version;
	bool lazy;
	const char *base_format;
};

static const struct shape shapes[] = {
	{"qcow2 over qcow2", "qcow2", 3, false, "qcow2"},
	{"lazy qcow2 over lazy qcow2", "qcow2", 3, true, "qcow2"},
	{"version 2 over raw", "qcow2", 2, false, "raw"},
	{"QED over QED", "qed", 3, false, "qed"},
};

struct bytes {
	uint8_t *bytes;
	uint64_t length;
};

static const struct shape *shape;
static struct cut cut;
static struct ox_io_ops kept_ops; /* a store that outlives the images on it */
static void (*close_store)(struct ox_io *io);
/* Names that do not fit into the header's first sector. */
#define LONG_NAME "a-name-that-lies-behind-the-first-sector-of-the-header"
static char old_path[] = "/tmp/ox-test-chain-old-" LONG_NAME "-XXXXXX";
static char new_path[] = "/tmp/ox-test-chain-new-" LONG_NAME "-XXXXXX";
static uint8_t expected[TOP_BYTES];

static void make_file(char *path, unsigned clusters, unsigned seed)
{
	uint8_t cluster[CLUSTER];
	int fd;

	memset(path + strlen(path) - 6, 'X', 6); /* of an earlier test */
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < clusters; i++) {
		/* Alike in some, different in others, zeroes in some. */
		memset(cluster, i % 3 == 0 ? 7 : i % 5 == seed ? 0 : (int)(seed * 16 + i), CLUSTER);
		assert_int_equal(write(fd, cluster, CLUSTER), CLUSTER);
	}
	close(fd);
}

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

static void keep_open(struct ox_io *io)
{
	(void)io;
}

/* It has no descriptor, and no locks. */
static int reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	(void)err;
	io->read_only = read_only;
	return 0;
}

static struct ox_io *open_store(const struct bytes *from)
{
	struct ox_io *io = cut_open(reactor, &cut, from->bytes, from->length);

	close_store = io->ops->close == keep_open ? close_store : io->ops->close;
	kept_ops = *io->ops;
	kept_ops.close = keep_open;
	kept_ops.reopen = reopen;
	io->ops = &kept_ops;
	return io;
}

static struct bytes take_bytes(struct ox_io *io)
{
	struct bytes ret = {malloc(io->length + 1), io->length};

	assert_non_null(ret.bytes);
	memcpy(ret.bytes, cut_bytes(io), io->length);
	close_store(io);
	return ret;
}

/* ---- images ---- */

static struct bytes create_clusters_co(const char *format, uint64_t size, const char *backing,
				       uint32_t cluster_bytes)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;
	struct bytes none = {NULL, 0};
	struct ox_io *io;

	cut = (struct cut){.sparse = true, .room_bytes = ox_max_u64(1 << 20, 16 * cluster_bytes)};
	io = open_store(&none);
	opts.format = format;
	opts.virtual_bytes = size;
	opts.version = shape->version;
	opts.lazy_refcounts = shape->lazy;
	opts.cluster_bytes = cluster_bytes;
	opts.backing_file = backing;
	opts.backing_format = backing ? "raw" : NULL;
	if (strcmp(format, "qcow2") == 0)
		assert_int_equal(ox_qcow2_create_co(io, &opts, NULL), 0);
	else if (strcmp(format, "qed") == 0)
		assert_int_equal(ox_qed_create_co(io, &opts, NULL), 0);
	else
		assert_int_equal(ox_io_set_length_co(io, size), 0);
	return take_bytes(io);
}

static struct bytes create_co(const char *format, uint64_t size, const char *backing)
{
	return create_clusters_co(format, size, backing, CLUSTER);
}

/* base: the one below; NULL: the chain that the image names is opened by its path. */
static struct ox_image *open_co(struct ox_io *io, const char *format, bool writable,
				struct ox_image *base)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	struct ox_image *image;
	struct ox_error *err = NULL;

	opts.format = format;
	opts.recover = OX_RECOVER_WAIT;
	opts.lazy_idle_ms = UINT32_MAX;
	opts.table_age_ms = UINT32_MAX;
	opts.backing_policy = OX_BACKING_ALLOW;
	opts.flags = base ? OX_OPEN_NO_BACKING : 0;
	io->read_only = !writable;
	if (ox_img_open_co(io, &how, &image, &err) != 0)
		fail_msg("%s: cannot be opened: %s", shape->name, ox_error_message(err));
	if (base)
		image->backing = base;
	return image;
}

static void put_co(struct ox_image *image, unsigned cluster, uint8_t value)
{
	uint8_t bytes[CLUSTER];
	uint64_t at = (uint64_t)cluster * CLUSTER;
	struct iovec v = {bytes, ox_min_u64(CLUSTER, image->size_bytes - at)};

	memset(bytes, value, CLUSTER);
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, at, 0), 0);
}

static void zero_co(struct ox_image *image, unsigned cluster)
{
	assert_int_equal(ox_img_zero_co(image, (uint64_t)cluster * CLUSTER, CLUSTER, 0), 0);
}

static void check_reads_co(struct ox_image *image, uint64_t bytes, const char *what)
{
	uint8_t now[TOP_BYTES];
	struct iovec v = {now, bytes};

	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), 0);
	for (uint64_t i = 0; i < bytes; i++) {
		if (now[i] != expected[i])
			fail_msg("%s, %s: byte %u is 0x%x, was 0x%x", shape->name, what,
				 (unsigned)i, now[i], expected[i]);
	}
}

static void read_expected_co(struct ox_image *image)
{
	struct iovec v = {expected, sizeof(expected)};

	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), 0);
}

/* Damage is never left; what a lazy image's recovery settles is none. */
static void check_sound_co(struct ox_io *io, const char *format, const char *what)
{
	struct ox_check_options opts = {.struct_size = sizeof(opts)};
	struct ox_check_result result = {0};
	int r = 0;

	if (strcmp(format, "qcow2") == 0)
		r = ox_check_qcow2_co(io, &opts, &result, NULL);
	else if (strcmp(format, "qed") == 0)
		r = ox_check_qed_co(io, &opts, &result, NULL);
	if (r != 0 || result.check_errors > 0 ||
	    result.corruptions > result.recoverable_corruptions)
		fail_msg("%s, %s: a check finds %u corruptions", shape->name, what,
			 (unsigned)result.corruptions);
}

static void end_co(struct ox_image *image)
{
	int r = ox_img_close_co(image, NULL);

	(void)r; /* where the power is gone it fails */
}

/* What the cut has left: after a death all that was written, after a loss of power some of it. */
static void come_back(struct ox_io *io, unsigned seed)
{
	if (seed > 0)
		cut_recover(io, seed);
}

static const char *told(unsigned after, unsigned seed)
{
	static char text[80];

	snprintf(text, sizeof(text), "cut at change %u (%s %u)", after, seed ? "power" : "death",
		 seed);
	return text;
}

/* ---- commit ---- */

struct pair {
	struct bytes top;
	struct bytes base;
};

static struct pair make_pair_co(void)
{
	struct pair pair = {.base = create_co(shape->base_format, BASE_BYTES, NULL),
			    .top = create_co(shape->format, TOP_BYTES, "cut")};
	struct ox_io *base_io = open_store(&pair.base);
	struct ox_io *top_io = open_store(&pair.top);
	struct ox_image *base = open_co(base_io, shape->base_format, true, NULL);
	struct ox_image *top;

	for (unsigned i = 0; i < BASE_BYTES / CLUSTER; i += 2)
		put_co(base, i, (uint8_t)(0x80 + i));
	assert_int_equal(ox_img_close_co(base, NULL), 0);
	base = open_co(base_io, shape->base_format, false, NULL);
	top = open_co(top_io, shape->format, true, base);
	for (unsigned i = 0; i <= TOP_BYTES / CLUSTER; i += 3)
		put_co(top, i, (uint8_t)(1 + i));
	zero_co(top, 2);
	zero_co(top, 4);
	put_co(top, 19, 0x55); /* behind the base's end */
	read_expected_co(top);
	assert_int_equal(ox_img_close_co(top, NULL), 0);
	free(pair.base.bytes);
	free(pair.top.bytes);
	pair.base = take_bytes(base_io);
	pair.top = take_bytes(top_io);
	return pair;
}

static int commit_co(struct ox_io *top_io, struct ox_io *base_io)
{
	struct ox_commit_options opts = OX_COMMIT_OPTIONS_INIT;
	struct ox_commit_result result;
	struct ox_image *base = open_co(base_io, shape->base_format, false, NULL);
	struct ox_image *top = open_co(top_io, shape->format, true, base);
	struct ox_error *err = NULL;
	int r;

	opts.memory_bytes = 1; /* as little as it takes: more is cleared each time */
	r = ox_job_commit_co(top, &opts, &result, &err);
	if (r == 0)
		r = ox_img_close_co(top, NULL);
	else
		end_co(top);
	if (r != 0 && cut.after == 0)
		fail_msg("%s: %s", shape->name, ox_error_message(err));
	ox_error_free(err);
	return r;
}

static void check_pair_co(struct ox_io *top_io, struct ox_io *base_io, const char *what)
{
	struct ox_image *base = open_co(base_io, shape->base_format, false, NULL);
	struct ox_image *top = open_co(top_io, shape->format, false, base);

	check_reads_co(top, TOP_BYTES, what);
	end_co(top);
	check_sound_co(base_io, shape->base_format, what);
	check_sound_co(top_io, shape->format, what);
}

/* The base has it all, and the image nothing of its own. */
static void check_committed_co(struct ox_io *top_io, struct ox_io *base_io, const char *what)
{
	struct ox_image *base = open_co(base_io, shape->base_format, false, NULL);
	struct ox_image *top = open_co(top_io, shape->format, false, base);
	struct ox_extent e;

	assert_int_equal(base->size_bytes, TOP_BYTES);
	check_reads_co(base, TOP_BYTES, what);
	for (uint64_t at = 0; at < TOP_BYTES; at += e.length) {
		assert_int_equal(ox_img_extent_co(top, at, TOP_BYTES - at, &e), 0);
		assert_true(e.depth == 1 || !(e.flags & OX_EXTENT_PRESENT));
	}
	end_co(top);
}

/* False: the commit came to its end before. */
static bool cut_commit_co(const struct pair *pair, unsigned after, unsigned seed)
{
	const char *what = told(after, seed);
	struct ox_io *base_io;
	struct ox_io *top_io;
	bool was_cut;
	int r;

	cut = (struct cut){.sparse = true};
	base_io = open_store(&pair->base);
	top_io = open_store(&pair->top);
	cut.after = after;
	r = commit_co(top_io, base_io);
	was_cut = r != 0;
	come_back(top_io, seed);
	come_back(base_io, seed + 100);
	cut = (struct cut){.sparse = true};
	check_pair_co(top_io, base_io, what);
	if (commit_co(top_io, base_io) != 0)
		fail_msg("%s, %s: cannot be gone on with", shape->name, what);
	check_pair_co(top_io, base_io, what);
	check_committed_co(top_io, base_io, what);
	close_store(top_io);
	close_store(base_io);
	return was_cut;
}

static void cut_at_each_change_co(bool (*cut_one_co)(const struct pair *pair, unsigned after,
						     unsigned seed),
				  const struct pair *pair)
{
	bool is_cut = true;
	unsigned after;

	for (after = 1; is_cut; after++) {
		for (unsigned seed = 0; seed <= POWER_CUTS; seed++)
			is_cut = cut_one_co(pair, after, seed);
		assert_true(after < 2000);
	}
	assert_true(after > 5);
}

static void free_pair(struct pair *pair)
{
	free(pair->top.bytes);
	free(pair->base.bytes);
}

static void a_commit_that_is_cut_leaves_a_chain_that_reads_the_same_co(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		struct pair pair;

		shape = &shapes[i];
		pair = make_pair_co();
		cut_at_each_change_co(cut_commit_co, &pair);
		free_pair(&pair);
	}
}

/* ---- rebase ---- */

static struct pair make_overlay_co(void)
{
	struct pair pair = {.top = create_co(shape->format, TOP_BYTES, old_path)};
	struct ox_io *io = open_store(&pair.top);
	struct ox_image *top = open_co(io, shape->format, true, NULL);

	put_co(top, 1, 0x11);
	zero_co(top, 6);
	put_co(top, TOP_BYTES / CLUSTER, 0x22);
	read_expected_co(top);
	assert_int_equal(ox_img_close_co(top, NULL), 0);
	free(pair.top.bytes);
	pair.top = take_bytes(io);
	return pair;
}

static int rebase_co(struct ox_io *io, const char *path)
{
	struct ox_rebase_options opts = OX_REBASE_OPTIONS_INIT;
	struct ox_rebase_result result;
	struct ox_image *top = open_co(io, shape->format, true, NULL);
	int r;

	opts.backing_file = path;
	opts.backing_format = "raw";
	opts.memory_bytes = 1; /* as little as it takes: more is cleared each time */
	r = ox_job_rebase_co(top, &opts, &result, NULL);
	if (r == 0) {
		check_reads_co(top, TOP_BYTES, "still open");
		r = ox_img_close_co(top, NULL);
	} else {
		end_co(top);
	}
	return r;
}

static void check_overlay_co(struct ox_io *io, const char *path, const char *what)
{
	struct ox_image *top = open_co(io, shape->format, false, NULL);

	check_reads_co(top, TOP_BYTES, what);
	if (path)
		assert_string_equal(top->backing_name, path);
	else
		assert_true(strcmp(top->backing_name, old_path) == 0 ||
			    strcmp(top->backing_name, new_path) == 0);
	end_co(top);
	check_sound_co(io, shape->format, what);
}

static bool cut_rebase_co(const struct pair *pair, unsigned after, unsigned seed)
{
	const char *what = told(after, seed);
	struct ox_io *io;
	bool was_cut;

	cut = (struct cut){.sparse = true};
	io = open_store(&pair->top);
	cut.after = after;
	was_cut = rebase_co(io, new_path) != 0;
	come_back(io, seed);
	cut = (struct cut){.sparse = true};
	check_overlay_co(io, NULL, what);
	if (rebase_co(io, new_path) != 0)
		fail_msg("%s, %s: cannot be gone on with", shape->name, what);
	check_overlay_co(io, new_path, what);
	close_store(io);
	return was_cut;
}

static void a_rebase_that_is_cut_leaves_an_image_that_reads_the_same_co(void *arg)
{
	(void)arg;
	make_file(old_path, 18, 1); /* shorter than the new one, */
	make_file(new_path, 21, 3); /* whose bytes must not show */
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		struct pair pair;

		shape = &shapes[i];
		pair = make_overlay_co();
		cut_at_each_change_co(cut_rebase_co, &pair);
		free(pair.top.bytes);
	}
	unlink(old_path);
	unlink(new_path);
}

/* Whole clusters are compressed, so that one of each chain is in memory, whatever its bound. */
static void a_rebase_compresses_clusters_that_are_larger_than_its_memory_co(void *arg)
{
	const uint32_t large = 2u << 20;
	struct ox_rebase_options opts = OX_REBASE_OPTIONS_INIT;
	struct ox_rebase_result result;
	struct ox_image *top;
	struct bytes bytes;
	struct ox_io *io;

	(void)arg;
	make_file(old_path, 18, 1);
	shape = &shapes[0];
	bytes = create_clusters_co("qcow2", 2 * large, old_path, large);
	io = open_store(&bytes);
	top = open_co(io, "qcow2", true, NULL);
	read_expected_co(top);
	opts.compress = true;
	opts.memory_bytes = 1;
	assert_int_equal(ox_job_rebase_co(top, &opts, &result, NULL), 0);
	assert_int_equal(result.data_bytes, large);
	check_reads_co(top, TOP_BYTES, "rebased");
	assert_int_equal(ox_img_close_co(top, NULL), 0);
	close_store(io);
	free(bytes.bytes);
	unlink(old_path);
}

/* ---- resize ---- */

#define SMALL_BYTES (9u * CLUSTER + 1024u)

static int resize_co(struct ox_io *io, uint64_t bytes)
{
	struct ox_resize_options opts = OX_RESIZE_OPTIONS_INIT;
	struct ox_image *image = open_co(io, shape->format, true, NULL);
	int r = ox_img_resize_with_co(image, bytes, &opts, NULL);

	if (r == 0)
		r = ox_img_close_co(image, NULL);
	else
		end_co(image);
	return r;
}

static void check_size_co(struct ox_io *io, uint64_t bytes, const char *what)
{
	struct ox_image *image = open_co(io, shape->format, false, NULL);

	assert_true(image->size_bytes == bytes || (bytes == 0 && image->size_bytes == TOP_BYTES) ||
		    (bytes == 0 && image->size_bytes == SMALL_BYTES));
	check_reads_co(image, image->size_bytes, what);
	end_co(image);
	check_sound_co(io, shape->format, what);
}

static bool cut_shrink_co(const struct pair *pair, unsigned after, unsigned seed)
{
	const char *what = told(after, seed);
	uint8_t kept[TOP_BYTES];
	struct ox_io *io;
	bool was_cut;

	cut = (struct cut){.sparse = true};
	io = open_store(&pair->top);
	cut.after = after;
	was_cut = resize_co(io, SMALL_BYTES) != 0;
	come_back(io, seed);
	cut = (struct cut){.sparse = true};
	check_size_co(io, 0, what);
	assert_int_equal(resize_co(io, SMALL_BYTES), 0);
	check_size_co(io, SMALL_BYTES, what);
	/* What is gone does not come back. */
	memcpy(kept, expected, sizeof(kept));
	memset(expected + SMALL_BYTES, 0, TOP_BYTES - SMALL_BYTES);
	assert_int_equal(resize_co(io, TOP_BYTES), 0);
	check_size_co(io, TOP_BYTES, what);
	memcpy(expected, kept, sizeof(kept));
	close_store(io);
	return was_cut;
}

static void a_shrinking_that_is_cut_loses_nothing_but_what_it_shall_co(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		struct pair pair;
		struct ox_io *io;
		struct ox_image *image;

		shape = &shapes[i];
		pair = (struct pair){.top = create_co(shape->format, TOP_BYTES, NULL)};
		io = open_store(&pair.top);
		image = open_co(io, shape->format, true, NULL);
		for (unsigned c = 0; c <= TOP_BYTES / CLUSTER; c += c % 4 ? 1 : 2)
			put_co(image, c, (uint8_t)(1 + c));
		read_expected_co(image);
		assert_int_equal(ox_img_close_co(image, NULL), 0);
		free(pair.top.bytes);
		pair.top = take_bytes(io);
		cut_at_each_change_co(cut_shrink_co, &pair);
		free(pair.top.bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_commit_that_is_cut_leaves_a_chain_that_reads_the_same),
		TASK_TEST(a_rebase_that_is_cut_leaves_an_image_that_reads_the_same),
		TASK_TEST(a_rebase_compresses_clusters_that_are_larger_than_its_memory),
		TASK_TEST(a_shrinking_that_is_cut_loses_nothing_but_what_it_shall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
