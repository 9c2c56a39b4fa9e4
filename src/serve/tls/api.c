/* SPDX-License-Identifier: MIT */
#include "serve/tls/api.h"

#include <jansson.h>

#include "serve/library.h"

struct ox_gnutls ox_gnutls;

static const struct ox_library_function functions[] = {
#define ROW(name) {"gnutls_" #name, offsetof(struct ox_gnutls, name)},
	OX_GNUTLS_FUNCTIONS(ROW)
#undef ROW
};

int ox_serve_tls_prepare(struct ox_serve_error *ret_error)
{
	const struct ox_library library = {
		.file = "libgnutls.so.30",
		.name = "GnuTLS",
		.purpose = "TLS needs GnuTLS",
		.package = "libgnutls30",
		.functions = functions,
		.count = sizeof(functions) / sizeof(functions[0]),
	};

	json_object_seed(0); /* from a file, for rules */
	return ox_serve_load_library(&library, &ox_gnutls, ret_error);
}
