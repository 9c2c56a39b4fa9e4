/* SPDX-License-Identifier: MIT */
/* The write layer of a repair and its undo file, over stores whose power is cut. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "task_test.h"

#include "base/arith.h"
#include "base/assert.h"
#include "check/undo/edit.h"
#include "check/undo/undo.h"
#include "cut_io.h"

#define LENGTH UINT64_C(70000) /* ends within a block, and within a sector */
#define MOST UINT64_C(200000)

static struct cut cut;
static uint8_t original[LENGTH];

struct stage {
	struct ox_io *image;
	struct ox_io *undo_file;
	struct ox_undo_log *log;
	struct ox_io *edit;
};

static void set_stage(struct stage *s)
{
	cut = (struct cut){.sparse = true};
	for (size_t i = 0; i < LENGTH; i++)
		original[i] = (uint8_t)(i * 7 + i / 512);
	s->image = cut_open(reactor, &cut, original, LENGTH);
	s->undo_file = cut_open(reactor, &cut, NULL, 0);
	assert_int_equal(
		ox_undo_log_open(s->undo_file, s->image, ox_edit_block_bytes(s->image), &s->log),
		0);
	assert_int_equal(ox_edit_open(s->image, s->log, &s->edit), 0);
}

static void clear_stage(struct stage *s)
{
	ox_io_close(s->edit);
	ox_undo_log_close(s->log);
	ox_io_close(s->undo_file);
	ox_io_close(s->image);
}

/* A layer without an undo file keeps nothing of it. */
static int punch_co(struct ox_io *io, uint64_t offset, uint64_t length, uint8_t *model)
{
	if (ox_edit_is_dry(io) || offset >= io->length)
		return 0;
	if (model)
		memset(model + offset, 0, ox_min_u64(length, io->length - offset));
	return ox_io_punch_co(io, offset, length);
}

/* Grows by some bytes, with a sync, while nothing else is to be written. */
static int grow_co(struct ox_io *io, uint64_t bytes)
{
	int r = ox_io_sync_co(io);

	if (r == 0)
		r = ox_io_set_length_co(io, io->length + bytes);
	return r == 0 ? ox_io_sync_co(io) : r;
}

/* Writes here and there, past the end too, with a sync now and then; grows before anything is
 * written, or later, or both. */
static int scribble_co(struct ox_io *io, unsigned seed, uint8_t *model)
{
	unsigned grows = seed % 4;
	int r = grows & 1 ? grow_co(io, 1000) : 0;

	for (int i = 0; i < 12 && r == 0; i++) {
		uint8_t bytes[9000];
		size_t count = (size_t)rand_r(&seed) % sizeof(bytes) + 1;
		uint64_t offset = (uint64_t)rand_r(&seed) % (MOST - sizeof(bytes));

		memset(bytes, rand_r(&seed), count);
		if (model)
			memcpy(model + offset, bytes, count);
		r = ox_io_pwrite_co(io, bytes, count, offset, 0);
		if (r == 0 && i % 3 == 2)
			r = ox_io_sync_co(io);
		if (r == 0 && i == 5 && grows & 2)
			r = grow_co(io, 513);
		if (r == 0 && i % 4 == 1)
			r = punch_co(io, offset / 2, 2 * count, model);
	}
	return r;
}

static void assert_original(struct ox_io *image)
{
	assert_int_equal(image->length, LENGTH);
	assert_memory_equal(cut_bytes(image), original, LENGTH);
}

static void assert_reads_as_co(struct ox_io *io, const uint8_t *model)
{
	uint8_t *bytes = malloc(MOST);

	assert_non_null(bytes);
	assert_int_equal(ox_io_pread_co(io, bytes, MOST, 0), 0);
	assert_memory_equal(bytes, model, MOST);
	free(bytes);
}

static void what_is_written_is_read_back_and_written_at_the_sync_co(void *arg)
{
	uint8_t *model = calloc(1, MOST);
	struct stage s;

	(void)arg;
	assert_non_null(model);
	for (unsigned seed = 1; seed <= 20; seed++) {
		set_stage(&s);
		memset(model, 0, MOST);
		memcpy(model, original, LENGTH);
		assert_int_equal(scribble_co(s.edit, seed, model), 0);
		assert_reads_as_co(s.edit, model);
		assert_int_equal(ox_io_sync_co(s.edit), 0);
		assert_int_equal(s.image->length, s.edit->length);
		assert_reads_as_co(s.image, model);
		assert_false(cut_is_unsynced(s.image));
		clear_stage(&s);
	}
	free(model);
}

