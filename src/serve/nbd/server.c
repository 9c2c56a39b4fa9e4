/* SPDX-License-Identifier: MIT */
/*
 * The server's loop. One thread does everything; a turn of the loop is
 *
 *   wait:     epoll, which marks clients that can be read or written
 *   serve:    marked clients' requests are read and submitted, replies sent
 *   exchange: the library starts what was submitted and hands back what is complete, whose
 *             replies are sent; again while that made new work
 *
 * so that however many requests are in flight, a turn costs each client one receive and one send.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/nbd/client.h"
#include "serve/nbd/listen.h"
#include "serve/serve.h"

#define EVENTS_A_TURN 64
#define REAPS_A_CALL 64
#define EXCHANGES_A_TURN 8
/* A client that does not read its last replies holds up the end this long. */
#define DRAIN_MS 5000
/* A store that answers no request holds it up this long. */
#define STUCK_MS 60000
/* When the process is out of descriptors: until accepting is tried again. */
#define ACCEPT_PAUSE_MS 200
#define MEMORY_DEFAULT_BYTES (UINT64_C(256) << 20)

struct watched_fd {
	enum ox_nbd_watch watch;
	int fd;
};

struct server {
	const struct ox_serve_nbd_options *options;
	struct ox_context *ctx;
	struct ox_nbd_export export;
	struct ox_nbd_listeners listeners;
	struct watched_fd listener_watches[NBD_LISTEN_MAX];
	struct watched_fd signals;
	struct watched_fd library;
	int epoll_fd;
	struct ox_nbd_client *clients;
	struct ox_nbd_client *marked; /* in the order in which they were */
	struct ox_nbd_client **marked_end;
	unsigned client_count;
	unsigned next_number;
	bool accepting; /* the listeners are watched */
	bool draining;
	int64_t drain_deadline_ms;
	int64_t stuck_ms;	   /* how long the library may complete nothing at the end */
	int64_t stuck_deadline_ms; /* while draining */
	int64_t accept_again_ms;   /* INT64_MAX: when a client is gone */
	int64_t patience_ms;
	int64_t look_ms; /* not before, at who holds memory that others wait for */
};

