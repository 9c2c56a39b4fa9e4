/* SPDX-License-Identifier: MIT */
/* An export as a block-device description names it (driver=nbd,host=...), made a URI. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
	const char *key;
	size_t offset;
} keys[] = {
	{"host", offsetof(struct ox_cli_nbd, host)},
	{"port", offsetof(struct ox_cli_nbd, port)},
	{"path", offsetof(struct ox_cli_nbd, path)},
	{"export", offsetof(struct ox_cli_nbd, export_name)},
	{"server.type", offsetof(struct ox_cli_nbd, type)},
	{"server.host", offsetof(struct ox_cli_nbd, host)},
	{"server.port", offsetof(struct ox_cli_nbd, port)},
	{"server.path", offsetof(struct ox_cli_nbd, path)},
	{"tls-creds", offsetof(struct ox_cli_nbd, tls_creds)},
	{"tls-certificates", offsetof(struct ox_cli_nbd, tls_certificates)},
	{"tls-psk-file", offsetof(struct ox_cli_nbd, tls_psk_file)},
	{"tls-username", offsetof(struct ox_cli_nbd, tls_username)},
	{"tls-hostname", offsetof(struct ox_cli_nbd, tls_hostname)},
	{"tls-verify-peer", offsetof(struct ox_cli_nbd, tls_verify_peer)},
	{"reconnect-delay", offsetof(struct ox_cli_nbd, reconnect_delay)},
	{"open-timeout", offsetof(struct ox_cli_nbd, open_timeout)},
};

int ox_cli_nbd_option(struct ox_cli_nbd *nbd, const char *key, const char *value)
{
	if (strncmp(key, "file.", 5) == 0)
		key += 5;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (strcmp(keys[i].key, key) == 0) {
			*(const char **)((char *)nbd + keys[i].offset) = value;
			nbd->first_key = nbd->first_key ? nbd->first_key : keys[i].key;
			return 0;
		}
	}
	return -ENOENT;
}

static int refuse(const char *text)
{
	ox_cli_error("%s", text);
	return -EINVAL;
}

static int check(const struct ox_cli_nbd *nbd)
{
	bool verify;

	if (nbd->tls_verify_peer && ox_cli_bool_parse(nbd->tls_verify_peer, &verify) < 0)
		return refuse("Parameter 'tls-verify-peer' expects 'on' or 'off'");
	if (nbd->path && nbd->host)
		return refuse("path and host may not be used at the same time");
	if (!nbd->path && !nbd->host)
		return refuse("one of path and host must be specified");
	if (nbd->path && nbd->port)
		return refuse("port may not be used without host");
	if (nbd->type && strcmp(nbd->type, nbd->path ? "unix" : "inet") != 0) {
		ox_cli_error("Parameter 'server.type' does not accept value '%s'", nbd->type);
		return -EINVAL;
	}
	return 0;
}

/* Everything but letters, digits and a few marks as %XX. */
static void put_encoded(FILE *to, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		    strchr("-_.~/", c))
			fputc(c, to);
		else
			fprintf(to, "%%%02X", c);
	}
}

static void put_parameter(FILE *to, char *separator, const char *key, const char *value)
{
	if (!value)
		return;
	fprintf(to, "%c%s=", *separator, key);
	put_encoded(to, value);
	*separator = '&';
}

/* What an object of the command line says, in the place of settings of its own. *ret_path is to be
 * freed. */
static int take_object(struct ox_cli_nbd *nbd, char **ret_path)
{
	const struct ox_cli_options *object = ox_cli_object_find(nbd->tls_creds);
	const char *type = object ? ox_cli_object_type(object) : "";
	const char *endpoint = object ? ox_cli_object_value(object, "endpoint") : NULL;
	const char *dir = object ? ox_cli_object_value(object, "dir") : NULL;

	if (!object) {
		ox_cli_error("No TLS credentials with id '%s'", nbd->tls_creds);
		return -ENOENT;
	}
	if (strcmp(type, "tls-creds-x509") != 0 && strcmp(type, "tls-creds-psk") != 0) {
		ox_cli_error("Object with id '%s' is not TLS credentials", nbd->tls_creds);
		return -EINVAL;
	}
	if (endpoint && strcmp(endpoint, "client") != 0)
		return refuse("Expecting TLS credentials with a client endpoint");
	if (!dir)
		return refuse("Missing 'dir' property value");
	if (strcmp(type, "tls-creds-x509") == 0) {
		nbd->tls_certificates = dir;
		nbd->tls_verify_peer = ox_cli_object_value(object, "verify-peer");
		return 0;
	}
	nbd->tls_username = ox_cli_object_value(object, "username");
	if (!nbd->tls_username)
		nbd->tls_username = "qemu";
	if (asprintf(ret_path, "%s/keys.psk", dir) < 0) {
		*ret_path = NULL;
		return refuse(strerror(ENOMEM));
	}
	nbd->tls_psk_file = *ret_path;
	return 0;
}

static int make_uri(const struct ox_cli_nbd *nbd, char **ret)
{
	bool tls = nbd->tls_certificates || nbd->tls_psk_file;
	char separator = '?';
	bool verify;
	char *text = NULL;
	size_t bytes;
	FILE *to;
	int r = check(nbd);

	if (r < 0)
		return r;
	to = open_memstream(&text, &bytes);
	if (!to)
		return refuse(strerror(ENOMEM));
	fprintf(to, "%s%s://", tls ? "nbds" : "nbd", nbd->path ? "+unix" : "");
	if (nbd->host) {
		bool v6 = strchr(nbd->host, ':');

		fputs(v6 ? "[" : "", to);
		fputs(nbd->host, to);
		fprintf(to, "%s:%s", v6 ? "]" : "", nbd->port ? nbd->port : "10809");
	}
	if (nbd->export_name && *nbd->export_name) {
		fputc('/', to);
		put_encoded(to, nbd->export_name);
	}
	put_parameter(to, &separator, "socket", nbd->path);
	put_parameter(to, &separator, "tls-certificates", nbd->tls_certificates);
	put_parameter(to, &separator, "tls-psk-file", nbd->tls_psk_file);
	put_parameter(to, &separator, "tls-username", nbd->tls_username);
	put_parameter(to, &separator, "tls-hostname", nbd->tls_hostname);
	if (nbd->tls_verify_peer && ox_cli_bool_parse(nbd->tls_verify_peer, &verify) == 0)
		put_parameter(to, &separator, "tls-verify-peer", verify ? "1" : "0");
	put_parameter(to, &separator, "reconnect-delay", nbd->reconnect_delay);
	put_parameter(to, &separator, "open-timeout", nbd->open_timeout);
	if (fclose(to) != 0) {
		free(text);
		return refuse(strerror(ENOMEM));
	}
	*ret = text;
	return 0;
}

int ox_cli_nbd_uri(const struct ox_cli_nbd *nbd, char **ret)
{
	struct ox_cli_nbd settings = *nbd;
	char *path = NULL;
	int r = nbd->tls_creds ? take_object(&settings, &path) : 0;

	if (r == 0)
		r = make_uri(&settings, ret);
	free(path);
	return r;
}
