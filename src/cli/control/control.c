/* SPDX-License-Identifier: MIT */
#include "cli/control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cli/keeper/wire.h"

/* When the process is out of descriptors: until accepting is tried again. */
#define ACCEPT_PAUSE_MS 200

int64_t ox_control_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- clients ---- */

/* A place for another one. Where there is none, the one goes that has been silent for longest:
 * whoever only holds connections keeps nobody out. NULL: all of them wait for answers. */
static struct ox_control_client *find_place(struct ox_control *control)
{
	struct ox_control_client *idle = NULL;

	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++) {
		struct ox_control_client *client = &control->clients[i];

		if (client->fd < 0)
			return client;
		if (client->id == 0 && (!idle || client->moved_ms < idle->moved_ms))
			idle = client;
	}
	if (idle)
		ox_control_client_close(control, idle);
	return idle;
}

/* False: accepting is to pause. */
static bool accept_client(struct ox_control *control)
{
	struct ox_control_client *client;
	int fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	char *in;

	if (fd < 0)
		return errno == EAGAIN || errno == ECONNABORTED || errno == EINTR;
	client = find_place(control);
	in = client ? malloc(OX_CONTROL_LINE_BYTES + 1) : NULL;
	if (!in) {
		close(fd);
		return true;
	}
	*client = (struct ox_control_client){
		.fd = fd,
		.in = in,
		.moved_ms = ox_control_now_ms(),
	};
	control->client_count++;
	return true;
}

/* Whether it has begun something, and does not go on with it. */
static int64_t patience_ends_ms(const struct ox_control_client *client)
{
	if (client->fd < 0 || client->id != 0 || (client->in_bytes == 0 && !client->out))
		return INT64_MAX;
	return client->moved_ms + OX_CONTROL_PATIENCE_MS;
}

static void look_at_time(struct ox_control *control, int64_t now_ms)
{
	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++)
		if (patience_ends_ms(&control->clients[i]) <= now_ms)
			ox_control_client_close(control, &control->clients[i]);
}

/* ---- the keeper ---- */

static void take_answer(struct ox_control *control, const struct ox_control_told *told)
{
	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++) {
		struct ox_control_client *client = &control->clients[i];

		if (client->fd < 0 || client->id == 0 || client->id != told->number)
			continue;
		ox_control_answered(control, client, told->code);
		ox_control_client_event(control, client, 0);
		return;
	}
}

/* The keeper is trusted. -errno: it is gone. */
static int hear_keeper(struct ox_control *control)
{
	struct ox_control_told told;
	unsigned fd_count = 0;
	int fds[OX_WIRE_FDS];
	int ret = ox_wire_receive_bytes(control->keeper, &told, sizeof(told), fds, &fd_count);

	if (ret == -EAGAIN)
		return 0;
	if (ret <= 0)
		return ret < 0 ? ret : -ESRCH;
	switch (told.kind) {
	case OX_CONTROL_DISK:
		ox_control_disk_told(control, &told, fd_count > 0 ? fds[0] : -1);
		break;
	case OX_CONTROL_ALL:
		control->knows_all = true;
		break;
	case OX_CONTROL_GONE:
		ox_control_disk_forget(control, told.number);
		break;
	default:
		take_answer(control, &told);
	}
	return 0;
}

/* ---- its life ---- */

static int wait_ms(const struct ox_control *control, int64_t accept_ms)
{
	const int64_t now_ms = ox_control_now_ms();
	int64_t next_ms = accept_ms > 0 ? accept_ms : INT64_MAX;

	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++) {
		const int64_t ends_ms = patience_ends_ms(&control->clients[i]);

		next_ms = ends_ms < next_ms ? ends_ms : next_ms;
	}
	if (next_ms == INT64_MAX)
		return -1;
	return next_ms <= now_ms ? 0 : (int)(next_ms - now_ms);
}

static short events_of(const struct ox_control_client *client)
{
	if (client->out)
		return POLLOUT;
	return client->id == 0 ? POLLIN : 0;
}

/* -errno: it cannot go on. *accept_ms: not before; 0: at once. */
static int turn(struct ox_control *control, int64_t *accept_ms)
{
	struct pollfd polled[OX_CONTROL_CLIENTS + 2];
	int64_t now_ms;
	int ret;

	polled[0] = (struct pollfd){.fd = control->keeper, .events = POLLIN};
	polled[1] = (struct pollfd){
		.fd = *accept_ms > 0 || !control->knows_all ? -1 : control->listener,
		.events = POLLIN,
	};
	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++)
		polled[i + 2] = (struct pollfd){
			.fd = control->clients[i].fd,
			.events = events_of(&control->clients[i]),
		};
	ret = poll(polled, OX_CONTROL_CLIENTS + 2, wait_ms(control, *accept_ms));
	if (ret < 0 && errno != EINTR)
		return -errno;
	now_ms = ox_control_now_ms();
	if (*accept_ms > 0 && now_ms >= *accept_ms)
		*accept_ms = 0;
	if (ret <= 0) {
		look_at_time(control, now_ms);
		return 0;
	}
	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++)
		if (polled[i + 2].revents && control->clients[i].fd == polled[i + 2].fd)
			ox_control_client_event(control, &control->clients[i],
						polled[i + 2].revents);
	if (polled[0].revents)
		ret = hear_keeper(control);
	if (polled[1].revents && !accept_client(control))
		*accept_ms = now_ms + ACCEPT_PAUSE_MS;
	look_at_time(control, now_ms);
	return ret < 0 ? ret : 0;
}

int ox_control_run(const struct ox_kept *kept)
{
	static struct ox_control control;
	int64_t accept_ms = 0;
	int ret = 0;

	control.keeper = kept->socket;
	control.listener = kept->control;
	for (unsigned i = 0; i < OX_CONTROL_CLIENTS; i++)
		control.clients[i].fd = -1;
	if (control.listener < 0 || fcntl(control.keeper, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -EBADMSG;
	while (ret == 0)
		ret = turn(&control, &accept_ms);
	if (ret != -ESRCH)
		return ret;
	close(control.keeper); /* all that it said has been passed on */
	for (;;)
		(void)poll(NULL, 0, -1); /* its end is this process's, and what clients wait for */
}
