/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

enum change_kind {
	CHANGE_WRITE,
	CHANGE_ZERO,
	CHANGE_LENGTH,
};

/* One change of the content; in flight on the stack's behalf, then in the journal. */
struct sim_change {
	struct ox_list link;
	enum change_kind kind;
	uint64_t number;    /* 0: in flight */
	uint64_t offset;    /* LENGTH: the new length */
	uint64_t count;	    /* bytes */
	uint8_t *data;	    /* WRITE */
	bool forced;	    /* FUA: durable with its completion */
	bool punched;	    /* ZERO: its space is given back */
	bool doubtful;	    /* before a sync that failed: a part of it is lost for good */
	uint64_t keep_seed; /* which part */
};

static struct sim_disk *disk_of(struct ox_io *io)
{
	return ox_container_of(io, struct sim_disk, io);
}

static uint64_t now(const struct sim_disk *d)
{
	return ox_reactor_now_ns(d->io.reactor);
}

static void trace(struct sim_disk *d, const char *what, uint64_t offset, uint64_t length,
		  uint64_t number, int64_t result)
{
	struct sim_event event = {
		.time_ns = now(d),
		.what = what,
		.offset = offset,
		.length = length,
		.number = number,
		.result = result,
	};

	sim_trace_add(d->trace, &event);
}

/* ---- time and faults ---- */

/* Mostly short, at times very long, so that anything overtakes anything. */
static void delay_co(struct sim_disk *d)
{
	uint64_t scale = sim_random_percent(&d->random, 10) ? 2000000 : 50000;

	if (!d->instant && !d->dead)
		ox_reactor_sleep_co(1000 + sim_random_below(&d->random, scale));
}

/* 0, or the error that this request shall fail with. */
static int strike(struct sim_disk *d, unsigned classes)
{
	d->requests++;
	if (d->dead)
		return -EIO;
	if (!(d->fault.classes & classes) || d->fault.left == 0)
		return 0;
	if (d->fault.after > 0) {
		d->fault.after--;
		return 0;
	}
	d->fault.left--;
	d->faults_hit++;
	return d->fault.error;
}

/* ---- changes ---- */

static struct sim_change *change_new(struct sim_disk *d, enum change_kind kind, uint64_t offset,
				     uint64_t count)
{
	struct sim_change *c = sim_alloc(1, sizeof(*c));

	c->kind = kind;
	c->offset = offset;
	c->count = count;
	c->keep_seed = sim_random_next(&d->random);
	ox_list_push_back(&d->in_flight, &c->link);
	return c;
}

static void change_free(struct sim_change *c)
{
	ox_list_del(&c->link);
	free(c->data);
	free(c);
}

static void apply_part(struct sim_bytes *b, const struct sim_change *c, uint64_t skip,
		       uint64_t count)
{
	if (c->kind == CHANGE_WRITE)
		sim_bytes_write(b, c->offset + skip, c->data + skip, count);
	else
		sim_bytes_zero(b, c->offset + skip, count);
}

/* Applies each sector of the change, or each with even odds. Returns how many. */
static uint64_t apply_sectors(struct sim_bytes *b, const struct sim_change *c,
			      struct sim_random *odds)
{
	/* now and then all or nothing, which even odds would hardly ever give a long write */
	uint64_t luck = odds ? sim_random_below(odds, 4) : 0;
	uint64_t kept = 0;
	uint64_t n;

	for (uint64_t at = 0; at < c->count; at += n) {
		n = SIM_SECTOR_BYTES - (c->offset + at) % SIM_SECTOR_BYTES;
		n = ox_min_u64(n, c->count - at);
		if (odds && (luck == 1 || (luck != 0 && sim_random_percent(odds, 50))))
			continue;
		apply_part(b, c, at, n);
		kept++;
	}
	return kept;
}

/* The bytes from there on, without end. */
static uint64_t rest_from(uint64_t offset)
{
	return UINT64_MAX / 2 - offset;
}

/* A change in flight is carried out: the volatile content has it. */
static void complete(struct sim_disk *d, struct sim_change *c)
{
	if (c->kind == CHANGE_LENGTH) {
		if (c->offset > d->current.length) {
			d->growths++;
			d->grown_from = d->current.length;
		}
		sim_bytes_set_length(&d->current, c->offset);
		sim_space_give(&d->space, c->offset, rest_from(c->offset));
	} else {
		apply_sectors(&d->current, c, NULL);
		if (c->punched)
			sim_space_give(&d->space, c->offset, c->count);
	}
	c->number = ++d->completed;
	ox_list_del(&c->link);
	ox_list_push_back(&d->journal, &c->link);
}

