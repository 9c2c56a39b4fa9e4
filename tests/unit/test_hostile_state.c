/* SPDX-License-Identifier: MIT */
/*
 * States that another program has written, or that are of an image which is not as it was: what
 * they say is held to bounds. Words of a state that a death has left are changed at random; whoever
 * adopts it may refuse it, or go on over a damaged image, and does not end before that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "img/mapped/mapped.h"
#include "lives.h"

#define HEAD_WORDS 24u
#define NAMES 8u
#define NOTES 8u
#define ROUNDS 400u
#define SECONDS 20u

static struct left *base;
static struct left *copy;
static size_t notes_at; /* in the state */

static const struct line life[] = {
	{.op = WRITE, .window = 0, .first = 0, .count = 8, .value = 1},
	{.op = FLUSH},
	{.op = WRITE, .window = 1, .first = 5, .count = 6, .value = 2},
	{.op = DISCARD, .window = 0, .first = 0, .count = 4},
	{.op = WRITE, .window = 0, .first = 20, .count = 4, .value = 3},
	{.op = UNMAP, .window = 1, .first = 6, .count = 2},
};

static const struct line next_life[] = {
	{.op = WRITE, .window = 0, .first = 2, .count = 12, .value = 4},
	{.op = DISCARD, .window = 1, .first = 4, .count = 8},
	{.op = FLUSH},
	{.op = WRITE, .window = 2, .first = 0, .count = 32, .value = 5},
	{.op = ZERO, .window = 0, .first = 0, .count = 8},
	{.op = FUA, .window = 1, .first = 0, .count = 8, .value = 6},
	{.op = REST},
	{.op = WRITE, .window = 1, .first = 0, .count = 32, .value = 7},
	{.op = RESIZE, .tables = 8},
};

static int setup(void **state)
{
	(void)state;
	base = new_left(MAP_SHARED);
	copy = new_left(MAP_SHARED);
	failed = false;
	seed = 1;
	return base && copy ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return munmap(base, sizeof(*base)) + munmap(copy, sizeof(*copy));
}

/* In a process of its own; true: it came to its end. */
static bool comes_to_an_end(struct left *left, ox_co_fn fn)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		failed = true; /* so that nobody complains */
		(void)alarm(SECONDS);
		run(left, NULL, fn);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void fill_co(void *arg)
{
	struct process *p = arg;
	uint64_t length = table_span();
	uint8_t *buf = calloc(1, length);
	struct iovec iov = {buf, length};

	if (!buf || open_co(p, false) < 0 ||
	    ox_img_pwritev_co(p->image, &iov, 1, 5 * table_span(), OX_REQ_FUA) < 0)
		_exit(1);
	if (kind->recovers)
		_exit(0);
	close_co(p);
	free(buf);
}

static void live_co(void *arg)
{
	struct process *p = arg;

	recover_mode = OX_RECOVER_AUTO;
	if (open_co(p, true) < 0)
		_exit(1);
	if (!kind->recovers)
		run_lines_co(p, life, OX_ARRAY_SIZE(life));
	base->model.stops =
		(uint64_t)((uint8_t *)ox_mapped_of(p->image)->state->notes.slots - p->left->state);
	copy_left(copy, p->left); /* in the shared one: a death */
	_exit(0);
}

static void adopt_co(void *arg)
{
	struct process *p = arg;

	if (open_co(p, true) < 0)
		return;
	run_lines_co(p, next_life, OX_ARRAY_SIZE(next_life));
	close_co(p);
}

static uint64_t next_random(uint64_t *random)
{
	*random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *random >> 16;
}

static uint64_t change(uint64_t word, uint64_t *random)
{
	uint64_t small = next_random(random) % 64;

	switch (next_random(random) % 9) {
	case 0:
		return 0;
	case 1:
		return small;
	case 2:
		return UINT64_MAX - small;
	case 3:
		return word + small;
	case 4:
		return word - small;
	case 5:
		return (word << 8 >> 8) | next_random(random) % 11 << 56;
	case 6:
		return (UINT64_C(1) << 56) - 1 - small;
	case 7:
		return word ^ UINT64_C(1) << small;
	default:
		return next_random(random) % 128 * kind->cluster_bytes | 1;
	}
}

/* A note is four words: its start, its end with its kind in the highest byte, a detail. */
static void spoil_note(uint64_t *note, uint64_t *random)
{
	if (next_random(random) % 2 != 0)
		note[1] = (note[1] << 8 >> 8) | next_random(random) % 11 << 56;
	for (unsigned i = 0; i < 3; i++) {
		if (next_random(random) % 4 == 0)
			note[i] = change(note[i], random);
	}
}

static void spoil(uint64_t round)
{
	uint64_t random = round * 7919 + 1;
	uint64_t *words = (uint64_t *)(void *)copy->state;
	uint64_t *notes = words + notes_at / 8;

	for (uint64_t i = next_random(&random) % 4 + 1; i > 0; i--) {
		uint64_t *at = words + 2 + next_random(&random) % HEAD_WORDS;
		uint64_t *name = words + 4096 / 8 + next_random(&random) % NAMES;

		if (next_random(&random) % 4 != 0)
			spoil_note(notes + 4 * (next_random(&random) % NOTES), &random);
		else if (next_random(&random) % 2 != 0)
			*name = change(*name, &random);
		else
			*at = change(*at, &random);
	}
}

static void adoptions_come_to_an_end(const struct kind *of)
{
	kind = of;
	create_image(base);
	assert_false(failed);
	base->model.size_bytes = kind->size_tables * table_span();
	recover_mode = OX_RECOVER_AUTO;
	assert_true(comes_to_an_end(base, fill_co));
	assert_true(comes_to_an_end(base, live_co));
	notes_at = base->model.stops;
	assert_true(notes_at > 4096 && notes_at < STATE_BYTES);
	copy_left(base, copy);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		copy_left(copy, base);
		spoil(round);
		recover_mode = round % 3 ? OX_RECOVER_AUTO : OX_RECOVER_WAIT;
		if (!comes_to_an_end(copy, adopt_co))
			fail_msg("round %u", (unsigned)round);
	}
}

static const struct kind strict = {
	.format = "qcow2",
	.cluster_bytes = 512,
	.tables = {0, 1, 2},
	.windows = 3,
	.size_tables = 6,
	.age_ms = UINT32_MAX,
};

static void of_a_strict_qcow2_image(void **state)
{
	(void)state;
	adoptions_come_to_an_end(&strict);
}

static void of_a_lazy_qcow2_image(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	adoptions_come_to_an_end(&k);
}

static void of_a_qcow2_image_that_is_recovered(void **state)
{
	struct kind k = strict;

	(void)state;
	k.lazy = true;
	k.recovers = true;
	adoptions_come_to_an_end(&k);
}

static void of_a_qed_image(void **state)
{
	struct kind k = strict;

	(void)state;
	k.format = "qed";
	k.cluster_bytes = 4096;
	k.lazy = true;
	adoptions_come_to_an_end(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(of_a_strict_qcow2_image, setup, teardown),
		cmocka_unit_test_setup_teardown(of_a_lazy_qcow2_image, setup, teardown),
		cmocka_unit_test_setup_teardown(of_a_qcow2_image_that_is_recovered, setup,
						teardown),
		cmocka_unit_test_setup_teardown(of_a_qed_image, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