static void tell(const struct server *server, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void tell(const struct server *server, const char *format, ...)
{
	char line[256];
	va_list args;

	if (!server->options->log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	server->options->log(server->options->opaque, line);
}

static void warn(const struct server *server, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void warn(const struct server *server, const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	server->options->warn(server->options->opaque, line);
}

static int fail(struct ox_serve_error *error, int code, const char *what)
{
	snprintf(error->message, sizeof(error->message), "%s: %s", what, strerror(-code));
	return code;
}

static int watch_fd(const struct server *server, int operation, struct watched_fd *watched,
		    uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watched};

	return epoll_ctl(server->epoll_fd, operation, watched->fd, &event) < 0 ? -errno : 0;
}

/* ---- clients ---- */

static void mark(struct server *server, struct ox_nbd_client *client)
{
	if (client->marked)
		return;
	client->marked = true;
	client->next_marked = NULL;
	*server->marked_end = client;
	server->marked_end = &client->next_marked;
}

static void serve_marked(struct server *server)
{
	struct ox_nbd_client *client = server->marked;

	server->marked = NULL;
	server->marked_end = &server->marked;
	while (client) {
		struct ox_nbd_client *next = client->next_marked;

		client->marked = false;
		if (ox_nbd_client_serve(client))
			mark(server, client);
		client = next;
	}
}

/* Watches the listeners, or stops: clients then wait in the queue of the kernel. */
static void set_accepting(struct server *server, bool accepting)
{
	if (server->accepting == accepting)
		return;
	server->accepting = accepting;
	for (int i = 0; i < server->listeners.count; i++)
		if (watch_fd(server, EPOLL_CTL_MOD, &server->listener_watches[i],
			     accepting ? EPOLLIN : 0) < 0)
			tell(server, "a listening socket cannot be watched");
}

/* Takes leave of clients that are closed and have nothing left in the library. */
static void sweep(struct server *server)
{
	struct ox_nbd_client **link = &server->clients;

	while (*link) {
		struct ox_nbd_client *client = *link;

		if (client->fd >= 0 || client->conn.library_count > 0 || client->marked) {
			link = &client->next;
			continue;
		}
		*link = client->next;
		tell(server, "client %u (%s) is gone: %s", client->number, client->peer,
		     client->why);
		ox_nbd_client_free(client);
		server->client_count--;
		server->accept_again_ms = 0;
	}
	if (!server->draining && server->accept_again_ms == 0) {
		server->accept_again_ms = INT64_MAX;
		set_accepting(server, server->client_count < server->options->max_clients);
	}
}

static struct ox_nbd_client *client_of(struct ox_nbd_conn *conn)
{
	char *client = (char *)conn - offsetof(struct ox_nbd_client, conn);

	return (struct ox_nbd_client *)(void *)client;
}

/* Memory that has become free goes to those who wait for it. */
static void resume_waiting(struct server *server)
{
	struct ox_nbd_share *share;

	while ((share = ox_nbd_budget_next(&server->export.budget))) {
		struct ox_nbd_conn *conn = ox_nbd_conn_of(share);

		ox_nbd_conn_resume(conn);
		mark(server, client_of(conn));
	}
}

/* Lets those go that keep others waiting. */
static void look_at_holders(struct server *server, int64_t now_ms)
{
	if (!server->export.budget.waiting || now_ms < server->look_ms)
		return;
	server->look_ms = now_ms + server->patience_ms / NBD_PATIENCE_LOOKS;
	for (struct ox_nbd_client *client = server->clients; client; client = client->next) {
		if (!ox_nbd_client_is_in_the_way(client))
			continue;
		warn(server,
		     "client %u (%s) is let go: for %lld s it did not take or send on what fills "
		     "%zu MiB of memory, and others wait for that",
		     client->number, client->peer, (long long)server->patience_ms / 1000,
		     client->conn.share.held_bytes >> 20);
		ox_nbd_client_close(client, "it kept others waiting for memory");
	}
}

static void accept_client(struct server *server, int fd)
{
	struct ox_nbd_client *client;
	int ret = ox_nbd_client_new(&server->export, server->epoll_fd, fd,
				    !server->listeners.is_unix, &client);

	if (ret < 0) {
		tell(server, "a client was turned away: %s", strerror(-ret));
		return;
	}
	client->number = server->next_number++;
	client->next = server->clients;
	server->clients = client;
	server->client_count++;
	mark(server, client); /* the greeting */
	tell(server, "client %u (%s) is connected", client->number, client->peer);
}

static void accept_clients(struct server *server, int listener)
{
	while (server->client_count < server->options->max_clients) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			accept_client(server, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			server->accept_again_ms = ox_nbd_now_ms() + ACCEPT_PAUSE_MS;
			set_accepting(server, false);
		}
		/* Other errors concern that one client, who is gone, or say that none waits. */
		return;
	}
	set_accepting(server, false);
}

/* ---- the end ---- */

static void begin_drain(struct server *server)
{
	int64_t now_ms = ox_nbd_now_ms();

	if (server->draining) { /* told twice: clients that do not read are not waited for */
		server->drain_deadline_ms = now_ms;
		return;
	}
	server->draining = true;
	server->drain_deadline_ms = now_ms + DRAIN_MS;
	server->stuck_deadline_ms = now_ms + server->stuck_ms;
	ox_nbd_listeners_close(&server->listeners);
	for (struct ox_nbd_client *client = server->clients; client; client = client->next) {
		ox_nbd_client_drain(client);
		mark(server, client);
	}
}

static void take_signals(struct server *server)
{
	struct signalfd_siginfo info; /* or a message, which is shorter */

	while (read(server->signals.fd, &info, sizeof(info)) > 0)
		begin_drain(server);
}

static bool all_answered(const struct server *server)
{
	for (const struct ox_nbd_client *client = server->clients; client; client = client->next)
		if (client->conn.library_count > 0)
			return false;
	return true;
}

/* ---- the loop ---- */

static int64_t next_deadline_ms(const struct server *server)
{
	int64_t deadline_ms = INT64_MAX;

	for (const struct ox_nbd_client *client = server->clients; client; client = client->next)
		if (client->deadline_ms < deadline_ms)
			deadline_ms = client->deadline_ms;
	if (server->export.budget.waiting && server->look_ms < deadline_ms)
		deadline_ms = server->look_ms;
	if (!server->draining && server->accept_again_ms < deadline_ms)
		deadline_ms = server->accept_again_ms;
	/* While the library works its events wake us; the time of slow clients starts after. */
	if (server->draining) {
		const int64_t end_ms = all_answered(server) ? server->drain_deadline_ms
							    : server->stuck_deadline_ms;

		if (end_ms < deadline_ms)
			deadline_ms = end_ms;
	}
	return deadline_ms;
}

static bool is_stuck(const struct server *server)
{
	return server->draining && !all_answered(server) &&
	       ox_nbd_now_ms() >= server->stuck_deadline_ms;
}

static void expire(struct server *server, int64_t now_ms)
{
	const bool close_all =
		server->draining && now_ms >= server->drain_deadline_ms && all_answered(server);

	for (struct ox_nbd_client *client = server->clients; client; client = client->next) {
		if (!close_all && now_ms < client->deadline_ms)
			continue;
		ox_nbd_client_close(client, close_all		? "it did not read its last replies"
					    : client->lingering ? "the server ends"
								: "it did not finish the handshake "
								  "in time");
	}
	look_at_holders(server, now_ms);
	if (server->accept_again_ms <= now_ms)
		server->accept_again_ms = 0; /* sweep takes it up */
}

static int wait_timeout_ms(const struct server *server, int64_t deadline_ms)
{
	int64_t left_ms;

	if (server->marked || server->export.submitted)
		return 0;
	if (deadline_ms == INT64_MAX)
		return -1;
	left_ms = deadline_ms - ox_nbd_now_ms();
	return left_ms <= 0 ? 0 : (int)(left_ms < INT_MAX ? left_ms : INT_MAX);
}

static int wait_events(struct server *server)
{
	const int64_t deadline_ms = next_deadline_ms(server);
	struct epoll_event events[EVENTS_A_TURN];
	int count;

	count = epoll_wait(server->epoll_fd, events, EVENTS_A_TURN,
			   wait_timeout_ms(server, deadline_ms));
	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < count; i++) {
		struct watched_fd *watched = events[i].data.ptr;
		struct ox_nbd_client *client = events[i].data.ptr;

		switch (watched->watch) {
		case NBD_WATCH_LISTENER:
			if (!server->draining)
				accept_clients(server, watched->fd);
			break;
		case NBD_WATCH_SIGNALS:
			take_signals(server);
			break;
		case NBD_WATCH_LIBRARY:
			break; /* it is polled in each turn */
		case NBD_WATCH_CLIENT:
			ox_nbd_client_event(client, events[i].events);
			mark(server, client);
			break;
		}
	}
	if (deadline_ms != INT64_MAX) {
		int64_t now_ms = ox_nbd_now_ms();

		if (now_ms >= deadline_ms)
			expire(server, now_ms);
	}
	return 0;
}

