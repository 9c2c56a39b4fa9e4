/* SPDX-License-Identifier: MIT */
/* The server of NBD, as a part of the loop of all servers (serve/loop.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/listen/listen.h"
#include "serve/loop.h"
#include "serve/nbd/client.h"

#define REAPS_A_CALL 64
/* A client that does not read its last replies holds up the end this long. */
#define DRAIN_MS 5000
/* When the process is out of descriptors: until accepting is tried again. */
#define ACCEPT_PAUSE_MS 200
#define MEMORY_DEFAULT_BYTES (UINT64_C(256) << 20)

struct server;

struct listener {
	struct ox_watched watched;
	struct server *server;
};

struct server {
	struct ox_serve_part part;
	const struct ox_serve_nbd_options *options;
	struct ox_nbd_export export;
	struct ox_tls *tls; /* NULL: none */
	struct ox_listeners listeners;
	struct listener watches[OX_LISTEN_MAX];
	struct ox_nbd_client *clients;
	struct ox_nbd_client *marked; /* in the order in which they were */
	struct ox_nbd_client **marked_end;
	unsigned client_count;
	unsigned next_number;
	bool accepting; /* the listeners are watched */
	bool draining;
	bool had_client; /* one that chose the export has left */
	int64_t drain_deadline_ms;
	int64_t accept_again_ms; /* INT64_MAX: when a client is gone */
	int64_t patience_ms;
	int64_t look_ms; /* not before, at who holds memory that others wait for */
};

static struct server *server_of(struct ox_serve_part *part)
{
	return (struct server *)part;
}

struct ox_tls *ox_nbd_server_tls(const struct server *server)
{
	return server->tls;
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

static void tell_submitted(struct server *server)
{
	server->part.loop->submitted |= server->export.submitted;
	server->export.submitted = false;
}

static uint64_t export_size(const struct server *server)
{
	const uint64_t size = ox_image_size(server->part.loop->image);
	const uint64_t base = server->export.base;

	return size > base ? size - base : 0;
}

static void serve(struct ox_serve_part *part)
{
	struct server *server = server_of(part);
	struct ox_nbd_client *client = server->marked;

	server->export.size_bytes = export_size(server); /* an operator may resize the image */
	server->marked = NULL;
	server->marked_end = &server->marked;
	while (client) {
		struct ox_nbd_client *next = client->next_marked;

		client->marked = false;
		if (ox_nbd_client_serve(client))
			mark(server, client);
		client = next;
	}
	tell_submitted(server);
}

/* Watches the listeners, or stops: clients then wait in the queue of the kernel. */
static void set_accepting(struct server *server, bool accepting)
{
	if (server->accepting == accepting)
		return;
	server->accepting = accepting;
	for (int i = 0; i < server->listeners.count; i++)
		if (ox_serve_watch(server->part.loop, EPOLL_CTL_MOD, &server->watches[i].watched,
				   accepting ? EPOLLIN : 0) < 0)
			ox_serve_tell(server->part.loop, "a listening socket cannot be watched");
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
		ox_serve_tell(server->part.loop, "client %u (%s) is gone: %s", client->number,
			      client->peer, client->why);
		server->had_client |= client->conn.chose;
		ox_nbd_client_free(client);
		server->client_count--;
		ox_stats_left(server->export.stats, OX_STATS_NBD);
		server->accept_again_ms = 0;
	}
	if (server->options->ends_with_clients && server->had_client && !server->clients)
		server->part.loop->wants_end = true;
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

static void changed(struct ox_nbd_conn *conn)
{
	struct ox_nbd_client *client = client_of(conn);

	mark(client->server, client);
}

/* Memory that has become free goes to those who wait for it. */
static void resume_waiting(struct server *server)
{
	struct ox_nbd_share *share;
	struct ox_nbd_conn *held;

	while ((held = ox_nbd_request_release(&server->export)))
		mark(server, client_of(held));
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
		ox_serve_warn(server->part.loop,
			      "client %u (%s) is let go: for %lld s it did not take or send on "
			      "what fills "
			      "%zu MiB of memory, and others wait for that",
			      client->number, client->peer, (long long)server->patience_ms / 1000,
			      client->conn.share.held_bytes >> 20);
		ox_nbd_client_close(client, "it kept others waiting for memory");
	}
}

static void client_event(struct ox_watched *watched, uint32_t events)
{
	struct ox_nbd_client *client = (struct ox_nbd_client *)watched;

	ox_nbd_client_event(client, events);
	mark(client->server, client);
}

/* It is its turn, by the limits of the disk. */
static void resume(struct ox_limit_waiter *waiter)
{
	char *at = (char *)waiter - offsetof(struct ox_nbd_conn, turn);
	struct ox_nbd_conn *conn = (struct ox_nbd_conn *)(void *)at;

	ox_nbd_conn_resume(conn);
	changed(conn);
}

