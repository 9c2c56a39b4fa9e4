/* SPDX-License-Identifier: MIT */
/*
 * A process may die at every instruction (D10). Here one works on an image that lies in memory
 * which outlives it, as its state does, and is stopped after each of its stores into the state (of
 * words, and of slices' bytes), amid each of its writes to the image, and after it. What lies there
 * at that instant is what a death would leave: it is copied, and a successor adopts the copy. It
 * must read all that was answered, work on, die again or close, and leave a sound image.
 *
 * Which stores there are nobody has to say: watched_memory.h finds them all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "damaged.h"
#include "img/mapped/mapped.h"
#include "lives.h"
#include "watched_memory.h"

#define SUCCESSORS_VALUE 200u
#define FILLED_FROM 5u /* no window lies in that table's span */
#define SEEDS 4u
#define STOPS_LEAST 100u /* of one run */
#define LEAKS_MOST 4u	 /* between two stores that take a cluster from one note to another */

static struct left *shared; /* the worker's */
static struct left *copy;   /* a successor's */
static struct left *later;
static uint64_t most_leaks;
static uint64_t judged;

/* ---- the successor ---- */

/* It writes where requests were under way, beside that, and where nothing was. */
static const struct line goes_on[] = {
	{.op = WRITE, .window = 0, .first = 3, .count = 2, .value = SUCCESSORS_VALUE + 1},
	{.op = WRITE, .window = 1, .first = 5, .count = 4, .value = SUCCESSORS_VALUE + 2},
	{.op = WRITE, .window = 0, .first = 16, .count = 2, .value = SUCCESSORS_VALUE + 5},
	{.op = DISCARD, .window = 1, .first = 6, .count = 2},
	{.op = WRITE, .window = 0, .first = 28, .count = 4, .value = SUCCESSORS_VALUE + 3},
	/* more than a reserve has: what it had, and what is free, must be different clusters */
	{.op = WRITE, .window = 1, .first = 8, .count = 24, .value = SUCCESSORS_VALUE + 4},
	{.op = ZERO, .window = 0, .first = 0, .count = 2},
};

enum successor { READS_AND_CLOSES, WORKS_AND_CLOSES, WORKS_AND_DIES, SUCCESSORS };

static enum successor successor;

static void successor_co(void *arg)
{
	struct process *p = arg;
	if (open_co(p, true) < 0)
		return;
	check_content_co(p);
	if (successor != READS_AND_CLOSES) {
		run_lines_co(p, goes_on, OX_ARRAY_SIZE(goes_on));
		check_content_co(p);
	}
	if (successor == WORKS_AND_DIES)
		copy_left(later, p->left);
	close_co(p);
	if (successor != WORKS_AND_CLOSES)
		return;
	if (open_co(p, true) < 0) /* the state is spent */
		return;
	check_content_co(p);
	close_co(p);
}

static void check_copy(void)
{
	uint64_t leaks = check_image(copy);

	most_leaks = ox_max_u64(most_leaks, leaks);
	if (leaks > kind->leaks_most)
		complain(copy, "%llu clusters are leaked", (unsigned long long)leaks);
}

/* What the worker's death would leave now. */
static void judge(void)
{
	copy_left(copy, shared);
	successor = (enum successor)(judged % SUCCESSORS);
	recover_mode = judged / SUCCESSORS % 2 ? OX_RECOVER_AUTO : OX_RECOVER_WAIT;
	judged++;
	run(copy, NULL, successor_co);
	check_copy();
	if (successor != WORKS_AND_DIES || failed)
		return;
	successor = READS_AND_CLOSES;
	copy_left(copy, later);
	run(copy, NULL, successor_co);
	check_copy();
}

/* ---- the worker ---- */

static int to_judge[2];
static int from_judge[2];
static struct process *worker;
static unsigned beside_names;

/* A slot that has no name is nothing to a successor: of its bytes some are enough. */
static bool is_void(const uint8_t *at)
{
	const struct ox_state *s =
		worker && worker->image ? ox_mapped_of(worker->image)->state : NULL;

	for (unsigned i = 0; s && i < OX_STATE_SHELVES; i++) {
		const struct ox_shelf *shelf = &s->shelves[i];

		if (at >= shelf->data && at < ox_shelf_at(shelf, shelf->slots))
			return shelf->names[(size_t)(at - shelf->data) / shelf->slice_bytes] == 0;
	}
	return false;
}