static void a_dry_run_leaves_the_store_alone_co(void *arg)
{
	uint8_t *model = calloc(1, MOST);
	struct ox_io *edit;
	struct stage s;

	(void)arg;
	assert_non_null(model);
	set_stage(&s);
	s.image->read_only = true;
	memcpy(model, original, LENGTH);
	assert_int_equal(ox_edit_open(s.image, NULL, &edit), 0);
	assert_true(ox_edit_is_dry(edit));
	assert_int_equal(scribble_co(edit, 2, model), 0);
	assert_reads_as_co(edit, model);
	assert_int_equal(cut.changes, 0);
	assert_original(s.image);
	ox_io_close(edit);
	clear_stage(&s);
	free(model);
}

static void a_hole_ends_where_something_is_held_co(void *arg)
{
	struct ox_io_extent extent;
	struct ox_io *edit;
	struct stage s;

	(void)arg;
	set_stage(&s);
	assert_int_equal(ox_edit_open(s.image, NULL, &edit), 0);
	assert_int_equal(ox_io_extent_co(edit, 100000, &extent), 0);
	assert_true(extent.zero && extent.length > MOST);
	assert_int_equal(ox_io_pwrite_co(edit, original, 10, 120000, 0), 0);
	assert_int_equal(ox_io_extent_co(edit, 100000, &extent), 0);
	assert_true(extent.zero);
	assert_int_equal(extent.length, 29 * 4096 - 100000);
	assert_int_equal(ox_io_extent_co(edit, 29 * 4096 + 7, &extent), 0);
	assert_false(extent.zero);
	assert_int_equal(extent.length, 4096 - 7);
	assert_int_equal(ox_io_extent_co(edit, 30 * 4096, &extent), 0);
	assert_true(extent.zero && extent.length > MOST);
	/* The same where more is held than the hole has blocks. */
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(ox_io_pwrite_co(edit, original, 1, (40 + i) * 4096, 0), 0);
	assert_int_equal(ox_io_extent_co(edit, 39 * 4096 + 1, &extent), 0);
	assert_true(extent.zero);
	assert_int_equal(extent.length, 4095);
	assert_int_equal(ox_io_extent_co(edit, 1000, &extent), 0);
	assert_false(extent.zero);
	ox_io_close(edit);
	clear_stage(&s);
}

static void a_dry_run_is_bounded_co(void *arg)
{
	static uint8_t bytes[1 << 20];
	struct ox_io *edit;
	struct stage s;
	uint64_t at = 0;
	int r = 0;

	(void)arg;
	set_stage(&s);
	assert_int_equal(ox_edit_open(s.image, NULL, &edit), 0);
	for (; at <= OX_EDIT_DRY_BYTES && r == 0; at += sizeof(bytes))
		r = ox_io_pwrite_co(edit, bytes, sizeof(bytes), at, 0);
	assert_int_equal(r, -ENOBUFS);
	assert_true(at > OX_EDIT_DRY_BYTES - sizeof(bytes));
	/* Guest data take no memory. */
	assert_int_equal(ox_edit_write_data_co(edit, bytes, sizeof(bytes), at), 0);
	assert_int_equal(edit->length, at + sizeof(bytes));
	ox_io_close(edit);
	clear_stage(&s);
}

static void an_undo_puts_every_byte_back_co(void *arg)
{
	struct ox_undo_outcome outcome;
	struct stage s;

	(void)arg;
	for (unsigned seed = 1; seed <= 20; seed++) {
		set_stage(&s);
		assert_int_equal(scribble_co(s.edit, seed, NULL), 0);
		assert_int_equal(ox_io_sync_co(s.edit), 0);
		assert_int_equal(ox_undo_log_complete_co(s.log), 0);
		assert_false(cut_is_unsynced(s.undo_file));
		assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), 0);
		assert_true(outcome.complete);
		assert_true(outcome.blocks > 0);
		assert_original(s.image);
		assert_false(cut_is_unsynced(s.image));
		/* Once more: there is nothing to do. */
		assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), 0);
		assert_int_equal(outcome.blocks, 0);
		clear_stage(&s);
	}
}

