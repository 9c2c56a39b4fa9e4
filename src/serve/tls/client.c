/* SPDX-License-Identifier: MIT */
#include "serve/tls/client.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/tls/credentials.h"

#define USER_MAX 256

static int fail(struct ox_serve_error *error, int code, const char *file, const char *what)
{
	snprintf(error->message, sizeof(error->message), "TLS credentials '%.300s': %s", file,
		 what);
	return code;
}

static int fail_by(struct ox_serve_error *error, const char *file, int code)
{
	return fail(error, code == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EINVAL, file,
		    code == GNUTLS_E_FILE_ERROR ? "it cannot be read" : ox_gnutls.strerror(code));
}

/* ---- certificates ---- */

/* False: it does not fit. */
static bool put_path(char path[PATH_MAX], const char *directory, const char *name)
{
	return snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX;
}

static bool is_there(char path[PATH_MAX], const char *directory, const char *name)
{
	return put_path(path, directory, name) && access(path, R_OK) == 0;
}

static int take_own(struct ox_tls_client *client, const char *directory,
		    struct ox_serve_error *error)
{
	char certificate[PATH_MAX];
	char key[PATH_MAX];
	int ret;

	if (!is_there(certificate, directory, "client-cert.pem") ||
	    !is_there(key, directory, "client-key.pem"))
		return 0; /* the server may want none */
	ret = ox_gnutls.certificate_set_x509_key_file(client->certificate, certificate, key,
						      GNUTLS_X509_FMT_PEM);
	return ret < 0 ? fail_by(error, certificate, ret) : 0;
}

static int take_folder(struct ox_tls_client *client, const char *directory,
		       struct ox_serve_error *error)
{
	char path[PATH_MAX];
	int ret;

	if (!put_path(path, directory, "ca-cert.pem"))
		return fail(error, -ENAMETOOLONG, directory, strerror(ENAMETOOLONG));
	if (access(path, R_OK) < 0)
		return fail(error, -errno, path, strerror(errno));
	ret = ox_gnutls.certificate_set_x509_trust_file(client->certificate, path,
							GNUTLS_X509_FMT_PEM);
	if (ret <= 0)
		return ret < 0 ? fail_by(error, path, ret)
			       : fail(error, -EINVAL, path, "there is no certificate in it");
	if (is_there(path, directory, "ca-crl.pem")) {
		ret = ox_gnutls.certificate_set_x509_crl_file(client->certificate, path,
							      GNUTLS_X509_FMT_PEM);
		if (ret < 0)
			return fail_by(error, path, ret);
	}
	return take_own(client, directory, error);
}

static int take_certificates(struct ox_tls_client *client, struct ox_serve_error *error)
{
	int ret = ox_gnutls.certificate_allocate_credentials(&client->certificate);

	if (ret < 0)
		return fail_by(error, "certificates", ret);
	if (client->options.certificates)
		return take_folder(client, client->options.certificates, error);
	ret = ox_gnutls.certificate_set_x509_system_trust(client->certificate);
	return ret < 0 ? fail_by(error, "of the system", ret) : 0;
}

/* ---- keys ---- */

/* 0: client has the key; -ENOENT: the line is another user's. */
static int take_line(struct ox_tls_client *client, const char *user, char *line,
		     struct ox_serve_error *error)
{
	const size_t length = strlen(user);
	gnutls_datum_t key;
	int ret;

	if (strncmp(line, user, length) != 0 || line[length] != ':')
		return -ENOENT;
	line[strcspn(line, "\r\n")] = '\0';
	key.data = (unsigned char *)line + length + 1;
	key.size = (unsigned)strlen(line + length + 1);
	ret = ox_gnutls.psk_set_client_credentials(client->psk, user, &key, GNUTLS_PSK_KEY_HEX);
	return ret < 0 ? fail_by(error, client->options.psk_file, ret) : 0;
}

static int find_key(struct ox_tls_client *client, const char *user, struct ox_serve_error *error)
{
	const char *path = client->options.psk_file;
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	int ret = -ENOENT;

	if (!file)
		return fail(error, -errno, path, strerror(errno));
	while (ret == -ENOENT && getline(&line, &room, file) >= 0)
		ret = take_line(client, user, line, error);
	if (line)
		explicit_bzero(line, room);
	free(line);
	if (ret == -ENOENT)
		snprintf(error->message, sizeof(error->message),
			 "TLS credentials '%.300s': there is no key of '%.100s' in it", path, user);
	fclose(file);
	return ret;
}

static int take_key(struct ox_tls_client *client, struct ox_serve_error *error)
{
	const char *user = client->options.username;
	char login[USER_MAX];
	int ret = ox_gnutls.psk_allocate_client_credentials(&client->psk);

	if (ret < 0)
		return fail_by(error, client->options.psk_file, ret);
	if (!user && getlogin_r(login, sizeof(login)) != 0)
		return fail(error, -EINVAL, client->options.psk_file,
			    "whose key is meant is not stated");
	return find_key(client, user ? user : login, error);
}

/* ---- both ---- */

int ox_tls_client_new(const struct ox_tls_client_options *options, struct ox_tls_client **ret,
		      struct ox_serve_error *ret_error)
{
	struct ox_tls_client *client = calloc(1, sizeof(*client));
	int code;

	if (!client)
		return fail(ret_error, -ENOMEM, "", strerror(ENOMEM));
	client->options = *options;
	code = options->psk_file ? take_key(client, ret_error)
				 : take_certificates(client, ret_error);
	if (code == 0) {
		code = ox_gnutls.priority_init(
			&client->priority, client->psk ? OX_TLS_WITH_PSK : OX_TLS_VERSIONS, NULL);
		if (code < 0)
			code = fail_by(ret_error, "", code);
	}
	if (code < 0)
		ox_tls_client_free(client);
	else
		*ret = client;
	return code;
}

void ox_tls_client_free(struct ox_tls_client *client)
{
	if (!client)
		return;
	if (client->priority)
		ox_gnutls.priority_deinit(client->priority);
	if (client->certificate)
		ox_gnutls.certificate_free_credentials(client->certificate);
	if (client->psk)
		ox_gnutls.psk_free_client_credentials(client->psk);
	free(client);
}
