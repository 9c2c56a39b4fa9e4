/* SPDX-License-Identifier: MIT */
#include "serve/nbd/listen.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(struct ox_serve_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct ox_serve_error *error, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	return code;
}

static void add(struct ox_nbd_listeners *listeners, int fd)
{
	listeners->fds[listeners->count++] = fd;
}

/* ---- unix ---- */

static int unix_socket(const char *path, struct sockaddr_un *ret_address,
		       struct ox_serve_error *error)
{
	int fd;

	if (strlen(path) == 0 || strlen(path) >= sizeof(ret_address->sun_path))
		return fail(error, -ENAMETOOLONG, "Socket path '%s' must have 1 to %zu bytes", path,
			    sizeof(ret_address->sun_path) - 1);
	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	strcpy(ret_address->sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(error, -errno, "Cannot make a socket: %s", strerror(errno));
	return fd;
}

/* Removes a socket that a server which is gone has left; anything else stays. */
static int remove_stale(const char *path, struct ox_serve_error *error)
{
	struct sockaddr_un address;
	struct stat st;
	int ret;
	int fd;

	if (lstat(path, &st) < 0)
		return 0; /* nothing there, or bind will say what is wrong */
	if (!S_ISSOCK(st.st_mode))
		return fail(error, -EEXIST, "'%s' exists and is not a socket", path);
	fd = unix_socket(path, &address, error);
	if (fd < 0)
		return fd;
	ret = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	close(fd);
	if (ret != -ECONNREFUSED)
		return fail(error, -EADDRINUSE, "Another server listens on '%s'", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return fail(error, -errno, "Cannot remove the stale socket '%s': %s", path,
			    strerror(errno));
	return 0;
}

/* The working directory of a client may be another one. */
static char *absolute_path(const char *path)
{
	char *directory;
	char *absolute;

	if (path[0] == '/')
		return strdup(path);
	directory = getcwd(NULL, 0);
	if (!directory)
		return NULL;
	if (asprintf(&absolute, "%s/%s", directory, path) < 0)
		absolute = NULL;
	free(directory);
	return absolute;
}

static int listen_unix(const char *path, struct ox_nbd_listeners *listeners,
		       struct ox_serve_error *error)
{
	struct sockaddr_un address;
	struct stat st;
	int ret = remove_stale(path, error);
	int fd;

	if (ret < 0)
		return ret;
	fd = unix_socket(path, &address, error);
	if (fd < 0)
		return fd;
	listeners->is_unix = true;
	add(listeners, fd);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || stat(path, &st) < 0)
		return fail(error, -errno, "Cannot make the socket '%s': %s", path,
			    strerror(errno));
	listeners->path_dev = st.st_dev;
	listeners->path_ino = st.st_ino;
	listeners->path = absolute_path(path);
	if (!listeners->path) {
		unlink(path);
		return fail(error, -ENOMEM, "Cannot tell where '%s' is: %s", path, strerror(errno));
	}
	if (listen(fd, SOMAXCONN) < 0)
		return fail(error, -errno, "Cannot listen on '%s': %s", path, strerror(errno));
	return 0;
}

/* ---- TCP ---- */

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

static int listen_tcp_one(struct addrinfo *info, struct ox_nbd_listeners *listeners)
{
	const int on = 1;
	int ret;
	int fd;

	fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (fd < 0)
		return -errno;
	/* One address family a socket; the other one has its own. */
	if (listeners->port > 0)
		set_port(info->ai_addr, listeners->port);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    (info->ai_family == AF_INET6 &&
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
	    bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	listeners->port = port_of(fd);
	add(listeners, fd);
	return 0;
}

static int listen_resolved(const char *host, const char *port, struct ox_nbd_listeners *listeners,
			   struct ox_serve_error *error)
{
	const struct addrinfo hints = {
		.ai_flags = AI_PASSIVE,
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *infos;
	int last_error = -EADDRNOTAVAIL;
	int ret;

	ret = getaddrinfo(host[0] ? host : NULL, port, &hints, &infos);
	if (ret != 0)
		return fail(error, -EINVAL, "Cannot find the address '%s' port '%s': %s", host,
			    port, gai_strerror(ret));
	for (struct addrinfo *info = infos; info; info = info->ai_next) {
		if (listeners->count == NBD_LISTEN_MAX)
			break;
		ret = listen_tcp_one(info, listeners);
		/* A family that this host does not have is no failure while another works. */
		if (ret < 0)
			last_error = ret;
		if (ret == -EADDRINUSE || ret == -EACCES)
			break;
	}
	freeaddrinfo(infos);
	if (listeners->count == 0 || last_error == -EADDRINUSE || last_error == -EACCES)
		return fail(error, last_error, "Cannot listen on '%s' port '%s': %s", host, port,
			    strerror(-last_error));
	return 0;
}

static int listen_tcp(const char *text, struct ox_nbd_listeners *listeners,
		      struct ox_serve_error *error)
{
	const char *colon = strrchr(text, ':');
	const bool bracketed = text[0] == '[';
	size_t host_bytes = (size_t)(colon - text);
	char *host;
	int ret;

	if (bracketed && (host_bytes < 2 || text[host_bytes - 1] != ']'))
		return fail(error, -EINVAL, "'%s' is not of the form [ADDRESS]:PORT", text);
	if (!bracketed && memchr(text, ':', host_bytes))
		return fail(error, -EINVAL, "'%s': an IPv6 address is written [ADDRESS]:PORT",
			    text);
	host = bracketed ? strndup(text + 1, host_bytes - 2) : strndup(text, host_bytes);
	listeners->host = host_bytes ? strndup(text, host_bytes) : strdup("localhost");
	if (!host || !listeners->host)
		ret = fail(error, -ENOMEM, "Out of memory");
	else
		ret = listen_resolved(host, colon + 1, listeners, error);
	free(host);
	return ret;
}

/* ---- both ---- */

int ox_nbd_listen(const char *address, struct ox_nbd_listeners *ret_listeners,
		  struct ox_serve_error *ret_error)
{
	static const char scheme[] = "unix:";
	struct ox_nbd_listeners listeners = {0};
	int ret;

	if (strncmp(address, scheme, strlen(scheme)) == 0)
		ret = listen_unix(address + strlen(scheme), &listeners, ret_error);
	else if (strchr(address, '/') || !strchr(address, ':'))
		ret = listen_unix(address, &listeners, ret_error);
	else
		ret = listen_tcp(address, &listeners, ret_error);
	if (ret < 0) {
		ox_nbd_listeners_close(&listeners);
		return ret;
	}
	*ret_listeners = listeners;
	return 0;
}

void ox_nbd_listeners_close(struct ox_nbd_listeners *listeners)
{
	struct stat st;

	/* First the name, so that nobody finds a socket that does not answer. */
	if (listeners->path && lstat(listeners->path, &st) == 0 &&
	    st.st_dev == listeners->path_dev && st.st_ino == listeners->path_ino)
		unlink(listeners->path);
	for (int i = 0; i < listeners->count; i++)
		close(listeners->fds[i]);
	free(listeners->path);
	free(listeners->host);
	*listeners = (struct ox_nbd_listeners){0};
}

static void put_encoded(FILE *out, const char *text, const char *also_plain)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-._~";

	for (; *text; text++) {
		if (strchr(plain, *text) || strchr(also_plain, *text))
			fputc(*text, out);
		else
			fprintf(out, "%%%02X", (unsigned char)*text);
	}
}

char *ox_nbd_listeners_uri(const struct ox_nbd_listeners *listeners, const char *export_name)
{
	char *uri = NULL;
	size_t size;
	FILE *out = open_memstream(&uri, &size);

	if (!out)
		return NULL;
	if (listeners->is_unix) {
		fputs("nbd+unix:///", out);
		put_encoded(out, export_name, "");
		fputs("?socket=", out);
		put_encoded(out, listeners->path, "/");
	} else {
		fprintf(out, "nbd://%s:%u/", listeners->host, listeners->port);
		put_encoded(out, export_name, "");
	}
	if (ferror(out) | fclose(out)) {
		free(uri);
		return NULL;
	}
	return uri;
}
