/* SPDX-License-Identifier: MIT */
#include "io/nbd/address.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"

#define DEFAULT_PORT "10809"
#define SECONDS_MAX 86400u

static int malformed(struct ox_error **err, const char *text, const char *why)
{
	return ox_error_set(err, -EINVAL, "'%s' is no valid NBD URI: %s", text, why);
}

static int no_memory(struct ox_error **err)
{
	return ox_error_set(err, -ENOMEM, "Out of memory");
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n bytes with their %XX resolved, or NULL: -EINVAL for a malformed or a zero byte, -ENOMEM. */
static char *decode(const char *text, size_t n, int *ret_code)
{
	char *out = malloc(n + 1);
	size_t used = 0;

	*ret_code = out ? 0 : -ENOMEM;
	for (size_t i = 0; out && i < n; i++) {
		int c = (unsigned char)text[i];

		if (c == '%') {
			int high = n - i > 2 ? hex_digit(text[i + 1]) : -1;
			int low = n - i > 2 ? hex_digit(text[i + 2]) : -1;

			if (high < 0 || low < 0 || high + low == 0) {
				free(out);
				*ret_code = -EINVAL;
				return NULL;
			}
			c = high * 16 + low;
			i += 2;
		}
		out[used++] = (char)c;
	}
	if (out)
		out[used] = 0;
	return out;
}

static int decode_into(char **target, const char *text, size_t n)
{
	int code;
	char *value = decode(text, n, &code);

	if (!value)
		return code;
	free(*target);
	*target = value;
	return 0;
}

static int parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || value > max)
		return -EINVAL;
	*ret = value;
	return 0;
}

static int set_number(struct ox_nbd_address *a, const char *key, const char *value)
{
	uint64_t n;
	int r = parse_number(value, SECONDS_MAX, &n);

	if (r < 0)
		return r;
	if (strcmp(key, "reconnect-delay") == 0)
		a->reconnect_ms = n * 1000;
	else if (strcmp(key, "open-timeout") == 0) {
		a->open_ms = n * 1000;
		a->answer_ms = n ? n * 1000 : OX_NBD_OPEN_SECONDS * 1000;
	} else if (n == 0 || n > OX_NBD_LINKS_MAX)
		return -EINVAL;
	else
		a->connections = (unsigned)n;
	return 0;
}

static int set_verify(struct ox_nbd_address *a, const char *value)
{
	bool off = strcmp(value, "0") == 0 || strcmp(value, "false") == 0;

	if (!off && strcmp(value, "1") != 0 && strcmp(value, "true") != 0)
		return -EINVAL;
	a->tls_unverified = off;
	return 0;
}

/* -ENOENT: there is no such parameter. */
static int set_parameter(struct ox_nbd_address *a, const char *key, const char *value)
{
	static const struct {
		const char *key;
		size_t offset;
	} texts[] = {
		{"socket", offsetof(struct ox_nbd_address, socket)},
		{"tls-certificates", offsetof(struct ox_nbd_address, tls_certificates)},
		{"tls-psk-file", offsetof(struct ox_nbd_address, tls_psk_file)},
		{"tls-username", offsetof(struct ox_nbd_address, tls_username)},
		{"tls-hostname", offsetof(struct ox_nbd_address, tls_hostname)},
	};

	for (size_t i = 0; i < OX_ARRAY_SIZE(texts); i++) {
		char **target = (char **)((char *)a + texts[i].offset);

		if (strcmp(key, texts[i].key) == 0)
			return *value ? decode_into(target, value, strlen(value)) : -EINVAL;
	}
	if (strcmp(key, "tls-verify-peer") == 0)
		return set_verify(a, value);
	if (strcmp(key, "reconnect-delay") == 0 || strcmp(key, "open-timeout") == 0 ||
	    strcmp(key, "connections") == 0)
		return set_number(a, key, value);
	return -ENOENT;
}

static int parse_query(struct ox_nbd_address *a, const char *text, const char *query,
		       struct ox_error **err)
{
	while (*query) {
		size_t n = strcspn(query, "&;");
		char *item = strndup(query, n);
		char *value = item ? strchr(item, '=') : NULL;
		int r;

		if (!item)
			return no_memory(err);
		if (value)
			*value++ = 0;
		r = set_parameter(a, item, value ? value : "");
		if (r == -ENOENT)
			ox_error_set(err, -EINVAL, "'%s' is no valid NBD URI: it knows no '%s'",
				     text, item);
		else if (r < 0)
			ox_error_set(err, r, "'%s' is no valid NBD URI: '%s' cannot be '%s'", text,
				     item, value ? value : "");
		free(item);
		if (r < 0)
			return r == -ENOMEM ? r : -EINVAL;
		query += n;
		query += *query ? 1 : 0;
	}
	return 0;
}

/* HOST, HOST:PORT, [V6], [V6]:PORT. Returns what is wrong, or NULL. */
static const char *parse_host(struct ox_nbd_address *a, const char *text, size_t n)
{
	const char *host = text;
	size_t host_n;
	size_t used;

	if (n > 0 && *text == '[') {
		const char *end = memchr(text, ']', n);

		if (!end)
			return "the address has no end";
		host++;
		host_n = (size_t)(end - host);
		used = host_n + 2;
	} else {
		const char *colon = memchr(text, ':', n);

		host_n = colon ? (size_t)(colon - text) : n;
		used = host_n;
	}
	if (host_n > 0 && decode_into(&a->host, host, host_n) < 0)
		return "its host cannot be read";
	if (used == n)
		return NULL;
	if (text[used] != ':' || used + 1 == n || memchr(text + used + 1, ':', n - used - 1))
		return "its port cannot be read";
	return decode_into(&a->port, text + used + 1, n - used - 1) < 0 ? "its port cannot be read"
									: NULL;
}

