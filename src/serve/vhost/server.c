/* SPDX-License-Identifier: MIT */
/* A disk over vhost-user, as a part of the loop of all servers (serve/loop.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/listen/listen.h"
#include "serve/vhost/keep.h"
#include "serve/vhost/session.h"

#define REAPS_A_CALL 64
/* Front ends at once. More wait in the queue of the kernel. */
#define SESSIONS_MAX OX_PARK_FRONTS
/* How often rings are looked at that nobody can kick. */
#define POLL_MS 1
/* How often a mark is tried that could not be made. */
#define MARK_AGAIN_MS 1000
/* What the host writes at once, whatever clusters the image has: pages of its cache, blocks of its
 * file systems. */
#define PHYSICAL_BYTES 4096u

struct server {
	struct ox_serve_part part; /* first */
	struct ox_vhost_device device;
	struct ox_listeners listeners;
	struct ox_watched listener; /* or the keeper, which tells of connections */
	unsigned session_count;
	unsigned next_number;
	bool may_accept;
	bool is_for_one; /* front end, which was connected from the start */
	bool busy;
	bool draining;
};

static struct server *server_of(struct ox_serve_part *part)
{
	return (struct server *)part;
}

void ox_vhost_device_note_cache(struct ox_vhost_device *device, enum ox_vhost_wce wce)
{
	device->blk.wce = wce;
	device->knows_cache = true;
	if (device->flight)
		ox_flight_set_setting(device->flight, wce);
}

/* ---- requests ---- */

static void hold_back(struct ox_vhost_device *device, struct ox_vhost_blk_request *request)
{
	request->owner = NULL; /* the next one */
	if (device->held_first)
		device->held_last->owner = request;
	else
		device->held_first = request;
	device->held_last = request;
	device->held_count++;
}

static int submit(struct ox_vhost_device *device, struct ox_vhost_blk_request *request)
{
	int ret = ox_queue_submit(device->queue, &request->request);

	if (ret < 0)
		ox_flight_end(device->flight, &request->note);
	else
		device->loop->submitted = true;
	return ret;
}

static struct ox_vhost_session *session_of(const struct ox_vhost_device *device,
					   struct ox_vhost_blk_request *request,
					   struct ox_vhost_vring **ret_vring)
{
	for (struct ox_vhost_session *s = device->sessions; s; s = s->next)
		for (unsigned i = 0; i < s->vring_count; i++)
			if (s->vrings[i].blk_ring == request->ring) {
				*ret_vring = &s->vrings[i];
				return s;
			}
	return NULL;
}

/* Firecracker's default, say: it is slower than its user expects, and says so nowhere itself. Told
 * at the first write: firmware, which takes no features either, only reads. */
static void tell_of_write_through(struct ox_vhost_device *device,
				  struct ox_vhost_blk_request *request)
{
	struct ox_vhost_vring *vring;
	const struct ox_vhost_session *session = session_of(device, request, &vring);

	if (!session || (session->blk.acked & (OX_VIRTIO_BLK_F_FLUSH | OX_VIRTIO_BLK_F_CONFIG_WCE)))
		return;
	device->told_of_write_through = true;
	ox_serve_warn(
		device->loop,
		"front end %u takes neither FLUSH nor CONFIG_WCE: every write is made durable "
		"before it is answered (with Firecracker, cache_type Writeback is faster)",
		session->number);
}

int ox_vhost_device_begin(struct ox_vhost_device *device, struct ox_vhost_blk_request *request)
{
	const struct ox_flight_request noted = {request->request.op, request->request.offset,
						request->bytes};

	if (device->flight) {
		switch (ox_flight_begin(device->flight, &noted, &request->note)) {
		case OX_FLIGHT_GO:
			break;
		case OX_FLIGHT_WAIT:
			hold_back(device, request);
			return 0;
		case OX_FLIGHT_REFUSE:
			return -EIO;
		}
	}
	return submit(device, request);
}

static bool changes(enum ox_op op)
{
	return op == OX_OP_WRITE || op == OX_OP_WRITE_ZEROES || op == OX_OP_DISCARD;
}

/* It is carried out all the same where that fails. A server that finds no place for marks takes
 * writes for lost when it comes again. Any other failure may pass, so it is tried again. */
