/* SPDX-License-Identifier: MIT */
/* The inflight region: at whatever instruction a server dies, each chain is answered once, and what
 * a stranger writes there is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_guest.h"
#include "serve/vhost/inflight.h"

#define SIZE 8u
#define QUEUES 2u
#define QUEUE 1u /* that is used: the second */

/* As the specification has it. */
struct record {
	uint8_t inflight;
	uint8_t unused[5];
	uint16_t next;
	uint64_t counter;
};

struct part {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct record records[SIZE];
};

#define PART_BYTES 192u /* 16 + 8 * 16, to the next 64 */

static struct fake_guest guest;
static struct ox_vhost_ring *ring;
static struct ox_vhost_inflight *region;
static struct part *part; /* the front end's view */
static uint8_t *front_end;
static int fd;

static void open_region(void)
{
	assert_int_equal(ox_vhost_inflight_open(fd, 0, ox_vhost_inflight_bytes(QUEUES, SIZE),
						QUEUES, SIZE, &region),
			 0);
}

static int setup(void **state)
{
	(void)state;
	guest_init(&guest, SIZE);
	fd = ox_vhost_inflight_make(QUEUES, SIZE);
	assert_true(fd >= 0);
	front_end = mmap(NULL, QUEUES * PART_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(front_end != MAP_FAILED);
	part = (struct part *)(void *)(front_end + QUEUE * PART_BYTES);
	open_region();
	return ox_vhost_ring_new(guest.memory, &ring);
}

static int teardown(void **state)
{
	(void)state;
	ox_vhost_ring_free(ring);
	ox_vhost_inflight_close(region);
	munmap(front_end, QUEUES * PART_BYTES);
	close(fd);
	guest_free(&guest);
	return 0;
}

static int try_start(void)
{
	struct ox_vhost_ring_setup how = guest_setup(&guest);

	how.inflight = region;
	how.index = QUEUE;
	return ox_vhost_ring_start(ring, &how);
}

static void start(void)
{
	assert_int_equal(try_start(), 0);
}

static void offer(uint16_t head)
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

static bool is_empty(void)
{
	struct ox_vhost_chain chain;

	return ox_vhost_ring_take(ring, &chain) == 0;
}

/* A server that does so and dies: its memory of it is gone, the guest's is there. */
static void die_after(void (*act)(void))
{
	pid_t pid = fork();
	int code;

	assert_true(pid >= 0);
	if (pid == 0) {
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &code, 0), pid);
	assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
}

/* In a child: a failed check of cmocka would go on with the parent's tests. */
static void must(bool holds)
{
	if (!holds)
		_exit(1);
}

static void start_child(void)
{
	must(try_start() == 0);
}

static void take_child(uint16_t head)
{
	struct ox_vhost_chain chain;

	must(ox_vhost_ring_take(ring, &chain) == 1 && chain.head == head);
}

static void answer(uint16_t head)
{
	ox_vhost_ring_answer(ring, head, 0);
}

static void publish(void)
{
	(void)!ox_vhost_ring_publish(ring);
}

static void the_layout_is_that_of_the_specification(void **state)
{
	(void)state;
	assert_int_equal(ox_vhost_inflight_bytes(QUEUES, SIZE), QUEUES * PART_BYTES);
	assert_false(ox_vhost_inflight_is_used(region));
	start();
	assert_true(ox_vhost_inflight_is_used(region));
	assert_int_equal(part->version, 1);
	assert_int_equal(part->desc_num, SIZE);
	offer(3);
	offer(5);
	assert_int_equal(take(), 3);
	assert_int_equal(take(), 5);
	assert_int_equal(part->records[3].inflight, 1);
	assert_int_equal(part->records[5].inflight, 1);
	assert_true(part->records[3].counter < part->records[5].counter);
	ox_vhost_ring_answer(ring, 3, 0);
	ox_vhost_ring_answer(ring, 5, 0);
	assert_int_equal(part->last_batch_head, 5);
	assert_int_equal(part->records[5].next, 3);
	assert_int_equal(part->records[3].inflight, 1);
	assert_int_equal(part->used_idx, 0);
	(void)!ox_vhost_ring_publish(ring);
	assert_int_equal(part->records[3].inflight, 0);
	assert_int_equal(part->records[5].inflight, 0);
	assert_int_equal(part->used_idx, 2);
	assert_int_equal(*(uint16_t *)(void *)(front_end + 8), 0); /* the other queue */
}

