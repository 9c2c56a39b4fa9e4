/* SPDX-License-Identifier: MIT */
#include "serve/tls/credentials.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/tls/files.h"

/* In bytes, of a key; no shorter one is worth its name. */
#define KEY_MIN 16
#define KEY_MAX 64
#define USER_MAX 128
#define USERS_MAX 100000

static int fail(struct ox_serve_error *error, enum ox_tls_file file, const char *what)
{
	snprintf(error->message, sizeof(error->message), "TLS credentials, '%s': %s",
		 ox_tls_file_name(file), what);
	return -EINVAL;
}

static int fail_by(struct ox_serve_error *error, enum ox_tls_file file, int code)
{
	return code == GNUTLS_E_MEMORY_ERROR ? (fail(error, file, "memory is short"), -ENOMEM)
					     : fail(error, file, ox_gnutls.strerror(code));
}

static gnutls_datum_t datum_of(const struct ox_tls_files *files, enum ox_tls_file file)
{
	return (gnutls_datum_t){
		.data = (unsigned char *)(uintptr_t)files->files[file].data,
		.size = (unsigned)files->files[file].bytes,
	};
}

/* ---- certificates ---- */

/* Told, and no error: who serves already goes on, whoever he has to start again. */
static int find_end(struct ox_tls *tls, const struct ox_tls_files *files,
		    struct ox_serve_error *error)
{
	const gnutls_datum_t text = datum_of(files, OX_TLS_SERVER_CERT);
	gnutls_x509_crt_t *certificates = NULL;
	unsigned count = 0;
	int ret = ox_gnutls.x509_crt_list_import2(&certificates, &count, &text, GNUTLS_X509_FMT_PEM,
						  0);

	if (ret < 0)
		return fail_by(error, OX_TLS_SERVER_CERT, ret);
	if (count > 0)
		tls->end = ox_gnutls.x509_crt_get_expiration_time(certificates[0]);
	for (unsigned i = 0; i < count; i++)
		ox_gnutls.x509_crt_deinit(certificates[i]);
	free(certificates);
	return 0;
}

bool ox_tls_has_expired(const struct ox_tls *tls)
{
	return tls->end > 0 && tls->end < time(NULL);
}

static int take_certificate(struct ox_tls *tls, const struct ox_tls_files *files,
			    struct ox_serve_error *error)
{
	const gnutls_datum_t certificate = datum_of(files, OX_TLS_SERVER_CERT);
	const gnutls_datum_t key = datum_of(files, OX_TLS_SERVER_KEY);
	const gnutls_datum_t ca = datum_of(files, OX_TLS_CA_CERT);
	const gnutls_datum_t crl = datum_of(files, OX_TLS_CA_CRL);
	int ret = ox_gnutls.certificate_allocate_credentials(&tls->certificate);

	if (ret == 0)
		ret = ox_gnutls.certificate_set_x509_key_mem2(tls->certificate, &certificate, &key,
							      GNUTLS_X509_FMT_PEM, NULL, 0);
	if (ret < 0)
		return fail_by(error, OX_TLS_SERVER_CERT, ret);
	ret = find_end(tls, files, error);
	if (ret < 0)
		return ret;
	if (!tls->verify_peer)
		return 0;
	ret = ox_gnutls.certificate_set_x509_trust_mem(tls->certificate, &ca, GNUTLS_X509_FMT_PEM);
	if (ret <= 0)
		return ret < 0 ? fail_by(error, OX_TLS_CA_CERT, ret)
			       : fail(error, OX_TLS_CA_CERT, "there is no certificate in it");
	if (crl.data)
		ret = ox_gnutls.certificate_set_x509_crl_mem(tls->certificate, &crl,
							     GNUTLS_X509_FMT_PEM);
	return ret < 0 ? fail_by(error, OX_TLS_CA_CRL, ret) : 0;
}

/* ---- keys ---- */

const struct ox_tls_key *ox_tls_find_key(const struct ox_tls *tls, const char *user)
{
	for (size_t i = 0; i < tls->key_count; i++)
		if (strcmp(tls->keys[i].user, user) == 0)
			return &tls->keys[i];
	return NULL;
}

