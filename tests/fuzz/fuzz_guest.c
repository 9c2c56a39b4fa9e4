/* SPDX-License-Identifier: MIT */
/*
 * A guest over the bytes of a file, of a qcow2 or a QED image: opened for writing, written to,
 * closed, checked and read again. The first 64 bytes of the input are the guest's requests, four
 * bytes each; the rest is the file.
 *
 * An image that a check finds sound keeps every byte that the guest was told to have, and stays
 * sound. Of any other nothing is demanded but that no harm is done to the program, and that its
 * mark is not taken away while a check finds something that the mark is for (D6).
 */
#include <stdlib.h>

#include "base/arith.h"
#include "check/check.h"
#include "fmt/qcow2.h"
#include "fmt/qed.h"
#include "img/img.h"
#include "store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUESTS 16u
#define REQUEST_BYTES 4u
#define MAX_INPUT_BYTES (UINT32_C(1) << 20)
#define MAX_CLUSTER_BYTES (UINT32_C(64) << 10)
#define MAX_DISK_BYTES (UINT64_C(1) << 40)
#define WINDOW_BYTES (UINT32_C(96) << 10) /* of the disk, that the guest looks at */
#define SECTOR 512u

enum request { WRITE, WRITE_FUA, ZERO, UNMAP, DISCARD, FLUSH, READ, RESIZE, KINDS };

struct guest {
	const uint8_t *requests;
	const char *format;
	struct ox_io *io;
	struct ox_image *img;
	uint8_t *model;	 /* what the first bytes of the disk are */
	uint64_t window; /* how many */
	bool was_sound;	 /* and all of the window could be read */
	bool was_marked;
	bool has_autoclear;
	struct ox_check_result before;
};

struct check_run {
	struct ox_io *io;
	bool is_qed;
	struct ox_check_result result;
	unsigned of_references; /* findings that the mark is for */
	int error;
};

/* ---- what a check says ---- */

static void note_finding(void *opaque, const struct ox_finding *finding)
{
	static const char *const names[] = {"refcount-", "copied-", "stale-entry", "cross-link",
					    "past-end"};
	struct check_run *run = opaque;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		run->of_references += strncmp(finding->name, names[i], strlen(names[i])) == 0;
}

static void check_co(void *arg)
{
	struct check_run *run = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.finding = note_finding;
	opts.opaque = run;
	run->error = run->is_qed ? ox_check_qed_co(run->io, &opts, &run->result, NULL)
				 : ox_check_qcow2_co(run->io, &opts, &run->result, NULL);
}

/* Of a copy, as an image takes its store along when it is closed. */
static struct check_run check(const uint8_t *bytes, uint64_t length, bool is_qed)
{
	struct check_run run = {.io = open_store(bytes, length), .is_qed = is_qed};

	ox_assert(ox_reactor_call(the_reactor(), check_co, &run) == 0);
	ox_io_close(run.io);
	return run;
}

static bool has_autoclear(const uint8_t *bytes, uint64_t length)
{
	struct ox_qcow2_header h;

	return ox_qcow2_header_load(bytes, length, &h, NULL) == 0 && h.autoclear != 0;
}

static bool is_marked(const uint8_t *bytes, uint64_t length, bool is_qed)
{
	struct ox_qcow2_header h;

	if (is_qed)
		return bytes[16] & OX_QED_NEED_CHECK;
	return ox_qcow2_header_load(bytes, length, &h, NULL) == 0 &&
	       h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
}

/* ---- the guest ---- */

static int read_co(struct guest *g, uint64_t offset, uint8_t *buf, size_t count)
{
	struct iovec v = {buf, count};

	return count > 0 ? ox_img_preadv_co(g->img, &v, 1, offset) : 0;
}

/* Each sector of the range holds what it held, or what it was to hold: which, the model learns. */
static void learn_co(struct guest *g, uint64_t offset, uint64_t length, uint8_t byte)
{
	uint64_t at = ox_align_down(offset, SECTOR);
	uint64_t end = ox_min_u64(ox_align_up(offset + length, SECTOR), g->window);

	for (; g->was_sound && at < end; at += SECTOR) {
		size_t count = ox_min_u64(SECTOR, g->window - at);
		uint8_t now[SECTOR];

		ox_assert(read_co(g, at, now, count) == 0);
		for (size_t i = 0; i < count; i++)
			ox_assert(now[i] == g->model[at + i] ||
				  (at + i >= offset && at + i < offset + length && now[i] == byte));
		memcpy(g->model + at, now, count);
	}
}

