/* SPDX-License-Identifier: MIT */
/*
 * J1 to J3: an image under construction, cut at each of its writes and syncs, at each change of its
 * state and at its marks, by the death of the process and by the loss of power. Before publication
 * the file is no image; once it is one it is whole. Whoever goes on loses nothing, doubles nothing,
 * and makes no larger file. The state file is one of memory here: replaced as a whole, or not.
 */
#include "task_test.h"

#include "lib/build_state.h"

static int write_state(const char *path, const struct ox_build_state *state);
static int remove_state(const char *path);

/* The source itself, over a file and a state that can be cut. */
#define ox_build_state_write write_state
#define ox_build_state_remove remove_state
#include "../../src/lib/build.c"
#undef ox_build_state_write
#undef ox_build_state_remove

#include "cut_io.h"
#include "img/probe.h"
#include "job/copy.h"

#define CLUSTER 4096u
#define CLUSTERS 30u
#define DISK_BYTES (CLUSTERS * CLUSTER + 512u)
#define STEP_BYTES (7u * CLUSTER)
#define ROOM_BYTES (UINT64_C(2) << 20)
#define POWER_CUTS 2u /* seeds of each */
#define MARKS 4u
/* So slow that some marks are told meanwhile. */
#define RATE_BYTES (UINT64_C(4) << 20)

struct shape {
	const char *name;
	const char *format;
	unsigned version;
	bool lazy;
};

static const struct shape shapes[] = {
	{"qcow2", "qcow2", 3, false},
	{"lazy qcow2", "qcow2", 3, true},
	{"qcow2 of version 2", "qcow2", 2, false},
	{"QED", "qed", 3, false},
};

static const struct shape *shape;
static struct ox_context *ctx;
static uint8_t expected[DISK_BYTES];
static struct ox_image *source;

static struct cut cut;
static struct ox_io_ops kept_ops; /* of a file that outlives who has it open */
static void (*close_file)(struct ox_io *io);

/* What is beside the file. */
static struct ox_build_state beside;
static bool is_beside;

/* How the work under test is done. */
static bool with_resume;
static bool by_marks; /* slowly, and told by a timer; else in steps */
static unsigned dies_at_mark;
static unsigned marks;
static bool publishing;

static int setup(void **state)
{
	(void)state;
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
		return -1;
	reactor = ctx->reactor;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	return 0;
}

/* ---- the file, and what is beside it ---- */

static bool is_cut(void)
{
	if (cut.after && cut.changes >= cut.after)
		return true;
	cut.changes++;
	return false;
}

static int write_state(const char *path, const struct ox_build_state *state)
{
	(void)path;
	if (is_cut())
		return -EIO;
	beside = *state;
	is_beside = true;
	return 0;
}

static int remove_state(const char *path)
{
	(void)path;
	if (is_cut())
		return -EIO;
	is_beside = false;
	return 0;
}

static void keep_open(struct ox_io *io)
{
	(void)io;
}

static struct ox_io *make_file(void)
{
	struct ox_io *io;

	cut = (struct cut){.room_bytes = ROOM_BYTES, .sparse = true};
	io = cut_open(reactor, &cut, NULL, 0);
	close_file = io->ops->close;
	kept_ops = *io->ops;
	kept_ops.close = keep_open;
	io->ops = &kept_ops;
	is_beside = false;
	publishing = false;
	marks = 0;
	return io;
}

/* ---- the source ---- */

static void open_source_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	struct ox_io *io;

	for (unsigned i = 0; i < CLUSTERS; i++)
		memset(expected + (size_t)i * CLUSTER, i % 4 == 2 ? 0 : (int)i + 1, CLUSTER);
	memset(expected + 5 * CLUSTER, 0, 512); /* not a whole cluster */
	memset(expected + CLUSTERS * CLUSTER, 0xee, 512);
	assert_int_equal(ox_io_memory_open(reactor, DISK_BYTES, &io), 0);
	assert_int_equal(ox_io_pwrite_co(io, expected, DISK_BYTES, 0, 0), 0);
	opts.format = "raw";
	assert_int_equal(ox_img_open_co(io, &how, &source, NULL), 0);
}

/* ---- the work ---- */

static void begin_build(struct ox_build *b, struct ox_io *io)
{
	*b = (struct ox_build){.ctx = ctx,
			       .opts = OX_BUILD_OPTIONS_INIT,
			       .open = OX_OPEN_OPTIONS_INIT,
			       .create = OX_CREATE_OPTIONS_INIT,
			       .path = (char *)"file",
			       .state_path = (char *)"state",
			       .below = io,
			       .opened = true,
			       .is_new = true};
	b->opts.flags = with_resume ? OX_BUILD_RESUME : 0;
	b->create.format = shape->format;
	b->create.virtual_bytes = DISK_BYTES;
	b->create.version = shape->version;
	b->create.lazy_refcounts = shape->lazy;
	b->create.cluster_bytes = CLUSTER;
	if (is_beside)
		b->state = beside;
}

