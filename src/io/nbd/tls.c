/* SPDX-License-Identifier: MIT */
#include "io/nbd/tls.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "io/nbd/address.h"

bool ox_nbd_tls_has_authority(const char *folder)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/ca-cert.pem", folder) < (int)sizeof(path) &&
	       access(path, R_OK) == 0;
}

/* The folder where libnbd looks for certificates that are not stated. False: there is none. */
static bool find_folder(char ret[PATH_MAX])
{
	static const char *const below_home[] = {".pki/libnbd", ".config/pki/libnbd"};
	const char *home = getenv("HOME");

	if (geteuid() == 0) {
		strcpy(ret, "/etc/pki/libnbd");
		return ox_nbd_tls_has_authority(ret);
	}
	for (size_t i = 0; home && i < OX_ARRAY_SIZE(below_home); i++)
		if (snprintf(ret, PATH_MAX, "%s/%s", home, below_home[i]) < PATH_MAX &&
		    ox_nbd_tls_has_authority(ret))
			return true;
	return false;
}

const char *ox_nbd_tls_folder(const struct ox_nbd_address *a, char *room)
{
	if (a->tls_psk_file || a->tls_certificates)
		return a->tls_certificates;
	return find_folder(room) ? room : NULL;
}

struct tls {
	struct ox_uri_tls public;
	struct ox_nbd_address address; /* which has the strings */
	char folder[PATH_MAX];
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
		.certificates = ox_nbd_tls_folder(a, tls->folder),
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