static void accept_client(struct server *server, int fd)
{
	struct ox_nbd_client *client;
	int ret = ox_nbd_client_new(&server->export, server->part.loop, fd,
				    !server->listeners.is_unix, &client);

	if (ret < 0) {
		ox_serve_tell(server->part.loop, "a client was turned away: %s", strerror(-ret));
		return;
	}
	client->watched.event = client_event;
	client->server = server;
	client->conn.turn.resume = resume;
	client->number = server->next_number++;
	client->next = server->clients;
	server->clients = client;
	server->client_count++;
	ox_stats_connected(server->export.stats, OX_STATS_NBD);
	mark(server, client); /* the greeting */
	ox_serve_tell(server->part.loop, "client %u (%s) is connected", client->number,
		      client->peer);
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
			server->accept_again_ms = ox_serve_now_ms() + ACCEPT_PAUSE_MS;
			set_accepting(server, false);
		}
		/* Other errors concern that one client, who is gone, or say that none waits. */
		return;
	}
	set_accepting(server, false);
}

static void listener_event(struct ox_watched *watched, uint32_t events)
{
	struct server *server = ((struct listener *)watched)->server;

	(void)events;
	if (!server->draining)
		accept_clients(server, watched->fd);
}

/* ---- the end ---- */

static void drain(struct ox_serve_part *part)
{
	struct server *server = server_of(part);
	int64_t now_ms = ox_serve_now_ms();

	if (server->draining) { /* told twice: clients that do not read are not waited for */
		server->drain_deadline_ms = now_ms;
		return;
	}
	server->draining = true;
	server->drain_deadline_ms = now_ms + DRAIN_MS;
	ox_listeners_close(&server->listeners);
	for (struct ox_nbd_client *client = server->clients; client; client = client->next) {
		ox_nbd_client_drain(client);
		mark(server, client);
	}
}

static size_t pending(const struct ox_serve_part *part)
{
	const struct server *server = (const struct server *)part;
	size_t count = 0;

	for (const struct ox_nbd_client *client = server->clients; client; client = client->next)
		count += client->conn.library_count;
	return count;
}

static bool is_over(const struct ox_serve_part *part)
{
	return !((const struct server *)part)->clients;
}

/* ---- the parts of a turn ---- */

static int64_t deadline_ms(const struct ox_serve_part *part)
{
	const struct server *server = (const struct server *)part;
	int64_t first_ms = INT64_MAX;

	for (const struct ox_nbd_client *client = server->clients; client; client = client->next)
		if (client->deadline_ms < first_ms)
			first_ms = client->deadline_ms;
	if (server->export.budget.waiting && server->look_ms < first_ms)
		first_ms = server->look_ms;
	if (!server->draining && server->accept_again_ms < first_ms)
		first_ms = server->accept_again_ms;
	/* The time of slow clients starts when the library has answered. */
	if (server->draining && server->clients && server->drain_deadline_ms < first_ms &&
	    pending(part) == 0)
		first_ms = server->drain_deadline_ms;
	return first_ms;
}