/* What FUA made durable stays so, whatever older changes reach the disk after it. */
static void settle_forced(struct sim_disk *d)
{
	struct ox_list *it;

	ox_list_for_each (it, &d->journal) {
		struct sim_change *c = ox_list_entry(it, struct sim_change, link);

		if (c->forced)
			apply_sectors(&d->durable, c, NULL);
	}
}

/* Everything up to number becomes durable, except for what was lost before. */
static void settle(struct sim_disk *d, uint64_t number)
{
	while (!ox_list_empty(&d->journal)) {
		struct sim_change *c = ox_list_first(&d->journal, struct sim_change, link);
		struct sim_random odds = {c->keep_seed};

		if (c->number > number)
			break;
		if (c->kind == CHANGE_LENGTH) {
			sim_bytes_set_length(&d->durable, c->offset);
			sim_space_settle(&d->space, false, c->offset, rest_from(c->offset));
		} else {
			apply_sectors(&d->durable, c, c->doubtful && !c->forced ? &odds : NULL);
			sim_space_settle(&d->space, !c->punched, c->offset, c->count);
		}
		change_free(c);
	}
	settle_forced(d);
}

/* ---- the operations of a store ---- */

static int64_t disk_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct sim_disk *d = disk_of(io);
	uint64_t done = 0;
	int r = strike(d, SIM_FAULT_READ);

	delay_co(d);
	if (d->dead)
		r = -EIO;
	if (r < 0) {
		trace(d, "read", offset, 0, 0, r);
		return r;
	}
	for (int i = 0; i < n && offset + done < d->current.length; i++) {
		size_t part = ox_min_u64(iov[i].iov_len, d->current.length - offset - done);

		sim_bytes_read(&d->current, offset + done, iov[i].iov_base, part);
		done += part;
	}
	return (int64_t)done;
}

/* The bytes of the request from skip on; a sector at a time, by chance, if odds are given. */
static void gather(const struct iovec *iov, int n, uint8_t *to, uint64_t count,
		   struct sim_random *odds)
{
	uint64_t done = 0;

	for (int i = 0; i < n && done < count; i++) {
		const uint8_t *from = iov[i].iov_base;
		uint64_t left = ox_min_u64(iov[i].iov_len, count - done);

		while (left > 0) {
			uint64_t part = ox_min_u64(left, SIM_SECTOR_BYTES);

			if (!odds || sim_random_percent(odds, 50))
				memcpy(to + done, from, part);
			from += part;
			done += part;
			left -= part;
		}
	}
}

static uint64_t request_count(struct sim_disk *d, const struct iovec *iov, int n)
{
	uint64_t count = 0;

	for (int i = 0; i < n; i++)
		count += iov[i].iov_len;
	if (d->options.short_counts && count > 4096 && !d->instant &&
	    sim_random_percent(&d->random, 10))
		count = ox_align_up(count / 2, 4096);
	return count;
}

/* A write that fails may have carried out its beginning. */
static int64_t write_failed(struct sim_disk *d, struct sim_change *c, int error)
{
	struct sim_random odds = {c->keep_seed};

	trace(d, "write", c->offset, c->count, 0, error);
	c->count = ox_min_u64(c->count, SIM_SECTOR_BYTES);
	if (!d->dead && c->offset + c->count <= d->current.length &&
	    sim_random_percent(&odds, 50) && sim_space_take_all(&d->space, c->offset, c->count)) {
		complete(d, c);
		return error;
	}
	change_free(c);
	return error;
}

