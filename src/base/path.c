/* SPDX-License-Identifier: MIT */
#include "base/path.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *ox_path_beside(const char *base, const char *name)
{
	const char *slash = strrchr(base, '/');
	int dir_bytes = slash && name[0] != '/' ? (int)(slash - base) + 1 : 0;
	char *path;

	return asprintf(&path, "%.*s%s", dir_bytes, base, name) < 0 ? NULL : path;
}

/* Puts the path without ".", ".." and doubled slashes into out, which has room for it: "/a/b",
 * "a/b", "" for the directory that it starts from. False: it leads above that one. */
static bool follow_dots(const char *path, char *out)
{
	size_t start = path[0] == '/' ? 1 : 0;
	size_t end = start;

	memcpy(out, "/", start);
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && memcmp(path, "..", 2) == 0) {
			if (end == start && start == 0)
				return false;
			while (end > start && out[--end] != '/')
				;
		} else if (n > 0 && !(n == 1 && *path == '.')) {
			if (end > start)
				out[end++] = '/';
			memcpy(out + end, path, n);
			end += n;
		}
		path += n;
		path += *path == '/';
	}
	out[end] = '\0';
	return true;
}

static bool is_below(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	if ((dir[0] == '/') != (path[0] == '/') || strncmp(dir, path, n) != 0)
		return false;
	if (n == 0 || strcmp(dir, "/") == 0)
		return path[n] != '\0';
	return path[n] == '/' && path[n + 1] != '\0';
}

int ox_path_is_under(const char *dir, const char *path)
{
	char *plain_dir = malloc(strlen(dir) + 2);
	char *plain_path = malloc(strlen(path) + 2);
	int r = -ENOMEM;

	if (plain_dir && plain_path)
		r = follow_dots(dir, plain_dir) && follow_dots(path, plain_path) &&
		    is_below(plain_dir, plain_path);
	free(plain_dir);
	free(plain_path);
	return r;
}
