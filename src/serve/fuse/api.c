/* SPDX-License-Identifier: MIT */
#include "serve/fuse/api.h"

#include "serve/library.h"

struct ox_fuse_api ox_fuse;

static const struct ox_library_function functions[] = {
#define ROW(name) {"fuse_" #name, offsetof(struct ox_fuse_api, name)},
	OX_FUSE_FUNCTIONS(ROW)
#undef ROW
};

int ox_serve_fuse_prepare(struct ox_serve_error *ret_error)
{
	const struct ox_library library = {
		.file = "libfuse3.so.3",
		.name = "libfuse",
		.purpose = "Mounting needs libfuse",
		.package = "libfuse3-3",
		.functions = functions,
		.count = sizeof(functions) / sizeof(functions[0]),
	};

	return ox_serve_load_library(&library, &ox_fuse, ret_error);
}