static void mark(struct ox_vhost_device *device)
{
	const struct ox_serve_options *options = device->loop->options;
	const int64_t now_ms = ox_serve_now_ms();
	const bool first = device->mark_again_ms == 0;
	int ret = 0;

	if (now_ms < device->mark_again_ms)
		return;
	if (device->keep)
		ret = ox_vhost_keep_mark(device->keep);
	else if (options->mark)
		ret = options->mark(options->opaque);
	device->is_marked = ret == 0;
	device->mark_again_ms = now_ms + MARK_AGAIN_MS;
	if (ret < 0 && first)
		ox_serve_warn(device->loop,
			      "It cannot be noted that writes are answered before they are "
			      "durable: %s",
			      strerror(-ret));
}

int ox_vhost_device_submit(void *opaque, struct ox_vhost_blk_request *request)
{
	struct ox_vhost_device *device = opaque;
	const enum ox_op op = request->request.op;

	if ((request->request.flags & OX_REQ_FUA) && !device->told_of_write_through)
		tell_of_write_through(device, request);
	if (!device->is_marked && changes(op) && !(request->request.flags & OX_REQ_FUA))
		mark(device);
	if (op == OX_OP_READ || op == OX_OP_WRITE)
		ox_limit_charge(&device->loop->limit, 0, request->bytes);
	return ox_vhost_device_begin(device, request);
}

void ox_vhost_device_completed(struct ox_vhost_device *device, struct ox_vhost_blk_request *request)
{
	struct ox_vhost_vring *vring;
	const struct ox_vhost_session *session = session_of(device, request, &vring);

	ox_flight_end(device->flight, &request->note);
	if (session && ox_vhost_room_takes(vring, request))
		return;
	if (session) {
		vring->answers = true;
		vring->ready = true; /* the driver may have more by now */
	}
	ox_vhost_blk_completed(request);
}

/* Those that waited for a suspect: the next one, or all. */
static void release_held(struct server *server)
{
	struct ox_vhost_device *device = &server->device;

	while (device->held_first && !ox_flight_tries(device->flight)) {
		struct ox_vhost_blk_request *request = device->held_first;
		int ret;

		device->held_first = request->owner;
		device->held_count--;
		request->owner = NULL;
		ret = ox_vhost_device_begin(device, request);
		if (ret < 0) {
			request->request.result = ret;
			ox_vhost_device_completed(device, request);
		}
	}
}

static bool take_flush(const struct server *server, const struct ox_request *request)
{
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next) {
		if (request != &s->flush)
			continue;
		s->flushing = false;
		s->flushed = true;
		return true;
	}
	return false;
}

static bool reap(struct ox_serve_part *part)
{
	struct server *server = server_of(part);
	struct ox_request *requests[REAPS_A_CALL];
	bool any = false;
	size_t count;

	do {
		count = ox_queue_reap(server->device.queue, requests, REAPS_A_CALL);
		for (size_t i = 0; i < count; i++) {
			any = true;
			if (!take_flush(server, requests[i]))
				ox_vhost_device_completed(&server->device, requests[i]->user);
		}
	} while (count == REAPS_A_CALL);
	if (any)
		release_held(server);
	return any;
}

/* ---- front ends ---- */

static void tell_turned_away(struct server *server, int code)
{
	ox_serve_tell(server->part.loop, "a front end was turned away: %s", strerror(-code));
}

static void add_session(struct server *server, struct ox_vhost_session *session)
{
	session->next = server->device.sessions;
	server->device.sessions = session;
	server->session_count++;
}

static int accept_session(struct server *server, int fd, unsigned front, unsigned number)
{
	struct ox_vhost_session *session;
	int ret = ox_vhost_session_new(&server->device, fd, front, &session);

	if (ret < 0) {
		tell_turned_away(server, ret);
		return ret;
	}
	session->number = number;
	ret = session->keep ? ox_vhost_keep_begin(session) : 0;
	if (ret < 0) {
		tell_turned_away(server, ret);
		ox_vhost_session_free(session);
		return ret;
	}
	add_session(server, session);
	ox_stats_connected(server->part.loop->stats, OX_STATS_VHOST);
	ox_serve_tell(server->part.loop, "front end %u is connected", session->number);
	return 0;
}

/* What the keeper says. Where it says what makes no sense, or nothing any more, the process is
 * about to end. */
