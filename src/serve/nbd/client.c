/* SPDX-License-Identifier: MIT */
#include "serve/nbd/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* System calls for one client in one turn of the server's loop. */
#define READS_A_TURN 4
#define SENDS_A_TURN 4
#define SEND_VECTORS 128
/* The same in records. */
#define TLS_READS_A_TURN 16
#define TLS_SENDS_A_TURN 32
/* A reply of a large read should fit; the kernel takes as much of it as it allows. */
#define UNIX_SEND_BUFFER_BYTES (1 << 20)
#define HANDSHAKE_MS 30000
/* How long a client may take to see the end of the stream. */
#define LINGER_MS 1000

#define EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

static int watch(struct ox_nbd_client *client, int operation, uint32_t events)
{
	client->watched.fd = client->fd;
	return ox_serve_watch(client->loop, operation, &client->watched, events);
}

/* A client is served without these just as rightly, if slower. */
static void tune_socket(int fd, bool is_tcp)
{
	const int on = 1;
	const int send_bytes = UNIX_SEND_BUFFER_BYTES;

	if (is_tcp) {
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	} else {
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
	}
}

int ox_nbd_client_new(struct ox_nbd_export *export, struct ox_serve_loop *loop, int fd, bool is_tcp,
		      struct ox_nbd_client **ret_client)
{
	struct ox_nbd_client *client = calloc(1, sizeof(*client));
	int ret;

	if (!client) {
		close(fd);
		return -ENOMEM;
	}
	client->fd = fd;
	client->loop = loop;
	client->is_tcp = is_tcp;
	client->deadline_ms = ox_serve_now_ms() + HANDSHAKE_MS;
	ox_nbd_peer_name(fd, client->peer);
	tune_socket(fd, is_tcp);
	ret = ox_nbd_conn_init(&client->conn, export);
	if (ret < 0) {
		close(fd);
		free(client);
		return ret;
	}
	ret = watch(client, EPOLL_CTL_ADD, EVENTS);
	if (ret < 0) {
		ox_nbd_client_free(client);
		return ret;
	}
	*ret_client = client;
	return 0;
}

/* Connections end for many reasons in a row; the first is the one to tell. */
static void note_why(struct ox_nbd_client *client, const char *why)
{
	if (!client->why)
		client->why = why;
}

void ox_nbd_client_close(struct ox_nbd_client *client, const char *why)
{
	if (client->fd < 0)
		return;
	note_why(client, why);
	ox_nbd_conn_abort(&client->conn);
	ox_tls_session_free(client->tls);
	client->tls = NULL;
	close(client->fd);
	client->fd = -1;
	client->deadline_ms = INT64_MAX;
}

void ox_nbd_client_free(struct ox_nbd_client *client)
{
	ox_nbd_client_close(client, "it is not needed");
	ox_nbd_conn_free(&client->conn);
	free(client);
}

static void set_blocked(struct ox_nbd_client *client, bool blocked)
{
	if (client->blocked == blocked)
		return;
	client->blocked = blocked;
	if (watch(client, EPOLL_CTL_MOD, blocked ? EVENTS | EPOLLOUT : EVENTS) < 0)
		ox_nbd_client_close(client, "its socket cannot be watched");
}

void ox_nbd_client_event(struct ox_nbd_client *client, uint32_t events)
{
	if (client->fd < 0)
		return;
	if (events & (EPOLLERR | EPOLLHUP)) {
		/* Nothing that is sent arrives any more. What has arrived is not an obligation:
		 * nobody would learn of its outcome. */
		ox_nbd_client_close(client, "it hung up");
		return;
	}
	if (events & EPOLLIN)
		client->readable = true;
	if (events & EPOLLRDHUP) {
		client->readable = client->hung_up = true;
		ox_nbd_conn_leave(&client->conn);
	}
	if (events & EPOLLOUT) {
		client->readable |= client->tls != NULL; /* which may have waited for that */
		set_blocked(client, false);
	}
}

/* ---- input ---- */

static size_t vectors_bytes(const struct iovec *iov, int count)
{
	size_t total = 0;

	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	return total;
}

static void take_end(struct ox_nbd_client *client)
{
	client->readable = false;
	note_why(client, "it hung up");
	ox_nbd_conn_end_input(&client->conn);
}

