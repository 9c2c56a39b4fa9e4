/* SPDX-License-Identifier: MIT */
/* Sockets that somebody else has made: a service manager (socket activation), or whoever started
 * the server ("fd:N"). They stay when the server ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "serve/listen/listen.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un path;
	struct sockaddr_storage room;
};

static int get_int(int fd, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &length) < 0 ? -errno : value;
}

static bool is_stream_that_listens(int fd)
{
	return get_int(fd, SO_TYPE) == SOCK_STREAM && get_int(fd, SO_ACCEPTCONN) == 1;
}

static int take_path(const struct sockaddr_un *address, socklen_t length,
		     struct ox_listeners *listeners)
{
	const size_t most = length - offsetof(struct sockaddr_un, sun_path);

	if (length <= offsetof(struct sockaddr_un, sun_path) || address->sun_path[0] != '/')
		return -EADDRNOTAVAIL; /* of no name that a client could be told */
	listeners->is_unix = true;
	listeners->path = strndup(address->sun_path, most);
	return listeners->path ? 0 : -ENOMEM;
}

static int take_host(const union address *address, struct ox_listeners *listeners)
{
	const bool is_v6 = address->any.sa_family == AF_INET6;
	const void *number =
		is_v6 ? (const void *)&address->v6.sin6_addr : (const void *)&address->v4.sin_addr;
	char text[INET6_ADDRSTRLEN];

	if (!inet_ntop(address->any.sa_family, number, text, sizeof(text)))
		return -errno;
	listeners->port = ntohs(is_v6 ? address->v6.sin6_port : address->v4.sin_port);
	if (asprintf(&listeners->host, is_v6 ? "[%s]" : "%s", text) < 0) {
		listeners->host = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* Nobody is waited for on it. */
static int duplicate(int fd)
{
	const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int code = own < 0 ? -errno : 0;

	if (code == 0 && fcntl(own, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		code = -errno;
	if (code < 0 && own >= 0)
		close(own);
	return code < 0 ? code : own;
}

static int take(int fd, struct ox_listeners *listeners)
{
	union address address = {0};
	socklen_t length = sizeof(address);
	int own;

	if (!is_stream_that_listens(fd))
		return -ENOTSOCK;
	if (getsockname(fd, &address.any, &length) < 0)
		return -errno;
	own = duplicate(fd);
	if (own < 0)
		return own;
	listeners->fds[listeners->count++] = own;
	switch (address.any.sa_family) {
	case AF_UNIX:
		return take_path(&address.path, length, listeners);
	case AF_INET:
	case AF_INET6:
		return take_host(&address, listeners);
	default:
		return -EAFNOSUPPORT;
	}
}

int ox_listen_adopt(int fd, const char *name, struct ox_listeners *ret_listeners,
		    struct ox_serve_error *ret_error)
{
	struct ox_listeners listeners = {0};
	int ret = take(fd, &listeners);

	if (ret == 0) {
		*ret_listeners = listeners;
		return 0;
	}
	ox_listeners_close(&listeners);
	return ox_listen_fail(ret_error, ret,
			      ret == -ENOTSOCK ? "'%s' of the service manager is no stream socket "
						 "that listens"
					       : "'%s' of the service manager cannot be used: %s",
			      name, strerror(-ret));
}

/* ---- "fd:N" ---- */

int ox_listen_fd_of(const char *address)
{
	static const char scheme[] = "fd:";
	const char *text = address + strlen(scheme);
	unsigned long number;
	char *end;

	if (strncmp(address, scheme, strlen(scheme)) != 0 || *text < '0' || *text > '9')
		return -1;
	errno = 0;
	number = strtoul(text, &end, 10);
	return errno != 0 || *end != '\0' || number > INT_MAX ? -1 : (int)number;
}

static bool is_unix_stream(int fd)
{
	return get_int(fd, SO_DOMAIN) == AF_UNIX && get_int(fd, SO_TYPE) == SOCK_STREAM;
}

int ox_listen_inherited(const char *address, int fd, struct ox_listeners *listeners,
			struct ox_serve_error *error)
{
	int own;

	if (!is_unix_stream(fd) || get_int(fd, SO_ACCEPTCONN) != 1)
		return ox_listen_fail(error, -ENOTSOCK,
				      "'%s' is no unix stream socket that listens", address);
	own = duplicate(fd);
	if (own < 0)
		return ox_listen_fail(error, own, "'%s' cannot be used: %s", address,
				      strerror(-own));
	listeners->fds[listeners->count++] = own;
	listeners->is_unix = true;
	listeners->path = strdup(address); /* it may have no name */
	return listeners->path ? 0 : ox_listen_fail(error, -ENOMEM, "Memory is short");
}

int ox_listen_connected(const char *address, int *ret_fd, struct ox_serve_error *ret_error)
{
	const int fd = ox_listen_fd_of(address);
	int own;

	if (fd < 0 || !is_unix_stream(fd) || get_int(fd, SO_ACCEPTCONN) != 0)
		return 0;
	own = duplicate(fd);
	if (own < 0)
		return ox_listen_fail(ret_error, own, "'%s' cannot be used: %s", address,
				      strerror(-own));
	*ret_fd = own;
	return 1;
}