/* ---- deaths ---- */

static void take_three_and_answer_the_second(void)
{
	start_child();
	take_child(3);
	take_child(5);
	take_child(1);
	answer(5);
	publish();
}

static void what_was_not_answered_is_taken_again_in_its_order(void **state)
{
	(void)state;
	offer(3);
	offer(5);
	offer(1);
	die_after(take_three_and_answer_the_second);
	offer(5); /* meanwhile; the driver may use that head again */
	/* As Cloud Hypervisor would have it. */
	ox_vhost_ring_set_base(ring, guest.offered);
	start();
	assert_int_equal(ox_vhost_ring_to_recover(ring), 2);
	assert_true(ox_vhost_ring_has_more(ring));
	assert_int_equal(take(), 3);
	assert_int_equal(take(), 1);
	assert_int_equal(ox_vhost_ring_to_recover(ring), 0);
	assert_int_equal(take(), 5);
	assert_true(is_empty());
	answer(1);
	answer(3);
	answer(5);
	publish();
	assert_int_equal(*guest_used_index(&guest), 4);
	assert_int_equal(ox_vhost_ring_stop(ring), 4);
}

static void recover_and_take_another(void)
{
	start_child();
	take_child(3);
	take_child(1);
	take_child(5);
	answer(3);
	publish();
}

static void a_second_death_keeps_the_order(void **state)
{
	(void)state;
	offer(3);
	offer(5);
	offer(1);
	die_after(take_three_and_answer_the_second);
	offer(5);
	die_after(recover_and_take_another);
	offer(3);
	start();
	assert_int_equal(take(), 1);
	assert_int_equal(take(), 5);
	assert_int_equal(take(), 3);
	assert_true(is_empty());
	for (uint16_t i = 1; i <= 5; i += 2)
		answer(i);
	publish();
}

static void a_ring_that_is_to_stop_takes_what_is_recorded_alone(void **state)
{
	(void)state;
	offer(3);
	offer(5);
	offer(1);
	die_after(take_three_and_answer_the_second);
	offer(6);
	start();
	ox_vhost_ring_set_draining(ring, true);
	assert_int_equal(take(), 3);
	assert_int_equal(take(), 1);
	assert_true(is_empty());
	assert_false(ox_vhost_ring_listen(ring));
	answer(3);
	answer(1);
	publish();
	assert_int_equal(ox_vhost_ring_stop(ring), 3);
	start();
	assert_int_equal(take(), 6);
	answer(6);
}

static void answer_all_child(void)
{
	start_child();
	take_child(3);
	answer(3);
	publish();
}

/* As Cloud Hypervisor would have it: what was queued meanwhile lies behind its base. */
static void with_nothing_in_flight_the_base_does_not_count_either(void **state)
{
	(void)state;
	offer(3);
	die_after(answer_all_child);
	offer(5);
	offer(1);
	ox_vhost_ring_set_base(ring, guest.offered);
	start();
	assert_int_equal(ox_vhost_ring_to_recover(ring), 0);
	assert_int_equal(take(), 5);
	assert_int_equal(take(), 1);
	answer(5);
	answer(1);
}

static void take_one_and_die(void)
{
	start_child();
	take_child(4);
}

/* A ring that has run elsewhere, and was restored: its first region knows of nothing, so nothing is
 * in flight, and what lies behind the base as well was never taken. */
static void with_a_fresh_region_the_base_passes_over_nothing(void **state)
{
	(void)state;
	guest.offered = *guest_used_index(&guest) = UINT16_MAX;
	offer(7);
	offer(0);
	offer(2);
	ox_vhost_ring_set_base(ring, guest.offered); /* as Cloud Hypervisor does */
	start();
	assert_int_equal(part->used_idx, UINT16_MAX);
	assert_int_equal(take(), 7);
	assert_int_equal(take(), 0);
	assert_int_equal(take(), 2);
	answer(7);
	answer(0);
	answer(2);
	publish();
	assert_int_equal(part->used_idx, 2);
}

