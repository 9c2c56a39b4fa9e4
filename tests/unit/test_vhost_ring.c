/* SPDX-License-Identifier: MIT */
/* Split rings: what a driver may do is served, and what it may not do breaks its ring alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_guest.h"

#define SIZE 8u

static struct fake_guest guest;
static struct ox_vhost_ring *ring;

static int setup_of(uint16_t size)
{
	guest_init(&guest, size);
	return ox_vhost_ring_new(guest.memory, &ring);
}

static int setup(void **state)
{
	(void)state;
	return setup_of(SIZE);
}

static int setup_long(void **state)
{
	(void)state;
	return setup_of(4096);
}

static int teardown(void **state)
{
	(void)state;
	ox_vhost_ring_free(ring);
	guest_free(&guest);
	return 0;
}

static void start(void)
{
	const struct ox_vhost_ring_setup how = guest_setup(&guest);

	assert_int_equal(ox_vhost_ring_start(ring, &how), 0);
}

static void start_with_events(void)
{
	struct ox_vhost_ring_setup how = guest_setup(&guest);

	how.event_idx = true;
	assert_int_equal(ox_vhost_ring_start(ring, &how), 0);
}

/* A chain of one descriptor that the device reads. */
static void offer_simple(uint16_t head)
{
	guest_describe(&guest, head, GUEST_FREE + 64ull * head, 64, 0, 0);
	guest_offer(&guest, head);
}

static uint16_t take(void)
{
	struct ox_vhost_chain chain;

	assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
	return chain.head;
}

static void nothing_to_take(void)
{
	struct ox_vhost_chain chain;

	assert_int_equal(ox_vhost_ring_take(ring, &chain), 0);
}

static void answer_all(void)
{
	struct ox_vhost_chain chain;

	while (ox_vhost_ring_take(ring, &chain) == 1)
		ox_vhost_ring_answer(ring, chain.head, 0);
	(void)!ox_vhost_ring_publish(ring);
}

/* ---- chains ---- */

static void a_chain_is_taken_with_all_its_pieces(void **state)
{
	struct ox_vhost_chain chain;

	(void)state;
	start();
	nothing_to_take();
	guest_describe(&guest, 3, GUEST_FREE, 16, GUEST_NEXT, 1);
	guest_describe(&guest, 1, GUEST_B - 4, 12, GUEST_NEXT, 7);
	guest_describe(&guest, 7, GUEST_FREE + 16, 0, GUEST_NEXT, 0); /* of nothing */
	guest_describe(&guest, 0, GUEST_B + 100, 1, GUEST_WRITE, 0);
	guest_offer(&guest, 3);
	assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
	assert_int_equal(chain.head, 3);
	assert_int_equal(chain.readable_count, 3);
	assert_int_equal(chain.readable_bytes, 28);
	assert_int_equal(chain.writable_count, 1);
	assert_int_equal(chain.writable_bytes, 1);
	assert_int_equal(chain.pieces[1].iov_len, 4);
	assert_int_equal(chain.pieces[2].iov_len, 8);
	assert_int_equal(ox_vhost_ring_in_flight(ring), 1);
	ox_vhost_ring_answer(ring, 3, 1);
	assert_int_equal(*guest_used_index(&guest), 0);
	assert_true(ox_vhost_ring_publish(ring));
	assert_int_equal(*guest_used_index(&guest), 1);
	assert_int_equal(guest_used_head(&guest, 0), 3);
	assert_int_equal(guest_used_bytes(&guest, 0), 1);
	assert_int_equal(ox_vhost_ring_stop(ring), 1);
}

static void write_table(uint64_t address, const struct guest_descriptor *table, unsigned count)
{
	const uint8_t *bytes = (const uint8_t *)table;

	for (unsigned i = 0; i < count * sizeof(*table); i++)
		*(uint8_t *)guest_at(&guest, address + i) = bytes[i];
}

