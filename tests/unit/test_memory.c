/* SPDX-License-Identifier: MIT */
/* What the metadata cache takes, counted as it is asked for: every allocation of the program comes
 * by here, and so does every mapping. */
#include "task_test.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "img/img.h"
#include "meta/cache.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define PAGE 4096u /* of which the heap gives whole ones */

/* ---- counting ---- */

static int64_t live; /* bytes */
static int64_t peak;

#define WRAPPED(result, name, ...)                                                                 \
	result __real_##name(__VA_ARGS__);                                                         \
	result __wrap_##name(__VA_ARGS__);                                                         \
	result __wrap_##name(__VA_ARGS__)

static void count(int64_t bytes)
{
	live += bytes;
	if (live > peak)
		peak = live;
}

static void *taken(void *p)
{
	count(p ? (int64_t)malloc_usable_size(p) : 0);
	return p;
}

WRAPPED(void *, malloc, size_t size)
{
	return taken(__real_malloc(size));
}

WRAPPED(void *, calloc, size_t n, size_t size)
{
	return taken(__real_calloc(n, size));
}

WRAPPED(void *, realloc, void *p, size_t size)
{
	count(p ? -(int64_t)malloc_usable_size(p) : 0);
	return taken(__real_realloc(p, size));
}

/* The heap takes as much again as the alignment. */
WRAPPED(void *, aligned_alloc, size_t alignment, size_t size)
{
	return taken(__real_aligned_alloc(alignment, size));
}

WRAPPED(char *, strdup, const char *s)
{
	return taken(__real_strdup(s));
}

WRAPPED(void, free, void *p)
{
	count(p ? -(int64_t)malloc_usable_size(p) : 0);
	__real_free(p);
}

/* Stacks of tasks are the reactor's, which keeps some for the next. */
static void *stacks[256];

static bool is_stack(void *at, void *becomes)
{
	for (size_t i = 0; i < sizeof(stacks) / sizeof(stacks[0]); i++) {
		if (stacks[i] == at) {
			stacks[i] = becomes;
			return true;
		}
	}
	return false;
}

WRAPPED(void *, mmap64, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	void *p = __real_mmap64(at, length, protection, flags, fd, offset);

	if (p != MAP_FAILED && !((flags & MAP_STACK) && is_stack(NULL, p)))
		count((int64_t)length);
	return p;
}

WRAPPED(int, munmap, void *at, size_t length)
{
	if (!is_stack(at, NULL))
		count(-(int64_t)length);
	return __real_munmap(at, length);
}

/* Since this, what was taken at the most. */
static int64_t begin_counting(void)
{
	peak = live;
	return live;
}

/* ---- the cache by itself ---- */

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

static void fill_cache_co(struct ox_cache *cache, size_t slice_bytes, uint64_t slices)
{
	struct ox_block *b;

	for (uint64_t i = 0; i < slices; i++) {
		assert_int_equal(ox_cache_get_co(cache, i * slice_bytes, &b), 0);
		assert_true(((uintptr_t)b->data & (slice_bytes - 1)) == 0); /* for direct I/O */
		memset(b->data, (int)i, slice_bytes);
		ox_cache_put(cache, b);
	}
}

/* No more than the bound, most of it for slices, and none of it before it is needed. */
static void check_bound_co(size_t slice_bytes, uint64_t bound)
{
	struct ox_cache cache;
	struct ox_order order;
	struct ox_io *io;
	int64_t before;

	assert_int_equal(ox_io_memory_open(reactor, 0, &io), 0);
	ox_order_init(&order, io, false);
	before = begin_counting();
	assert_int_equal(ox_cache_init(&cache, io, &order, slice_bytes, bound), 0);
	assert_true((uint64_t)(live - before) <= bound / 16);
	fill_cache_co(&cache, slice_bytes, 1);
	assert_true((uint64_t)(live - before) <= bound / 16 + 160 * KIB);
	fill_cache_co(&cache, slice_bytes, 3 * bound / slice_bytes);
	assert_true((uint64_t)(peak - before) <= bound + PAGE);
	assert_true(cache.block_count * slice_bytes >= bound - bound / 4);
	ox_cache_clear(&cache);
	assert_true((uint64_t)(live - before) <= bound / 16);
	fill_cache_co(&cache, slice_bytes, 3);
	ox_cache_fini(&cache);
	assert_int_equal(live, before);
	ox_io_close(io);
}

static void a_cache_takes_no_more_than_its_bound_co(void *arg)
{
	(void)arg;
	for (size_t slice_bytes = 512; slice_bytes <= 4096; slice_bytes *= 2) {
		check_bound_co(slice_bytes, 256 * KIB);
		check_bound_co(slice_bytes, 2 * MIB);
		check_bound_co(slice_bytes, 32 * MIB);
	}
}

/* ---- slabs ---- */

static void pieces_are_apart_and_go_back_with_the_last_co(void *arg)
{
	enum { MOST = 1000, BYTES = 120 };
	static uint8_t *pieces[MOST];
	int64_t before = begin_counting();
	struct ox_slabs slabs;

	(void)arg;
	ox_slabs_init(&slabs, BYTES, MOST);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < MOST; i++) {
			pieces[i] = ox_slabs_take(&slabs);
			assert_non_null(pieces[i]);
			memset(pieces[i], (int)i, BYTES);
		}
		assert_true((uint64_t)(peak - before) <= ox_slabs_bytes(BYTES, MOST) + 16);
		for (unsigned i = 0; i < MOST; i += 2)
			ox_slabs_give(&slabs, pieces[i]);
		for (unsigned i = 0; i < MOST; i += 2) {
			pieces[i] = ox_slabs_take(&slabs);
			memset(pieces[i], (int)i, BYTES);
		}
		for (unsigned i = 0; i < MOST; i++) {
			for (unsigned k = 0; k < BYTES; k++)
				assert_int_equal(pieces[i][k], (uint8_t)i);
			ox_slabs_give(&slabs, pieces[i]);
		}
		assert_int_equal(live, before);
	}
	ox_slabs_fini(&slabs);
}

/* ---- an image ---- */

#define L2_CACHE (32 * MIB)
#define COUNTS_CACHE (2 * MIB)

static void a_trim_of_a_whole_disk_of_small_clusters_stays_within_the_bound_co(void *arg)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};
	struct ox_image *image;
	struct ox_io *io;
	int64_t before;

	(void)arg;
	assert_int_equal(ox_io_memory_open(reactor, 0, &io), 0);
	create.format = "qcow2";
	create.virtual_bytes = UINT64_C(128) << 30;
	create.cluster_bytes = 512;
	opts.format = "qcow2";
	assert_int_equal(ox_qcow2_create_co(io, &create, NULL), 0);
	before = begin_counting();
	assert_int_equal(ox_img_open_co(io, &how, &image, NULL), 0);
	assert_true((uint64_t)(live - before) < 2 * MIB); /* an idle guest needs no slices */
	assert_int_equal(ox_img_discard_co(image, 0, create.virtual_bytes), 0);
	assert_true((uint64_t)(peak - before) <= L2_CACHE + COUNTS_CACHE);
	assert_int_equal(ox_img_close_co(image, NULL), 0); /* and the store with it */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_cache_takes_no_more_than_its_bound),
		TASK_TEST(pieces_are_apart_and_go_back_with_the_last),
		TASK_TEST(a_trim_of_a_whole_disk_of_small_clusters_stays_within_the_bound),
	};

	return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