static void receive_plain(struct ox_nbd_client *client)
{
	struct iovec iov[2];

	for (int i = 0; i < READS_A_TURN && client->readable; i++) {
		int count = ox_nbd_conn_receive_space(&client->conn, iov);
		ssize_t got;

		if (count == 0)
			return;
		got = readv(client->fd, iov, count);
		if (got > 0) {
			if ((size_t)got < vectors_bytes(iov, count) && !client->hung_up)
				client->readable = false;
			client->moved_bytes += (size_t)got;
			ox_nbd_conn_received(&client->conn, (size_t)got);
		} else if (got == 0) {
			take_end(client);
		} else if (errno == EAGAIN) {
			client->readable = false;
		} else if (errno != EINTR) {
			ox_nbd_client_close(client, "the connection broke");
			return;
		}
	}
}

/* The socket has nothing; or it takes nothing, and TLS has to send before it goes on. */
static void wait_for_socket(struct ox_nbd_client *client)
{
	client->readable = false;
	if (ox_tls_waits_to_send(client->tls))
		set_blocked(client, true);
}

static void receive_secure(struct ox_nbd_client *client)
{
	struct iovec iov[2];

	for (int i = 0; i < TLS_READS_A_TURN && client->readable; i++) {
		ssize_t got;

		if (ox_nbd_conn_receive_space(&client->conn, iov) == 0)
			return;
		got = ox_tls_receive(client->tls, iov[0].iov_base, iov[0].iov_len);
		if (got > 0) {
			client->moved_bytes += (size_t)got;
			ox_nbd_conn_received(&client->conn, (size_t)got);
		} else if (got == 0) {
			take_end(client);
		} else if (got == -EAGAIN) {
			wait_for_socket(client);
			return;
		} else {
			ox_nbd_client_close(client, ox_tls_why(client->tls));
			return;
		}
	}
}

static void receive(struct ox_nbd_client *client)
{
	if (client->tls)
		receive_secure(client);
	else
		receive_plain(client);
}

/* ---- TLS begins ---- */

/* It has proved who it is, and is told nothing but the end. */
static void refuse(struct ox_nbd_client *client)
{
	char name[256]; /* cut, rather than what is said of it */

	ox_tls_name(client->tls, name, sizeof(name));
	ox_serve_tell(client->loop,
		      "client %u (%s) is refused: TLS x509 authz check for %s is denied",
		      client->number, client->peer, name[0] ? name : "a client without a name");
	ox_tls_say_goodbye(client->tls);
	ox_nbd_client_close(client, ox_tls_why(client->tls));
}

static void shake_hands(struct ox_nbd_client *client)
{
	int ret = ox_tls_shake_hands(client->tls);
	char text[384];

	if (ret == -EAGAIN) {
		wait_for_socket(client);
	} else if (ret == -EACCES) {
		refuse(client);
	} else if (ret < 0) {
		ox_nbd_client_close(client, ox_tls_why(client->tls));
	} else {
		ox_nbd_conn_secured(&client->conn);
		ox_tls_describe(client->tls, text, sizeof(text));
		ox_serve_tell(client->loop, "client %u (%s) is secure: %s", client->number,
			      client->peer, text);
	}
}

/* Before it is secure nothing else is received. */
static void secure(struct ox_nbd_client *client)
{
	if (!ox_nbd_conn_awaits_tls(&client->conn) || client->blocked)
		return;
	if (!client->tls) {
		int ret = ox_tls_session_new(ox_nbd_server_tls(client->server), client->fd,
					     &client->tls);

		if (ret < 0) {
			ox_nbd_client_close(client, "memory is short");
			return;
		}
	}
	shake_hands(client);
}

/* ---- output ---- */

/* As sendmsg(2): what has gone, or a negative errno. */
static ssize_t send_plain(const struct ox_nbd_client *client, struct iovec *iov, int count)
{
	const struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};
	ssize_t sent = sendmsg(client->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	return sent < 0 ? -errno : sent;
}

