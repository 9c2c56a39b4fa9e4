/* SPDX-License-Identifier: MIT */
#include "io/nbd/api.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

#define LIBRARY "libnbd.so.0"

static const struct {
	const char *name;
	size_t offset;
} functions[] = {
#define ROW(name) {"nbd_" #name, offsetof(struct ox_nbd_api, name)},
	OX_NBD_FUNCTIONS(ROW)
#undef ROW
};

static const struct {
	const char *name;
	size_t offset;
} later_functions[] = {
#define ROW(name)                                                                                  \
	{                                                                                          \
		"nbd_" #name, offsetof(struct ox_nbd_api, name)                                    \
	}
	ROW(can_block_status_payload),
	ROW(get_extended_headers_negotiated),
	ROW(set_tls_hostname),
#undef ROW
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ox_nbd_api api; /* complete where loaded is true; both under the mutex */
static bool loaded;

static int load(struct ox_error **err)
{
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return ox_error_set(err, -ENOTSUP,
				    "Exports of NBD servers are opened by libnbd, which is not "
				    "installed (Debian's package libnbd0): %s",
				    dlerror());
	for (size_t i = 0; i < OX_ARRAY_SIZE(functions); i++) {
		void *function = dlsym(library, functions[i].name);

		if (!function) {
			ox_error_set(err, -ENOTSUP, "libnbd is too old: it has no %s",
				     functions[i].name);
			dlclose(library);
			return -ENOTSUP;
		}
		memcpy((char *)&api + functions[i].offset, &function, sizeof(function));
	}
	for (size_t i = 0; i < OX_ARRAY_SIZE(later_functions); i++) {
		void *function = dlsym(library, later_functions[i].name);

		memcpy((char *)&api + later_functions[i].offset, &function, sizeof(function));
	}
	loaded = true; /* and stays so: its threads' data may be in use until the end */
	return 0;
}

int ox_nbd_api_load(const struct ox_nbd_api **ret, struct ox_error **err)
{
	int r = 0;

	ox_assert(pthread_mutex_lock(&mutex) == 0);
	if (!loaded)
		r = load(err);
	ox_assert(pthread_mutex_unlock(&mutex) == 0);
	if (r == 0)
		*ret = &api;
	return r;
}

int ox_nbd_api_check(const struct ox_nbd_api *loaded_api, const struct ox_nbd_address *address,
		     struct ox_error **err)
{
	if (address->tls && address->tls_hostname && !loaded_api->set_tls_hostname)
		return ox_error_set(err, -ENOTSUP,
				    "libnbd is too old: it has no nbd_set_tls_hostname, which "
				    "tls-hostname needs (1.22 has it)");
	return 0;
}
