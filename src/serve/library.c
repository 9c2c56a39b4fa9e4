/* SPDX-License-Identifier: MIT */
#include "serve/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int ox_serve_load_library(const struct ox_library *library, void *api,
			  struct ox_serve_error *ret_error)
{
	void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);

	if (!handle) {
		snprintf(ret_error->message, sizeof(ret_error->message),
			 "%s, which is not installed (Debian's package %s): %s", library->purpose,
			 library->package, dlerror());
		return -ENOTSUP;
	}
	for (size_t i = 0; i < library->count; i++) {
		void *function = dlsym(handle, library->functions[i].name);

		if (!function) {
			snprintf(ret_error->message, sizeof(ret_error->message),
				 "%s is too old: it has no %s", library->name,
				 library->functions[i].name);
			return -ENOTSUP;
		}
		memcpy((char *)api + library->functions[i].offset, &function, sizeof(function));
	}
	return 0;
}