static void a_length_that_grows_alone_is_put_back_co(void *arg)
{
	struct ox_undo_outcome outcome;
	struct stage s;

	(void)arg;
	for (unsigned written = 0; written < 2; written++) {
		set_stage(&s);
		if (written)
			assert_int_equal(ox_io_pwrite_co(s.edit, original + 1, 3000, 5000, 0), 0);
		assert_int_equal(grow_co(s.edit, 30000), 0);
		assert_int_equal(s.image->length, LENGTH + 30000);
		assert_int_equal(ox_undo_log_complete_co(s.log), 0);
		assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), 0);
		assert_int_equal(outcome.blocks, written);
		assert_original(s.image);
		assert_false(cut_is_unsynced(s.image));
		clear_stage(&s);
	}
}

static void an_undo_that_leaves_the_length_is_durable_co(void *arg)
{
	struct ox_undo_outcome outcome;
	struct stage s;

	(void)arg;
	set_stage(&s);
	assert_int_equal(ox_io_pwrite_co(s.edit, original + 1, 30000, 9000, 0), 0);
	assert_int_equal(ox_io_sync_co(s.edit), 0);
	assert_int_equal(ox_undo_log_complete_co(s.log), 0);
	assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), 0);
	assert_original(s.image);
	assert_false(cut_is_unsynced(s.image));
	clear_stage(&s);
}

/* A process that is killed leaves an image that still looks repaired, until all is put back. */
static void the_headers_block_is_put_back_last_co(void *arg)
{
	bool was_killed = true;

	(void)arg;
	for (unsigned after = 1; was_killed; after++) {
		struct ox_undo_outcome outcome;
		struct stage s;

		set_stage(&s);
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(ox_io_pwrite_co(s.edit, original + 1, 3000, i * 12000, 0),
					 0);
		assert_int_equal(ox_io_sync_co(s.edit), 0);
		assert_int_equal(ox_undo_log_complete_co(s.log), 0);
		cut = (struct cut){.after = after};
		was_killed = ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL) < 0;
		if (memcmp(cut_bytes(s.image), original, OX_UNDO_BLOCK_BYTES) == 0)
			assert_original(s.image);
		clear_stage(&s);
	}
}

/* Whether a cut after so many changes came before the end. */
static bool undo_survives_cut_co(unsigned after, unsigned seed)
{
	struct ox_undo_outcome outcome;
	struct ox_error *err = NULL;
	struct stage s;
	bool was_cut;
	int r;

	set_stage(&s);
	cut.after = after;
	r = scribble_co(s.edit, seed, NULL);
	if (r == 0)
		r = ox_undo_log_complete_co(s.log);
	was_cut = r < 0;
	cut.after = 0;
	cut_recover(s.undo_file, seed);
	cut_recover(s.image, seed + 1);
	if (s.undo_file->length == 0) {
		/* Nothing of it became durable: then nothing of the image was written. */
		assert_original(s.image);
	} else {
		r = ox_undo_apply_co(s.undo_file, s.image, false, &outcome, &err);
		if (r < 0 && memcmp(cut_bytes(s.undo_file), "\0\0\0\0", 4) != 0)
			fail_msg("cut %u seed %u: %s", after, seed, ox_error_message(err));
		assert_original(s.image);
	}
	ox_error_free(err);
	clear_stage(&s);
	return was_cut;
}

static void a_repair_cut_anywhere_can_be_undone_co(void *arg)
{
	(void)arg;
	for (unsigned seed = 1; seed <= 8; seed++) {
		unsigned after = 1;

		while (undo_survives_cut_co(after, seed))
			after++;
		assert_true(after > 12);
	}
}

