/* SPDX-License-Identifier: MIT */
/*
 * The io_uring engine.
 *
 * The descriptor is an eventfd that the ring signals. Between enter and leave the ring is told not
 * to, so that a run pays nothing for it. After leave it may be signalled; enter then reads it
 * where there is something to reap, which is what the kernel signals for. owed remembers a signal
 * that was expected and not there yet. For a program that polls in each turn it is left unread: who
 * sleeps for edges is woken by each signal.
 *
 * With IORING_SETUP_DEFER_TASKRUN completions are made only inside io_uring_enter. The ring's
 * TASKRUN flag hints, without a system call, that some wait to be made. The kernel may raise it
 * just after it has made them; it then stays up with nothing behind it until other work comes. So
 * no loop ends on the flag alone: enters that bring nothing refute it (refute_hint).
 *
 * A ring is made disabled, restricted to what this file does with it, and only then enabled. What
 * takes the process over cannot open or connect by it: a filter of system calls does not see that.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"
#include "rt/internal.h"

#define SQ_ENTRIES 256
#define CQ_ENTRIES 1024

/* A single transfer that the kernel takes; what is longer comes back short. */
#define TRANSFER_MAX_BYTES 0x7ffff000u

/* An enter makes at least so many of the completions that wait (20 since Linux 6.13, all before).
 */
#define COMPLETIONS_AN_ENTER 16u

/* A kernel that is out of memory is asked again so often, a millisecond apart. */
#define SUBMIT_TRIES 1000u

struct uring {
	struct io_uring ring;
	struct ox_pool *pool; /* for what io_uring cannot do */
	bool pool_polled;     /* a poll of the pool's pipe is in flight */
	int event_fd;
	bool listening; /* the eventfd is being signalled */
	bool deferred;	/* IORING_SETUP_DEFER_TASKRUN was granted */
	bool owed;
	unsigned slow_writes;		/* in the ring; see goes_to_pool */
	struct __kernel_timespec timer; /* read by the kernel at submission only */
};

/* user_data of what is no request: their addresses are no request's. */
static char tag_timer;
static char tag_pool;

static struct uring *uring(const struct ox_reactor *r)
{
	return r->engine;
}

/* io_uring as of Linux 5.11: no completion is dropped, timeouts can be updated. */
static int queue_init(struct uring *u, unsigned flags)
{
	struct io_uring_params params;
	int code;

	memset(&params, 0, sizeof(params));
	params.flags = flags | IORING_SETUP_CQSIZE;
	params.cq_entries = CQ_ENTRIES;
	code = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &params);
	if (code < 0)
		return code;
	if (!(params.features & IORING_FEAT_NODROP) || !(params.features & IORING_FEAT_EXT_ARG)) {
		io_uring_queue_exit(&u->ring);
		return -ENOSYS;
	}
	return 0;
}

static int ring_open(struct uring *u)
{
	int code = queue_init(u, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED);

	u->deferred = code == 0;
	return code == -EINVAL ? queue_init(u, IORING_SETUP_R_DISABLED) : code;
}