/* Where it passes over nothing it counts. */
static void with_a_fresh_region_another_base_counts(void **state)
{
	(void)state;
	guest.offered = *guest_used_index(&guest) = 100;
	offer(0);
	offer(2);
	ox_vhost_ring_set_base(ring, 100);
	start();
	assert_int_equal(part->used_idx, 100);
	assert_int_equal(take(), 0);
	assert_int_equal(take(), 2);
	answer(0);
	answer(2);
	publish();
	assert_int_equal(part->used_idx, 102);
}

/* A server has died between the renewal of a ring's part and its first use. */
static void where_a_ring_goes_on_the_base_of_long_ago_does_not_count(void **state)
{
	struct ox_vhost_ring_setup how = guest_setup(&guest);

	(void)state;
	guest.offered = *guest_used_index(&guest) = 5; /* heads 0 to 4, which are answered */
	offer(6);
	ox_vhost_ring_set_base(ring, 0);
	how.inflight = region;
	how.index = QUEUE;
	how.goes_on = true;
	assert_int_equal(ox_vhost_ring_start(ring, &how), 0);
	assert_int_equal(take(), 6);
	assert_true(is_empty());
	answer(6);
	publish();
}

static void a_loss_stays_noted_in_a_region(void **state)
{
	(void)state;
	assert_false(ox_vhost_inflight_has_loss(region));
	start();
	(void)ox_vhost_ring_stop(ring);
	ox_vhost_inflight_note_loss(region);
	ox_vhost_inflight_close(region);
	open_region();
	start();
	assert_true(ox_vhost_inflight_has_loss(region));
}

static void a_guest_that_boots_begins_anew_in_the_same_region(void **state)
{
	(void)state;
	guest.offered = *guest_used_index(&guest) = 100;
	ox_vhost_ring_set_base(ring, 100);
	offer(0);
	start();
	assert_int_equal(take(), 0);
	answer(0);
	publish();
	assert_int_equal(ox_vhost_ring_stop(ring), 101);
	guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest) = 0;
	ox_vhost_ring_set_base(ring, 0);
	offer(4);
	die_after(take_one_and_die); /* what the region knows of the old ring says nothing of it */
	start();
	assert_int_equal(take(), 4);
	answer(4);
	publish();
	assert_int_equal(part->used_idx, 1);
	/* Its driver may want a shorter ring. */
	assert_int_equal(ox_vhost_ring_stop(ring), 1);
	guest.size = SIZE / 2;
	guest.offered = *guest_available_index(&guest) = *guest_used_index(&guest) = 0;
	ox_vhost_ring_set_base(ring, 0);
	start();
	assert_int_equal(part->desc_num, SIZE / 2);
}

/* ---- at whatever instruction ---- */

static const uint16_t heads[] = {3, 5, 1, 6};

static void serve_all(void)
{
	start_child();
	take_child(3);
	take_child(5);
	answer(5);
	publish();
	take_child(1);
	answer(3);
	answer(1);
	publish();
	take_child(6);
	answer(6);
	publish();
}

/* Each chain is in the used ring, or is taken by the next server: one of them. */
static void each_is_answered_or_taken(void)
{
	struct ox_vhost_chain chain;
	const uint16_t used = *guest_used_index(&guest);
	unsigned seen = 0;
	unsigned place = 0;
	uint16_t taken[SIZE];
	unsigned count = 0;

	for (uint16_t i = 0; i < used; i++) {
		assert_int_equal(seen >> guest_used_head(&guest, i) & 1, 0);
		seen |= 1u << guest_used_head(&guest, i);
	}
	ox_vhost_ring_set_base(ring, guest.offered);
	if (part->version == 0)
		ox_vhost_ring_set_base(ring, 0); /* nobody has begun */
	start();
	while (ox_vhost_ring_take(ring, &chain) == 1) {
		assert_int_equal(seen >> chain.head & 1, 0);
		seen |= 1u << chain.head;
		while (place < 4 && heads[place] != chain.head)
			place++;
		assert_true(place < 4); /* in the order in which they were made available */
		taken[count++] = chain.head;
	}
	assert_int_equal(seen, 1u << 3 | 1u << 5 | 1u << 1 | 1u << 6);
	for (unsigned i = 0; i < count; i++)
		answer(taken[i]);
	publish();
	assert_int_equal(*guest_used_index(&guest), 4);
	(void)ox_vhost_ring_stop(ring);
}