static void an_undo_cut_anywhere_is_finished_by_another_co(void *arg)
{
	bool was_cut = true;

	(void)arg;
	for (unsigned after = 1; was_cut; after++) {
		struct ox_undo_outcome outcome;
		struct stage s;

		set_stage(&s);
		assert_int_equal(scribble_co(s.edit, after, NULL), 0);
		assert_int_equal(ox_io_sync_co(s.edit), 0);
		assert_int_equal(ox_undo_log_complete_co(s.log), 0);
		cut = (struct cut){.after = after};
		was_cut = ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL) < 0;
		cut.after = 0;
		cut_recover(s.image, after);
		assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), 0);
		assert_original(s.image);
		clear_stage(&s);
	}
}

static void what_was_changed_since_is_not_put_back_co(void *arg)
{
	struct ox_undo_outcome outcome;
	uint8_t byte;
	struct stage s;

	(void)arg;
	set_stage(&s);
	memset(&byte, 0xa5, 1);
	assert_int_equal(ox_io_pwrite_co(s.edit, original, 20000, 30000, 0), 0);
	assert_int_equal(ox_io_sync_co(s.edit), 0);
	assert_int_equal(ox_undo_log_complete_co(s.log), 0);
	assert_int_equal(ox_io_pwrite_co(s.image, &byte, 1, 40000, 0), 0);
	cut.changes = 0;
	assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), -EINVAL);
	assert_int_equal(cut.changes, 0);
	assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, true, &outcome, NULL), 0);
	assert_int_equal(outcome.changed, 1);
	assert_original(s.image);
	clear_stage(&s);
}

static void another_image_and_a_longer_one_are_refused_co(void *arg)
{
	struct ox_undo_outcome outcome;
	struct ox_io *other;
	struct stage s;

	(void)arg;
	set_stage(&s);
	assert_int_equal(scribble_co(s.edit, 5, NULL), 0);
	assert_int_equal(ox_undo_log_complete_co(s.log), 0);
	other = cut_open(reactor, &cut, NULL, s.image->length);
	assert_int_equal(ox_undo_apply_co(s.undo_file, other, false, &outcome, NULL), -EINVAL);
	ox_io_close(other);
	assert_int_equal(ox_io_set_length_co(s.image, s.image->length + 1), 0);
	assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, false, &outcome, NULL), -EINVAL);
	clear_stage(&s);
}

static void a_damaged_undo_file_is_refused_co(void *arg)
{
	struct ox_undo_outcome outcome;
	struct stage s;

	(void)arg;
	set_stage(&s);
	assert_int_equal(scribble_co(s.edit, 6, NULL), 0);
	assert_int_equal(ox_undo_log_complete_co(s.log), 0);
	for (uint64_t at = 0; at < s.undo_file->length; at += at < 600 ? 1 : 499) {
		uint8_t byte = cut_bytes(s.undo_file)[at];
		uint8_t wrong = byte ^ 0x10;

		/* Behind the header's fields nothing is said. */
		if (at >= sizeof(struct ox_undo_header) && at < OX_UNDO_HEADER_BYTES)
			continue;
		assert_int_equal(ox_io_pwrite_co(s.undo_file, &wrong, 1, at, 0), 0);
		assert_int_equal(ox_undo_apply_co(s.undo_file, s.image, true, &outcome, NULL),
				 -EINVAL);
		assert_int_equal(ox_io_pwrite_co(s.undo_file, &byte, 1, at, 0), 0);
	}
	clear_stage(&s);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(what_is_written_is_read_back_and_written_at_the_sync),
		TASK_TEST(a_dry_run_leaves_the_store_alone),
		TASK_TEST(a_hole_ends_where_something_is_held),
		TASK_TEST(a_dry_run_is_bounded),
		TASK_TEST(an_undo_puts_every_byte_back),
		TASK_TEST(a_length_that_grows_alone_is_put_back),
		TASK_TEST(an_undo_that_leaves_the_length_is_durable),
		TASK_TEST(the_headers_block_is_put_back_last),
		TASK_TEST(a_repair_cut_anywhere_can_be_undone),
		TASK_TEST(an_undo_cut_anywhere_is_finished_by_another),
		TASK_TEST(what_was_changed_since_is_not_put_back),
		TASK_TEST(another_image_and_a_longer_one_are_refused),
		TASK_TEST(a_damaged_undo_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