static void an_indirect_table_is_followed_wherever_it_lies(void **state)
{
	const struct guest_descriptor table[] = {
		{GUEST_B, 10, GUEST_NEXT, 2},
		{GUEST_B + 20, 30, GUEST_WRITE, 0},
		{GUEST_B + 10, 20, GUEST_NEXT, 1},
	};
	const uint64_t places[] = {GUEST_B, GUEST_B - 23, GUEST_END - sizeof(table)};

	(void)state;
	start();
	for (uint16_t i = 0; i < 3; i++) {
		struct ox_vhost_chain chain;

		write_table(places[i], table, 3);
		guest_describe(&guest, 0, GUEST_FREE, 5, GUEST_NEXT, 1);
		guest_describe(&guest, 1, places[i], sizeof(table), GUEST_INDIRECT | GUEST_WRITE,
			       0);
		guest_offer(&guest, 0);
		assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
		assert_int_equal(chain.readable_bytes, 35);
		assert_int_equal(chain.writable_bytes, 30);
		ox_vhost_ring_answer(ring, 0, 0);
		(void)!ox_vhost_ring_publish(ring);
	}
}

static void a_short_ring_may_have_longer_indirect_tables(void **state)
{
	struct guest_descriptor table[OX_VHOST_INDIRECT_MIN + 1];
	struct ox_vhost_chain chain;

	(void)state;
	start();
	for (uint16_t i = 0; i < OX_VHOST_INDIRECT_MIN; i++)
		table[i] = (struct guest_descriptor){GUEST_B, 1, GUEST_NEXT, (uint16_t)(i + 1)};
	table[OX_VHOST_INDIRECT_MIN - 1].flags = 0;
	write_table(GUEST_FREE, table, OX_VHOST_INDIRECT_MIN);
	guest_describe(&guest, 0, GUEST_FREE, OX_VHOST_INDIRECT_MIN * 16, GUEST_INDIRECT, 0);
	guest_offer(&guest, 0);
	assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
	assert_int_equal(chain.readable_count, OX_VHOST_INDIRECT_MIN);
	ox_vhost_ring_answer(ring, 0, 0);
}

/* ---- what breaks a ring ---- */

static void offer_outside(void)
{
	guest_offer(&guest, SIZE);
}

static void offer_next_outside(void)
{
	guest_describe(&guest, 0, GUEST_FREE, 1, GUEST_NEXT, SIZE);
	guest_offer(&guest, 0);
}

static void offer_circle(void)
{
	guest_describe(&guest, 0, GUEST_FREE, 1, GUEST_NEXT, 1);
	guest_describe(&guest, 1, GUEST_FREE, 1, GUEST_NEXT, 0);
	guest_offer(&guest, 0);
}

static void offer_itself(void)
{
	guest_describe(&guest, 0, GUEST_FREE, 0, GUEST_NEXT, 0);
	guest_offer(&guest, 0);
}

static void offer_twice(void)
{
	offer_simple(2);
	offer_simple(2);
}

static void jump(void)
{
	*guest_available_index(&guest) = SIZE + 1;
}

static void jump_back(void)
{
	*guest_available_index(&guest) = 0xffff;
}

static void offer_foreign_memory(void)
{
	guest_describe(&guest, 0, GUEST_END - 1, 2, 0, 0);
	guest_offer(&guest, 0);
}

static void offer_wrapping_memory(void)
{
	guest_describe(&guest, 0, UINT64_MAX, UINT32_MAX, 0, 0);
	guest_offer(&guest, 0);
}

static void offer_out_of_order(void)
{
	guest_describe(&guest, 0, GUEST_FREE, 1, GUEST_NEXT | GUEST_WRITE, 1);
	guest_describe(&guest, 1, GUEST_FREE, 1, 0, 0);
	guest_offer(&guest, 0);
}

static void offer_table(uint64_t address, uint32_t bytes, uint16_t flags)
{
	guest_describe(&guest, 0, address, bytes, GUEST_INDIRECT | flags, 1);
	guest_describe(&guest, 1, GUEST_FREE, 1, 0, 0);
	guest_offer(&guest, 0);
}

static void offer_empty_table(void)
{
	offer_table(GUEST_FREE, 0, 0);
}

static void offer_odd_table(void)
{
	offer_table(GUEST_FREE, 24, 0);
}

static void offer_long_table(void)
{
	offer_table(GUEST_B, (OX_VHOST_INDIRECT_MIN + 1) * 16, 0);
}

