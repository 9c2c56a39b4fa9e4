/* SPDX-License-Identifier: MIT */
#include "io/nbd/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/nbd/handle.h"

#define CONTEXT LIBNBD_CONTEXT_BASE_ALLOCATION
#define GOODBYE_MS 1000u

/* What a server takes that does not say: the protocol's default. */
#define PAYLOAD_BYTES (32u << 20)

enum state {
	CONNECTING,
	OPEN,
	GONE,
};

struct ox_nbd_link {
	const struct ox_nbd_api *api;
	const struct ox_nbd_address *address;
	const struct ox_nbd_connector *connector;
	uint64_t deadline_ns;
	pthread_t thread;
	int wake_fd;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t settled;
	enum state state;
	bool stop;
	bool asleep;	      /* the thread is, or is about to be: only wake_fd is heard */
	struct ox_list queue; /* struct ox_nbd_request, not begun */

	/* The thread's, and anybody's once the state is not CONNECTING. */
	struct ox_nbd_facts facts;
	int error;
	bool known;
	char why[OX_NBD_WORDS_MAX];

	/* The thread's. */
	struct nbd_handle *nbd;
	struct ox_list begun;
};

static void lock(struct ox_nbd_link *l)
{
	ox_assert(pthread_mutex_lock(&l->lock) == 0);
}