/* Waits until what there is has been judged. */
static void stop(void)
{
	char word = 's';

	shared->model.stops++;
	if (write(to_judge[1], &word, 1) != 1 || read(from_judge[0], &word, 1) != 1)
		_exit(1);
}

#define STORE_MOST 64 /* bytes, of one instruction */

static uint8_t seen[STATE_BYTES];

/* One that stores what is there already leaves what was judged before. */
static bool has_changed(const uint8_t *at)
{
	size_t offset = (size_t)(at - shared->state);
	size_t count = ox_min_u64(STORE_MOST, STATE_BYTES - offset);
	bool changed = memcmp(seen + offset, at, count) != 0;

	memcpy(seen + offset, at, count);
	return changed;
}

static void after_store(const uint8_t *at)
{
	if (has_changed(at) && (!is_void(at) || ++beside_names % 64 == 0))
		stop();
}

static const struct line *lines;
static unsigned line_count;
static bool dies;
static bool watches_opening;

static void watch(void)
{
	memcpy(seen, shared->state, STATE_BYTES);
	watch_memory(shared->state, STATE_BYTES, after_store);
}

static void worker_co(void *arg)
{
	struct process *p = arg;

	worker = p;
	snprintf(shared->model.doing, sizeof(shared->model.doing), "the opening");
	if (open_co(p, true) < 0)
		_exit(1);
	if (!watches_opening)
		watch();
	run_lines_co(p, lines, line_count);
	if (dies)
		_exit(failed);
	snprintf(shared->model.doing, sizeof(shared->model.doing), "the close");
	close_co(p);
}

static void work(void)
{
	if (watches_opening)
		watch();
	run(shared, stop, worker_co);
	stop();
	_exit(failed);
}

