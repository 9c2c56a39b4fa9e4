/* SPDX-License-Identifier: MIT */
#include "serve/nbd/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int ox_nbd_listen_fail(struct ox_serve_error *error, int code, const char *format, ...)
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

static int listen_word(const char *word, struct ox_nbd_listeners *listeners,
		       struct ox_serve_error *error)
{
	const bool is_number = strspn(word, "0123456789") == strlen(word);

	if (word[0] != '\0' && looks_like_tcp(word))
		return ox_nbd_listen_fail(error, -EINVAL,
					  "'%s' is neither HOST:PORT nor a path: say %s%s for TCP, "
					  "or ./%s for a unix socket",
					  word, is_number ? ":" : word, is_number ? word : ":10809",
					  word);
	return ox_nbd_listen_unix(word, listeners, error);
}

int ox_nbd_listen(const char *address, struct ox_nbd_listeners *ret_listeners,
		  struct ox_serve_error *ret_error)
{
	static const char scheme[] = "unix:";
	struct ox_nbd_listeners listeners = {0};
	int ret;

	if (strncmp(address, scheme, strlen(scheme)) == 0)
		ret = ox_nbd_listen_unix(address + strlen(scheme), &listeners, ret_error);
	else if (strchr(address, '/'))
		ret = ox_nbd_listen_unix(address, &listeners, ret_error);
	else if (!strchr(address, ':'))
		ret = listen_word(address, &listeners, ret_error);
	else
		ret = ox_nbd_listen_tcp(address, &listeners, ret_error);
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
