/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/ctl/ctl.h"

/* Of an answer; that of a server with very many disks is smaller. */
#define ANSWER_MAX_BYTES (256u << 20)

int ox_ctl_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;
	int ret = 0;

	if (strlen(path) == 0 || strlen(path) >= sizeof(address.sun_path)) {
		ox_cli_error("Socket path '%s' must have 1 to %zu bytes", path,
			     sizeof(address.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		ret = -errno;
	if (ret == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	if (ret == -ECONNREFUSED)
		ox_cli_error("No server listens on '%s'", path);
	else
		ox_cli_error("Cannot connect to '%s': %s", path, strerror(-ret));
	return ret;
}

static int send_all(int fd, const char *text, size_t bytes)
{
	while (bytes > 0) {
		ssize_t sent = send(fd, text, bytes, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		text += sent;
		bytes -= (size_t)sent;
	}
	return 0;
}

/* Of one message, with room to spare below the kernel's limit. */
#define FDS_A_MESSAGE 200

int ox_ctl_give(int fd, const int *fds, unsigned count)
{
	union {
		char bytes[CMSG_SPACE(FDS_A_MESSAGE * sizeof(int))];
		struct cmsghdr align;
	} control;
	char blank = ' '; /* before a line of JSON it says nothing */

	while (count > 0) {
		const unsigned part = count < FDS_A_MESSAGE ? count : FDS_A_MESSAGE;
		struct iovec iov = {&blank, 1};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = &control,
				     .msg_controllen = CMSG_SPACE(part * sizeof(int))};

		memset(&control, 0, sizeof(control));
		control.align.cmsg_len = CMSG_LEN(part * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.align), fds, part * sizeof(int));
		if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		fds += part;
		count -= part;
	}
	return 0;
}

static int send_line(int fd, const json_t *request)
{
	char *text = json_dumps(request, JSON_COMPACT | JSON_ENSURE_ASCII);
	int ret = text ? send_all(fd, text, strlen(text)) : -ENOMEM;

	free(text);
	return ret < 0 ? ret : send_all(fd, "\n", 1);
}

/* To be freed; NULL: errno says why, 0 being the end of the connection. */
static char *receive_line(int fd)
{
	char *text = NULL;
	size_t room = 0;
	size_t count = 0;

	for (;;) {
		ssize_t got;

		if (count + 1 >= room) {
			char *more =
				room < ANSWER_MAX_BYTES ? realloc(text, room * 2 + 65536) : NULL;

			if (!more) {
				errno = ENOMEM;
				break;
			}
			text = more;
			room = room * 2 + 65536;
		}
		got = recv(fd, text + count, room - count - 1, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got == 0)
			errno = 0;
		if (got <= 0)
			break;
		count += (size_t)got;
		text[count] = '\0';
		if (text[count - 1] == '\n')
			return text;
	}
	free(text);
	return NULL;
}

static json_t *take_answer(const char *line)
{
	json_t *answer = json_loads(line, 0, NULL);
	const char *message =
		json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
	json_t *returned = json_incref(json_object_get(answer, "return"));

	if (message)
		ox_cli_error("The server says: %s", message);
	else if (!returned)
		ox_cli_error("The answer is none of an oxbow server's");
	json_decref(answer);
	return returned;
}

json_t *ox_ctl_ask(int fd, json_t *request)
{
	json_t *returned = NULL;
	char *line = NULL;
	int ret = request ? send_line(fd, request) : -ENOMEM;

	json_decref(request);
	if (ret == 0) {
		line = receive_line(fd);
		ret = line ? 0 : -errno;
	}
	if (line)
		returned = take_answer(line);
	else if (ret == 0 || ret == -EPIPE || ret == -ECONNRESET)
		ox_cli_error("The server has closed the connection without an answer");
	else
		ox_cli_error("Cannot talk to the server: %s", strerror(-ret));
	free(line);
	return returned;
}

void ox_ctl_await_end(int fd)
{
	char byte;
	ssize_t got;

	do {
		got = recv(fd, &byte, 1, 0);
	} while (got > 0 || (got < 0 && errno == EINTR));
}