/* True: there is more to send, and room for it. */
static bool transmit(struct ox_nbd_client *client)
{
	const int most = client->tls ? TLS_SENDS_A_TURN : SENDS_A_TURN;
	struct iovec iov[SEND_VECTORS];

	for (int i = 0; i < most; i++) {
		ssize_t sent;
		int count;

		if (client->blocked)
			return false;
		count = ox_nbd_conn_send_vectors(&client->conn, iov, SEND_VECTORS);
		if (count == 0)
			return false;
		sent = client->tls ? ox_tls_send(client->tls, iov, count)
				   : send_plain(client, iov, count);
		if (sent >= 0) {
			client->moved_bytes += (size_t)sent;
			ox_nbd_conn_sent(&client->conn, (size_t)sent);
		} else if (sent == -EAGAIN) {
			set_blocked(client, true);
			if (client->fd < 0)
				return false;
		} else if (sent != -EINTR) {
			ox_nbd_client_close(client, client->tls ? ox_tls_why(client->tls)
								: "the connection broke");
			return false;
		}
	}
	return true;
}

/* ---- the end ---- */

/* A TCP socket closed with unread input resets the connection, and the last replies may be lost on
 * their way: so first the client has to see their end. */
static void linger(struct ox_nbd_client *client)
{
	char thrown_away[4096];

	for (int i = 0; i < READS_A_TURN; i++) {
		ssize_t got = read(client->fd, thrown_away, sizeof(thrown_away));

		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
			ox_nbd_client_close(client, "it said goodbye");
			return;
		}
		if (got < 0 && errno == EAGAIN) {
			client->readable = false;
			return;
		}
	}
}

void ox_nbd_client_drain(struct ox_nbd_client *client)
{
	note_why(client, "the server ends");
	if (ox_nbd_conn_in_handshake(&client->conn)) {
		ox_nbd_client_close(client, "the server ends");
		return;
	}
	ox_nbd_conn_end_input(&client->conn);
	ox_nbd_cancel_ranges(&client->conn);
	client->to_linger = client->is_tcp && client->conn.request_count > 0;
}

static void finish(struct ox_nbd_client *client)
{
	const char *why = client->conn.aborted ? "it broke the protocol" : "it said goodbye";

	if (client->tls && !client->conn.aborted)
		ox_tls_say_goodbye(client->tls);
	if (!client->to_linger || client->conn.aborted || shutdown(client->fd, SHUT_WR) < 0) {
		ox_nbd_client_close(client, why);
		return;
	}
	client->lingering = true;
	client->readable = true;
	client->deadline_ms = ox_serve_now_ms() + LINGER_MS;
}

bool ox_nbd_client_serve(struct ox_nbd_client *client)
{
	struct iovec iov[2];
	bool more;

	if (client->fd < 0)
		return false;
	if (client->lingering) {
		linger(client);
		return client->fd >= 0 && client->readable;
	}
	secure(client);
	if (client->fd >= 0)
		receive(client);
	if (client->fd < 0)
		return false;
	if (!ox_nbd_conn_in_handshake(&client->conn))
		client->deadline_ms = INT64_MAX;
	more = transmit(client);
	if (client->fd < 0)
		return false;
	if (ox_nbd_conn_finished(&client->conn)) {
		finish(client);
		return client->fd >= 0;
	}
	if (ox_nbd_conn_awaits_tls(&client->conn)) /* its bytes may be there already */
		return client->readable && !client->blocked;
	return more || (client->readable && ox_nbd_conn_receive_space(&client->conn, iov) > 0);
}

/* ---- memory that others wait for ---- */

bool ox_nbd_client_is_in_the_way(struct ox_nbd_client *client)
{
	const struct ox_nbd_conn *conn = &client->conn;
	const struct ox_nbd_budget *budget = &conn->export->budget;
	const size_t beyond_bytes = ox_nbd_budget_beyond(budget, &conn->share);

	/* One byte a minute is no way to keep it. */
	if (client->fd < 0 || beyond_bytes == 0 || !ox_nbd_conn_awaits_client(conn) ||
	    client->moved_bytes > beyond_bytes / NBD_PATIENCE_PARTS) {
		client->times_in_the_way = 0;
		client->moved_bytes = 0;
		return false;
	}
	if (!ox_nbd_budget_others_wait(budget, &conn->share))
		return false;
	return client->times_in_the_way++ >= NBD_PATIENCE_LOOKS;
}