static int64_t disk_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			       unsigned flags)
{
	struct sim_disk *d = disk_of(io);
	uint64_t count = request_count(d, iov, n);
	bool grows = offset + count > d->current.length;
	int r = strike(d, SIM_FAULT_WRITE | (grows ? SIM_FAULT_GROW : 0) |
				  (offset == 0 ? SIM_FAULT_HEADER : 0));
	struct sim_change *c;
	struct sim_change *length;
	uint64_t room;

	if (d->dead)
		return -EIO;
	c = change_new(d, CHANGE_WRITE, offset, count);
	c->data = sim_alloc(1, count);
	gather(iov, n, c->data, count, NULL);
	delay_co(d);
	if (d->dead || r < 0)
		return write_failed(d, c, r < 0 ? r : -EIO);
	room = sim_space_take(&d->space, offset, count);
	if (room < count) {
		d->refusals++;
		count = ox_align_down(room, ox_max_u64(d->io.align_bytes, SIM_SECTOR_BYTES));
	}
	if (count == 0)
		return write_failed(d, c, -ENOSPC);
	c->count = count;
	/* the device took the bytes at any moment from then to now (H3) */
	if (!d->instant)
		gather(iov, n, c->data, count, &d->random);
	c->forced = flags & OX_IO_FUA;
	complete(d, c);
	d->header_writes += offset == 0;
	if (c->forced)
		apply_sectors(&d->durable, c, NULL);
	if (offset + count > d->current.length) {
		length = change_new(d, CHANGE_LENGTH, offset + count, 0);
		complete(d, length);
	}
	trace(d, c->forced ? "write, FUA" : "write", offset, count, c->number, 0);
	return (int64_t)count;
}

/* M3: a part of what a failed sync was to cover is lost. */
static void doubt(struct sim_disk *d, uint64_t upto)
{
	struct ox_list *it;

	ox_list_for_each (it, &d->journal) {
		struct sim_change *c = ox_list_entry(it, struct sim_change, link);

		c->doubtful = c->doubtful || c->number <= upto;
	}
}

static int sync_co(struct sim_disk *d, bool by_witness)
{
	uint64_t upto = d->completed;
	int r = strike(d, SIM_FAULT_SYNC);

	if (r == 0 && by_witness && d->error_taken) {
		d->faults_hit++;
		r = -EIO;
	}
	d->syncs++;
	d->syncing++;
	d->sync_upto = upto;
	delay_co(d);
	d->syncing--;
	if (d->dead)
		return -EIO;
	if (r < 0) {
		d->sync_failed = true;
		doubt(d, upto);
	} else {
		settle(d, upto);
	}
	trace(d, "sync", 0, 0, upto, r);
	return r;
}

static int disk_sync_co(struct ox_io *io)
{
	return sync_co(disk_of(io), false);
}

static int disk_sync_by_co(struct ox_io *io, int fd)
{
	(void)fd;
	return sync_co(disk_of(io), true);
}

static int zero_co(struct sim_disk *d, bool punch, uint64_t offset, uint64_t length)
{
	const char *what = punch ? "punch" : "zero";
	int r = strike(d, SIM_FAULT_PUNCH);
	struct sim_change *c;

	if (d->dead)
		return -EIO;
	if (offset >= d->current.length)
		return r;
	length = ox_min_u64(length, d->current.length - offset);
	c = change_new(d, CHANGE_ZERO, offset, length);
	c->punched = punch;
	delay_co(d);
	if (d->dead || r < 0) {
		change_free(c);
		return r < 0 ? r : -EIO;
	}
	if (!punch && !sim_space_take_all(&d->space, offset, length)) {
		d->refusals++;
		trace(d, what, offset, length, 0, -ENOSPC);
		change_free(c);
		return -ENOSPC;
	}
	complete(d, c);
	trace(d, what, offset, length, c->number, 0);
	return 0;
}

static int disk_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct sim_disk *d = disk_of(io);

	return d->options.can_punch ? zero_co(d, true, offset, length) : -EOPNOTSUPP;
}

static int disk_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct sim_disk *d = disk_of(io);

	return d->options.can_zero ? zero_co(d, false, offset, length) : -EOPNOTSUPP;
}

static int disk_set_length_co(struct ox_io *io, uint64_t length)
{
	struct sim_disk *d = disk_of(io);
	bool grows = length > d->current.length;
	int r = strike(d, grows ? SIM_FAULT_GROW : SIM_FAULT_WRITE);
	struct sim_change *c;

	if (d->dead)
		return -EIO;
	c = change_new(d, CHANGE_LENGTH, length, 0);
	delay_co(d);
	if (d->dead || r < 0) {
		trace(d, "length", length, 0, 0, r);
		change_free(c);
		return r < 0 ? r : -EIO;
	}
	complete(d, c);
	trace(d, "length", length, 0, c->number, 0);
	return 0;
}