/* The same, and then everything is again as it was. */
static void look(void)
{
	uint8_t used[0x100];
	struct part copy = *part;

	memcpy(used, guest_at(&guest, GUEST_USED), sizeof(used));
	each_is_answered_or_taken();
	memcpy(guest_at(&guest, GUEST_USED), used, sizeof(used));
	*part = copy;
}

static void a_death_at_any_instruction_loses_and_repeats_no_answer(void **state)
{
	unsigned steps = 0;
	int code;
	pid_t pid;

	(void)state;
	if (guest_is_under_valgrind())
		skip(); /* its own instructions would be stepped through, a hundred for each */
	for (int i = 0; i < 4; i++)
		offer(heads[i]);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		(void)raise(SIGSTOP);
		serve_all();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &code, 0), pid);
	if (WIFEXITED(code))
		skip();
	for (; WIFSTOPPED(code); steps++) {
		look();
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &code, 0), pid);
	}
	assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
	assert_true(steps > 500);
	assert_int_equal(*guest_used_index(&guest), 4);
}

/* ---- strangers ---- */

static void in_use(void)
{
	part->version = 1;
	part->desc_num = SIZE;
	part->records[2].inflight = 1;
}

static void a_region_that_makes_no_sense_is_refused(void **state)
{
	const struct {
		uint16_t version, desc_num, last_batch_head, used_idx, next;
		int code;
	} rows[] = {
		{2, SIZE, 0, 0, 0, -EPROTO},
		{0xffff, SIZE, 0, 0, 0, -EPROTO},
		{1, 0, 0, 0, 0, -EPROTO},
		{1, SIZE / 2, 0, 0, 0, -EPROTO},
		{1, 2 * SIZE, 0, 0, 0, -EPROTO},
		{1, 0xffff, 0, 0, 0, -EPROTO},
		{1, SIZE, SIZE, 0xffff, 0, -EPROTO}, /* the last batch: one */
		{1, SIZE, 0xffff, 0xffff, 0, -EPROTO},
		{1, SIZE, 0, 0xfffe, SIZE, -EPROTO}, /* two */
		{1, SIZE, 0, 1, 0, -EPROTO},	     /* 65535 */
		{1, SIZE, 0, (uint16_t) - (SIZE + 1), 0, -EPROTO},
		{1, SIZE, SIZE, 0, SIZE, 0}, /* no batch: nobody looks */
		{1, SIZE, 0, 0xfffe, 0, 0},  /* a batch in a circle */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memset(part, 0, sizeof(*part));
		in_use();
		part->version = rows[i].version;
		part->desc_num = rows[i].desc_num;
		part->last_batch_head = rows[i].last_batch_head;
		part->used_idx = rows[i].used_idx;
		part->records[0].next = rows[i].next;
		assert_int_equal(try_start(), rows[i].code);
		assert_int_equal(part->records[2].inflight, 1);
		(void)ox_vhost_ring_stop(ring);
	}
}

static void counters_are_what_they_are(void **state)
{
	(void)state;
	part->version = 1;
	part->desc_num = SIZE;
	for (uint16_t i = 0; i < SIZE; i++) {
		guest_describe(&guest, i, GUEST_FREE, 1, 0, 0);
		part->records[i].inflight = 0xff;
		part->records[i].counter = i < 4 ? UINT64_MAX : i == 4 ? 0 : UINT64_MAX - 1;
	}
	start();
	assert_int_equal(ox_vhost_ring_to_recover(ring), SIZE);
	assert_int_equal(take(), 4);
	for (uint16_t i = 5; i < SIZE; i++)
		assert_int_equal(take(), i);
	for (uint16_t i = 0; i < 4; i++)
		assert_int_equal(take(), i);
	for (uint16_t i = 0; i < SIZE; i++)
		answer(i);
	publish();
	offer(0);
	/* All were taken before the ring could have had them: the index has not moved. */
	assert_int_equal(*guest_used_index(&guest), SIZE);
}