static int write_co(struct guest *g, uint64_t offset, uint64_t length, uint8_t byte, unsigned flags)
{
	uint8_t *buf = malloc(length);
	struct iovec v = {buf, length};
	int r;

	ox_assert(buf);
	memset(buf, byte, length);
	r = ox_img_pwritev_co(g->img, &v, 1, offset, flags);
	free(buf);
	return r;
}

static void verify_co(struct guest *g)
{
	uint8_t *now = malloc(g->window + 1);

	ox_assert(now);
	if (g->was_sound) {
		ox_assert(read_co(g, 0, now, g->window) == 0);
		ox_assert(memcmp(now, g->model, g->window) == 0);
	}
	free(now);
}

static void resize_co(struct guest *g, uint64_t value)
{
	uint64_t size = g->img->size_bytes;
	/* Within what is looked at, or a little longer; much longer now and then. */
	uint64_t new_bytes = value % 4 ? value * SECTOR : size + value * value * SECTOR;
	uint64_t window;

	if (new_bytes > MAX_DISK_BYTES || ox_img_resize_co(g->img, new_bytes, NULL) < 0)
		return;
	window = ox_min_u64(new_bytes, WINDOW_BYTES);
	if (window > g->window)
		memset(g->model + g->window, 0, window - g->window);
	g->window = window;
}

static void request_co(struct guest *g, const uint8_t *r)
{
	unsigned place = r[1] | (unsigned)r[2] << 8;
	/* A sector's begin more often than not. */
	uint64_t offset = (uint64_t)place * (place % 4 ? SECTOR : 97);
	uint64_t length = r[3] % 8 ? (r[3] + UINT64_C(1)) * SECTOR : r[3] * UINT64_C(11) + 1;
	uint8_t byte = (uint8_t)(r[3] ^ r[1]) | 1;
	int result = 0;

	if (g->window == 0 && r[0] % KINDS != RESIZE)
		return;
	offset %= g->window ? g->window : 1;
	length = ox_min_u64(length, g->window - ox_min_u64(offset, g->window));
	switch ((enum request)(r[0] % KINDS)) {
	case WRITE:
	case WRITE_FUA:
		result = write_co(g, offset, length, byte,
				  r[0] % KINDS == WRITE_FUA ? OX_REQ_FUA : 0);
		break;
	case ZERO:
	case UNMAP:
		byte = 0;
		result = ox_img_zero_co(g->img, offset, length,
					r[0] % KINDS == UNMAP ? OX_REQ_MAY_UNMAP : 0);
		break;
	case DISCARD:
		(void)ox_img_discard_co(g->img, offset, length);
		learn_co(g, offset, length, 0);
		return;
	case FLUSH:
		(void)ox_img_flush_co(g->img);
		return;
	case READ:
	case KINDS:
		verify_co(g);
		return;
	case RESIZE:
		resize_co(g, place % 2048);
		return;
	}
	if (result == 0)
		memset(g->model + offset, byte, length);
	else
		learn_co(g, offset, length, byte);
}

static int open_co(struct guest *g, bool read_only)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};

	opts.format = g->format;
	opts.flags = OX_OPEN_NO_BACKING | (read_only ? OX_OPEN_READ_ONLY : 0);
	opts.cache = OX_CACHE_WRITEBACK;
	opts.l2_cache_bytes = opts.refcount_cache_bytes = 1; /* the least */
	opts.lazy_idle_ms = UINT32_MAX;
	opts.recover = OX_RECOVER_AUTO;
	g->io->read_only = read_only;
	return ox_img_open_co(g->io, &how, &g->img, NULL);
}

/* ---- a store that outlives its image ---- */

static const struct ox_io_ops *memory_ops;
static struct ox_io_ops kept_ops;

static void keep(struct ox_io *io)
{
	(void)io;
}

static void lend(struct ox_io *io)
{
	memory_ops = io->ops;
	kept_ops = *io->ops;
	kept_ops.close = keep;
	io->ops = &kept_ops;
}

