/* SPDX-License-Identifier: MIT */
/*
 * Feeds files to a fuzz target without a fuzzer: each argument is a file, or a folder of files. A
 * corpus without a file is a failure, or it would go unnoticed that nothing ran.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned files_fed;

static void fail(const char *path)
{
	perror(path);
	exit(1);
}

static void feed_file(const char *path, size_t bytes)
{
	/* Of exactly this size, so that a sanitizer sees the first byte read past it. */
	uint8_t *data = malloc(bytes ? bytes : 1);
	FILE *f = fopen(path, "rb");

	if (!f || !data || fread(data, 1, bytes, f) != bytes)
		fail(path);
	fclose(f);
	LLVMFuzzerTestOneInput(data, bytes);
	free(data);
	files_fed++;
}

static void feed(const char *path)
{
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	if (stat(path, &st) < 0)
		fail(path);
	if (!S_ISDIR(st.st_mode)) {
		feed_file(path, (size_t)st.st_size);
		return;
	}
	dir = opendir(path);
	if (!dir)
		fail(path);
	while ((entry = readdir(dir))) {
		char *inner;

		if (entry->d_name[0] == '.')
			continue;
		if (asprintf(&inner, "%s/%s", path, entry->d_name) < 0)
			fail(path);
		feed(inner);
		free(inner);
	}
	closedir(dir);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		feed(argv[i]);
	printf("%s 1 - %u files\n", files_fed ? "ok" : "not ok", files_fed);
	return files_fed == 0;
}