static bool reap(struct server *server)
{
	struct ox_request *requests[REAPS_A_CALL];
	bool any = false;
	size_t count;

	do {
		count = ox_queue_reap(server->export.queue, requests, REAPS_A_CALL);
		for (size_t i = 0; i < count; i++) {
			struct ox_nbd_conn *conn = ox_nbd_request_completed(requests[i]);

			mark(server, client_of(conn));
			any = true;
		}
	} while (count == REAPS_A_CALL);
	if (any && server->draining)
		server->stuck_deadline_ms = ox_nbd_now_ms() + server->stuck_ms;
	return any;
}

static int exchange(struct server *server)
{
	for (int i = 0; i < EXCHANGES_A_TURN; i++) {
		int ret;

		server->export.submitted = false;
		ret = ox_context_poll(server->ctx);
		if (ret < 0)
			return ret;
		if (reap(server))
			serve_marked(server);
		if (!server->export.submitted)
			break;
	}
	return 0;
}

static int run(struct server *server)
{
	int ret = 0;

	while (ret == 0 && (!server->draining || server->clients)) {
		ret = wait_events(server);
		if (ret < 0)
			break;
		serve_marked(server);
		ret = exchange(server);
		resume_waiting(server);
		sweep(server);
		if (ret == 0 && is_stuck(server))
			ret = -ETIMEDOUT;
	}
	return ret;
}

/* ---- beginning ---- */

static void stop_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
	sigaddset(ret_set, SIGHUP);
}

