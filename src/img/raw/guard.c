/* SPDX-License-Identifier: MIT */
#include "img/raw/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/iov.h"

/* The end of a file that is no multiple of a sector moves by up to a sector. */
#define TAIL_ZONE_BYTES (2 * OX_FORMATS_TAIL_BYTES)

struct change {
	enum ox_raw_change kind;
	const struct iovec *iov;
	int n;
	uint64_t offset;
	uint64_t length;
};

void ox_raw_guard_init(struct ox_raw_guard *g, struct ox_io *io, bool is_on)
{
	g->io = io;
	g->is_on = is_on;
	ox_mutex_init(&g->mutex);
}

/* Lays the change over bytes [at, at + count) of the file. */
static void lay_over(const struct change *c, uint8_t *bytes, uint64_t at, size_t count)
{
	uint64_t from = ox_max_u64(at, c->offset);
	uint64_t to = ox_min_u64(at + count, c->offset + c->length);

	if (from >= to)
		return;
	if (c->kind == OX_RAW_WRITE)
		ox_iov_to_buf(c->iov, c->n, from - c->offset, bytes + (from - at), to - from);
	else
		memset(bytes + (from - at), 0, to - from);
}

/* Whether the file would stay raw, if it then had so many bytes. */
static int stays_raw_co(struct ox_raw_guard *g, const struct change *c, uint64_t file_bytes)
{
	struct ox_formats_sample *s = malloc(sizeof(*s));
	uint64_t tail = ox_formats_tail_offset(file_bytes);
	int r;

	if (!s)
		return -ENOMEM;
	r = ox_img_sample_co(g->io, file_bytes, s);
	if (r == 0 && c) {
		lay_over(c, s->head, 0, ox_min_u64(file_bytes, sizeof(s->head)));
		lay_over(c, s->tail, tail, file_bytes - tail);
	}
	if (r == 0 && strcmp(ox_formats_probe(s), "raw") != 0)
		r = -EPERM;
	free(s);
	return r;
}

static int judge_co(struct ox_raw_guard *g, const struct change *c)
{
	uint64_t now = g->io->length;
	uint64_t grown = g->io->can_grow ? ox_max_u64(now, c->offset + c->length) : now;
	int r = 0;

	if (c->kind != OX_RAW_WRITE)
		r = stays_raw_co(g, c, now);
	if (r == 0 && (c->kind == OX_RAW_WRITE || (c->kind == OX_RAW_ZERO && grown != now)))
		r = stays_raw_co(g, c, grown);
	return r;
}

int ox_raw_guard_enter_co(struct ox_raw_guard *g, enum ox_raw_change kind, const struct iovec *iov,
			  int n, uint64_t offset, uint64_t length)
{
	struct change c = {kind, iov, n, offset, length};
	uint64_t disk_bytes = ox_align_up(g->io->length, OX_FORMATS_TAIL_BYTES);
	int r;

	if (!g->is_on)
		return 0;
	if (offset >= OX_FORMATS_HEAD_BYTES && offset + length + TAIL_ZONE_BYTES <= disk_bytes)
		return 0;
	ox_mutex_lock_co(&g->mutex);
	r = judge_co(g, &c);
	if (r == 0)
		return 1;
	ox_mutex_unlock(&g->mutex);
	return r;
}

int ox_raw_guard_resize_co(struct ox_raw_guard *g, uint64_t new_bytes)
{
	int r;

	if (!g->is_on)
		return 0;
	ox_mutex_lock_co(&g->mutex);
	r = stays_raw_co(g, NULL, new_bytes);
	if (r == 0)
		return 1;
	ox_mutex_unlock(&g->mutex);
	return r;
}

void ox_raw_guard_leave(struct ox_raw_guard *g, int entered)
{
	if (entered > 0)
		ox_mutex_unlock(&g->mutex);
}