static void unlock(struct ox_nbd_link *l)
{
	ox_assert(pthread_mutex_unlock(&l->lock) == 0);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	ox_assert(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- turns of the thread ---- */

static bool is_over(struct ox_nbd_link *l)
{
	return l->api->aio_is_dead(l->nbd) || l->api->aio_is_closed(l->nbd);
}

static bool take_stop(struct ox_nbd_link *l)
{
	bool stop;

	lock(l);
	stop = l->stop;
	unlock(l);
	return stop;
}

/* Sleeps for the socket or for whoever wakes the thread, and lets libnbd work. -EIO: libnbd says
 * that something went wrong. */
static int turn(struct ox_nbd_link *l, int timeout_ms)
{
	unsigned direction = l->api->aio_get_direction(l->nbd);
	struct pollfd fds[2] = {{.fd = l->api->aio_get_fd(l->nbd)},
				{.fd = l->wake_fd, .events = POLLIN}};
	eventfd_t count;
	short got;

	if (fds[0].fd < 0)
		return -EIO;
	fds[0].events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) ? POLLIN : 0) |
				((direction & LIBNBD_AIO_DIRECTION_WRITE) ? POLLOUT : 0));
	if (poll(fds, 2, timeout_ms) < 0)
		return errno == EINTR ? 0 : -EIO;
	if (fds[1].revents)
		(void)eventfd_read(l->wake_fd, &count);
	got = fds[0].revents;
	if (got & POLLNVAL)
		return -EIO;
	/* The end of a connection is met by reading, or by writing where nothing is read. */
	if (got & (POLLHUP | POLLERR))
		got |= fds[0].events;
	if ((got & POLLIN) && (direction & LIBNBD_AIO_DIRECTION_READ))
		return l->api->aio_notify_read(l->nbd) < 0 ? -EIO : 0;
	if ((got & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
		return l->api->aio_notify_write(l->nbd) < 0 ? -EIO : 0;
	return 0;
}

/* ---- the handshake ---- */

static void take_words(struct ox_nbd_link *l)
{
	l->error = ox_nbd_handle_words(l->api, l->why);
}

static int fail(struct ox_nbd_link *l, int error, bool known, const char *why)
{
	l->error = error;
	l->known = known;
	strncpy(l->why, why, sizeof(l->why) - 1);
	return error;
}

/* The socket that the program connects, which is libnbd's then. */
static int ask_for_socket(struct ox_nbd_link *l, int *ret)
{
	uint64_t now = now_ns();
	int fd;

	if (now >= l->deadline_ns)
		return fail(l, -ETIMEDOUT, false, "the server does not answer");
	fd = l->connector->connect(l->connector->opaque,
				   (unsigned)((l->deadline_ns - now) / 1000000 + 1));
	if (fd < 0)
		return fail(l, fd, false, strerror(-fd));
	*ret = fd;
	return 0;
}

static int begin_to_connect(struct ox_nbd_link *l)
{
	const struct ox_nbd_address *a = l->address;
	const char *unverifiable = ox_nbd_handle_unverifiable(l->api, a);
	int socket;
	int r = 0;

	if (unverifiable)
		return fail(l, -ENOKEY, false, unverifiable);

	if (l->api->set_export_name(l->nbd, a->export_name) < 0 ||
	    l->api->add_meta_context(l->nbd, CONTEXT) < 0 ||
	    ox_nbd_handle_secure(l->api, l->nbd, a) < 0)
		r = -1;
	if (r == 0 && l->connector->connect) {
		r = ask_for_socket(l, &socket);
		if (r < 0)
			return r;
		r = l->api->aio_connect_socket(l->nbd, socket);
	} else if (r == 0) {
		r = ox_nbd_handle_connect(l->api, l->nbd, a);
	}
	if (r == 0)
		return 0;
	take_words(l);
	return l->error;
}

static int shake_hands(struct ox_nbd_link *l)
{
	int r = begin_to_connect(l);

	if (r < 0)
		return r;
	while (l->api->aio_is_connecting(l->nbd)) {
		uint64_t now = now_ns();

		if (take_stop(l))
			return fail(l, -ECANCELED, false, "given up");
		if (now >= l->deadline_ns)
			return fail(l, -ETIMEDOUT, false, "the server does not answer");
		if (turn(l, (int)ox_min_u64((l->deadline_ns - now) / 1000000 + 1, 60000)) < 0) {
			take_words(l);
			return l->error;
		}
	}
	if (is_over(l))
		return fail(l, -ECONNRESET, false, "the server ends the connection");
	return 0;
}

/* A size of blocks that the server states; 0: it does not. Negative: none that can be meant. */
static int take_block_size(struct ox_nbd_link *l, int which, uint64_t max, uint32_t *ret)
{
	int64_t bytes = l->api->get_block_size(l->nbd, which);

	if (bytes < 0 || ((uint64_t)bytes > max && which != LIBNBD_SIZE_MAXIMUM))
		return -EINVAL;
	*ret = (uint32_t)ox_min_u64((uint64_t)bytes, max);
	return 0;
}

static int take_facts(struct ox_nbd_link *l)
{
	struct ox_nbd_facts *f = &l->facts;
	int64_t length = l->api->get_size(l->nbd);
	const bool extents = l->api->can_meta_context(l->nbd, CONTEXT) == 1;

	if (length < 0 || length > INT64_MAX - (1 << 20))
		return fail(l, -EFBIG, true, "the server states a size that no disk has");
	*f = (struct ox_nbd_facts){
		.length = (uint64_t)length,
		.read_only = l->api->is_read_only(l->nbd) != 0,
		.can_flush = l->api->can_flush(l->nbd) == 1,
		.can_fua = l->api->can_fua(l->nbd) == 1,
		.can_trim = l->api->can_trim(l->nbd) == 1,
		.can_zero = l->api->can_zero(l->nbd) == 1,
		.can_multi_conn = l->api->can_multi_conn(l->nbd) == 1,
		.has_extents = extents,
	};
	if (take_block_size(l, LIBNBD_SIZE_MINIMUM, 65536, &f->block_min) < 0 ||
	    take_block_size(l, LIBNBD_SIZE_MAXIMUM, PAYLOAD_BYTES, &f->block_max) < 0 ||
	    (f->block_min > 0 && !ox_is_pow2(f->block_min)))
		return fail(l, -EINVAL, true, "the server states a size of blocks that none has");
	if (f->block_max == 0)
		f->block_max = PAYLOAD_BYTES;
	if (f->block_max < 4096 || f->block_max < f->block_min)
		return fail(l, -EINVAL, true, "the server takes no request of a useful size");
	if (f->block_min > 0 && !ox_is_aligned(f->length, f->block_min))
		return fail(l, -EINVAL, true,
			    "the server states a size that is no multiple of its block size");
	return 0;
}

/* So that a host that has vanished is noticed. Other sockets know no such option. */
static void keep_alive(struct ox_nbd_link *l)
{
	const int on = 1;

	if (!l->address->socket)
		(void)setsockopt(l->api->aio_get_fd(l->nbd), SOL_SOCKET, SO_KEEPALIVE, &on,
				 sizeof(on));
}

static void settle(struct ox_nbd_link *l, enum state state)
{
	lock(l);
	l->state = state;
	ox_assert(pthread_cond_broadcast(&l->settled) == 0);
	unlock(l);
}

static bool connect_all(struct ox_nbd_link *l)
{
	int r;

	l->nbd = l->api->create();
	if (!l->nbd) {
		take_words(l);
		return false;
	}
	r = shake_hands(l);
	if (r == 0)
		r = take_facts(l);
	if (r == 0)
		keep_alive(l);
	return r == 0;
}

/* ---- requests ---- */

static void end(struct ox_nbd_request *req, int result)
{
	ox_list_del(&req->link);
	ox_aio_handed_end(req->handed, result);
}

static int completed(void *opaque, int *error)
{
	struct ox_nbd_request *req = opaque;
	int result = *error > 0 ? -*error : 0;

	if (result == 0 && req->kind == OX_NBD_READ && req->told != req->length)
		result = -EIO; /* it was answered with less, or more, than was asked for */
	/* Those of a connection that is over are ended by the thread, all with one error. */
	if (!is_over(req->by))
		end(req, result);
	return 1;
}

/* libnbd sees to it that it lies within the request, whose buffer it has cleared: so parts that
 * come twice leave nothing else in it. */
static int got_part(void *opaque, const void *bytes, size_t count, uint64_t offset, unsigned status,
		    int *error)
{
	struct ox_nbd_request *req = opaque;

	(void)bytes;
	(void)offset;
	(void)error;
	if (status != LIBNBD_READ_ERROR)
		req->told += count;
	return 0;
}

static int got_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
		       size_t count, int *error)
{
	struct ox_nbd_request *req = opaque;
	struct ox_nbd_extents *e = req->extents;

	(void)error;
	if (strcmp(context, CONTEXT) != 0 || offset != req->offset)
		return 0;
	for (size_t i = 0; i + 1 < count && e->count < OX_NBD_EXTENTS_MAX; i += 2) {
		bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;

		if (e->count > 0 && e->items[e->count - 1].zero == zero) {
			e->items[e->count - 1].length += entries[i];
		} else if (entries[i] > 0) {
			e->items[e->count].length = entries[i];
			e->items[e->count++].zero = zero;
		}
	}
	return 0;
}