void ox_serve_block_signals(void)
{
	sigset_t set;

	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static int open_fds(struct server *server, struct ox_serve_error *error)
{
	sigset_t set;
	int ret = 0;

	stop_signals(&set);
	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (server->options->handed)
		server->signals.fd = server->options->handed->stop_fd;
	else
		server->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (server->epoll_fd < 0 || server->signals.fd < 0)
		return fail(error, -errno, "Cannot set up the event loop");
	server->signals.watch = NBD_WATCH_SIGNALS;
	server->library.watch = NBD_WATCH_LIBRARY;
	server->library.fd = ox_context_fd(server->ctx);
	ret = watch_fd(server, EPOLL_CTL_ADD, &server->signals, EPOLLIN);
	if (ret == 0)
		ret = watch_fd(server, EPOLL_CTL_ADD, &server->library, EPOLLIN);
	for (int i = 0; i < server->listeners.count && ret == 0; i++) {
		server->listener_watches[i] =
			(struct watched_fd){NBD_WATCH_LISTENER, server->listeners.fds[i]};
		ret = watch_fd(server, EPOLL_CTL_ADD, &server->listener_watches[i], EPOLLIN);
	}
	server->accepting = true;
	return ret < 0 ? fail(error, ret, "Cannot set up the event loop") : 0;
}

static int take_listeners(const struct ox_serve_handed *handed,
			  struct ox_nbd_listeners *ret_listeners, struct ox_serve_error *error)
{
	if (handed->listener_count < 0 || handed->listener_count > NBD_LISTEN_MAX)
		return fail(error, -EINVAL, "Cannot take the listening sockets");
	*ret_listeners = (struct ox_nbd_listeners){
		.count = handed->listener_count,
		.is_unix = handed->listeners_are_unix,
	};
	for (int i = 0; i < handed->listener_count; i++)
		ret_listeners->fds[i] = handed->listeners[i];
	return 0;
}

static int announce(const struct server *server, struct ox_serve_error *error)
{
	char *uri = NULL;
	int ret;

	if (!server->options->handed)
		uri = ox_nbd_listeners_uri(&server->listeners, server->export.name);
	if (!server->options->handed && !uri)
		return fail(error, -ENOMEM, "Cannot tell the address");
	ret = server->options->ready(server->options->opaque, uri);
	free(uri);
	if (ret < 0)
		error->message[0] = '\0';
	return ret;
}

static void close_server(struct server *server, bool requests_lost)
{
	ox_nbd_listeners_close(&server->listeners);
	if (server->signals.fd >= 0)
		close(server->signals.fd);
	if (server->epoll_fd >= 0)
		close(server->epoll_fd);
	if (requests_lost)
		return; /* the library still knows clients' requests and their buffers */
	ox_nbd_pool_free(&server->export.pool);
	ox_queue_free(server->export.queue);
}

/* The library keeps requests that do not complete: nobody can say what became of them. */
static void tell_lost(const struct server *server, int code, struct ox_serve_error *error)
{
	error->requests_lost = true;
	if (code == -ETIMEDOUT)
		snprintf(error->message, sizeof(error->message),
			 "The image's file does not answer: %zu requests did not complete within "
			 "%lld s, and the image is not closed",
			 ox_queue_pending(server->export.queue),
			 (long long)server->stuck_ms / 1000);
	else
		fail(error, code, "The I/O engine failed");
}

uint64_t ox_serve_nbd_memory_min(unsigned max_clients)
{
	return ox_nbd_budget_min_bytes(max_clients);
}

uint64_t ox_serve_nbd_memory_default(unsigned max_clients)
{
	const uint64_t min_bytes = ox_serve_nbd_memory_min(max_clients);

	return min_bytes > MEMORY_DEFAULT_BYTES ? min_bytes : MEMORY_DEFAULT_BYTES;
}

int ox_serve_nbd(struct ox_context *ctx, struct ox_image *image,
		 const struct ox_serve_nbd_options *options, struct ox_serve_error *ret_error)
{
	struct server server = {
		.options = options,
		.ctx = ctx,
		.export = {.name = options->export_name,
			   .description = options->description,
			   .size_bytes = ox_image_size(image),
			   .read_only = ox_image_is_read_only(image)},
		.signals.fd = -1,
		.epoll_fd = -1,
		.accept_again_ms = INT64_MAX,
		.stuck_ms = options->drain_ms ? options->drain_ms : STUCK_MS,
		.patience_ms = options->patience_ms ? options->patience_ms : NBD_PATIENCE_MS,
		.next_number = 1,
	};
	uint64_t memory_bytes = options->memory_bytes;
	int ret;

	if (memory_bytes == 0)
		memory_bytes = ox_serve_nbd_memory_default(options->max_clients);
	server.marked_end = &server.marked;
	ox_nbd_budget_init(&server.export.budget, memory_bytes, options->max_clients);
	*ret_error = (struct ox_serve_error){0};
	ret = ox_queue_new(image, &server.export.queue);
	if (ret < 0)
		return fail(ret_error, ret, "Cannot make a request queue");
	if (options->handed)
		ret = take_listeners(options->handed, &server.listeners, ret_error);
	else
		ret = ox_nbd_listen(options->address, &server.listeners, ret_error);
	if (ret == 0)
		ret = open_fds(&server, ret_error);
	if (ret == 0)
		ret = announce(&server, ret_error);
	if (ret == 0) {
		ox_context_set_polled(ctx, true); /* exchange does, in each turn */
		ret = run(&server);
		ox_context_set_polled(ctx, false);
		if (ret < 0)
			tell_lost(&server, ret, ret_error);
	}
	close_server(&server, ret_error->requests_lost);
	return ret;
}