static void take_back(struct ox_io *io)
{
	io->ops = memory_ops;
	io->read_only = false;
}

/* ---- a life of the image ---- */

static void live_co(void *arg)
{
	struct guest *g = arg;

	if (open_co(g, false) < 0) {
		g->img = NULL;
		return;
	}
	g->window = ox_min_u64(g->img->size_bytes, WINDOW_BYTES);
	if (g->was_sound && read_co(g, 0, g->model, g->window) < 0)
		g->was_sound = false; /* compressed clusters that are not what they should be */
	for (unsigned i = 0; i < REQUESTS; i++)
		request_co(g, g->requests + i * (size_t)REQUEST_BYTES);
	verify_co(g);
}

static void close_co(void *arg)
{
	struct guest *g = arg;
	int r = ox_img_close_co(g->img, NULL);

	ox_assert(r == 0 || !g->was_sound);
}

static void look_again_co(void *arg)
{
	struct guest *g = arg;

	ox_assert(open_co(g, true) == 0);
	verify_co(g);
	ox_assert(ox_img_close_co(g->img, NULL) == 0);
}

/* ---- an input ---- */

static bool is_too_large(const uint8_t *bytes, size_t length, bool is_qed)
{
	struct ox_qcow2_header h;
	struct ox_qed_header q;

	if (is_qed)
		return length < OX_QED_HEADER_BYTES || ox_qed_header_decode(bytes, &q) ||
		       ox_qed_cluster_bytes(&q) > MAX_CLUSTER_BYTES ||
		       q.size_bytes > MAX_DISK_BYTES;
	return ox_qcow2_header_load(bytes, length, &h, NULL) < 0 || h.cluster_bits >= 64 ||
	       ox_qcow2_cluster_bytes(&h) > MAX_CLUSTER_BYTES || h.size_bytes > MAX_DISK_BYTES;
}

static void judge(struct guest *g, bool is_qed)
{
	const uint8_t *bytes = ox_io_memory_bytes(g->io);
	struct check_run after = check(bytes, g->io->length, is_qed);
	bool is_right = after.error == 0 &&
			(is_qed ? after.result.corruptions + after.result.check_errors == 0
				: after.of_references == 0);

	if (g->was_marked && !is_marked(bytes, g->io->length, is_qed))
		ox_assert(is_right);
	if (!g->was_sound)
		return;
	ox_assert(after.error == 0);
	ox_assert(after.result.corruptions == 0 && after.result.check_errors == 0);
	ox_assert(!is_marked(bytes, g->io->length, is_qed));
	/* What QED frees is lost at the close, where it is not at the file's end, and bitmaps that
	 * went stale are. */
	if (!is_qed && !g->has_autoclear)
		ox_assert(after.result.leaks <= g->before.leaks);
	lend(g->io);
	ox_assert(ox_reactor_call(the_reactor(), look_again_co, g) == 0);
	take_back(g->io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t head = REQUESTS * REQUEST_BYTES;
	const uint8_t *bytes = data + head;
	struct guest g = {.requests = data};
	struct check_run before;
	bool is_qed;

	if (size <= head || size > MAX_INPUT_BYTES)
		return 0;
	size -= head;
	is_qed = ox_qed_probe(bytes, size);
	if (is_too_large(bytes, size, is_qed))
		return 0;
	before = check(bytes, size, is_qed);
	g.format = is_qed ? "qed" : "qcow2";
	g.before = before.result;
	g.was_marked = is_marked(bytes, size, is_qed);
	g.has_autoclear = !is_qed && has_autoclear(bytes, size);
	g.was_sound = before.error == 0 && before.result.corruptions == 0 &&
		      before.result.check_errors == 0;
	g.io = open_store(bytes, size);
	g.model = malloc(WINDOW_BYTES);
	ox_assert(g.model);
	lend(g.io);
	ox_assert(ox_reactor_call(the_reactor(), live_co, &g) == 0);
	if (g.img)
		ox_assert(ox_reactor_call(the_reactor(), close_co, &g) == 0);
	take_back(g.io);
	if (g.img)
		judge(&g, is_qed);
	ox_io_close(g.io);
	free(g.model);
	return 0;
}