static void a_chain_that_was_changed_since_breaks_the_ring_and_stays_recorded(void **state)
{
	struct ox_vhost_chain chain;

	(void)state;
	in_use();
	guest_describe(&guest, 2, GUEST_END, 1, 0, 0);
	start();
	assert_int_equal(ox_vhost_ring_take(ring, &chain), -EPROTO);
	assert_int_equal(part->records[2].inflight, 1);
}

static void regions_that_are_too_short_are_refused(void **state)
{
	const uint64_t bytes = ox_vhost_inflight_bytes(QUEUES, SIZE);
	struct ox_vhost_inflight *other;
	struct ox_vhost_ring_setup how = guest_setup(&guest);

	(void)state;
	assert_int_equal(ox_vhost_inflight_make(0, SIZE), -EINVAL);
	assert_int_equal(ox_vhost_inflight_make(1, 0), -EINVAL);
	assert_int_equal(ox_vhost_inflight_make(1, 0xffff), -EINVAL);
	assert_int_equal(ox_vhost_inflight_open(fd, 0, bytes - 1, QUEUES, SIZE, &other), -EINVAL);
	assert_int_equal(ox_vhost_inflight_open(fd, 0, UINT64_MAX, 0, SIZE, &other), -EINVAL);
	assert_int_equal(ox_vhost_inflight_open(fd, 8, bytes, QUEUES, SIZE, &other), -EINVAL);
	assert_int_equal(ox_vhost_inflight_open(fd, 64, bytes, QUEUES, SIZE, &other), -EFBIG);
	assert_int_equal(ox_vhost_inflight_open(fd, UINT64_MAX - 63, bytes, QUEUES, SIZE, &other),
			 -EINVAL);
	assert_int_equal(ox_vhost_inflight_open(fd, 0, UINT64_MAX, 0xffff, 32768, &other), -EFBIG);
	assert_int_equal(ox_vhost_inflight_open(-1, 0, bytes, QUEUES, SIZE, &other), -EBADF);
	how.inflight = region;
	how.index = QUEUES;
	assert_int_equal(ox_vhost_ring_start(ring, &how), -EINVAL);
	how.index = QUEUE;
	how.size = 2 * SIZE;
	assert_int_equal(ox_vhost_ring_start(ring, &how), -EINVAL);
}

static void nobody_can_shorten_a_region_of_ours(void **state)
{
	(void)state;
	assert_int_equal(ftruncate(fd, 1), -1);
	assert_int_equal(ftruncate(fd, 1 << 20), -1);
}

static void a_region_that_shrinks_ends_the_ring(void **state)
{
	(void)state;
	guest_catches();
	ox_vhost_inflight_close(region);
	close(fd);
	fd = memfd_create("theirs", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, QUEUES * PART_BYTES), 0);
	open_region();
	start();
	offer(0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(take(), 0);
	assert_true(ox_vhost_inflight_is_broken(region));
	answer(0);
	publish();
	assert_int_equal(*guest_used_index(&guest), 0);
	assert_int_equal(ox_vhost_ring_state(ring), OX_VHOST_RING_BROKEN);
	(void)ox_vhost_ring_stop(ring);
	assert_int_equal(try_start(), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)
		TEST(the_layout_is_that_of_the_specification),
		TEST(what_was_not_answered_is_taken_again_in_its_order),
		TEST(a_second_death_keeps_the_order),
		TEST(a_ring_that_is_to_stop_takes_what_is_recorded_alone),
		TEST(with_nothing_in_flight_the_base_does_not_count_either),
		TEST(with_a_fresh_region_the_base_passes_over_nothing),
		TEST(with_a_fresh_region_another_base_counts),
		TEST(where_a_ring_goes_on_the_base_of_long_ago_does_not_count),
		TEST(a_loss_stays_noted_in_a_region),
		TEST(a_guest_that_boots_begins_anew_in_the_same_region),
		TEST(a_death_at_any_instruction_loses_and_repeats_no_answer),
		TEST(a_region_that_makes_no_sense_is_refused),
		TEST(counters_are_what_they_are),
		TEST(a_chain_that_was_changed_since_breaks_the_ring_and_stays_recorded),
		TEST(regions_that_are_too_short_are_refused),
		TEST(nobody_can_shorten_a_region_of_ours),
		TEST(a_region_that_shrinks_ends_the_ring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
