/* SPDX-License-Identifier: MIT */
#include "lives.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/arith.h"
#include "check/check.h"

const struct kind *kind;
uint64_t seed;
enum ox_recover_mode recover_mode;
bool failed;
unsigned warnings;

struct left *new_left(int flags)
{
	void *memory = mmap(NULL, sizeof(struct left), PROT_READ | PROT_WRITE,
			    flags | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

void copy_left(struct left *to, const struct left *from)
{
	shared_bytes_copy(&to->image, &from->image);
	to->model = from->model;
	memcpy(to->state, from->state, STATE_BYTES);
}

void complain(const struct left *l, const char *format, ...)
{
	va_list args;

	if (failed)
		return;
	failed = true;
	va_start(args, format);
	fprintf(stderr, "stop %llu, amid %s: ", (unsigned long long)l->model.stops, l->model.doing);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

static const char *const op_names[] = {
	"a write",   "a write with FUA", "zeroes",   "zeroes that may unmap",
	"a discard", "a flush",		 "a resize", "a rest",
};

static uint64_t cell_bytes(void)
{
	return kind->cluster_bytes / 2;
}

/* Of both formats, with tables of one cluster. */
uint64_t table_span(void)
{
	return (uint64_t)kind->cluster_bytes * (kind->cluster_bytes / 8);
}

static uint64_t place(unsigned window, unsigned cell)
{
	return kind->tables[window] * table_span() + cell * cell_bytes();
}

static int write_co(struct process *p, const struct line *l)
{
	size_t length = l->count * cell_bytes();
	uint8_t *buf = malloc(length);
	struct iovec iov = {buf, length};
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, l->value, length);
	r = ox_img_pwritev_co(p->image, &iov, 1, place(l->window, l->first),
			      l->op == FUA ? OX_REQ_FUA : 0);
	free(buf);
	return r;
}

static int carry_out_co(struct process *p, const struct line *l)
{
	uint64_t offset = place(l->window, l->first);
	uint64_t length = l->count * cell_bytes();

	switch (l->op) {
	case WRITE:
	case FUA:
		return write_co(p, l);
	case ZERO:
	case UNMAP:
		return ox_img_zero_co(p->image, offset, length,
				      l->op == UNMAP ? OX_REQ_MAY_UNMAP : 0);
	case DISCARD:
		return ox_img_discard_co(p->image, offset, length);
	case FLUSH:
		return ox_img_flush_co(p->image);
	case RESIZE:
		return ox_img_resize_co(p->image, l->tables * table_span(), NULL);
	case REST:
		break;
	}
	ox_reactor_sleep_co(50000000); /* long enough to be taken for idle */
	return 0;
}

static void ask(struct model *m, const struct line *l)
{
	for (unsigned i = l->first; i < l->first + l->count; i++) {
		struct cell *c = &m->cells[l->window][i];

		c->asked = l->op == WRITE || l->op == FUA ? l->value : 0;
		c->is_asked = true;
	}
	if (l->op == RESIZE)
		m->asked_bytes = l->tables * table_span();
}

static void answer(struct model *m, const struct line *l)
{
	for (unsigned i = l->first; i < l->first + l->count; i++) {
		m->cells[l->window][i].answered = m->cells[l->window][i].asked;
		m->cells[l->window][i].is_asked = false;
	}
	if (l->op == RESIZE) {
		m->size_bytes = m->asked_bytes;
		m->asked_bytes = 0;
	}
}

/* A request that found no room has been carried out in part: what the guest reads now is so. */
static void settle_co(struct process *p, const struct line *l)
{
	struct model *m = &p->left->model;

	for (unsigned i = l->first; i < l->first + l->count; i++) {
		struct cell *c = &m->cells[l->window][i];
		uint8_t byte = 0;
		struct iovec iov = {&byte, 1};

		if (ox_img_preadv_co(p->image, &iov, 1, place(l->window, i)) < 0)
			complain(p->left, "a read failed");
		c->answered = byte;
		c->is_asked = false;
	}
	if (l->op != RESIZE)
		return;
	m->size_bytes = p->image->size_bytes;
	m->asked_bytes = 0;
}

struct request {
	struct process *process;
	const struct line *line;
};

static void request_co(void *arg)
{
	struct request request = *(struct request *)arg;
	struct process *p = request.process;
	int r;

	free(arg);
	ask(&p->left->model, request.line);
	r = carry_out_co(p, request.line);
	if (r == -ENOSPC && kind->room)
		settle_co(p, request.line);
	else if (r < 0)
		complain(p->left, "%s failed: %s", op_names[request.line->op], strerror(-r));
	else
		answer(&p->left->model, request.line);
	if (p->step)
		p->step();
	p->running--;
}

/* A full one has not become larger. */
static bool is_on_disk(const struct process *p, const struct line *l)
{
	return l->count == 0 || !kind->room ||
	       place(l->window, l->first + l->count) <= p->image->size_bytes;
}

void run_lines_co(struct process *p, const struct line *lines, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct request *request;

		if (!is_on_disk(p, &lines[i]))
			continue;
		request = malloc(sizeof(*request));
		snprintf(p->left->model.doing, sizeof(p->left->model.doing), "line %u: %s", i,
			 op_names[lines[i].op]);
		if (!request)
			abort();
		*request = (struct request){p, &lines[i]};
		p->running++;
		if (ox_co_spawn(p->reactor, request_co, request) < 0)
			abort();
		while (!lines[i].beside && p->running > 0)
			ox_reactor_sleep_co(1000);
	}
}

static void check_cell_co(struct process *p, unsigned window, unsigned cell)
{
	const struct cell *c = &p->left->model.cells[window][cell];
	uint8_t buf[4096];
	struct iovec iov = {buf, cell_bytes()};
	int r = ox_img_preadv_co(p->image, &iov, 1, place(window, cell));

	if (r < 0)
		complain(p->left, "a read failed: %s", strerror(-r));
	for (size_t i = 0; r == 0 && i < iov.iov_len; i++) {
		if (buf[i] == c->answered || (c->is_asked && buf[i] == c->asked))
			continue;
		complain(p->left, "cell %u of window %u reads %u and was answered %u", cell, window,
			 buf[i], c->answered);
		return;
	}
}

void check_content_co(struct process *p)
{
	const struct model *m = &p->left->model;

	if (p->image->size_bytes != m->size_bytes &&
	    (m->asked_bytes == 0 || p->image->size_bytes != m->asked_bytes))
		complain(p->left, "the disk has %llu bytes",
			 (unsigned long long)p->image->size_bytes);
	for (unsigned w = 0; w < kind->windows; w++) {
		for (unsigned c = 0; c < CELLS; c++) {
			if (place(w, c) + cell_bytes() <= p->image->size_bytes)
				check_cell_co(p, w, c);
		}
	}
}

static void warn(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
	warnings++;
}

int open_co(struct process *p, bool with_state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	struct ox_io *io = shared_store_open(p->reactor, &p->left->image, p->step);
	struct ox_error *err = NULL;
	int r;

	if (!io)
		return -ENOMEM;
	shared_store_room = kind->room;
	opts.format = kind->format;
	opts.cache = OX_CACHE_WRITEBACK;
	opts.table_age_ms = kind->age_ms;
	opts.lazy_idle_ms = kind->lazy ? 10 : UINT32_MAX;
	opts.l2_cache_bytes = kind->tiny ? 1 : 64 << 10;
	opts.refcount_cache_bytes = kind->tiny ? 1 : 64 << 10;
	opts.recover = recover_mode;
	opts.warn = warn;
	if (with_state) {
		how.state = p->left->state;
		how.state_bytes = STATE_BYTES;
	}
	r = ox_img_open_co(io, &how, &p->image, &err);
	if (r < 0) {
		complain(p->left, "the image does not open: %s", ox_error_message(err));
		ox_io_close(io);
	}
	ox_error_free(err);
	return r;
}

void close_co(struct process *p)
{
	int r = ox_img_close_co(p->image, NULL);

	p->image = NULL;
	if (r < 0)
		complain(p->left, "the close failed: %s", strerror(-r));
}

void run(struct left *left, void (*step)(void), ox_co_fn fn)
{
	struct process p = {.left = left, .step = step};

	if (ox_reactor_create_simulated(seed, &p.reactor) < 0 ||
	    ox_reactor_call(p.reactor, fn, &p) < 0)
		abort();
	while (ox_reactor_tasks(p.reactor) > 0) {
		if (ox_reactor_run(p.reactor, true) < 0)
			abort();
	}
	ox_reactor_destroy(p.reactor);
}

/* ---- the image ---- */

static void create_co(void *arg)
{
	struct process *p = arg;
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;
	struct ox_io *io = shared_store_open(p->reactor, &p->left->image, NULL);
	int r;

	opts.format = kind->format;
	opts.virtual_bytes = kind->size_tables * table_span();
	opts.cluster_bytes = kind->cluster_bytes;
	opts.refcount_bits = kind->refcount_bits;
	opts.lazy_refcounts = kind->lazy && strcmp(kind->format, "qcow2") == 0;
	opts.table_clusters = strcmp(kind->format, "qed") == 0;
	r = opts.table_clusters ? ox_qed_create_co(io, &opts, NULL)
				: ox_qcow2_create_co(io, &opts, NULL);
	if (r < 0)
		complain(p->left, "the image was not made: %s", strerror(-r));
	ox_io_close(io);
}

void create_image(struct left *left)
{
	run(left, NULL, create_co);
}

static uint64_t leaks; /* of the image that was checked last */

static void check_image_co(void *arg)
{
	struct process *p = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result found;
	struct ox_io *io = shared_store_open(p->reactor, &p->left->image, NULL);
	bool is_qed = strcmp(kind->format, "qed") == 0;
	int r = !io	 ? -ENOMEM
		: is_qed ? ox_check_qed_co(io, &opts, &found, NULL)
			 : ox_check_qcow2_co(io, &opts, &found, NULL);

	ox_io_close(io);
	if (r < 0)
		complain(p->left, "the check failed: %s", strerror(-r));
	else if (found.corruptions > 0 || found.check_errors > 0)
		complain(p->left, "the check says %llu corruptions, %llu errors",
			 (unsigned long long)found.corruptions,
			 (unsigned long long)found.check_errors);
	leaks = r < 0 ? 0 : found.leaks;
}

uint64_t check_image(struct left *left)
{
	run(left, NULL, check_image_co);
	return leaks;
}
