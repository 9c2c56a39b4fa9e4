/* SPDX-License-Identifier: MIT */
/* Libraries that only those processes have that need them: loaded, not linked. */
#ifndef OX_SERVE_LIBRARY_H
#define OX_SERVE_LIBRARY_H

#include <stddef.h>

#include "serve/serve.h"

/* Where the address of one function goes: so many bytes into the struct of all of them. */
struct ox_library_function {
	const char *name;
	size_t offset;
};

struct ox_library {
	const char *file;    /* its soname */
	const char *name;    /* for messages: "GnuTLS" */
	const char *purpose; /* "TLS needs GnuTLS" */
	const char *package; /* Debian's, which has it */
	const struct ox_library_function *functions;
	size_t count;
};

/* Fills in api, the struct of pointers; the library stays loaded. -ENOTSUP and why. */
int ox_serve_load_library(const struct ox_library *library, void *api,
			  struct ox_serve_error *ret_error) OX_CHECKED;

#endif
