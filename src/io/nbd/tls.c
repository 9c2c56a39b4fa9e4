/* SPDX-License-Identifier: MIT */
#include "io/nbd/tls.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "io/nbd/address.h"

struct tls {
	struct ox_uri_tls public;
	struct ox_nbd_address address; /* which has the strings */
};

int ox_nbd_tls_read(const char *uri, struct ox_uri_tls **ret, struct ox_error **err)
{
	struct tls *tls = calloc(1, sizeof(*tls));
	const struct ox_nbd_address *a = &tls->address;
	int r;

	if (!tls)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_nbd_address_parse(uri, &tls->address, err);
	if (r < 0) {
		free(tls);
		return r;
	}
	tls->public = (struct ox_uri_tls){
		.certificates = a->tls_certificates,
		.psk_file = a->tls_psk_file,
		.username = a->tls_username,
		.hostname = a->tls_hostname ? a->tls_hostname : a->host,
		.is_unverified = a->tls_unverified,
	};
	*ret = &tls->public;
	if (!a->tls) {
		ox_nbd_tls_free(*ret);
		*ret = NULL;
	}
	return 0;
}

void ox_nbd_tls_free(struct ox_uri_tls *public)
{
	struct tls *tls = ox_container_of(public, struct tls, public);

	if (!public)
		return;
	ox_nbd_address_free(&tls->address);
	free(tls);
}