static void offer_longest_table(void)
{
	offer_table(GUEST_B, UINT32_MAX - 15, 0);
}

static void offer_foreign_table(void)
{
	offer_table(GUEST_END - 16, 32, 0);
}

static void offer_table_and_more(void)
{
	offer_table(GUEST_B, 16, GUEST_NEXT);
}

static void offer_nested_table(void)
{
	const struct guest_descriptor inner = {GUEST_B, 16, GUEST_INDIRECT, 0};

	write_table(GUEST_B, &inner, 1);
	offer_table(GUEST_B, 16, 0);
}

static void offer_table_with_circle(void)
{
	const struct guest_descriptor inner[] = {{GUEST_B, 16, GUEST_NEXT, 1},
						 {GUEST_B, 16, GUEST_NEXT, 0}};

	write_table(GUEST_B, inner, 2);
	offer_table(GUEST_B, 32, 0);
}

static void offer_table_left(void)
{
	const struct guest_descriptor inner = {GUEST_B, 16, GUEST_NEXT, 1};

	write_table(GUEST_B, &inner, 1);
	offer_table(GUEST_B, 16, 0);
}

static const struct {
	void (*offer)(void);
	const char *why;
} breaks[] = {
	{offer_outside, "a chain begins outside of the descriptor table"},
	{offer_next_outside, "a chain leaves the descriptor table"},
	{offer_circle, "a chain is too long, or goes in a circle"},
	{offer_itself, "a chain is too long, or goes in a circle"},
	{offer_twice, "a chain that is in flight was made available again"},
	{jump, "the available index has jumped"},
	{jump_back, "the available index has jumped"},
	{offer_foreign_memory, "a buffer is outside of the guest's memory"},
	{offer_wrapping_memory, "a buffer is outside of the guest's memory"},
	{offer_out_of_order, "what is to be read follows what is to be written"},
	{offer_empty_table, "the length of an indirect table is wrong"},
	{offer_odd_table, "the length of an indirect table is wrong"},
	{offer_long_table, "an indirect table is too long"},
	{offer_longest_table, "an indirect table is too long"},
	{offer_foreign_table, "an indirect table is outside of the guest's memory"},
	{offer_table_and_more, "an indirect table is followed by more"},
	{offer_nested_table, "an indirect table is in another"},
	{offer_table_with_circle, "a chain is too long, or goes in a circle"},
	{offer_table_left, "a chain leaves its indirect table"},
};

static void what_makes_no_sense_breaks_the_ring_and_a_start_mends_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++) {
		struct ox_vhost_chain chain;
		unsigned taken = 0;
		int code = 1;

		guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest) = 0;
		ox_vhost_ring_set_base(ring, 0);
		start();
		breaks[i].offer();
		for (; code == 1; taken += code == 1)
			code = ox_vhost_ring_take(ring, &chain);
		assert_int_equal(code, -EPROTO);
		assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
		assert_string_equal(ox_vhost_ring_why_broken(ring), breaks[i].why);
		/* No more of it; and what was taken is answered. */
		nothing_to_take();
		assert_false(ox_vhost_ring_has_more(ring));
		assert_false(ox_vhost_ring_listen(ring));
		assert_int_equal(ox_vhost_ring_in_flight(ring), taken);
		if (taken > 0)
			ox_vhost_ring_answer(ring, chain.head, 0);
		assert_int_equal(ox_vhost_ring_publish(ring), taken > 0);
		assert_int_equal(*guest_used_index(&guest), taken);
		assert_int_equal(ox_vhost_ring_stop(ring), taken);
	}
}

static void an_indirect_table_that_was_not_negotiated_breaks_the_ring(void **state)
{
	struct ox_vhost_ring_setup how = guest_setup(&guest);
	struct ox_vhost_chain chain;

	(void)state;
	how.indirect = false;
	assert_int_equal(ox_vhost_ring_start(ring, &how), 0);
	offer_table(GUEST_B, 16, 0);
	assert_int_equal(ox_vhost_ring_take(ring, &chain), -EPROTO);
}

