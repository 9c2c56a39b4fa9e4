/* SPDX-License-Identifier: MIT */
/*
 * TCP addresses. Nothing listens to the world that was not told to: without a host it is the
 * loopback. "localhost" is the loopback too, whatever the resolver makes of that name.
 */
#include "serve/listen/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a host in an address stands for: one or two texts for getaddrinfo. */
struct host {
	const char *nodes[2]; /* of each family one, or NULL */
	bool numeric;
	bool shown_as_node; /* in the URI; else as the user wrote it */
};

static unsigned port_of(int fd)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return 0;
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
	return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

static void set_port(struct sockaddr *address, unsigned port)
{
	if (address->sa_family == AF_INET6)
		((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
	else if (address->sa_family == AF_INET)
		((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

static int listen_one(struct addrinfo *info, struct ox_listeners *listeners)
{
	const int on = 1;
	int ret;
	int fd;

	fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (fd < 0)
		return -errno;
	set_port(info->ai_addr, listeners->port);
	/* One address family a socket; the other one has its own. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    (info->ai_family == AF_INET6 &&
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
	    bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	/* Port 0 was any free one for the first; the others take the same. */
	listeners->port = port_of(fd);
	listeners->fds[listeners->count++] = fd;
	return 0;
}

/* One node's addresses. A family that this host does not have is no failure while another works:
 * *last_error keeps it. */
static int listen_node(const char *node, bool numeric, struct ox_listeners *listeners,
		       int *last_error, struct ox_serve_error *error)
{
	const struct addrinfo hints = {
		.ai_flags = AI_PASSIVE | (numeric ? AI_NUMERICHOST : 0),
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *infos;
	int ret = getaddrinfo(node, NULL, &hints, &infos);

	if (ret != 0)
		return ox_listen_fail(error, -EINVAL, "Cannot find the address '%s': %s", node,
				      gai_strerror(ret));
	ret = 0;
	for (struct addrinfo *info = infos; info && ret == 0; info = info->ai_next) {
		int one_ret;

		if (listeners->count == OX_LISTEN_MAX)
			break;
		one_ret = listen_one(info, listeners);
		if (one_ret < 0)
			*last_error = one_ret;
		if (one_ret == -EADDRINUSE || one_ret == -EACCES)
			ret = one_ret;
	}
	freeaddrinfo(infos);
	return ret < 0 ? ox_listen_fail(error, ret, "Cannot listen on '%s' port %u: %s", node,
					listeners->port, strerror(-ret))
		       : 0;
}

static int parse_port(const char *text, unsigned *ret_port)
{
	unsigned long port;

	if (strlen(text) == 0 || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
		return -EINVAL;
	port = strtoul(text, NULL, 10);
	if (port > UINT16_MAX)
		return -EINVAL;
	*ret_port = (unsigned)port;
	return 0;
}

static struct host meaning_of(const char *name)
{
	if (name[0] == '\0')
		return (struct host){{"127.0.0.1", "::1"}, true, true};
	if (strcmp(name, "localhost") == 0)
		return (struct host){{"127.0.0.1", "::1"}, true, false};
	if (strcmp(name, "*") == 0)
		return (struct host){{"0.0.0.0", "::"}, true, true};
	return (struct host){{name, NULL}, false, false};
}

static int listen_host(const char *name, struct ox_listeners *listeners,
		       struct ox_serve_error *error)
{
	const struct host host = meaning_of(name);
	int last_error = -EADDRNOTAVAIL;
	bool has_first = false;

	for (size_t i = 0; i < 2 && host.nodes[i]; i++) {
		int ret = listen_node(host.nodes[i], host.numeric, listeners, &last_error, error);

		if (ret < 0)
			return ret;
		has_first |= i == 0 && listeners->count > 0;
	}
	if (listeners->count == 0)
		return ox_listen_fail(error, last_error, "Cannot listen on '%s' port %u: %s", name,
				      listeners->port, strerror(-last_error));
	if (!host.shown_as_node)
		return 0;
	free(listeners->host);
	if (has_first)
		listeners->host = strdup(host.nodes[0]);
	else if (asprintf(&listeners->host, "[%s]", host.nodes[1]) < 0)
		listeners->host = NULL;
	return listeners->host ? 0 : ox_listen_fail(error, -ENOMEM, "Out of memory");
}

int ox_listen_tcp(const char *text, struct ox_listeners *listeners, struct ox_serve_error *error)
{
	const char *colon = strrchr(text, ':');
	const bool bracketed = text[0] == '[';
	size_t host_bytes = (size_t)(colon - text);
	char *host;
	int ret;

	if (bracketed && (host_bytes < 2 || text[host_bytes - 1] != ']'))
		return ox_listen_fail(error, -EINVAL, "'%s' is not of the form [ADDRESS]:PORT",
				      text);
	if (!bracketed && memchr(text, ':', host_bytes))
		return ox_listen_fail(error, -EINVAL,
				      "'%s': an IPv6 address is written [ADDRESS]:PORT", text);
	if (parse_port(colon + 1, &listeners->port) < 0)
		return ox_listen_fail(error, -EINVAL, "'%s': a port is a number from 0 to 65535",
				      text);
	host = bracketed ? strndup(text + 1, host_bytes - 2) : strndup(text, host_bytes);
	listeners->host = strndup(text, host_bytes);
	if (!host || !listeners->host)
		ret = ox_listen_fail(error, -ENOMEM, "Out of memory");
	else
		ret = listen_host(host, listeners, error);
	free(host);
	return ret;
}
