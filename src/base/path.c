/* SPDX-License-Identifier: MIT */
#include "base/path.h"

#include <stdio.h>
#include <string.h>

char *ox_path_beside(const char *base, const char *name)
{
	const char *slash = strrchr(base, '/');
	int dir_bytes = slash && name[0] != '/' ? (int)(slash - base) + 1 : 0;
	char *path;

	return asprintf(&path, "%.*s%s", dir_bytes, base, name) < 0 ? NULL : path;
}
