/* SPDX-License-Identifier: MIT */
/* What the two files of src/serve/tls that know GnuTLS share. */
#ifndef OX_SERVE_TLS_CREDENTIALS_H
#define OX_SERVE_TLS_CREDENTIALS_H

#include "serve/tls/api.h"
#include "serve/tls/rules.h"
#include "serve/tls/tls.h"

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

/* NULL: nobody of that name. */
const struct ox_tls_key *ox_tls_find_key(const struct ox_tls *tls, const char *user);

#endif