static void a_chain_of_more_pieces_than_anybody_needs_breaks_the_ring(void **state)
{
	struct ox_vhost_chain chain;

	(void)state;
	start();
	for (uint16_t i = 0; i < OX_VHOST_PIECES_MAX; i++)
		guest_describe(&guest, i, GUEST_B - 1, i ? 1 : 2, GUEST_NEXT, (uint16_t)(i + 1));
	guest_describe(&guest, OX_VHOST_PIECES_MAX - 1, GUEST_B, 1, 0, 0);
	guest_offer(&guest, 0);
	assert_int_equal(ox_vhost_ring_take(ring, &chain), -EPROTO);
	assert_string_equal(ox_vhost_ring_why_broken(ring), "a chain has too many pieces");
	(void)ox_vhost_ring_stop(ring);
	guest_describe(&guest, 0, GUEST_B, 1, GUEST_NEXT, 1);
	start();
	assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
	assert_int_equal(chain.readable_count, OX_VHOST_PIECES_MAX);
	ox_vhost_ring_answer(ring, 0, 0);
}

static void rings_that_cannot_be_are_not_started(void **state)
{
	const struct ox_vhost_ring_setup good = guest_setup(&guest);
	const uint32_t sizes[] = {0, 3, 7, 65536, UINT32_MAX, 0x80000000, 65544};
	struct ox_vhost_ring_setup bad;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bad = good;
		bad.size = sizes[i];
		assert_int_equal(ox_vhost_ring_start(ring, &bad), -EINVAL);
	}
	bad = good;
	bad.descriptors += 8;
	assert_int_equal(ox_vhost_ring_start(ring, &bad), -EINVAL);
	bad = good;
	bad.available += 1;
	assert_int_equal(ox_vhost_ring_start(ring, &bad), -EINVAL);
	bad = good;
	bad.used += 2;
	assert_int_equal(ox_vhost_ring_start(ring, &bad), -EINVAL);
	bad = good;
	bad.used = GUEST_USER_A + GUEST_REGION_BYTES - 4 - 8 * SIZE;
	assert_int_equal(ox_vhost_ring_start(ring, &bad), 0);
	(void)ox_vhost_ring_stop(ring);
	bad.event_idx = true; /* has no room for its event */
	assert_int_equal(ox_vhost_ring_start(ring, &bad), -EFAULT);
	bad = good;
	bad.descriptors = UINT64_MAX - 15;
	assert_int_equal(ox_vhost_ring_start(ring, &bad), -EFAULT);
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_STOPPED);
}

/* ---- indices ---- */

static void a_ring_says_where_it_stopped(void **state)
{
	(void)state;
	ox_vhost_ring_set_base(ring, 0xfffe);
	assert_int_equal(ox_vhost_ring_stop(ring), 0xfffe); /* was never started */
	guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest) = 0xfffe;
	start();
	for (uint16_t i = 0; i < 4; i++)
		offer_simple(i);
	answer_all();
	assert_int_equal(*guest_used_index(&guest), 2);
	assert_int_equal(guest_used_head(&guest, 0xffff), 1);
	assert_int_equal(guest_used_head(&guest, 0), 2);
	offer_simple(0);
	assert_int_equal(ox_vhost_ring_stop(ring), 2);
	assert_int_equal(ox_vhost_ring_stop(ring), 2);
	start(); /* without a word of the front end: it goes on */
	assert_int_equal(take(), 0);
	ox_vhost_ring_answer(ring, 0, 0);
}

static void the_used_index_is_read_anew_at_each_start(void **state)
{
	(void)state;
	start();
	offer_simple(0);
	answer_all();
	(void)ox_vhost_ring_stop(ring);
	/* The guest boots. */
	guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest) = 0;
	ox_vhost_ring_set_base(ring, 0);
	start();
	offer_simple(5);
	answer_all();
	assert_int_equal(*guest_used_index(&guest), 1);
	assert_int_equal(guest_used_head(&guest, 0), 5);
}