static void hear_keeper(struct server *server)
{
	struct ox_park_packet packet;

	while (server->may_accept || server->device.keep->came_count > 0) {
		server->may_accept = ox_vhost_keep_hear(server->device.keep, &packet) == 1;
		if (server->may_accept && packet.kind == OX_PARK_CAME && packet.fd_count == 1) {
			packet.fd_count = 0;
			(void)accept_session(server, packet.fds[0], packet.front,
					     (unsigned)packet.number);
		}
		ox_park_close_fds(&packet);
	}
}

static void accept_sessions(struct server *server)
{
	if (server->device.keep) {
		hear_keeper(server);
		return;
	}
	while (server->may_accept && server->session_count < SESSIONS_MAX) {
		int fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0) {
			server->may_accept = false;
			return;
		}
		(void)accept_session(server, fd, 0, server->next_number++); /* it has said so */
	}
}

static void listener_event(struct ox_watched *watched, uint32_t events)
{
	char *at = (char *)watched - offsetof(struct server, listener);

	(void)events;
	((struct server *)(void *)at)->may_accept = true;
}

static void start_who_waits(struct ox_vhost_session *session, struct ox_vhost_vring *vring)
{
	const bool ran = vring->running;
	int ret = ox_vhost_vring_start(vring);

	/* Before it takes anything. */
	if (ret == 0 && session->keep && vring->running && !ran)
		ret = ox_vhost_keep_commit(session, false);
	if (ret < 0)
		ox_vhost_session_end(session, "its ring cannot start");
}

/* A device that was another's may be theirs now. */
static void start_those_who_wait(struct server *server)
{
	if (server->device.owner && !server->device.blk.read_only)
		return;
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		for (unsigned i = 0; i < s->vring_count && !s->ended; i++)
			start_who_waits(s, &s->vrings[i]);
}

static void sweep(struct server *server)
{
	struct ox_vhost_session **link = &server->device.sessions;
	bool any = false;

	while (*link) {
		struct ox_vhost_session *session = *link;

		if (session->ended)
			ox_vhost_room_end(session);
		if (!session->ended || ox_vhost_session_in_flight(session)) {
			link = &session->next;
			continue;
		}
		*link = session->next;
		ox_serve_tell(server->part.loop, "front end %u is gone: %s", session->number,
			      session->why);
		ox_vhost_session_free(session);
		server->session_count--;
		ox_stats_left(server->part.loop->stats, OX_STATS_VHOST);
		any = true;
	}
	if (any && server->is_for_one)
		server->part.loop->wants_end = true;
	if (any && !server->is_for_one && !server->draining) {
		server->may_accept = true;
		server->busy = true;
	}
}

/* Whoever resizes the image does so by the library, in a turn or between two. */
static void look_at_size(struct server *server)
{
	const uint64_t size_bytes = ox_image_size(server->part.loop->image);

	if (size_bytes == server->device.blk.size_bytes)
		return;
	server->device.blk.size_bytes = size_bytes;
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		ox_vhost_session_resized(s);
}

/* ---- the parts of a turn ---- */

static void serve(struct ox_serve_part *part)
{
	struct server *server = server_of(part);

	look_at_size(server);
	if (!server->draining)
		accept_sessions(server);
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		ox_vhost_session_serve(s);
}

static void settle(struct ox_serve_part *part)
{
	struct server *server = server_of(part);

	server->busy = false;
	look_at_size(server);
	sweep(server);
	if (!server->draining)
		start_those_who_wait(server);
	if (server->device.keep && server->device.keep->came_count > 0)
		server->busy = true;
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		server->busy = ox_vhost_session_listen(s) || server->busy;
}

static bool is_busy(const struct ox_serve_part *part)
{
	return ((const struct server *)part)->busy;
}

