/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"
#include "io/nbd/handle.h"
#include "io/nbd/nbd.h"

/* A request of the store at the most: what is longer is the caller's to go on with. */
#define TRANSFER_MAX_BYTES (8u << 20)
/* Requests on ranges, whose lengths have 32 bits. */
#define RANGE_MAX_BYTES (UINT64_C(1) << 30)
/* As of a device: what a thin one takes its space in is not known. */
#define SPACE_BYTES 4096u
/* What is to be assumed of a server that states no size of blocks. */
#define BLOCK_BYTES 512u
/* Between two attempts to reach a server that is not there yet. */
#define RETRY_MS 50

static struct ox_nbd_store *store_of(const struct ox_io *io)
{
	return ox_container_of(io, struct ox_nbd_store, io);
}

/* Errors that the protocol does not know come of answers that make no sense. */
static int told(int result)
{
	switch (-result) {
	case 0:
	case EPERM:
	case EIO:
	case ENOMEM:
	case EINVAL:
	case ENOSPC:
	case EOVERFLOW:
	case EOPNOTSUPP:
		return result;
	default:
		return -EIO;
	}
}

/* Until the server has answered. */
static int ask_co(struct ox_nbd_store *s, struct ox_nbd_request *req)
{
	int r;

	do {
		r = ox_nbd_recover_co(s);
		if (r == 0)
			r = ox_nbd_try_co(s, req);
	} while (r == -ENOTCONN);
	return told(r);
}

/* ---- flushes ---- */

static int flush_once_co(struct ox_nbd_store *s)
{
	struct ox_nbd_request req = {.kind = OX_NBD_FLUSH};
	uint64_t mark;
	int r = ox_nbd_recover_co(s);

	if (r < 0)
		return r;
	mark = ox_nbd_keep_mark(&s->keep); /* K1: what comes after it may not be covered */
	r = ox_nbd_try_co(s, &req);
	if (r == 0)
		ox_nbd_keep_flushed(&s->keep, mark);
	return r;
}

static int flush_co(struct ox_nbd_store *s)
{
	int r;

	if (s->poison)
		return s->poison;
	if (!s->facts.can_flush)
		return s->state == OX_NBD_DEAD ? -EIO : 0; /* there is nothing to ask for */
	do
		r = flush_once_co(s);
	while (r == -ENOTCONN);
	r = told(r);
	if (r < 0)
		s->poison = -EIO; /* N3 */
	return s->poison ? s->poison : r;
}

static int nbd_sync_co(struct ox_io *io)
{
	return flush_co(store_of(io));
}

/* ---- what is kept ---- */

static bool keeps(const struct ox_nbd_store *s)
{
	return s->address.reconnect_ms > 0;
}

static int flush_for_room_co(struct ox_nbd_store *s)
{
	int r;

	s->flushing = true;
	r = flush_co(s);
	s->flushing = false;
	ox_waitq_wake_all(&s->room);
	return r;
}

/* Until there is room for so many bytes more. */
static int make_room_co(struct ox_nbd_store *s, uint64_t bytes)
{
	while (s->keep.bytes > 0 && s->keep.bytes + bytes > OX_NBD_KEPT_BYTES) {
		uint64_t before = s->keep.bytes;
		int r = 0;

		if (s->flushing)
			ox_waitq_wait_co(&s->room);
		else if (!s->facts.can_flush)
			ox_nbd_keep_forget(&s->keep, OX_NBD_KEPT_FLUSH_BYTES);
		else
			r = flush_for_room_co(s);
		if (r < 0)
			return r;
		/* All of it is under way, and can be flushed once it has been answered. */
		if (s->keep.bytes >= before && s->keep.bytes + bytes > OX_NBD_KEPT_BYTES &&
		    !s->flushing && s->calls > 0)
			ox_waitq_wait_co(&s->room);
	}
	return 0;
}

/* Ends a change that the server has answered with r. */
static int finish_co(struct ox_nbd_store *s, struct ox_nbd_kept *entry, int r, bool durable)
{
	s->changes++;
	if (!entry)
		return r;
	if (r < 0) {
		ox_nbd_keep_drop(&s->keep, entry);
		return r;
	}
	ox_nbd_keep_answered(&s->keep, entry, durable);
	if (s->keep.bytes > OX_NBD_KEPT_FLUSH_BYTES && !s->flushing && s->facts.can_flush)
		r = flush_for_room_co(s);
	return r;
}