static void expire(struct ox_serve_part *part, int64_t now_ms)
{
	struct server *server = server_of(part);
	const bool close_all =
		server->draining && now_ms >= server->drain_deadline_ms && pending(part) == 0;

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

static bool is_busy(const struct ox_serve_part *part)
{
	return ((const struct server *)part)->marked;
}

static bool reap(struct ox_serve_part *part)
{
	struct server *server = server_of(part);
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
	return any;
}

static void settle(struct ox_serve_part *part)
{
	struct server *server = server_of(part);

	resume_waiting(server);
	sweep(server);
	tell_submitted(server);
}

static void free_server(struct ox_serve_part *part, bool requests_lost)
{
	struct server *server = server_of(part);

	ox_listeners_close(&server->listeners);
	if (requests_lost)
		return; /* the library still knows clients' requests and their buffers */
	ox_tls_put(server->tls);
	ox_nbd_pool_free(&server->export.pool);
	ox_queue_free(server->export.queue);
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

static int take_listeners(const struct ox_serve_handed *handed, struct ox_listeners *ret_listeners,
			  struct ox_serve_error *error)
{
	if (handed->listener_count < 0 || handed->listener_count > OX_LISTEN_MAX)
		return ox_serve_fail(error, -EINVAL, "Cannot take the listening sockets");
	*ret_listeners = (struct ox_listeners){
		.count = handed->listener_count,
		.is_unix = handed->listeners_are_unix,
	};
	for (int i = 0; i < handed->listener_count; i++)
		ret_listeners->fds[i] = handed->listeners[i];
	return 0;
}

static int watch_listeners(struct server *server, struct ox_serve_error *error)
{
	int ret = 0;

	for (int i = 0; i < server->listeners.count && ret == 0; i++) {
		server->watches[i] =
			(struct listener){{server->listeners.fds[i], listener_event}, server};
		ret = ox_serve_watch(server->part.loop, EPOLL_CTL_ADD, &server->watches[i].watched,
				     EPOLLIN);
	}
	server->accepting = true;
	return ret < 0 ? ox_serve_fail(error, ret, "Cannot set up the event loop") : 0;
}

static void warn_of_end(const struct server *server)
{
	if (ox_tls_has_expired(server->tls))
		ox_serve_warn(server->part.loop,
			      "The TLS certificate has expired: clients will not accept it");
}

int ox_nbd_server_renew_tls(struct ox_serve_part *part, int fd)
{
	struct server *server = server_of(part);
	struct ox_serve_error error;
	struct ox_tls *tls;
	int ret = server->tls ? ox_tls_new(fd, &server->options->tls, &tls, &error) : -EINVAL;

	if (ret < 0) {
		if (server->tls)
			ox_serve_warn(part->loop, "%s; the old ones stay", error.message);
		return ret;
	}
	ox_tls_put(server->tls); /* sessions keep them */
	server->tls = tls;
	ox_serve_tell(part->loop, "the TLS credentials are renewed");
	warn_of_end(server);
	return 0;
}

static int begin_tls(struct server *server, struct ox_serve_error *error)
{
	const struct ox_serve_tls_options *options = &server->options->tls;

	if (!options->is_required)
		return 0;
	server->export.tls_is_required = true;
	server->export.tls_bytes = OX_TLS_SESSION_BYTES;
	if (ox_tls_new(options->fd, options, &server->tls, error) < 0)
		return -EINVAL;
	warn_of_end(server);
	return 0;
}

static int listen_and_name(struct server *server, char **ret_uri, struct ox_serve_error *error)
{
	const struct ox_serve_handed *handed = server->part.loop->options->handed;
	char *uri = NULL;
	int ret;

	if (handed)
		ret = take_listeners(handed, &server->listeners, error);
	else
		ret = ox_listen(server->options->address, &server->part.loop->options->rights,
				&server->listeners, error);
	if (ret == 0 && !handed)
		ret = ox_listen_check(&server->listeners, server->options, error);
	if (ret == 0 && !handed) {
		uri = ox_listeners_uri(&server->listeners, server->export.name,
				       server->options->tls.is_required);
		if (!uri)
			ret = ox_serve_fail(error, -ENOMEM, "Cannot tell the address");
	}
	if (ret == 0)
		ret = watch_listeners(server, error);
	if (ret < 0) {
		free(uri);
		return ret;
	}
	*ret_uri = uri;
	return 0;
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

int ox_nbd_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part, char **ret_uri,
		      struct ox_serve_error *error)
{
	const struct ox_serve_nbd_options *options = &loop->options->nbd;
	struct server *server = calloc(1, sizeof(*server));
	uint64_t memory_bytes = options->memory_bytes;
	int ret;

	if (!server)
		return ox_serve_fail(error, -ENOMEM, "Cannot serve NBD");
	server->part = (struct ox_serve_part){&ops, loop};
	server->options = options;
	server->export.name = options->export_name;
	server->export.description = options->description;
	server->export.base = options->offset;
	server->export.detect_zeroes = options->detect_zeroes;
	server->export.size_bytes = export_size(server);
	server->export.multi_conn = options->max_clients > 1;
	server->export.tells_depth = options->allocation_depth;
	server->export.read_only = ox_image_is_read_only(loop->image);
	server->export.limit = &loop->limit;
	server->export.full = &loop->full;
	server->export.changed = changed;
	server->export.stats = loop->stats;
	server->accept_again_ms = INT64_MAX;
	server->patience_ms = options->patience_ms ? options->patience_ms : NBD_PATIENCE_MS;
	server->next_number = 1;
	server->marked_end = &server->marked;
	if (memory_bytes == 0)
		memory_bytes = ox_serve_nbd_memory_default(options->max_clients);
	ox_nbd_budget_init(&server->export.budget, memory_bytes, options->max_clients);
	if (loop->options->handed)
		server->export.flight = loop->options->handed->flight;
	ret = options->offset > ox_image_size(loop->image)
		      ? -EINVAL
		      : ox_queue_new(loop->image, &server->export.queue);
	if (ret == -EINVAL)
		(void)ox_serve_fail(error, ret,
				    "The export's offset lies past the end of the image");
	else if (ret < 0)
		ox_serve_fail(error, ret, "Cannot make a request queue");
	else
		ret = begin_tls(server, error);
	if (ret == 0)
		ret = listen_and_name(server, ret_uri, error);
	if (ret < 0) {
		free_server(&server->part, false);
		return ret;
	}
	*ret_part = &server->part;
	return 0;
}
