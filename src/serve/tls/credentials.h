/* SPDX-License-Identifier: MIT */
/* What the files of src/serve/tls that know GnuTLS share. */
#ifndef OX_SERVE_TLS_CREDENTIALS_H
#define OX_SERVE_TLS_CREDENTIALS_H

#include "serve/tls/api.h"
#include "serve/tls/client.h"
#include "serve/tls/rules.h"
#include "serve/tls/tls.h"

/* No protocol that is known to be broken, whatever the system's defaults are. */
#define OX_TLS_VERSIONS "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
#define OX_TLS_WITH_PSK OX_TLS_VERSIONS ":+ECDHE-PSK:+DHE-PSK:+PSK"

struct ox_tls_key {
	char *user;
	gnutls_datum_t key;
};

struct ox_tls {
	unsigned users; /* the owner, and sessions */
	bool verify_peer;
	struct ox_tls_rules *rules;		      /* for names of certificates; NULL: none */
	gnutls_certificate_credentials_t certificate; /* NULL: none */
	time_t end;				      /* of its validity; 0: none */
	gnutls_psk_server_credentials_t psk;	      /* NULL: none */
	struct ox_tls_key *keys;		      /* of psk */
	size_t key_count;
	gnutls_dh_params_t dh_params; /* NULL: those that are known */
	gnutls_priority_t priority;
};

struct ox_tls_client {
	struct ox_tls_client_options options;
	gnutls_certificate_credentials_t certificate; /* NULL: none */
	gnutls_psk_client_credentials_t psk;	      /* NULL: none */
	gnutls_priority_t priority;
};

/* NULL: nobody of that name. */
const struct ox_tls_key *ox_tls_find_key(const struct ox_tls *tls, const char *user);

#endif