static void live(const struct line *all, unsigned count, bool adopts, bool until_death)
{
	char word;
	int status;
	pid_t pid;

	lines = all;
	line_count = count;
	dies = until_death;
	/* One that finds nothing to adopt clears the state, which takes thousands of stores. */
	watches_opening = seed == 1 || adopts;
	assert_int_equal(pipe(to_judge) + pipe(from_judge), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(to_judge[0]);
		(void)close(from_judge[1]);
		work();
	}
	(void)close(to_judge[1]);
	(void)close(from_judge[0]);
	while (!failed && read(to_judge[0], &word, 1) == 1) {
		judge();
		assert_int_equal(write(from_judge[1], &word, 1), 1);
	}
	(void)close(to_judge[0]);
	(void)close(from_judge[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_false(failed);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- what happens ---- */

static const struct line first_life[] = {
	{.op = WRITE, .window = 0, .first = 0, .count = 4, .value = 1},
	{.op = WRITE, .window = 0, .first = 1, .count = 1, .value = 2},
	{.op = WRITE, .window = 1, .first = 5, .count = 1, .value = 3},
	{.op = WRITE, .window = 0, .first = 20, .count = 2, .value = 4, .beside = true},
	{.op = WRITE, .window = 1, .first = 20, .count = 2, .value = 5, .beside = true},
	{.op = FLUSH, .beside = true},
	{.op = WRITE, .window = 0, .first = 24, .count = 3, .value = 6},
	{.op = ZERO, .window = 0, .first = 0, .count = 2},
	{.op = UNMAP, .window = 0, .first = 2, .count = 2},
	{.op = DISCARD, .window = 1, .first = 4, .count = 2},
	{.op = WRITE, .window = 0, .first = 2, .count = 3, .value = 7},
	{.op = FLUSH},
	{.op = WRITE, .window = 1, .first = 4, .count = 6, .value = 8},
	{.op = REST},
	{.op = WRITE, .window = 0, .first = 8, .count = 2, .value = 9},
	{.op = DISCARD, .window = 0, .first = 0, .count = CELLS},
	{.op = WRITE, .window = 0, .first = 5, .count = 1, .value = 10},
};

static const struct line second_life[] = {
	{.op = WRITE, .window = 2, .first = 0, .count = 2, .value = 11, .beside = true},
	{.op = WRITE, .window = 3, .first = 0, .count = 3, .value = 12, .beside = true},
	{.op = WRITE, .window = 0, .first = 10, .count = 2, .value = 13},
	{.op = RESIZE, .tables = 70},
	{.op = WRITE, .window = 4, .first = 1, .count = 4, .value = 14},
	{.op = FUA, .window = 0, .first = 6, .count = 2, .value = 15},
	{.op = ZERO, .window = 3, .first = 2, .count = 6, .beside = true},
	{.op = WRITE, .window = 2, .first = 6, .count = 2, .value = 16, .beside = true},
	{.op = WRITE, .window = 1, .first = 6, .count = 2, .value = 17},
	{.op = RESIZE, .tables = 6},
	{.op = WRITE, .window = 1, .first = 0, .count = 1, .value = 18},
	{.op = UNMAP, .window = 2, .first = 0, .count = 8},
};

/* Its clusters 0 to 2, which the snapshot shares, read as zeroes. */
static void put_snapshot_image(void)
{
	struct image *im = new_image(4);

	add_snapshot(im);
	memcpy(shared->image.bytes, im->bytes, im->length);
	shared->image.length = im->length;
	free(im);
}

static void make_holes_co(struct process *p, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += 64 * (uint64_t)kind->cluster_bytes) {
		if (ox_img_discard_co(p->image, FILLED_FROM * table_span() + at,
				      2 * (uint64_t)kind->cluster_bytes) < 0)
			complain(p->left, "nothing was discarded");
	}
}

/* Data outside all windows, so that there are tables; and with many, hardly a count left. */
static void fill_co(void *arg)
{
	struct process *p = arg;
	uint64_t length = (kind->filled_tables - FILLED_FROM) * table_span();
	uint8_t *buf = calloc(1, length);
	struct iovec iov = {buf, length};
	int r = buf ? open_co(p, false) : -ENOMEM;

	if (r < 0)
		return;
	if (ox_img_pwritev_co(p->image, &iov, 1, FILLED_FROM * table_span(), OX_REQ_FUA) < 0)
		complain(p->left, "the image was not filled");
	free(buf);
	if (kind->has_holes)
		make_holes_co(p, length);
	if (kind->recovers)
		_exit(failed);
	close_co(p);
}

/* In a process of its own, which may leave the image as it is. */
static void fill(void)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		run(shared, NULL, fill_co);
		_exit(failed);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void make_image(void)
{
	memset(shared->image.bytes, 0, shared->image.length);
	shared->image.length = 0;
	memset(shared->state, 0, STATE_BYTES);
	shared->model = (struct model){.size_bytes = kind->size_tables * table_span()};
	if (kind->has_snapshot)
		put_snapshot_image();
	else
		create_image(shared);
	if (kind->filled_tables > 0)
		fill();
	assert_false(failed);
}

static int setup(void **state)
{
	(void)state;
	shared = new_left(MAP_SHARED);
	copy = new_left(MAP_PRIVATE);
	later = new_left(MAP_PRIVATE);
	failed = false;
	most_leaks = judged = warnings = 0;
	return shared && copy && later ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return munmap(shared, sizeof(*shared)) + munmap(copy, sizeof(*copy)) +
	       munmap(later, sizeof(*later));
}

/* Two lives with a death between them and a close at the end, each time in another order. */
static void lives_on(const struct kind *of, unsigned seeds)
{
	if (!memory_can_be_watched())
		skip();
	kind = of;
	for (seed = 1; seed <= seeds; seed++) {
		make_image();
		if (kind->has_snapshot) {
			live(first_life, OX_ARRAY_SIZE(first_life), false, false);
			continue;
		}
		live(first_life, OX_ARRAY_SIZE(first_life), false, true);
		live(second_life, OX_ARRAY_SIZE(second_life), true, false);
	}
	if (!kind->recovers)
		assert_int_equal(warnings, 0); /* all was adopted */
	print_message("%llu deaths, at the most %llu clusters leaked\n", (unsigned long long)judged,
		      (unsigned long long)most_leaks);
	assert_true(judged > (uint64_t)seeds * STOPS_LEAST);
}

static const struct kind strict = {
	.format = "qcow2",
	.cluster_bytes = 512,
	.tables = {0, 1, 2, 4, 66},
	.windows = WINDOWS,
	.size_tables = 6,
	.age_ms = UINT32_MAX,
	.leaks_most = LEAKS_MOST,
};

static void a_strict_qcow2_image(void **state)
{
	(void)state;
	lives_on(&strict, SEEDS);
}

static void a_strict_qcow2_image_with_tiny_caches(void **state)
{
	struct kind k = strict;

	(void)state;
	k.tiny = true;
	lives_on(&k, SEEDS);
}

static void a_lazy_qcow2_image(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	lives_on(&k, SEEDS);
}

static void tables_that_are_written_by_their_age(void **state)
{
	struct kind k = strict;

	(void)state;
	k.age_ms = 3;
	lives_on(&k, SEEDS);
}

static void a_qcow2_image_with_a_snapshot(void **state)
{
	struct kind k = strict;

	(void)state;
	k.has_snapshot = true;
	k.windows = 2;
	k.size_tables = 2;
	lives_on(&k, SEEDS);
}

static void a_refcount_table_that_moves(void **state)
{
	struct kind k = strict;

	(void)state;
	k.refcount_bits = 64;
	k.size_tables = 70;
	k.filled_tables = 66;
	k.leaks_most = 80; /* the new table and its blocks */
	lives_on(&k, 1);
}

static void a_recovery_beside_the_guest(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	k.recovers = true;
	k.filled_tables = 6;
	lives_on(&k, SEEDS);
}

static struct kind qed_kind(void)
{
	struct kind k = strict;

	k.format = "qed";
	k.cluster_bytes = 4096;
	k.lazy = true;
	return k;
}

static void a_qed_image(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	lives_on(&k, SEEDS);
}

static void a_qed_image_with_tiny_caches(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	k.tiny = true;
	lives_on(&k, SEEDS);
}

/* The first discard has its tables looked through, and finds what is free already. */
static void a_qed_image_with_holes(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	k.filled_tables = 6;
	k.has_holes = true;
	lives_on(&k, SEEDS);
}

static void a_walk_over_a_qed_image(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	k.recovers = true;
	k.filled_tables = 6;
	lives_on(&k, SEEDS);
}

/* The file has room for so many clusters: some requests find none. */
static void full(struct kind k, uint64_t clusters)
{
	k.room = clusters * k.cluster_bytes;
	lives_on(&k, 2);
}

static void a_strict_qcow2_image_on_a_full_disk(void **state)
{
	(void)state;
	full(strict, 24);
}

static void a_lazy_qcow2_image_on_a_full_disk(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	full(k, 24);
}

static void a_recovery_on_a_full_disk(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	k.recovers = true;
	k.filled_tables = 6;
	full(k, 90);
}

static void a_walk_on_a_full_disk(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	k.recovers = true;
	k.filled_tables = 6;
	full(k, 530);
}

static void a_qed_image_on_a_full_disk(void **state)
{
	struct kind k = qed_kind();

	(void)state;
	full(k, 20);
}

#define LIVES_ON(what)                                                                             \
	{                                                                                          \
#what "_lives_on_after_each_store", what, setup, teardown, NULL                    \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LIVES_ON(a_strict_qcow2_image),
		LIVES_ON(a_strict_qcow2_image_with_tiny_caches),
		LIVES_ON(a_lazy_qcow2_image),
		LIVES_ON(tables_that_are_written_by_their_age),
		LIVES_ON(a_qcow2_image_with_a_snapshot),
		LIVES_ON(a_refcount_table_that_moves),
		LIVES_ON(a_recovery_beside_the_guest),
		LIVES_ON(a_strict_qcow2_image_on_a_full_disk),
		LIVES_ON(a_lazy_qcow2_image_on_a_full_disk),
		LIVES_ON(a_recovery_on_a_full_disk),
		LIVES_ON(a_walk_on_a_full_disk),
		LIVES_ON(a_qed_image_on_a_full_disk),
		LIVES_ON(a_qed_image),
		LIVES_ON(a_qed_image_with_tiny_caches),
		LIVES_ON(a_qed_image_with_holes),
		LIVES_ON(a_walk_over_a_qed_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