/* Of one who is not known a key that nobody has: whoever guesses names learns none by it. */
static int find_key(gnutls_session_t session, const char *user, gnutls_datum_t *ret_key)
{
	const struct ox_tls *tls = ox_gnutls.session_get_ptr(session);
	const struct ox_tls_key *found = ox_tls_find_key(tls, user);
	const unsigned bytes = found ? found->key.size : 32;

	ret_key->data = malloc(bytes);
	ret_key->size = bytes;
	if (!ret_key->data)
		return -1;
	if (found)
		memcpy(ret_key->data, found->key.data, bytes);
	else if (ox_gnutls.rnd(GNUTLS_RND_NONCE, ret_key->data, bytes) < 0)
		return -1;
	return 0;
}

/* One line, without its end. False: it is none of that form. */
static bool take_line(struct ox_tls *tls, const char *line, size_t length)
{
	const char *colon = memchr(line, ':', length);
	const size_t user_bytes = colon ? (size_t)(colon - line) : 0;
	struct ox_tls_key *taken = &tls->keys[tls->key_count];
	gnutls_datum_t hex;

	if (user_bytes == 0 || user_bytes > USER_MAX || memchr(line, '\0', length))
		return false;
	hex = (gnutls_datum_t){
		.data = (unsigned char *)(uintptr_t)(colon + 1),
		.size = (unsigned)(length - user_bytes - 1),
	};
	if (hex.size < 2 * KEY_MIN || hex.size > 2 * KEY_MAX ||
	    ox_gnutls.hex_decode2(&hex, &taken->key) < 0)
		return false;
	taken->user = strndup(line, user_bytes);
	tls->key_count++; /* to be freed, in either case */
	return taken->user && strpbrk(taken->user, "#\"\\") != taken->user;
}

static int take_lines(struct ox_tls *tls, const char *text, size_t bytes,
		      struct ox_serve_error *error)
{
	const char *const end = text + bytes;
	unsigned number = 0;
	char what[64];

	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *next = newline ? newline + 1 : end;
		size_t length = (size_t)((newline ? newline : end) - text);

		number++;
		while (length > 0 && (text[length - 1] == '\r' || text[length - 1] == ' '))
			length--;
		if (length > 0 && !take_line(tls, text, length)) {
			snprintf(what, sizeof(what),
				 "line %u is not USER:KEY, a key of %d to %d bytes", number,
				 KEY_MIN, KEY_MAX);
			return fail(error, OX_TLS_KEYS_PSK, what);
		}
		text = next;
	}
	return tls->key_count > 0 ? 0 : fail(error, OX_TLS_KEYS_PSK, "there is no key in it");
}

static int take_keys(struct ox_tls *tls, const struct ox_tls_files *files,
		     struct ox_serve_error *error)
{
	const gnutls_datum_t text = datum_of(files, OX_TLS_KEYS_PSK);
	size_t lines = 1;
	int ret;

	for (unsigned i = 0; i < text.size; i++)
		lines += text.data[i] == '\n';
	if (lines > USERS_MAX)
		return fail(error, OX_TLS_KEYS_PSK, "it is too long");
	tls->keys = calloc(lines, sizeof(*tls->keys));
	if (!tls->keys)
		return fail_by(error, OX_TLS_KEYS_PSK, GNUTLS_E_MEMORY_ERROR);
	ret = take_lines(tls, (const char *)text.data, text.size, error);
	if (ret < 0)
		return ret;
	ret = ox_gnutls.psk_allocate_server_credentials(&tls->psk);
	if (ret < 0)
		return fail_by(error, OX_TLS_KEYS_PSK, ret);
	ox_gnutls.psk_set_server_credentials_function(tls->psk, find_key);
	return 0;
}

/* ---- both ---- */

/* Of TLS 1.2 alone; without the file those of RFC 7919. */
static int take_dh_params(struct ox_tls *tls, const struct ox_tls_files *files,
			  struct ox_serve_error *error)
{
	const gnutls_datum_t text = datum_of(files, OX_TLS_DH_PARAMS);
	gnutls_dh_params_t params;
	int ret = 0;