/* Entries have no flags, which is what a restricted ring allows of them. */
static int ring_enable(struct uring *u)
{
	static const uint8_t opcodes[] = {
		IORING_OP_READ,		  IORING_OP_READV,
		IORING_OP_WRITE,	  IORING_OP_WRITEV,
		IORING_OP_FSYNC,	  IORING_OP_FALLOCATE,
		IORING_OP_POLL_ADD,	  IORING_OP_TIMEOUT,
		IORING_OP_TIMEOUT_REMOVE, /* its updates are of this kind */
	};
	/* uring_hold and uring_destroy */
	static const uint8_t registrations[] = {
		IORING_REGISTER_FILES,
		IORING_REGISTER_FILES_UPDATE,
		IORING_UNREGISTER_FILES,
	};
	struct io_uring_restriction allowed[OX_ARRAY_SIZE(opcodes) + OX_ARRAY_SIZE(registrations)];
	unsigned count = 0;

	memset(allowed, 0, sizeof(allowed));
	for (unsigned i = 0; i < OX_ARRAY_SIZE(opcodes); i++) {
		allowed[count].opcode = IORING_RESTRICTION_SQE_OP;
		allowed[count++].sqe_op = opcodes[i];
	}
	for (unsigned i = 0; i < OX_ARRAY_SIZE(registrations); i++) {
		allowed[count].opcode = IORING_RESTRICTION_REGISTER_OP;
		allowed[count++].register_op = registrations[i];
	}
	/* liburing 2.3 has functions for both, and does not export them. A ring that cannot be
	 * restricted serves as well. */
	(void)io_uring_register(u->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed, count);
	return io_uring_register(u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static int eventfd_open(struct uring *u)
{
	int code;

	u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->event_fd < 0)
		return -errno;
	code = io_uring_register_eventfd(&u->ring, u->event_fd);
	if (code == 0)
		code = io_uring_cq_eventfd_toggle(&u->ring, false);
	if (code < 0)
		ox_assert(close(u->event_fd) == 0);
	return code;
}

static int uring_create(struct ox_reactor *r)
{
	struct uring *u = calloc(1, sizeof(*u));
	int code;

	if (!u)
		return -ENOMEM;
	code = ring_open(u);
	if (code < 0)
		goto free_uring;
	code = eventfd_open(u);
	if (code < 0)
		goto close_ring;
	code = ring_enable(u);
	if (code < 0)
		goto close_eventfd;
	code = ox_pool_create(&u->pool);
	if (code < 0)
		goto close_eventfd;
	r->engine = u;
	return 0;

close_eventfd:
	ox_assert(close(u->event_fd) == 0);
close_ring:
	io_uring_queue_exit(&u->ring);
free_uring:
	free(u);
	return code;
}

static void uring_destroy(struct ox_reactor *r)
{
	struct uring *u = uring(r);

	ox_pool_destroy(u->pool);
	/* The kernel takes the ring apart some time later, and what is held is not to wait for
	 * that. Where it refuses, it only does. */
	if (r->held_count > 0)
		(void)io_uring_unregister_files(&u->ring);
	io_uring_queue_exit(&u->ring);
	ox_assert(close(u->event_fd) == 0);
	free(u);
}

/* Errors of io_uring_enter that pass once completions are reaped, or with time. */
static bool passes(int code)
{
	return code == -EINTR || code == -EAGAIN || code == -EBUSY || code == -ENOMEM;
}

/* Where a file system cannot write to the page cache without blocking (ext4), io_uring gives the
 * writes of one file to one kernel thread. */
static bool is_slow_write(const struct ox_aio *aio)
{
	return aio->page_cache;
}

static bool is_page_cached(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && !(flags & O_DIRECT);
}

static void reap(struct ox_reactor *r)
{
	struct uring *u = uring(r);
	struct io_uring_cqe *cqe;
	unsigned head;
	unsigned count = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		void *data = io_uring_cqe_get_data(cqe);

		count++;
		if (data == &tag_timer) {
			r->armed_ns = OX_NO_DEADLINE;
		} else if (data == &tag_pool) {
			u->pool_polled = false;
		} else if (data) {
			struct ox_aio *aio = data;

			if (is_slow_write(aio))
				u->slow_writes--;
			aio->result = cqe->res;
			ox_aio_finish(r, aio);
		}
	}
	io_uring_cq_advance(&u->ring, count);
	ox_pool_collect(u->pool, r);
}

/* For a kernel that is out of memory, or has more to hand over than it can yet. */
static void pause_briefly(void)
{
	static const struct timespec pause = {.tv_nsec = 1000000};

	(void)nanosleep(&pause, NULL); /* a signal that cuts it short does no harm */
}

/* A free entry; makes room by submitting where the ring is full. NULL: *ret_code says why. */
static struct io_uring_sqe *sqe_get(struct ox_reactor *r, int *ret_code)
{
	struct uring *u = uring(r);
	struct io_uring_sqe *sqe;
	unsigned tries = 0;

	while (!(sqe = io_uring_get_sqe(&u->ring))) {
		int code = io_uring_submit(&u->ring);

		if (code >= 0)
			continue;
		if (!passes(code) || ++tries == SUBMIT_TRIES) {
			*ret_code = code;
			return NULL;
		}
		reap(r);
		if (tries > 1)
			pause_briefly();
	}
	return sqe;
}