static void a_long_ring_has_so_many_in_flight_and_no_more(void **state)
{
	(void)state;
	start();
	for (uint16_t i = 0; i < OX_VHOST_IN_FLIGHT_MAX + 1; i++)
		offer_simple(i);
	for (uint16_t i = 0; i < OX_VHOST_IN_FLIGHT_MAX; i++)
		assert_int_equal(take(), i);
	nothing_to_take();
	assert_false(ox_vhost_ring_listen(ring));
	for (uint16_t i = 0; i < OX_VHOST_IN_FLIGHT_MAX; i++)
		ox_vhost_ring_answer(ring, i, 0);
	nothing_to_take(); /* the driver does not know of them yet */
	assert_true(ox_vhost_ring_publish(ring));
	assert_int_equal(take(), OX_VHOST_IN_FLIGHT_MAX);
	ox_vhost_ring_answer(ring, OX_VHOST_IN_FLIGHT_MAX, 0);
}

/* ---- signals and kicks ---- */

static void answer_one(void)
{
	offer_simple(guest.offered % SIZE);
	ox_vhost_ring_answer(ring, take(), 0);
}

static void the_first_answer_after_a_start_is_signalled_whatever_the_ring_says(void **state)
{
	(void)state;
	*guest_available_flags(&guest) = 1;
	start();
	assert_false(ox_vhost_ring_publish(ring)); /* there is none */
	answer_one();
	assert_true(ox_vhost_ring_publish(ring));
	answer_one();
	assert_false(ox_vhost_ring_publish(ring));
	*guest_available_flags(&guest) = 0;
	answer_one();
	assert_true(ox_vhost_ring_publish(ring));
}

static void with_events_the_answer_that_was_asked_for_is_signalled(void **state)
{
	const struct {
		uint16_t event;
		unsigned answers;
		bool signalled;
	} rows[] = {
		{1, 1, true},  /* used index 1 -> 2 */
		{2, 1, true},  /* -> 3 */
		{4, 1, false}, /* -> 4 */
		{4, 1, true},  /* -> 5 */
		{4, 1, false}, /* -> 6 */
		{8, 2, false}, /* -> 8 */
		{9, 3, true},  /* -> 11 */
		{7, 3, false}, /* -> 14: long past */
		{0, 2, false}, /* -> 16 */
	};

	(void)state;
	start_with_events();
	*guest_available_flags(&guest) = 1; /* means nothing here */
	answer_one();
	assert_true(ox_vhost_ring_publish(ring));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		*guest_used_event(&guest) = rows[i].event;
		for (uint16_t j = 0; j < rows[i].answers; j++)
			offer_simple(j);
		for (uint16_t j = 0; j < rows[i].answers; j++)
			ox_vhost_ring_answer(ring, take(), 0);
		assert_int_equal(ox_vhost_ring_publish(ring), rows[i].signalled);
	}
}

static void kicks_are_asked_for_before_a_sleep_alone(void **state)
{
	(void)state;
	*guest_used_flags(&guest) = 1; /* as a predecessor left it */
	start();
	assert_int_equal(*guest_used_flags(&guest), 0);
	ox_vhost_ring_quiet(ring);
	assert_int_equal(*guest_used_flags(&guest), 1);
	assert_false(ox_vhost_ring_listen(ring));
	assert_int_equal(*guest_used_flags(&guest), 0);
	ox_vhost_ring_quiet(ring);
	offer_simple(0);
	assert_true(ox_vhost_ring_listen(ring)); /* came without a kick */
	answer_all();
	assert_false(ox_vhost_ring_listen(ring));
}

static void with_events_the_next_chain_is_asked_for(void **state)
{
	(void)state;
	start_with_events();
	assert_int_equal(*guest_avail_event(&guest), 0);
	ox_vhost_ring_quiet(ring);
	offer_simple(0);
	answer_all();
	assert_int_equal(*guest_avail_event(&guest), 0);
	assert_false(ox_vhost_ring_listen(ring));
	assert_int_equal(*guest_avail_event(&guest), 1);
	assert_int_equal(*guest_used_flags(&guest), 0);
}

/* ---- memory ---- */

struct marks {
	uint64_t address[16];
	uint64_t bytes[16];
	unsigned count;
};

static void note(void *opaque, uint64_t address, uint64_t bytes)
{
	struct marks *marks = opaque;

	assert_true(marks->count < 16);
	marks->address[marks->count] = address;
	marks->bytes[marks->count++] = bytes;
}