static int mark(void *opaque, uint64_t offset)
{
	struct ox_build *b = opaque;
	bool counts = offset > b->state.mark && offset < DISK_BYTES;
	int r = ox_build_mark(b, offset);

	if (r < 0 || !counts || ++marks != dies_at_mark)
		return r;
	cut.after = cut.changes;
	return -EIO;
}

static int copy_co(struct ox_build *b)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_joined joined = {.first = source};
	struct ox_copy_result result;
	uint64_t step = by_marks ? DISK_BYTES : STEP_BYTES;
	int r = 0;

	opts.flags = OX_COPY_TARGET_IS_NEW;
	opts.memory_bytes = 4 * CLUSTER;
	opts.tasks = 2;
	opts.mark = by_marks ? mark : NULL;
	opts.mark_ms = 1;
	opts.rate_bytes = by_marks ? RATE_BYTES : 0;
	opts.opaque = b;
	opts.start = ox_build_start(b);
	while (r == 0 && opts.start < DISK_BYTES) {
		source->size_bytes = ox_min_u64(ox_align_down(opts.start, step) + step, DISK_BYTES);
		r = ox_copy_run_co(&joined, b->image, &opts, &result, NULL);
		opts.start = source->size_bytes;
		if (r == 0)
			r = ox_build_mark(b, opts.start);
	}
	source->size_bytes = DISK_BYTES;
	return r;
}

static int end_co(struct ox_build *b, bool publish)
{
	struct finish f = {.build = b, .publish = publish};

	detach_image(b);
	finish_co(&f);
	return f.result == 0 && publish ? publish_name(b, NULL) : f.result;
}

/* All of it, by a process that begins or goes on. */
static int build_co(struct ox_io *io)
{
	struct ox_build b;
	struct begin begin = {.build = &b, .goes_on = is_beside};
	int r;

	begin_build(&b, io);
	begin_co(&begin);
	r = begin.result;
	if (r == 0)
		r = copy_co(&b);
	publishing = publishing || r == 0;
	if (end_co(&b, r == 0) < 0 && r == 0)
		r = -EIO;
	return r;
}

/* ---- what is there ---- */

static const char *told(unsigned after, unsigned seed)
{
	static char text[120];

	snprintf(text, sizeof(text), "%s%s, cut at %s %u (%s %u)", shape->name,
		 with_resume ? ", to be gone on with" : "", by_marks ? "mark" : "change", after,
		 seed ? "power" : "death", seed);
	return text;
}

static void check_sound_co(struct ox_io *io, const char *what)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result = {0};
	int r = strcmp(shape->format, "qed") == 0 ? ox_check_qed_co(io, &opts, &result, NULL)
						  : ox_check_qcow2_co(io, &opts, &result, NULL);

	if (r != 0 || result.check_errors + result.corruptions + result.leaks > 0)
		fail_msg("%s: a check (%d) finds %u corruptions and %u leaks", what, r,
			 (unsigned)result.corruptions, (unsigned)result.leaks);
}

static void check_whole_co(struct ox_io *io, const char *what)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	static uint8_t now[DISK_BYTES];
	struct iovec v = {now, sizeof(now)};
	struct ox_image *image;

	check_sound_co(io, what);
	opts.format = shape->format;
	io->read_only = true;
	if (ox_img_open_co(io, &how, &image, NULL) != 0)
		fail_msg("%s: it does not open", what);
	assert_int_equal(image->size_bytes, DISK_BYTES);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	io->read_only = false;
	for (unsigned i = 0; i < DISK_BYTES; i++) {
		if (now[i] != expected[i])
			fail_msg("%s: byte %u is 0x%x, not 0x%x", what, i, now[i], expected[i]);
	}
}

static bool is_image_co(struct ox_io *io)
{
	const char *format = NULL;

	assert_int_equal(ox_img_probe_co(io, &format, NULL), 0);
	return strcmp(format, "raw") != 0;
}

static void check_file_co(struct ox_io *io, bool succeeded, const char *what)
{
	bool is_image = is_image_co(io);

	if (succeeded && !is_image)
		fail_msg("%s: success was told, and it is no image", what);
	if (is_image && !publishing)
		fail_msg("%s: it is an image before it is whole", what);
	if (is_image)
		check_whole_co(io, what);
}

static uint64_t undisturbed_bytes_co(void)
{
	struct ox_io *io = make_file();
	uint64_t length;

	assert_int_equal(build_co(io), 0);
	check_file_co(io, true, "undisturbed");
	length = io->length;
	close_file(io);
	return length;
}

/* ---- cuts ---- */

static bool rebuild_co(struct ox_io *io, unsigned after, unsigned seed)
{
	int r;

	cut = (struct cut){.room_bytes = ROOM_BYTES, .sparse = true, .after = after};
	r = build_co(io);
	if (seed > 0)
		cut_recover(io, seed);
	cut = (struct cut){.room_bytes = ROOM_BYTES, .sparse = true};
	return r == 0;
}