static void prepare(struct io_uring_sqe *sqe, const struct ox_aio *aio)
{
	const struct iovec *iov = aio->iov;
	unsigned length = 0;

	/* one buffer: spares the kernel the import of the vector */
	if (aio->iov_count == 1)
		length = (unsigned)ox_min_u64(iov->iov_len, TRANSFER_MAX_BYTES);
	switch (aio->kind) {
	case OX_AIO_READ:
		if (aio->iov_count == 1)
			io_uring_prep_read(sqe, aio->fd, iov->iov_base, length, aio->offset);
		else
			io_uring_prep_readv(sqe, aio->fd, iov, aio->iov_count, aio->offset);
		break;
	case OX_AIO_WRITE:
		if (aio->iov_count == 1)
			io_uring_prep_write(sqe, aio->fd, iov->iov_base, length, aio->offset);
		else
			io_uring_prep_writev(sqe, aio->fd, iov, aio->iov_count, aio->offset);
		sqe->rw_flags = aio->flags;
		break;
	case OX_AIO_FDATASYNC:
		io_uring_prep_fsync(sqe, aio->fd, IORING_FSYNC_DATASYNC);
		break;
	case OX_AIO_FALLOCATE:
		io_uring_prep_fallocate(sqe, aio->fd, aio->flags, (off_t)aio->offset,
					(off_t)aio->length);
		break;
	case OX_AIO_WORK:
	case OX_AIO_HANDED:
		ox_assert(aio->kind < OX_AIO_WORK);
	}
}

/* Work is not io_uring's. Slow writes are, but one after the other: of several in flight, the
 * pool carries all but one, and then all that come until it is done with them. (Alone in the ring
 * is faster than alone in the pool. Several in the pool are up to four times as fast as several in
 * the ring, and a thread of the ring would fight with the pool's for the file's lock.) */
static bool goes_to_pool(const struct uring *u, const struct ox_aio *aio)
{
	return aio->kind == OX_AIO_WORK ||
	       (is_slow_write(aio) && (u->slow_writes > 0 || ox_pool_is_writing(u->pool)));
}

static void uring_start(struct ox_reactor *r, struct ox_aio *aio)
{
	struct uring *u = uring(r);
	struct io_uring_sqe *sqe;
	int code;

	if (aio->page_cache)
		aio->page_cache = is_page_cached(aio->fd);
	if (goes_to_pool(u, aio)) {
		ox_pool_submit(u->pool, aio);
		return;
	}
	sqe = sqe_get(r, &code);
	if (!sqe) {
		aio->result = code;
		aio->done = true;
		r->requests--;
		return;
	}
	prepare(sqe, aio);
	io_uring_sqe_set_data(sqe, aio);
	if (is_slow_write(aio))
		u->slow_writes++;
}

static bool must_poll_pool(const struct uring *u)
{
	return !u->pool_polled && !ox_pool_is_idle(u->pool);
}

static int poll_pool(struct ox_reactor *r)
{
	struct uring *u = uring(r);
	struct io_uring_sqe *sqe;
	int code;

	if (!must_poll_pool(u))
		return 0;
	sqe = sqe_get(r, &code);
	if (!sqe)
		return code;
	io_uring_prep_poll_add(sqe, ox_pool_fd(u->pool), POLLIN);
	io_uring_sqe_set_data(sqe, &tag_pool);
	u->pool_polled = true;
	return 0;
}

