/* SPDX-License-Identifier: MIT */
/* A connection to a server, for a process that does not speak to it itself. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/nbd/address.h"

static int fail(int fd, int error)
{
	close(fd);
	return -error;
}

/* It bounds a connect(2) too, of either family. */
static int set_limit(int fd, unsigned limit_ms)
{
	const struct timeval limit = {.tv_sec = limit_ms / 1000,
				      .tv_usec = (suseconds_t)(limit_ms % 1000) * 1000};

	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ? -errno : 0;
}

static int connect_to(const struct sockaddr *to, socklen_t bytes, unsigned limit_ms)
{
	const int on = 1;
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (set_limit(fd, limit_ms > 0 ? limit_ms : 1) < 0)
		return fail(fd, EIO);
	if (connect(fd, to, bytes) < 0)
		return fail(fd, errno == EINPROGRESS || errno == EAGAIN ? ETIMEDOUT : errno);
	if (set_limit(fd, 0) < 0)
		return fail(fd, EIO);
	if (to->sa_family != AF_UNIX) /* requests are small, and waited for */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static int connect_unix(const char *path, unsigned limit_ms)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	return connect_to((const struct sockaddr *)&to, sizeof(to), limit_ms);
}

/* The first of the host's addresses where somebody listens. */
static int connect_tcp(const char *host, const char *port, unsigned limit_ms)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	struct addrinfo *found;
	int r = getaddrinfo(host, port, &hints, &found);

	if (r != 0)
		return r == EAI_SYSTEM && errno > 0 ? -errno : -EHOSTUNREACH;
	r = -EHOSTUNREACH;
	for (const struct addrinfo *a = found; a && r < 0; a = a->ai_next)
		r = connect_to(a->ai_addr, a->ai_addrlen, limit_ms);
	freeaddrinfo(found);
	return r;
}

int ox_nbd_address_connect(const struct ox_nbd_address *address, unsigned limit_ms)
{
	return address->socket ? connect_unix(address->socket, limit_ms)
			       : connect_tcp(address->host, address->port, limit_ms);
}