/* False: the work came to its end before. */
static bool cut_once_co(unsigned after, unsigned seed, uint64_t undisturbed)
{
	const char *what = told(after, seed);
	struct ox_io *io = make_file();
	int r;

	cut.after = by_marks ? 0 : after;
	dies_at_mark = by_marks ? after : 0;
	r = build_co(io);
	if (seed > 0)
		cut_recover(io, seed);
	cut = (struct cut){.room_bytes = ROOM_BYTES, .sparse = true};
	dies_at_mark = 0;
	check_file_co(io, r == 0, what);
	/* Who goes on is cut as well, at one place and another. */
	if (with_resume && r != 0 && !rebuild_co(io, 1 + after % 17, seed)) {
		check_file_co(io, false, what);
		if (!rebuild_co(io, 0, 0))
			fail_msg("%s: cannot be gone on with", what);
	}
	if (with_resume) {
		check_file_co(io, true, what);
		if (io->length > undisturbed + CLUSTER)
			fail_msg("%s: %u bytes, and undisturbed %u", what, (unsigned)io->length,
				 (unsigned)undisturbed);
		assert_false(is_beside);
	}
	close_file(io);
	return r != 0;
}

static void cut_everywhere_co(void)
{
	uint64_t undisturbed;
	bool was_cut = true;
	unsigned after;

	undisturbed = undisturbed_bytes_co();
	for (after = 1; was_cut; after++) {
		for (unsigned seed = 0; seed <= POWER_CUTS; seed++)
			was_cut = cut_once_co(after, seed, undisturbed);
		assert_true(after < 2000);
	}
	assert_true(after > 10);
}

static void a_file_is_no_image_before_it_is_whole_co(void *arg)
{
	(void)arg;
	with_resume = false;
	by_marks = false;
	open_source_co();
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		shape = &shapes[i];
		cut_everywhere_co();
	}
	assert_int_equal(ox_img_close_co(source, NULL), 0);
}

static void work_that_was_cut_is_gone_on_with_co(void *arg)
{
	(void)arg;
	with_resume = true;
	by_marks = false;
	open_source_co();
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		shape = &shapes[i];
		cut_everywhere_co();
	}
	assert_int_equal(ox_img_close_co(source, NULL), 0);
}

/* A cut that leaves the file in such a phase: the last there is. */
static void cut_in_co(struct ox_io **ret, enum ox_build_phase phase)
{
	struct ox_io *io = NULL;
	bool found = false;

	for (unsigned after = 200; !found; after--) {
		if (io)
			close_file(io);
		assert_true(after > 1);
		io = make_file();
		cut.after = after;
		found = build_co(io) != 0 && is_beside && beside.phase == phase;
	}
	cut = (struct cut){.room_bytes = ROOM_BYTES, .sparse = true};
	*ret = io;
}

static void a_header_that_somebody_else_has_written_is_left_alone_co(void *arg)
{
	static const enum ox_build_phase phases[] = {OX_BUILD_COPYING, OX_BUILD_PUBLISHING};
	uint8_t byte = 0x55;
	uint8_t now = 0;
	struct ox_io *io;

	(void)arg;
	with_resume = true;
	by_marks = false;
	open_source_co();
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes) * OX_ARRAY_SIZE(phases); i++) {
		shape = &shapes[i / OX_ARRAY_SIZE(phases)];
		cut_in_co(&io, phases[i % OX_ARRAY_SIZE(phases)]);
		assert_int_equal(ox_io_pwrite_co(io, &byte, 1, 30, 0), 0);
		assert_int_equal(build_co(io), -ESTALE);
		assert_int_equal(ox_io_pread_co(io, &now, 1, 30), 0);
		assert_int_equal(now, byte);
		close_file(io);
	}
	assert_int_equal(ox_img_close_co(source, NULL), 0);
}

static void what_lies_below_a_mark_is_durable_when_it_is_told_co(void *arg)
{
	(void)arg;
	with_resume = true;
	open_source_co();
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		uint64_t undisturbed;

		shape = &shapes[i];
		by_marks = false;
		undisturbed = undisturbed_bytes_co();
		by_marks = true;
		for (unsigned seed = 0; seed <= POWER_CUTS; seed++) {
			assert_true(cut_once_co(1, seed, undisturbed));
			for (unsigned after = 2; after <= MARKS; after++)
				cut_once_co(after, seed, undisturbed);
		}
	}
	assert_int_equal(ox_img_close_co(source, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_file_is_no_image_before_it_is_whole),
		TASK_TEST(work_that_was_cut_is_gone_on_with),
		TASK_TEST(a_header_that_somebody_else_has_written_is_left_alone),
		TASK_TEST(what_lies_below_a_mark_is_durable_when_it_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