/* The ring's word that the kernel has completions to hand over. A hint: see the file's head. */
static bool is_hinted(const struct uring *u)
{
	return __atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static bool has_completions(const struct uring *u)
{
	return io_uring_cq_ready(&u->ring) > 0;
}

/*
 * Whether enters bring no completion, although one is hinted at. What waits to be made belongs to
 * requests in flight, the timer or the poll, so a few enters make all of it; some of it may be work
 * that completes nothing. An enter that fails refutes nothing: the next turn meets the error.
 */
static bool refute_hint(struct ox_reactor *r)
{
	struct uring *u = uring(r);
	unsigned enters = 1 + (r->requests + 2) / COMPLETIONS_AN_ENTER;

	while (enters-- > 0 && is_hinted(u)) {
		if (io_uring_get_events(&u->ring) < 0)
			return false;
		if (has_completions(u))
			return false;
	}
	return true;
}

static int uring_turn(struct ox_reactor *r, bool wait)
{
	struct uring *u = uring(r);
	int code = poll_pool(r);

	if (code < 0)
		return code;
	/* a wait makes what is hinted at before it sleeps */
	if (wait && !has_completions(u))
		code = io_uring_submit_and_wait(&u->ring, 1);
	else if (io_uring_sq_ready(&u->ring) || is_hinted(u))
		code = io_uring_submit_and_get_events(&u->ring);
	if (code < 0 && !passes(code))
		return code;
	reap(r);
	if (code < 0 && code != -EINTR && ox_list_empty(&r->ready))
		pause_briefly();
	return 0;
}

static int uring_arm_timer(struct ox_reactor *r, uint64_t deadline_ns)
{
	struct uring *u = uring(r);
	struct io_uring_sqe *sqe;
	int code;

	sqe = sqe_get(r, &code);
	if (!sqe)
		return code;
	u->timer.tv_sec = (int64_t)(deadline_ns / 1000000000);
	u->timer.tv_nsec = (long long)(deadline_ns % 1000000000);
	if (r->armed_ns == OX_NO_DEADLINE) {
		io_uring_prep_timeout(sqe, &u->timer, 0, IORING_TIMEOUT_ABS);
		io_uring_sqe_set_data(sqe, &tag_timer);
	} else {
		/* one that has expired meanwhile cannot be updated: its completion is under way */
		io_uring_prep_timeout_update(sqe, &u->timer, (uint64_t)(uintptr_t)&tag_timer,
					     IORING_TIMEOUT_ABS);
		io_uring_sqe_set_data(sqe, NULL);
	}
	r->armed_ns = deadline_ns;
	return 0;
}

static void announce(struct uring *u, bool on)
{
	ox_assert(io_uring_cq_eventfd_toggle(&u->ring, on) == 0);
	u->listening = on;
	/* before the look at the ring: either we see a completion, or the kernel sees the flag */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void uring_enter(struct ox_reactor *r)
{
	struct uring *u = uring(r);
	eventfd_t count;

	if (u->listening) {
		announce(u, false);
		/* without deferral completions and their signals come at any time */
		u->owed = u->owed || !u->deferred || has_completions(u) || is_hinted(u);
	}
	if (!u->owed || r->polled)
		return;
	if (eventfd_read(u->event_fd, &count) == 0)
		u->owed = false;
	else
		ox_assert(errno == EAGAIN);
}

static bool uring_leave(struct ox_reactor *r)
{
	struct uring *u = uring(r);

	/* The poll may have ended for a request that was collected before it: no task is ready
	 * then, but those still in the pool would end unheard. */
	if (io_uring_sq_ready(&u->ring) || has_completions(u) || must_poll_pool(u))
		return true;
	if (r->requests == 0 && r->armed_ns == OX_NO_DEADLINE)
		return false;
	announce(u, true);
	if (!has_completions(u)) {
		if (!is_hinted(u))
			return false;
		/* what is hinted at may have been signalled by now, or be about to */
		u->owed = true;
		if (refute_hint(r))
			return false; /* whatever comes from now on is signalled */
	}
	/* the kernel may have signalled it, and nobody needs to be told */
	uring_enter(r);
	return true;
}

static void uring_kick(struct ox_reactor *r)
{
	struct uring *u = uring(r);

	ox_assert(eventfd_write(u->event_fd, 1) == 0);
	u->owed = true;
}

static int uring_fd(const struct ox_reactor *r)
{
	return uring(r)->event_fd;
}

/*
 * A ring outlives its process until the last request has ended, and its table of files with it;
 * that is where fd goes. The ring itself is closed with the last thread of the process, so that
 * what the pool's threads do is over by then too.
 */
static int uring_hold(struct ox_reactor *r, int fd)
{
	struct uring *u = uring(r);
	int empty[OX_HELD_MAX];
	int code = 0;

	if (r->held_count == 0) {
		memset(empty, 0xff, sizeof(empty)); /* -1: nothing there */
		code = io_uring_register_files(&u->ring, empty, OX_HELD_MAX);
	}
	if (code < 0)
		return code;
	code = io_uring_register_files_update(&u->ring, r->held_count, &fd, 1);
	return code < 0 ? code : 0;
}

static struct ox_pool *uring_pool(const struct ox_reactor *r)
{
	return uring(r)->pool;
}

const struct ox_engine_ops ox_uring_ops = {
	.kind = OX_ENGINE_IO_URING,
	.create = uring_create,
	.destroy = uring_destroy,
	.start = uring_start,
	.turn = uring_turn,
	.arm_timer = uring_arm_timer,
	.enter = uring_enter,
	.leave = uring_leave,
	.kick = uring_kick,
	.fd = uring_fd,
	.hold = uring_hold,
	.pool = uring_pool,
};