static int64_t begin(struct ox_nbd_link *l, struct ox_nbd_request *req)
{
	const struct ox_nbd_api *api = l->api;
	nbd_completion_callback done = {.callback = completed, .user_data = req};
	nbd_chunk_callback part = {.callback = got_part, .user_data = req};
	nbd_extent_callback extents = {.callback = got_extents, .user_data = req};

	switch (req->kind) {
	case OX_NBD_READ:
		req->told = 0;
		return api->aio_pread_structured(l->nbd, req->buf, req->length, req->offset, part,
						 done, req->flags);
	case OX_NBD_WRITE:
		return api->aio_pwrite(l->nbd, req->buf, req->length, req->offset, done,
				       req->flags);
	case OX_NBD_ZERO:
		return api->aio_zero(l->nbd, req->length, req->offset, done, req->flags);
	case OX_NBD_TRIM:
		return api->aio_trim(l->nbd, req->length, req->offset, done, req->flags);
	case OX_NBD_FLUSH:
		return api->aio_flush(l->nbd, done, req->flags);
	case OX_NBD_EXTENTS:
		req->extents->count = 0;
		return api->aio_block_status(l->nbd, req->length, req->offset, extents, done,
					     req->flags);
	}
	ox_assert(req->kind <= OX_NBD_EXTENTS);
	return -1;
}

/* A request may end while it is begun: it is on the list before. */
static void begin_all(struct ox_nbd_link *l, struct ox_list *fresh)
{
	while (!ox_list_empty(fresh)) {
		struct ox_nbd_request *req = ox_list_first(fresh, struct ox_nbd_request, link);
		struct ox_list *newest;

		ox_list_del(&req->link);
		ox_list_push_back(&l->begun, &req->link);
		newest = &req->link;
		/* Refused by libnbd itself, which then calls nobody back. */
		if (begin(l, req) < 0 && l->begun.prev == newest && !is_over(l))
			end(req, -EINVAL);
	}
}

static void end_all(struct ox_list *list)
{
	while (!ox_list_empty(list))
		end(ox_list_first(list, struct ox_nbd_request, link), -ENOTCONN);
}

/* Takes what was handed over. False: the link is to end. *ret_idle: that is nothing, and whoever
 * hands over more will wake the thread. */
static bool take_queue(struct ox_nbd_link *l, struct ox_list *ret, bool *ret_idle)
{
	bool stop;

	lock(l);
	ox_list_splice_back(ret, &l->queue);
	stop = l->stop;
	*ret_idle = ox_list_empty(ret) && !stop;
	l->asleep = *ret_idle;
	unlock(l);
	return !stop;
}

static void serve(struct ox_nbd_link *l)
{
	struct ox_list fresh;

	ox_list_init(&fresh);
	for (;;) {
		bool idle;
		bool goes_on = take_queue(l, &fresh, &idle);

		begin_all(l, &fresh);
		if (is_over(l) || !goes_on)
			return;
		/* An error in words only: a connection that is lost is one that is over. */
		if (turn(l, idle ? -1 : 0) < 0 && l->api->aio_get_fd(l->nbd) < 0)
			return;
	}
}