/* ---- reading and writing ---- */

/* What of a transfer one request is for. */
static uint64_t transfer_bytes(const struct ox_nbd_store *s, const struct iovec *iov, int n,
			       uint64_t offset)
{
	uint64_t max = ox_min_u64(s->facts.block_max, TRANSFER_MAX_BYTES);

	if (offset >= s->io.length)
		return 0;
	max = ox_align_down(max, s->io.align_bytes);
	return ox_min_u64(ox_min_u64(ox_iov_bytes(iov, n), max), s->io.length - offset);
}

static int64_t nbd_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct ox_nbd_store *s = store_of(io);
	uint64_t length = transfer_bytes(s, iov, n, offset);
	struct ox_nbd_request req = {
		.kind = OX_NBD_READ,
		.offset = offset,
		.length = length,
		.buf = iov[0].iov_base,
	};
	void *bounce = NULL;
	int r;

	if (length == 0)
		return 0;
	if (length > iov[0].iov_len) {
		bounce = malloc(length);
		if (!bounce)
			return -ENOMEM;
		req.buf = bounce;
	}
	r = ask_co(s, &req);
	if (r == 0 && bounce)
		ox_iov_from_buf(iov, n, 0, bounce, length);
	free(bounce);
	return r < 0 ? r : (int64_t)length;
}

/* Where nothing is kept, what lies in several buffers is written one after the other. */
static int write_co(struct ox_nbd_store *s, const struct iovec *iov, int n, uint64_t offset,
		    uint64_t length, bool fua)
{
	const bool by_flag = fua && s->facts.can_fua;
	struct ox_nbd_request req = {
		.kind = OX_NBD_WRITE,
		.flags = by_flag ? LIBNBD_CMD_FLAG_FUA : 0,
		.offset = offset,
		.length = length,
		.buf = iov[0].iov_base,
	};
	struct ox_nbd_kept *entry = NULL;
	int r = keeps(s) ? make_room_co(s, length) : 0;

	if (r < 0)
		return r;
	if (keeps(s)) {
		entry = ox_nbd_keep_add(&s->keep, OX_NBD_WRITE, offset, length, iov, n);
		if (!entry)
			return -ENOMEM;
		req.buf = entry->bytes;
	}
	r = finish_co(s, entry, ask_co(s, &req), by_flag);
	return r == 0 && fua && !by_flag ? flush_co(s) : r;
}

static int64_t nbd_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			      unsigned flags)
{
	struct ox_nbd_store *s = store_of(io);
	uint64_t length = transfer_bytes(s, iov, n, offset);
	struct ox_range range;
	int r;

	if (s->poison)
		return s->poison;
	if (!keeps(s))
		length = ox_min_u64(length, iov[0].iov_len);
	if (length == 0)
		return offset >= io->length ? -ENOSPC : 0;
	ox_rangelock_acquire_co(&s->order, &range, offset, length, true); /* N2 */
	r = write_co(s, iov, n, offset, length, flags & OX_IO_FUA);
	ox_rangelock_release(&s->order, &range);
	return r < 0 ? r : (int64_t)length;
}

/* ---- ranges ---- */

static int change_range_co(struct ox_nbd_store *s, enum ox_nbd_kind kind, uint32_t flags,
			   uint64_t offset, uint64_t length)
{
	struct ox_nbd_request req = {
		.kind = kind, .flags = flags, .offset = offset, .length = length};
	struct ox_nbd_kept *entry = NULL;
	struct ox_range range;
	int r;

	ox_rangelock_acquire_co(&s->order, &range, offset, length, true); /* N2 */
	r = keeps(s) ? make_room_co(s, sizeof(*entry)) : 0;
	if (r == 0 && keeps(s)) {
		entry = ox_nbd_keep_add(&s->keep, kind, offset, length, NULL, 0);
		if (entry)
			entry->flags = flags;
		else
			r = -ENOMEM;
	}
	if (r == 0)
		r = finish_co(s, entry, ask_co(s, &req), false);
	ox_rangelock_release(&s->order, &range);
	return r;
}

static int change_co(struct ox_nbd_store *s, enum ox_nbd_kind kind, uint32_t flags, uint64_t offset,
		     uint64_t length)
{
	int r = s->poison;

	while (r == 0 && length > 0) {
		uint64_t n = ox_min_u64(length, RANGE_MAX_BYTES);

		r = change_range_co(s, kind, flags, offset, n);
		offset += n;
		length -= n;
	}
	return r;
}

