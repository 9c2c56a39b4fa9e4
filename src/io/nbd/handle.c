/* SPDX-License-Identifier: MIT */
#include "io/nbd/handle.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "io/nbd/tls.h"

/* libnbd 1.14 verifies nothing where it has no authority but those that the system trusts, and does
 * not say so. What 1.22 brought tells the versions apart. */
const char *ox_nbd_handle_unverifiable(const struct ox_nbd_api *api, const struct ox_nbd_address *a)
{
	char room[PATH_MAX];
	const char *folder;

	if (!a->tls || a->tls_unverified || a->tls_psk_file || api->set_tls_hostname)
		return NULL;
	folder = ox_nbd_tls_folder(a, room);
	if (folder && ox_nbd_tls_has_authority(folder))
		return NULL;
	return "there is no ca-cert.pem to verify the server's certificate by, and libnbd before "
	       "1.22 then takes any; tls-certificates states where it is, and tls-verify-peer=0 "
	       "that any will do";
}

int ox_nbd_handle_secure(const struct ox_nbd_api *api, struct nbd_handle *nbd,
			 const struct ox_nbd_address *a)
{
	char room[PATH_MAX];
	const char *folder;

	if (!a->tls)
		return 0;
	if (api->set_tls(nbd, LIBNBD_TLS_REQUIRE) < 0)
		return -1;
	folder = ox_nbd_tls_folder(a, room);
	if (folder && api->set_tls_certificates(nbd, folder) < 0)
		return -1;
	if (a->tls_psk_file && api->set_tls_psk_file(nbd, a->tls_psk_file) < 0)
		return -1;
	if (a->tls_username && api->set_tls_username(nbd, a->tls_username) < 0)
		return -1;
	if (a->tls_hostname && api->set_tls_hostname(nbd, a->tls_hostname) < 0)
		return -1;
	return a->tls_unverified ? api->set_tls_verify_peer(nbd, false) : 0;
}

int ox_nbd_handle_connect(const struct ox_nbd_api *api, struct nbd_handle *nbd,
			  const struct ox_nbd_address *a)
{
	return a->socket ? api->aio_connect_unix(nbd, a->socket)
			 : api->aio_connect_tcp(nbd, a->host, a->port);
}

int ox_nbd_handle_words(const struct ox_nbd_api *api, char words[OX_NBD_WORDS_MAX])
{
	const char *said = api->get_error();
	const char *colon = said ? strstr(said, ": ") : NULL;
	int error = api->get_errno();

	if (said && strncmp(said, "nbd_", 4) == 0 && colon)
		said = colon + 2;
	strncpy(words, said ? said : "no reason is known", OX_NBD_WORDS_MAX - 1);
	words[OX_NBD_WORDS_MAX - 1] = 0;
	return error > 0 ? -error : -EIO;
}

bool ox_nbd_handle_is_unreachable(int error)
{
	switch (-error) {
	case ENOENT:
	case EACCES:
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
		return true;
	default:
		return false;
	}
}

/* A server that does not know a key, or wants another certificate, says no more than an alert, or
 * hangs up. */
static const char *hint(const struct ox_nbd_address *a, const char *words)
{
	return a->tls && strstr(words, "gnutls_") && !strstr(words, "certificate verification")
		       ? ": it may refuse this client's credentials"
		       : "";
}

int ox_nbd_handle_tell(const struct ox_nbd_address *a, int error, const char *words,
		       struct ox_error **err)
{
	/* ENOENT is a socket that is not there, or what a server says that lacks the export. */
	if (ox_nbd_handle_is_unreachable(error) && !strstr(words, "no export"))
		words = strerror(-error);
	return ox_error_set(err, error, "Failed to connect to '%s%s%s': %s%s",
			    a->socket ? a->socket : a->host, a->socket ? "" : ":",
			    a->socket ? "" : a->port, words, hint(a, words));
}