/* With nothing in flight: tells the server, and gives it a while to say goodbye. */
static void say_goodbye(struct ox_nbd_link *l)
{
	uint64_t until = now_ns() + GOODBYE_MS * UINT64_C(1000000);

	if (is_over(l) || !ox_list_empty(&l->begun) || l->api->aio_disconnect(l->nbd, 0) < 0)
		return;
	while (!is_over(l)) {
		uint64_t now = now_ns();

		if (now >= until || turn(l, (int)((until - now) / 1000000 + 1)) < 0)
			return;
	}
}

static void *link_thread(void *opaque)
{
	struct ox_nbd_link *l = opaque;
	struct ox_list left;

	if (connect_all(l)) {
		settle(l, OPEN);
		serve(l);
		say_goodbye(l);
	}
	l->api->close(l->nbd); /* nobody is called back from here on */
	ox_list_init(&left);
	settle(l, GONE);
	lock(l);
	ox_list_splice_back(&left, &l->queue);
	unlock(l);
	end_all(&l->begun);
	end_all(&left);
	return NULL;
}

/* ---- for others ---- */

static void wake(struct ox_nbd_link *l)
{
	ox_assert(eventfd_write(l->wake_fd, 1) == 0);
}

static void hand_over(void *arg, struct ox_handed *h)
{
	struct ox_nbd_request *req = arg;
	struct ox_nbd_link *l = req->by;
	bool gone;
	bool asleep;

	req->handed = h;
	lock(l);
	gone = l->state == GONE;
	asleep = l->asleep;
	if (!gone) {
		ox_list_push_back(&l->queue, &req->link);
		l->asleep = false;
	}
	unlock(l);
	if (gone)
		ox_aio_handed_end(h, -ENOTCONN);
	else if (asleep)
		wake(l);
}

int ox_nbd_link_call_co(struct ox_nbd_link *link, struct ox_nbd_request *req)
{
	req->by = link;
	ox_list_init(&req->link);
	return (int)ox_aio_handed_co(hand_over, req);
}

static int start_thread(struct ox_nbd_link *l)
{
	sigset_t all;
	sigset_t old;
	int code;

	/* As the reactor's own threads: signals are for the program's. */
	ox_assert(sigfillset(&all) == 0 && sigdelset(&all, SIGBUS) == 0);
	ox_assert(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
	code = pthread_create(&l->thread, NULL, link_thread, l);
	ox_assert(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
	return -code;
}

static void link_free(struct ox_nbd_link *l)
{
	ox_assert(pthread_mutex_destroy(&l->lock) == 0);
	ox_assert(pthread_cond_destroy(&l->settled) == 0);
	ox_assert(close(l->wake_fd) == 0);
	free(l);
}

int ox_nbd_link_start(const struct ox_nbd_api *api, const struct ox_nbd_address *address,
		      const struct ox_nbd_connector *connector, uint64_t limit_ms,
		      struct ox_nbd_link **ret)
{
	struct ox_nbd_link *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0) {
		r = -errno;
		free(l);
		return r;
	}
	l->api = api;
	l->address = address;
	l->connector = connector;
	l->deadline_ns = now_ns() + limit_ms * 1000000;
	ox_assert(pthread_mutex_init(&l->lock, NULL) == 0);
	ox_assert(pthread_cond_init(&l->settled, NULL) == 0);
	ox_list_init(&l->queue);
	ox_list_init(&l->begun);
	r = start_thread(l);
	if (r < 0) {
		link_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

int ox_nbd_link_await(struct ox_nbd_link *l, bool *ret_known, struct ox_error **err)
{
	int r;

	lock(l);
	while (l->state == CONNECTING)
		ox_assert(pthread_cond_wait(&l->settled, &l->lock) == 0);
	r = l->state == OPEN ? 0 : l->error ? l->error : -ENOTCONN;
	unlock(l);
	if (r == 0)
		return 0;
	*ret_known = l->known;
	if (l->error)
		return ox_nbd_handle_tell(l->address, l->error, l->why, err);
	return ox_error_set_errno(err, r, "The connection has ended");
}

const struct ox_nbd_facts *ox_nbd_link_facts(const struct ox_nbd_link *l)
{
	return &l->facts;
}

void ox_nbd_link_stop(struct ox_nbd_link *l)
{
	lock(l);
	l->stop = true;
	unlock(l);
	wake(l);
}

void ox_nbd_link_close(struct ox_nbd_link *l)
{
	if (!l)
		return;
	ox_nbd_link_stop(l);
	ox_assert(pthread_join(l->thread, NULL) == 0);
	link_free(l);
}