static int64_t deadline_ms(const struct ox_serve_part *part)
{
	const struct server *server = (const struct server *)part;

	for (const struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		if (ox_vhost_session_is_polled(s))
			return ox_serve_now_ms() + POLL_MS;
	return INT64_MAX;
}

static void expire(struct ox_serve_part *part, int64_t now_ms)
{
	struct server *server = server_of(part);

	(void)now_ms;
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		if (ox_vhost_session_is_polled(s))
			ox_vhost_session_look(s);
}

static void drain(struct ox_serve_part *part)
{
	struct server *server = server_of(part);

	server->draining = true;
	ox_listeners_close(&server->listeners);
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		ox_vhost_session_end(s, "the server ends");
}

static size_t pending(const struct ox_serve_part *part)
{
	const struct server *server = (const struct server *)part;

	return ox_queue_pending(server->device.queue) + server->device.held_count;
}

static bool is_over(const struct ox_serve_part *part)
{
	return !((const struct server *)part)->device.sessions;
}

static void free_server(struct ox_serve_part *part, bool requests_lost)
{
	struct server *server = server_of(part);

	ox_listeners_close(&server->listeners);
	if (requests_lost)
		return; /* the library still knows requests and guests' memory */
	if (!server->device.keep)
		ox_vhost_record_close(server->device.regions);
	ox_vhost_keep_free(server->device.keep);
	ox_queue_free(server->device.queue);
	ox_vhost_signals_free(server->device.signals);
	free(server);
}

static const struct ox_serve_part_ops ops = {
	.serve = serve,
	.reap = reap,
	.settle = settle,
	.is_busy = is_busy,
	.deadline_ms = deadline_ms,
	.expire = expire,
	.drain = drain,
	.pending = pending,
	.is_over = is_over,
	.free = free_server,
};

/* ---- beginning ---- */

static void describe(struct ox_vhost_device *device, struct ox_serve_loop *loop)
{
	const struct ox_serve_vhost_options *options = &loop->options->vhost;
	uint64_t setting;

	device->loop = loop;
	device->may_be_lost = options->may_be_lost;
	device->flight = loop->options->handed ? loop->options->handed->flight : NULL;
	device->blk = (struct ox_vhost_blk){
		.size_bytes = ox_image_size(loop->image),
		.mode = options->cache,
		.read_only = ox_image_is_read_only(loop->image),
		.block_bytes = options->block_bytes,
		.physical_bytes = PHYSICAL_BYTES,
		.cluster_bytes = (uint32_t)ox_image_cluster_bytes(loop->image),
		.queues = (uint16_t)options->queues,
		.queue_size = (uint16_t)options->queue_size,
		.wce = OX_VHOST_WCE_UNSET,
		.stats = loop->stats,
		.submit = ox_vhost_device_submit,
		.opaque = device,
	};
	if (options->serial)
		memcpy(device->blk.serial, options->serial,
		       strnlen(options->serial, sizeof(device->blk.serial)));
	/* What a guest has set at a server that died; 0: there was none. */
	setting = device->flight ? ox_flight_setting(device->flight) : 0;
	device->told_of_write_through = options->cache == OX_CACHE_WRITETHROUGH ||
					options->cache == OX_CACHE_DIRECTSYNC; /* or chosen */
	device->knows_cache = setting >= OX_VHOST_WCE_UNSET && setting <= OX_VHOST_WCE_ON;
	if (device->knows_cache)
		device->blk.wce = (enum ox_vhost_wce)setting;
}

static void close_front(struct ox_vhost_kept_front *front)
{
	for (unsigned slot = 0; slot < OX_PARK_SLOTS; slot++)
		if (front->fds[slot] >= 0)
			close(front->fds[slot]);
}

/* A front end of a dead server goes on, or begins where none had heard of it. */
static void restore_session(struct server *server, struct ox_vhost_kept_front *front,
			    unsigned index)
{
	struct ox_vhost_session *session;
	int ret = ox_vhost_session_new(&server->device, front->connection, index, &session);

	if (ret < 0) {
		tell_turned_away(server, ret);
		return;
	}
	session->number = (unsigned)front->number;
	ret = ox_vhost_keep_restore(session, front,
				    !server->part.loop->options->handed->was_killed);
	if (ret == 0) {
		ret = ox_vhost_keep_begin(session);
		ox_serve_tell(server->part.loop, "front end %u is connected", session->number);
	}
	if (ret >= 0) {
		add_session(server, session);
		ox_stats_goes_on(server->part.loop->stats, OX_STATS_VHOST);
		return;
	}
	if (ret == -ENOTRECOVERABLE)
		ox_serve_warn(server->part.loop,
			      "front end %u is let go: two servers have died over its message",
			      session->number);
	else if (ret != -EPIPE)
		ox_serve_warn(server->part.loop,
			      "front end %u cannot go on after the death of its server: %s",
			      session->number, strerror(-ret));
	ox_vhost_session_free(session);
}

static int take_over(struct server *server, int keeper, struct ox_serve_error *error)
{
	struct ox_vhost_kept_front *fronts = malloc(OX_PARK_FRONTS * sizeof(*fronts));
	int ret;

	if (!fronts) {
		close(keeper);
		return ox_serve_fail(error, -ENOMEM, "Cannot take over front ends");
	}
	for (unsigned i = 0; i < OX_PARK_FRONTS; i++) {
		fronts[i].number = 0;
		memset(fronts[i].fds, 0xff, sizeof(fronts[i].fds)); /* -1 */
	}
	ret = ox_vhost_keep_new(keeper, fronts, &server->device.keep);
	if (ret == 0) {
		server->device.regions = server->device.keep->record;
		server->device.may_be_lost = server->device.keep->may_be_lost;
		server->device.is_marked = server->device.keep->is_marked;
	}
	for (unsigned i = 0; i < OX_PARK_FRONTS; i++) {
		if (ret == 0 && fronts[i].number > 0)
			restore_session(server, &fronts[i], i);
		else if (fronts[i].number > 0)
			close(fronts[i].connection);
		close_front(&fronts[i]);
	}
	free(fronts);
	for (struct ox_vhost_session *s = server->device.sessions; s; s = s->next)
		ox_vhost_session_go_on(s);
	server->busy = true;
	return ret < 0 ? ox_serve_fail(error, ret, "Cannot take over front ends") : 0;
}

/* Which inflight regions began here, where there is no keeper. */
static int know_regions(struct ox_vhost_device *device)
{
	int fd = ox_vhost_record_make();
	int ret = fd < 0 ? fd : ox_vhost_record_open(fd, &device->regions);

	if (fd >= 0)
		close(fd);
	return ret;
}

static int begin_for_one(struct server *server, int fd, struct ox_serve_error *error)
{
	int ret = accept_session(server, fd, 0, server->next_number++);

	if (ret < 0)
		return ox_serve_fail(error, ret, "Cannot serve the front end");
	server->is_for_one = true;
	return 0;
}

static int begin_listening(struct server *server, struct ox_serve_error *error)
{
	const char *path = server->part.loop->options->vhost.path;
	const struct ox_serve_handed *handed = server->part.loop->options->handed;
	int connected = -1;
	int ret = handed ? 0 : ox_listen_connected(path, &connected, error);

	if (ret == 1)
		return begin_for_one(server, connected, error);
	if (ret < 0)
		return ret;
	if (handed && handed->vhost_keeper >= 0)
		ret = take_over(server, handed->vhost_keeper, error);
	else if (handed && handed->vhost_listener < 0)
		return ox_serve_fail(error, -EINVAL, "Cannot take the listening socket");
	else if (handed)
		server->listeners = (struct ox_listeners){
			.fds = {handed->vhost_listener}, .count = 1, .is_unix = true};
	else
		ret = ox_listen_path(path, &server->part.loop->options->rights, &server->listeners,
				     error);
	if (ret < 0)
		return ret;
	server->listener = (struct ox_watched){server->device.keep ? server->device.keep->socket
								   : server->listeners.fds[0],
					       listener_event};
	ret = ox_serve_watch(server->part.loop, EPOLL_CTL_ADD, &server->listener,
			     EPOLLIN | EPOLLET);
	return ret < 0 ? ox_serve_fail(error, ret, "Cannot set up the event loop") : 0;
}

int ox_vhost_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
			const char **ret_path, struct ox_serve_error *error)
{
	struct server *server = calloc(1, sizeof(*server));
	int ret;

	if (!server)
		return ox_serve_fail(error, -ENOMEM, "Cannot serve vhost-user");
	server->part = (struct ox_serve_part){&ops, loop};
	server->next_number = 1;
	describe(&server->device, loop);
	ret = ox_vhost_signals_new(&server->device.signals);
	if (ret == 0)
		ret = ox_queue_new(loop->image, &server->device.queue);
	if (ret == 0 && server->device.may_be_lost)
		ret = know_regions(&server->device);
	if (ret < 0)
		ox_serve_fail(error, ret, "Cannot make a request queue");
	else
		ret = begin_listening(server, error);
	if (ret < 0) {
		free_server(&server->part, false);
		return ret;
	}
	*ret_part = &server->part;
	*ret_path = server->listeners.path;
	return 0;
}