static int nbd_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct ox_nbd_store *s = store_of(io);

	/* A trim promises nothing of what is read afterwards; a zeroing may give the space back. */
	return s->facts.can_zero ? change_co(s, OX_NBD_ZERO, 0, offset, length) : -EOPNOTSUPP;
}

static int nbd_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct ox_nbd_store *s = store_of(io);

	return s->facts.can_zero
		       ? change_co(s, OX_NBD_ZERO, LIBNBD_CMD_FLAG_NO_HOLE, offset, length)
		       : -EOPNOTSUPP;
}

static int nbd_trim_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct ox_nbd_store *s = store_of(io);

	return s->facts.can_trim ? change_co(s, OX_NBD_TRIM, 0, offset, length) : -EOPNOTSUPP;
}

/* As of a device. */
static int nbd_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return ox_range_within(offset, length, io->length) ? 0 : -ENOSPC;
}

static int nbd_set_length_co(struct ox_io *io, uint64_t length)
{
	return length == io->length ? 0 : -EOPNOTSUPP;
}

/* ---- extents ---- */

/* The next extent of the last answer, if that is what is asked for, and nothing has changed. */
static bool take_seen(struct ox_nbd_store *s, uint64_t offset, struct ox_io_extent *ret)
{
	struct ox_nbd_seen *seen = &s->seen;
	const struct ox_nbd_extents *e = seen->extents;

	while (e && seen->next < e->count && seen->change == s->changes && seen->at <= offset) {
		uint64_t end;
		unsigned i = seen->next;

		if (!ox_add_u64(seen->at, e->items[i].length, &end) || end > s->io.length)
			end = s->io.length;
		if (offset < end) {
			*ret = (struct ox_io_extent){end - offset, e->items[i].zero};
			return true;
		}
		seen->at = end;
		seen->next++;
	}
	return false;
}

static int ask_extents_co(struct ox_nbd_store *s, uint64_t offset, struct ox_nbd_extents *ret)
{
	uint64_t start = ox_align_down(offset, s->io.align_bytes);
	struct ox_nbd_request req = {
		.kind = OX_NBD_EXTENTS,
		.offset = start,
		.length = ox_min_u64(s->io.length - start, RANGE_MAX_BYTES),
		.extents = ret,
	};
	uint64_t change = s->changes;
	int r = ask_co(s, &req);

	if (r < 0)
		return r;
	free(s->seen.extents);
	s->seen = (struct ox_nbd_seen){.extents = ret, .at = start, .change = change};
	return 0;
}

static int nbd_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	struct ox_nbd_store *s = store_of(io);
	struct ox_nbd_extents *extents;
	int r;

	if (offset >= io->length) {
		*ret = (struct ox_io_extent){.length = UINT64_MAX - offset, .zero = true};
		return 0;
	}
	if (s->facts.has_extents && !take_seen(s, offset, ret)) {
		extents = malloc(sizeof(*extents));
		if (!extents)
			return -ENOMEM;
		r = ask_extents_co(s, offset, extents);
		if (r < 0)
			free(extents);
		/* A server that cannot tell has data; one that is gone has nothing. */
		if (r < 0 && s->state == OX_NBD_DEAD)
			return r;
		if (r == 0 && take_seen(s, offset, ret))
			return 0;
	} else if (s->facts.has_extents) {
		return 0;
	}
	*ret = (struct ox_io_extent){.length = ox_min_u64(io->length - offset, RANGE_MAX_BYTES)};
	return 0;
}

/* ---- opening and closing ---- */

static void store_free(struct ox_nbd_store *s)
{
	ox_nbd_links_close(s);
	ox_nbd_keep_free(&s->keep);
	ox_nbd_address_free(&s->address);
	free(s->seen.extents);
	free(s->io.name);
	free(s);
}

static void nbd_close_store(struct ox_io *io)
{
	struct ox_nbd_store *s = store_of(io);

	ox_assert(s->calls == 0 && s->state != OX_NBD_RECOVERING);
	ox_assert(ox_rangelock_idle(&s->order));
	store_free(s);
}

static int nbd_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	const struct ox_nbd_store *s = store_of(io);

	if (!read_only && s->facts.read_only)
		return ox_error_set(err, -EACCES, "The export '%s' is read-only", io->name);
	io->read_only = read_only;
	return 0;
}

