/* SPDX-License-Identifier: MIT */
#include "serve/listen/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int ox_listen_fail(struct ox_serve_error *error, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	return code;
}

/* A word that was most likely meant for TCP, and would become the name of a socket. */
static bool looks_like_tcp(const char *word)
{
	struct in6_addr address;

	return strcmp(word, "localhost") == 0 || strcmp(word, "*") == 0 ||
	       strspn(word, "0123456789") == strlen(word) ||
	       inet_pton(AF_INET, word, &address) == 1;
}

static int listen_word(const char *word, const struct ox_serve_socket_rights *rights,
		       struct ox_listeners *listeners, struct ox_serve_error *error)
{
	const bool is_number = strspn(word, "0123456789") == strlen(word);

	if (word[0] != '\0' && looks_like_tcp(word))
		return ox_listen_fail(error, -EINVAL,
				      "'%s' is neither HOST:PORT nor a path: say %s%s for TCP, "
				      "or ./%s for a unix socket",
				      word, is_number ? ":" : word, is_number ? word : ":10809",
				      word);
	return ox_listen_unix(word, rights, listeners, error);
}

int ox_listen(const char *address, const struct ox_serve_socket_rights *rights,
	      struct ox_listeners *ret_listeners, struct ox_serve_error *ret_error)
{
	static const char scheme[] = "unix:";
	const int inherited = ox_listen_fd_of(address);
	struct ox_listeners listeners = {0};
	int ret;

	if (inherited >= 0)
		return ox_listen_adopt(inherited, address, ret_listeners, ret_error);
	if (strncmp(address, scheme, strlen(scheme)) == 0)
		ret = ox_listen_unix(address + strlen(scheme), rights, &listeners, ret_error);
	else if (strchr(address, '/'))
		ret = ox_listen_unix(address, rights, &listeners, ret_error);
	else if (!strchr(address, ':'))
		ret = listen_word(address, rights, &listeners, ret_error);
	else
		ret = ox_listen_tcp(address, &listeners, ret_error);
	if (ret < 0) {
		ox_listeners_close(&listeners);
		return ret;
	}
	*ret_listeners = listeners;
	return 0;
}

int ox_listen_path(const char *path, const struct ox_serve_socket_rights *rights,
		   struct ox_listeners *ret_listeners, struct ox_serve_error *ret_error)
{
	struct ox_listeners listeners = {0};
	const int inherited = ox_listen_fd_of(path);
	int ret;

	if (inherited >= 0)
		ret = ox_listen_inherited(path, inherited, &listeners, ret_error);
	else
		ret = ox_listen_unix(path, rights, &listeners, ret_error);
	if (ret < 0) {
		ox_listeners_close(&listeners);
		return ret;
	}
	*ret_listeners = listeners;
	return 0;
}

void ox_listeners_close(struct ox_listeners *listeners)
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
	*listeners = (struct ox_listeners){0};
}

/* Whether no other host reaches it. Of what is not known that is not said. */
static bool is_local(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_storage room;
	} address = {0};
	socklen_t length = sizeof(address);
	const struct in6_addr *v6 = &address.v6.sin6_addr;

	if (getsockname(fd, &address.any, &length) < 0)
		return false;
	switch (address.any.sa_family) {
	case AF_UNIX:
		return true;
	case AF_INET:
		return ntohl(address.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(v6) ||
		       (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == IN_LOOPBACKNET);
	default:
		return false;
	}
}

int ox_listen_check(const struct ox_listeners *listeners,
		    const struct ox_serve_nbd_options *options, struct ox_serve_error *ret_error)
{
	if (options->tls.is_required || options->is_insecure)
		return 0;
	for (int i = 0; i < listeners->count; i++)
		if (!is_local(listeners->fds[i]))
			return ox_listen_fail(ret_error, -EACCES,
					      "Other hosts can reach '%s', and there is no TLS: "
					      "say --tls-creds DIR; or --insecure, if that network "
					      "is yours",
					      options->address ? options->address : "the socket");
	return 0;
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

char *ox_listeners_uri(const struct ox_listeners *listeners, const char *export_name, bool tls)
{
	const char *scheme = tls ? "nbds" : "nbd";
	char *uri = NULL;
	size_t size;
	FILE *out = open_memstream(&uri, &size);

	if (!out)
		return NULL;
	if (listeners->is_unix) {
		fprintf(out, "%s+unix:///", scheme);
		put_encoded(out, export_name, "");
		fputs("?socket=", out);
		put_encoded(out, listeners->path, "/");
	} else {
		fprintf(out, "%s://%s:%u/", scheme, listeners->host, listeners->port);
		put_encoded(out, export_name, "");
	}
	if (ferror(out) | fclose(out)) {
		free(uri);
		return NULL;
	}
	return uri;
}