/* What follows "scheme://". */
static int parse_uri(struct ox_nbd_address *a, const char *text, const char *rest, bool is_unix,
		     struct ox_error **err)
{
	size_t authority_n = strcspn(rest, "/?#");
	const char *path = rest + authority_n;
	const char *query = strchr(path, '?');
	size_t path_n = query ? (size_t)(query - path) : strlen(path);
	const char *at = memchr(rest, '@', authority_n);
	const char *why;
	int r;

	if (strchr(rest, '#'))
		return malformed(err, text, "it has a fragment ('#')");
	if (at && decode_into(&a->tls_username, rest, (size_t)(at - rest)) < 0)
		return malformed(err, text, "its user cannot be read");
	if (at) {
		authority_n -= (size_t)(at + 1 - rest);
		rest = at + 1;
	}
	why = parse_host(a, rest, authority_n);
	if (why)
		return malformed(err, text, why);
	if (path_n > 0) { /* the '/' is no part of the name */
		r = decode_into(&a->export_name, path + 1, path_n - 1);
		if (r < 0)
			return malformed(err, text, "the name of its export cannot be read");
	}
	r = query ? parse_query(a, text, query + 1, err) : 0;
	if (r < 0)
		return r;
	if (is_unix && (!a->socket || a->host))
		return malformed(err, text,
				 "it is to name a socket: nbd+unix:///EXPORT?socket=PATH");
	if (!is_unix && a->socket)
		return malformed(err, text, "a socket is for nbd+unix");
	/* libnbd compares a certificate with a host's name, and takes it as it is where there is
	 * none: without a word, so that the user is to say it. */
	if (is_unix && a->tls && !a->tls_psk_file && !a->tls_unverified && !a->tls_hostname)
		return malformed(err, text,
				 "the certificate of a server at a unix socket cannot be verified; "
				 "tls-verify-peer=0 takes it as it is, and tls-hostname says what "
				 "name it bears");
	return 0;
}

/* What follows "nbd:" in the older form. */
static int parse_legacy(struct ox_nbd_address *a, const char *text, const char *rest,
			struct ox_error **err)
{
	const char *name = strstr(rest, ":exportname=");
	size_t n = name ? (size_t)(name - rest) : strlen(rest);
	const char *why = NULL;

	if (name) {
		free(a->export_name);
		a->export_name = strdup(name + strlen(":exportname="));
		if (!a->export_name)
			return no_memory(err);
	}
	if (strncmp(rest, "unix:", 5) == 0) {
		a->socket = strndup(rest + 5, n - 5);
		if (!a->socket)
			return no_memory(err);
		return *a->socket ? 0 : malformed(err, text, "it names no socket");
	}
	why = parse_host(a, rest, n);
	if (!why && (!a->host || !a->port))
		why = "it is to name a host and a port, or unix:PATH";
	return why ? malformed(err, text, why) : 0;
}

static int set_defaults(struct ox_nbd_address *a, struct ox_error **err)
{
	if (!a->export_name)
		a->export_name = strdup("");
	if (!a->socket && !a->host)
		a->host = strdup("localhost");
	if (!a->socket && !a->port)
		a->port = strdup(DEFAULT_PORT);
	if (!a->export_name || (!a->socket && (!a->host || !a->port)))
		return no_memory(err);
	return 0;
}

static int parse(struct ox_nbd_address *a, const char *text, struct ox_error **err)
{
	static const struct {
		const char *begin;
		bool is_unix;
		bool tls;
	} schemes[] = {
		{"nbd://", false, false},
		{"nbd+unix://", true, false},
		{"nbds://", false, true},
		{"nbds+unix://", true, true},
	};

	for (size_t i = 0; i < OX_ARRAY_SIZE(schemes); i++) {
		size_t n = strlen(schemes[i].begin);

		if (strncmp(text, schemes[i].begin, n) != 0)
			continue;
		a->tls = schemes[i].tls;
		return parse_uri(a, text, text + n, schemes[i].is_unix, err);
	}
	if (strncmp(text, "nbd:", 4) == 0)
		return parse_legacy(a, text, text + 4, err);
	return malformed(err, text,
			 "it begins with none of nbd://, nbd+unix://, nbds://, "
			 "nbds+unix://");
}

int ox_nbd_address_parse(const char *text, struct ox_nbd_address *ret, struct ox_error **err)
{
	struct ox_nbd_address a = {
		.reconnect_ms = OX_NBD_RECONNECT_SECONDS * 1000,
		.answer_ms = OX_NBD_OPEN_SECONDS * 1000,
		.connections = OX_NBD_LINKS_DEFAULT,
	};
	int r = parse(&a, text, err);

	if (r == 0)
		r = set_defaults(&a, err);
	if (r < 0) {
		ox_nbd_address_free(&a);
		return r;
	}
	*ret = a;
	return 0;
}

void ox_nbd_address_free(struct ox_nbd_address *a)
{
	free(a->socket);
	free(a->host);
	free(a->port);
	free(a->export_name);
	free(a->tls_certificates);
	free(a->tls_psk_file);
	free(a->tls_username);
	free(a->tls_hostname);
	*a = (struct ox_nbd_address){0};
}