static const struct ox_io_ops nbd_ops = {
	.name = "nbd",
	.preadv_co = nbd_preadv_co,
	.pwritev_co = nbd_pwritev_co,
	.sync_co = nbd_sync_co,
	.punch_co = nbd_punch_co,
	.zero_co = nbd_zero_co,
	.trim_co = nbd_trim_co,
	.reserve_co = nbd_reserve_co,
	.set_length_co = nbd_set_length_co,
	.extent_co = nbd_extent_co,
	.reopen = nbd_reopen,
	.close = nbd_close_store,
};

static struct ox_nbd_store *store_new(struct ox_reactor *r, const char *uri, unsigned flags)
{
	struct ox_nbd_store *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->io.ops = &nbd_ops;
	s->io.reactor = r;
	s->io.name = strdup(uri);
	s->io.is_remote = true;
	s->io.read_only = flags & OX_IO_READ_ONLY;
	s->io.mem_align_bytes = 1;
	s->io.space_bytes = SPACE_BYTES;
	ox_rangelock_init(&s->io.rmw);
	ox_rangelock_init(&s->order);
	ox_waitq_init(&s->recovered);
	ox_waitq_init(&s->room);
	ox_nbd_keep_init(&s->keep);
	if (s->io.name)
		return s;
	free(s);
	return NULL;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	ox_assert(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A server that is about to be started is waited for as long as the address says. */
static int reach(struct ox_nbd_store *s, struct ox_error **err)
{
	const uint64_t end = now_ms() + s->address.open_ms;
	const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};

	for (;;) {
		bool known;
		int r = ox_nbd_links_open(s, s->address.answer_ms, &s->facts, &known, err);

		if (r == 0 || !ox_nbd_handle_is_unreachable(r) || now_ms() >= end)
			return r;
		if (err) {
			ox_error_free(*err);
			*err = NULL;
		}
		(void)nanosleep(&pause, NULL);
	}
}

static int connect_store(struct ox_nbd_store *s, struct ox_error **err)
{
	int r = reach(s, err);

	if (r < 0)
		return r;
	if (s->facts.read_only && !s->io.read_only)
		return ox_error_set(err, -EACCES, "The export is read-only");
	s->io.length = s->facts.length;
	s->io.align_bytes = s->facts.block_min;
	if (s->io.align_bytes == 0)
		s->io.align_bytes = ox_is_aligned(s->io.length, BLOCK_BYTES) ? BLOCK_BYTES : 1;
	return 0;
}

/* libnbd compares a certificate with the host that it has connected to itself, and reads the
 * credentials anew for each connection. */
static int check_connector(const struct ox_nbd_store *s, struct ox_error **err)
{
	if (!s->connector.connect || !s->address.tls)
		return 0;
	return ox_error_set(err, -ENOTSUP,
			    "An export by TLS takes a process that may connect and read its "
			    "credentials itself");
}

int ox_io_nbd_prepare(const char *uri, struct ox_error **err)
{
	struct ox_nbd_address address;
	const struct ox_nbd_api *api;
	int r = ox_nbd_address_parse(uri, &address, err);

	if (r < 0)
		return r;
	ox_nbd_address_free(&address);
	return ox_nbd_api_load(&api, err);
}

int ox_io_nbd_connect(const char *uri, unsigned limit_ms, struct ox_error **err)
{
	struct ox_nbd_address address;
	int r = ox_nbd_address_parse(uri, &address, err);

	if (r < 0)
		return r;
	r = ox_nbd_address_connect(&address, limit_ms);
	if (r < 0)
		ox_error_set_errno(err, r, "Could not connect to the server of '%s'", uri);
	ox_nbd_address_free(&address);
	return r;
}

int ox_io_nbd_open(struct ox_reactor *reactor, const char *uri, unsigned flags,
		   const struct ox_nbd_connector *connector, struct ox_io **ret,
		   struct ox_error **err)
{
	struct ox_nbd_store *s = store_new(reactor, uri, flags);
	int r;

	if (!s)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	s->connector = *connector;
	r = ox_nbd_address_parse(uri, &s->address, err);
	if (r == 0)
		r = check_connector(s, err);
	if (r == 0)
		r = ox_nbd_api_load(&s->api, err);
	if (r == 0)
		r = ox_nbd_api_check(s->api, &s->address, err);
	if (r == 0)
		r = connect_store(s, err);
	if (r < 0) {
		store_free(s);
		return r;
	}
	*ret = &s->io;
	return 0;
}
