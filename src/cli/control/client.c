/* SPDX-License-Identifier: MIT */
/*
 * A connection. It is read from only while nothing is owed to it, so that it takes no more memory
 * than a line and an answer, and its commands are carried out in their order.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/control/control.h"

static const char get[] = "GET ";

void ox_control_client_drop_fds(struct ox_control_client *client)
{
	while (client->fd_count > 0)
		close(client->fds[--client->fd_count]);
	free(client->fds);
	client->fds = NULL;
}

void ox_control_client_close(struct ox_control *control, struct ox_control_client *client)
{
	close(client->fd);
	ox_control_client_drop_fds(client);
	free(client->asked.add);
	free(client->in);
	free(client->out);
	*client = (struct ox_control_client){.fd = -1};
	control->client_count--;
}

/* ---- what is sent ---- */

/* text is to be freed, and is so when it is sent; NULL: memory is short, which ends it. */
static void put(struct ox_control_client *client, char *text, size_t bytes)
{
	client->out = text;
	client->out_bytes = text ? bytes : 0;
	client->out_sent = 0;
	client->ends |= !text;
}

void ox_control_client_answer(struct ox_control_client *client, json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	const size_t bytes = text ? strlen(text) : 0;

	json_decref(object);
	if (text)
		text[bytes] = '\n'; /* in place of the zero */
	put(client, text, bytes + 1);
}

/* False: it is gone. */
static bool send_rest(struct ox_control_client *client, int64_t now_ms)
{
	while (client->out_sent < client->out_bytes) {
		struct iovec iov = {client->out + client->out_sent,
				    client->out_bytes - client->out_sent};
		const struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		/* The sandbox has no other call to send by. */
		ssize_t sent = sendmsg(client->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0 && errno == EAGAIN)
			return true;
		if (sent < 0)
			return false;
		client->out_sent += (size_t)sent;
		client->moved_ms = now_ms;
	}
	free(client->out);
	client->out = NULL;
	client->out_bytes = client->out_sent = 0;
	return !client->ends;
}

/* ---- HTTP: one request, for one thing ---- */

static void put_http(struct ox_control_client *client, const char *status, const char *type,
		     const char *body, size_t bytes)
{
	char *text = NULL;
	int head = asprintf(&text,
			    "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
			    "Connection: close\r\n\r\n",
			    status, type, bytes);
	char *all = head < 0 ? NULL : realloc(text, (size_t)head + bytes + 1);

	if (all)
		memcpy(all + head, body, bytes);
	else if (head >= 0)
		free(text);
	client->ends = true;
	put(client, all, (size_t)(head < 0 ? 0 : head) + bytes);
}

static void put_metrics(const struct ox_control *control, struct ox_control_client *client)
{
	size_t bytes;
	char *text = ox_control_metrics(control, NULL, &bytes);

	if (text)
		put_http(client, "200 OK", "text/plain; version=0.0.4; charset=utf-8", text, bytes);
	else
		put(client, NULL, 0);
	free(text);
}

/* "GET /metrics HTTP/1.1"; what a query asks for is not looked at. */
static bool asks_for_metrics(const char *head)
{
	static const char path[] = "/metrics";
	const char *at = head + sizeof(get) - 1;

	if (strncmp(at, path, sizeof(path) - 1) != 0)
		return false;
	at += sizeof(path) - 1;
	if (*at == '?')
		at += strcspn(at, " \r\n");
	return strncmp(at, " HTTP/1.", 8) == 0;
}

/* False: the head of the request is not whole yet. */
static bool take_http(struct ox_control *control, struct ox_control_client *client)
{
	static const char missing[] = "There is nothing here but /metrics.\n";

	if (!memmem(client->in, client->in_bytes, "\r\n\r\n", 4) &&
	    !memmem(client->in, client->in_bytes, "\n\n", 2))
		return false;
	client->in[client->in_bytes] = '\0';
	client->in_bytes = 0;
	if (asks_for_metrics(client->in))
		put_metrics(control, client);
	else
		put_http(client, "404 Not Found", "text/plain; charset=utf-8", missing,
			 sizeof(missing) - 1);
	return true;
}

/* ---- lines ---- */

static bool is_blank(const char *line, size_t bytes)
{
	return strspn(line, " \t\r") >= bytes;
}

/* False: no line is whole yet. */
static bool take_line(struct ox_control *control, struct ox_control_client *client)
{
	char *end = memchr(client->in, '\n', client->in_bytes);
	size_t bytes;

	if (!end)
		return false;
	bytes = (size_t)(end - client->in);
	if (!is_blank(client->in, bytes)) {
		ox_control_request(control, client, client->in, bytes);
		ox_control_client_drop_fds(client);
	}
	client->in_bytes -= bytes + 1;
	memmove(client->in, end + 1, client->in_bytes);
	return true;
}

/* ---- both ---- */

static bool is_http(const struct ox_control_client *client)
{
	return client->in_bytes >= sizeof(get) - 1 && memcmp(client->in, get, sizeof(get) - 1) == 0;
}

static bool owes(const struct ox_control_client *client)
{
	return client->id != 0 || client->out || client->ends;
}

/* Whatever is whole, until something is owed for it. */
static void take(struct ox_control *control, struct ox_control_client *client)
{
	bool took = true;

	while (took && !owes(client))
		took = is_http(client) ? take_http(control, client) : take_line(control, client);
	if (!owes(client) && client->in_bytes == OX_CONTROL_LINE_BYTES) {
		client->ends = true;
		ox_control_client_answer(client,
					 json_pack("{s:{s:s,s:s}}", "error", "code", "EMSGSIZE",
						   "message", "the line is too long"));
	}
}

/* The kernel's own limit for one message. */
#define FDS_A_MESSAGE 253

/* False: there is no room for them, and they are closed. */
static bool take_fds(struct ox_control_client *client, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		int fds[FDS_A_MESSAGE];
		int *all;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(fds, CMSG_DATA(c), count * sizeof(int));
		all = client->fd_count + count <= OX_CONTROL_DESCRIPTORS
			      ? realloc(client->fds, (client->fd_count + count) * sizeof(int))
			      : NULL;
		if (!all) {
			while (count > 0)
				close(fds[--count]);
			return false;
		}
		client->fds = all;
		memcpy(all + client->fd_count, fds, count * sizeof(int));
		client->fd_count += count;
	}
	return !(msg->msg_flags & MSG_CTRUNC);
}

/* False: it is gone. */
static bool receive(struct ox_control_client *client, int64_t now_ms)
{
	union {
		char bytes[CMSG_SPACE(FDS_A_MESSAGE * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {client->in + client->in_bytes,
			    OX_CONTROL_LINE_BYTES - client->in_bytes};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	if (!take_fds(client, &msg) || got == 0)
		return false;
	client->in_bytes += (size_t)got;
	client->moved_ms = now_ms;
	return true;
}

void ox_control_client_event(struct ox_control *control, struct ox_control_client *client,
			     short events)
{
	const int64_t now_ms = ox_control_now_ms();
	bool goes_on = true;

	if (events & (POLLERR | POLLNVAL))
		goes_on = false;
	else if ((events & (POLLIN | POLLHUP)) && !owes(client))
		goes_on = receive(client, now_ms);
	else if ((events & POLLHUP) && client->id != 0)
		goes_on = false; /* nobody waits for the answer */
	if (goes_on && !owes(client))
		take(control, client);
	while (goes_on && (client->out || client->ends)) {
		goes_on = send_rest(client, now_ms);
		if (!goes_on || client->out)
			break;
		take(control, client); /* lines that came together */
	}
	if (!goes_on)
		ox_control_client_close(control, client);
}