static void what_is_written_into_the_used_ring_is_marked_as_dirty(void **state)
{
	struct marks marks = {.count = 0};
	const struct ox_vhost_dirty dirty = {note, &marks};

	(void)state;
	start();
	ox_vhost_ring_set_dirty(ring, &dirty, 0x5000);
	answer_one();
	answer_one();
	assert_int_equal(marks.count, 2);
	assert_int_equal(marks.address[1], 0x5000 + 4 + 8);
	assert_int_equal(marks.bytes[1], 8);
	(void)!ox_vhost_ring_publish(ring);
	assert_int_equal(marks.count, 3);
	assert_int_equal(marks.address[2], 0x5002);
	ox_vhost_ring_quiet(ring);
	assert_int_equal(marks.count, 4);
	assert_int_equal(marks.address[3], 0x5000);
	ox_vhost_ring_set_dirty(ring, NULL, 0);
	answer_one();
	assert_int_equal(marks.count, 4);
}

static void other_regions_mean_other_places_and_the_same_indices(void **state)
{
	struct ox_vhost_region others[2] = {guest_regions()[0], guest_regions()[1]};

	(void)state;
	start();
	answer_one();
	(void)!ox_vhost_ring_publish(ring);
	assert_int_equal(ox_vhost_memory_replace(guest.memory, guest_regions(), guest.fds, 2), 0);
	assert_int_equal(ox_vhost_ring_remap(ring), 0);
	answer_one();
	(void)!ox_vhost_ring_publish(ring);
	assert_int_equal(*guest_used_index(&guest), 2);
	others[0].user_address = 0x1000;
	assert_int_equal(ox_vhost_memory_replace(guest.memory, others, guest.fds, 2), 0);
	assert_int_equal(ox_vhost_ring_remap(ring), -EFAULT);
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
	assert_false(ox_vhost_ring_publish(ring));
	nothing_to_take();
}

/* An answer must not be seen in the memory that is left, of data in that which is gone. */
static void where_memory_is_gone_nothing_is_answered(void **state)
{
	struct ox_vhost_chain chain;

	(void)state;
	guest_catches();
	start();
	guest_describe(&guest, 0, GUEST_B, 8, GUEST_WRITE, 0);
	guest_offer(&guest, 0);
	assert_int_equal(ox_vhost_ring_take(ring, &chain), 1);
	assert_int_equal(ftruncate(guest.fds[1], 0), 0);
	memset(chain.pieces[0].iov_base, 1, 8);
	ox_vhost_ring_answer(ring, 0, 8);
	offer_simple(1); /* nor taken, whatever is there */
	assert_int_equal(ox_vhost_ring_take(ring, &chain), -EPROTO);
	assert_false(ox_vhost_ring_publish(ring));
	assert_int_equal(*guest_used_index(&guest), 0);
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
}

static void a_ring_whose_own_pages_go_ends_quietly(void **state)
{
	struct ox_vhost_chain chain;

	(void)state;
	guest_catches();
	start();
	offer_simple(0);
	offer_simple(1);
	assert_int_equal(take(), 0);
	assert_int_equal(ftruncate(guest.fds[0], 0), 0);
	assert_int_not_equal(ox_vhost_ring_take(ring, &chain), 1);
	ox_vhost_ring_answer(ring, 0, 0);
	assert_false(ox_vhost_ring_publish(ring));
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
}

/* ---- a driver that changes everything all the time ---- */

#define ROUNDS 20000u

struct vandal {
	bool stop;
	uint32_t seed;
};

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* Mostly what makes sense by itself. */
static void scribble(uint32_t *seed)
{
	const uint64_t addresses[] = {GUEST_B,	  GUEST_B - 8, GUEST_END - 64, GUEST_A,
				      GUEST_USED, GUEST_FREE,  UINT64_MAX - 4, GUEST_END};
	const uint32_t lengths[] = {0, 1, 16, 64, 128, 32, UINT32_MAX, 4096};
	struct guest_descriptor *table =
		guest_at(&guest, next_random(seed) % 2 ? GUEST_DESCRIPTORS : GUEST_B);
	const uint32_t kind = next_random(seed) % 16;

	table[next_random(seed) % SIZE] = (struct guest_descriptor){
		addresses[next_random(seed) % (kind == 0 ? 8 : 6)],
		lengths[next_random(seed) % (kind == 1 ? 8 : 6)],
		(uint16_t)(kind < 8 ? 0 : next_random(seed) % 8),
		(uint16_t)(next_random(seed) % (kind == 15 ? SIZE + 1 : SIZE))};
}