static int disk_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct sim_disk *d = disk_of(io);

	if (offset + length <= d->current.length)
		return strike(d, SIM_FAULT_GROW);
	return disk_set_length_co(io, offset + length);
}

static int disk_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	bool past_end = offset >= io->length;

	*ret = (struct ox_io_extent){
		.length = past_end ? UINT64_MAX - offset : io->length - offset,
		.zero = past_end,
	};
	return 0;
}

/* The image gives the store up; the simulator still has to look at it. */
static void disk_close(struct ox_io *io)
{
	(void)io;
}

static const struct ox_io_ops disk_ops = {
	.name = "simulated",
	.preadv_co = disk_preadv_co,
	.pwritev_co = disk_pwritev_co,
	.sync_co = disk_sync_co,
	.sync_by_co = disk_sync_by_co,
	.punch_co = disk_punch_co,
	.zero_co = disk_zero_co,
	.reserve_co = disk_reserve_co,
	.set_length_co = disk_set_length_co,
	.extent_co = disk_extent_co,
	.close = disk_close,
};

struct sim_disk *sim_disk_open(struct ox_reactor *r, const struct sim_disk_options *options,
			       struct sim_bytes *durable, struct sim_random *random,
			       struct sim_trace *trace)
{
	struct sim_disk *d = sim_alloc(1, sizeof(*d));

	d->io = (struct ox_io){
		.ops = &disk_ops,
		.reactor = r,
		.name = strdup("disk"),
		.length = durable->length,
		.align_bytes = options->align_bytes,
		.zero_align_bytes = options->zero_align_bytes,
		.space_bytes = options->space_bytes,
		.can_grow = options->fixed_bytes == 0,
	};
	ox_rangelock_init(&d->io.rmw);
	d->options = *options;
	d->random.state = sim_random_next(random);
	d->trace = trace;
	d->durable = *durable;
	sim_bytes_clone(&d->current, durable);
	sim_space_init(&d->space, options->space_bytes, durable);
	ox_list_init(&d->journal);
	ox_list_init(&d->in_flight);
	*durable = (struct sim_bytes){0};
	return d;
}

/* ---- the end of the power, or of the process ---- */

/* Which of the journal's lengths the file keeps: how many changes of the length took effect. */
static uint64_t choose_lengths(struct sim_disk *d)
{
	uint64_t most = 0;
	struct ox_list *it;

	ox_list_for_each (it, &d->journal)
		most += ox_list_entry(it, struct sim_change, link)->kind == CHANGE_LENGTH;
	ox_list_for_each (it, &d->in_flight)
		most += ox_list_entry(it, struct sim_change, link)->kind == CHANGE_LENGTH;
	return sim_random_below(&d->random, most + 1);
}

static void keep_some(struct sim_disk *d, struct sim_bytes *b, const struct ox_list *changes,
		      uint64_t *lengths, struct sim_trace *trace)
{
	const struct ox_list *it;

	ox_list_for_each (it, changes) {
		const struct sim_change *c = ox_list_entry(it, struct sim_change, link);
		struct sim_event event = {
			.time_ns = now(d),
			.what = c->number ? "  kept of" : "  kept of what was in flight,",
			.offset = c->offset,
			.length = c->count,
			.number = c->number,
		};

		if (c->kind != CHANGE_LENGTH) {
			event.kept = apply_sectors(b, c, c->forced ? NULL : &d->random);
		} else if (*lengths > 0) {
			event.what = "  the new length reached the disk";
			event.kept = 1;
			sim_bytes_set_length(b, c->offset);
			--*lengths;
		} else {
			event.what = "  the new length was lost";
		}
		if (trace)
			sim_trace_add(trace, &event);
	}
}

static void leave(struct sim_disk *d, struct sim_bytes *ret, struct sim_trace *trace)
{
	uint64_t lengths = choose_lengths(d);

	sim_bytes_clone(ret, &d->durable);
	keep_some(d, ret, &d->journal, &lengths, trace);
	keep_some(d, ret, &d->in_flight, &lengths, trace);
	/* what was written behind a length that was lost is lost */
	sim_bytes_zero(ret, ret->length, ret->chunk_count * UINT64_C(4096));
}