	if (!text.data) {
		if (tls->certificate)
			ret = ox_gnutls.certificate_set_known_dh_params(tls->certificate,
									GNUTLS_SEC_PARAM_MEDIUM);
		if (ret == 0 && tls->psk)
			ret = ox_gnutls.psk_set_server_known_dh_params(tls->psk,
								       GNUTLS_SEC_PARAM_MEDIUM);
		return ret < 0 ? fail_by(error, OX_TLS_DH_PARAMS, ret) : 0;
	}
	ret = ox_gnutls.dh_params_init(&params);
	if (ret < 0)
		return fail_by(error, OX_TLS_DH_PARAMS, ret);
	ret = ox_gnutls.dh_params_import_pkcs3(params, &text, GNUTLS_X509_FMT_PEM);
	tls->dh_params = params;
	if (ret < 0)
		return fail_by(error, OX_TLS_DH_PARAMS, ret);
	if (tls->certificate)
		ox_gnutls.certificate_set_dh_params(tls->certificate, params);
	if (tls->psk)
		ox_gnutls.psk_set_server_dh_params(tls->psk, params);
	return 0;
}

/* ---- rules ---- */

/* That they are there is not for the file to say. */
static int take_rules(struct ox_tls *tls, const struct ox_tls_files *files, bool has_rules,
		      struct ox_serve_error *error)
{
	const gnutls_datum_t text = datum_of(files, OX_TLS_RULES);

	if (has_rules != (text.data != NULL) || (has_rules && !tls->verify_peer)) {
		snprintf(error->message, sizeof(error->message),
			 "TLS rules: they are not what was asked for");
		return -EINVAL;
	}
	return has_rules ? ox_tls_rules_new(text.data, text.size, &tls->rules, error) : 0;
}

/* ---- all of them ---- */

static int take_all(struct ox_tls *tls, const struct ox_tls_files *files, bool has_rules,
		    struct ox_serve_error *error)
{
	int ret = take_rules(tls, files, has_rules, error);

	if (ret == 0 && files->files[OX_TLS_SERVER_CERT].data)
		ret = take_certificate(tls, files, error);
	if (ret == 0 && files->files[OX_TLS_KEYS_PSK].data)
		ret = take_keys(tls, files, error);
	if (ret == 0)
		ret = take_dh_params(tls, files, error);
	if (ret < 0)
		return ret;
	ret = ox_gnutls.priority_init(&tls->priority, tls->psk ? OX_TLS_WITH_PSK : OX_TLS_VERSIONS,
				      NULL);
	if (ret == 0)
		return 0;
	snprintf(error->message, sizeof(error->message), "TLS cannot be used: %s",
		 ox_gnutls.strerror(ret));
	return -EINVAL;
}

int ox_tls_new(int fd, const struct ox_serve_tls_options *options, struct ox_tls **ret,
	       struct ox_serve_error *ret_error)
{
	struct ox_tls *tls = calloc(1, sizeof(*tls));
	struct ox_tls_files files;
	int code = tls ? ox_tls_files_map(fd, &files) : -ENOMEM;

	if (code < 0) {
		free(tls);
		snprintf(ret_error->message, sizeof(ret_error->message),
			 "Cannot take TLS credentials: %s", strerror(-code));
		return code;
	}
	tls->users = 1;
	tls->verify_peer = options->verify_peer;
	code = take_all(tls, &files, options->has_rules, ret_error);
	ox_tls_files_unmap(&files);
	if (code < 0)
		ox_tls_put(tls);
	else
		*ret = tls;
	return code;
}

void ox_tls_put(struct ox_tls *tls)
{
	if (!tls || --tls->users > 0)
		return;
	if (tls->priority)
		ox_gnutls.priority_deinit(tls->priority);
	if (tls->certificate)
		ox_gnutls.certificate_free_credentials(tls->certificate);
	if (tls->psk)
		ox_gnutls.psk_free_server_credentials(tls->psk);
	if (tls->dh_params)
		ox_gnutls.dh_params_deinit(tls->dh_params);
	for (size_t i = 0; i < tls->key_count; i++) {
		explicit_bzero(tls->keys[i].key.data, tls->keys[i].key.size);
		free(tls->keys[i].key.data);
		free(tls->keys[i].user);
	}
	free(tls->keys);
	ox_tls_rules_free(tls->rules);
	free(tls);
}