/* That it races is what it is for. */
static void *ravage(void *arg)
{
	struct vandal *vandal = arg;

	while (!__atomic_load_n(&vandal->stop, __ATOMIC_RELAXED)) {
		scribble(&vandal->seed);
		*guest_available_flags(&guest) = vandal->seed >> 16 & 1;
	}
	return NULL;
}

static void pieces_lie_in_memory(const struct ox_vhost_chain *chain)
{
	uint64_t readable = 0;
	uint64_t writable = 0;

	for (int i = 0; i < chain->readable_count + chain->writable_count; i++) {
		const struct iovec *piece = &chain->pieces[i];
		const uint8_t *last = (const uint8_t *)piece->iov_base + piece->iov_len - 1;
		uint64_t first_at, last_at;

		assert_true(piece->iov_len > 0);
		assert_true(
			ox_vhost_memory_guest_address(guest.memory, piece->iov_base, &first_at));
		assert_true(ox_vhost_memory_guest_address(guest.memory, last, &last_at));
		assert_int_equal(last_at - first_at, piece->iov_len - 1);
		if (i < chain->readable_count)
			readable += piece->iov_len;
		else
			writable += piece->iov_len;
	}
	assert_int_equal(readable, chain->readable_bytes);
	assert_int_equal(writable, chain->writable_bytes);
}

static void a_driver_that_changes_chains_while_they_are_read_reaches_nothing(void **state)
{
	struct vandal vandal = {.seed = 7};
	unsigned taken = 0;
	pthread_t thread;

	(void)state;
	start();
	for (unsigned i = 0; i < 100; i++)
		scribble(&vandal.seed);
	assert_int_equal(pthread_create(&thread, NULL, ravage, &vandal), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct ox_vhost_chain chain;
		int code;

		guest_offer(&guest, (uint16_t)(i % SIZE));
		code = ox_vhost_ring_take(ring, &chain);
		if (code == 1) {
			taken++;
			pieces_lie_in_memory(&chain);
			ox_vhost_ring_answer(ring, chain.head, 0);
			(void)!ox_vhost_ring_publish(ring);
		} else if (code < 0) {
			ox_vhost_ring_set_base(
				ring, (ox_vhost_ring_stop(ring), *guest_available_index(&guest)));
			start();
		}
	}
	__atomic_store_n(&vandal.stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	/* Enough of them make sense to be looked at, and not all. */
	assert_true(taken > ROUNDS / 100 && taken < ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)
#define LONG_TEST(claim) cmocka_unit_test_setup_teardown(claim, setup_long, teardown)
		TEST(a_chain_is_taken_with_all_its_pieces),
		TEST(an_indirect_table_is_followed_wherever_it_lies),
		TEST(a_short_ring_may_have_longer_indirect_tables),
		TEST(what_makes_no_sense_breaks_the_ring_and_a_start_mends_it),
		TEST(an_indirect_table_that_was_not_negotiated_breaks_the_ring),
		LONG_TEST(a_chain_of_more_pieces_than_anybody_needs_breaks_the_ring),
		TEST(rings_that_cannot_be_are_not_started),
		TEST(a_ring_says_where_it_stopped),
		TEST(the_used_index_is_read_anew_at_each_start),
		LONG_TEST(a_long_ring_has_so_many_in_flight_and_no_more),
		TEST(the_first_answer_after_a_start_is_signalled_whatever_the_ring_says),
		TEST(with_events_the_answer_that_was_asked_for_is_signalled),
		TEST(kicks_are_asked_for_before_a_sleep_alone),
		TEST(with_events_the_next_chain_is_asked_for),
		TEST(what_is_written_into_the_used_ring_is_marked_as_dirty),
		TEST(other_regions_mean_other_places_and_the_same_indices),
		TEST(where_memory_is_gone_nothing_is_answered),
		TEST(a_ring_whose_own_pages_go_ends_quietly),
		TEST(a_driver_that_changes_chains_while_they_are_read_reaches_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