void sim_disk_cut(struct sim_disk *d, struct sim_bytes *ret, struct sim_space *ret_space)
{
	sim_trace_note(d->trace, "=== power cut", 0, 0);
	leave(d, ret, d->trace);
	sim_space_cut(ret_space, &d->space, ret);
	d->dead = true;
}

void sim_disk_imagine(struct sim_disk *d, struct sim_bytes *ret)
{
	leave(d, ret, NULL);
}

static bool has_room(struct sim_disk *d, const struct sim_change *c)
{
	return c->kind == CHANGE_LENGTH || c->punched ||
	       sim_space_take_all(&d->space, c->offset, c->count);
}

static struct sim_change *change_copy(const struct sim_change *c)
{
	struct sim_change *copy = sim_alloc(1, sizeof(*copy));

	*copy = *c;
	if (c->data) {
		copy->data = sim_alloc(1, c->count);
		memcpy(copy->data, c->data, c->count);
	}
	ox_list_init(&copy->link);
	return copy;
}

/* A write may be given up halfway. */
static void land(struct sim_disk *d, struct sim_change *c)
{
	uint64_t sectors = c->count / SIM_SECTOR_BYTES;

	if (c->kind == CHANGE_WRITE && sectors > 1 && sim_random_percent(&d->random, 30))
		c->count = sim_random_between(&d->random, 1, sectors) * SIM_SECTOR_BYTES;
	if (sim_random_percent(&d->random, 30) || !has_room(d, c)) {
		change_free(c);
		return;
	}
	trace(d, "of the dead process: landed", c->offset, c->count, d->completed + 1, 0);
	complete(d, c);
	if (c->kind == CHANGE_WRITE && c->offset + c->count > d->current.length)
		complete(d, change_new(d, CHANGE_LENGTH, c->offset + c->count, 0));
}

struct stray {
	struct sim_disk *disk;
	struct sim_change *change;
};

static void stray_co(void *arg)
{
	struct stray stray = *(struct stray *)arg;
	struct sim_disk *d = stray.disk;

	free(arg);
	ox_reactor_sleep_co(sim_random_below(
		&d->random, UINT64_C(1) << sim_random_between(&d->random, 10, 24)));
	d->strays--;
	if (d->dead)
		change_free(stray.change);
	else
		land(d, stray.change);
}

void sim_disk_let_land(struct sim_disk *d)
{
	struct ox_list *it;

	ox_list_for_each (it, &d->in_flight) {
		struct stray *stray = sim_alloc(1, sizeof(*stray));

		*stray = (struct stray){d, ox_list_entry(it, struct sim_change, link)};
		d->strays++;
		if (ox_co_spawn(d->io.reactor, stray_co, stray) < 0)
			sim_fail("sim", "out of memory");
	}
}

void sim_disk_take_error(struct sim_disk *d, struct sim_disk *next)
{
	sim_trace_note(d->trace, "=== and has taken the error of a sync along", 0, 0);
	doubt(next, d->sync_upto);
	next->error_taken = true;
}

struct sim_disk *sim_disk_kill(struct sim_disk *d)
{
	struct sim_bytes durable;
	struct sim_disk *next;
	struct ox_list *it;

	sim_trace_note(d->trace, "=== the process is killed", 0, 0);
	sim_bytes_clone(&durable, &d->durable);
	next = sim_disk_open(d->io.reactor, &d->options, &durable, &d->random, d->trace);
	ox_list_for_each (it, &d->in_flight)
		ox_list_push_back(&next->in_flight,
				  &change_copy(ox_list_entry(it, struct sim_change, link))->link);
	sim_bytes_free(&next->current);
	sim_bytes_clone(&next->current, &d->current);
	sim_space_free(&next->space);
	sim_space_clone(&next->space, &d->space);
	next->io.length = next->current.length;
	ox_list_splice_back(&next->journal, &d->journal);
	next->completed = d->completed;
	next->error_taken = d->error_taken;
	d->dead = true;
	return next;
}

void sim_disk_free(struct sim_disk *d)
{
	if (!d)
		return;
	ox_assert(ox_list_empty(&d->in_flight));
	ox_io_close_witness(&d->io);
	while (!ox_list_empty(&d->journal))
		change_free(ox_list_first(&d->journal, struct sim_change, link));
	sim_bytes_free(&d->durable);
	sim_bytes_free(&d->current);
	sim_space_free(&d->space);
	free(d->io.name);
	free(d);
}
