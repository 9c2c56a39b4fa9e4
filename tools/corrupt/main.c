/* SPDX-License-Identifier: MIT */
/* oxbow-corrupt IMAGE [RECIPE] */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "corrupt.h"

#define FIRST_SEED UINT64_C(1)

static const char usage[] =
	"usage: oxbow-corrupt IMAGE [RECIPE]\n"
	"       oxbow-corrupt -e LINE [-e LINE...] IMAGE\n"
	"Damage a qcow2 or QED image as the lines of RECIPE (- or none: the standard input) say.\n"
	"oxbow-corrupt(1) describes the language.\n";

void corrupt_fail(const struct corrupt *c, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "oxbow-corrupt: ");
	if (c->line > 0)
		fprintf(stderr, "%s:%u: ", c->recipe, c->line);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void load_qed(struct corrupt *c, const char *path, const uint8_t *bytes)
{
	const char *wrong = ox_qed_header_decode(bytes, &c->qed);

	if (wrong)
		corrupt_fail(c, "'%s': %s", path, wrong);
	c->is_qed = true;
	c->cluster_bytes = ox_qed_cluster_bytes(&c->qed);
}

/* What is out of its range is told by the check; here it only decides where things are. */
static void open_image(struct corrupt *c, const char *path)
{
	struct ox_qcow2_faults faults = {0};
	struct ox_error *err = NULL;
	uint8_t bytes[512] = {0};

	c->fd = open(path, O_RDWR | O_CLOEXEC);
	if (c->fd < 0)
		corrupt_fail(c, "Could not open '%s': %s", path, strerror(errno));
	corrupt_read(c, bytes, sizeof(bytes), 0);
	if (ox_qed_probe(bytes, sizeof(bytes))) {
		load_qed(c, path, bytes);
		return;
	}
	if (ox_qcow2_header_load(bytes, sizeof(bytes), &c->h, &err) < 0 ||
	    ox_qcow2_header_judge(&c->h, sizeof(bytes), &faults, &err) < 0)
		corrupt_fail(c, "'%s': %s", path, ox_error_message(err));
	c->cluster_bytes = ox_qcow2_cluster_bytes(&c->h);
}

static void run_file(struct corrupt *c, const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
	char *line = NULL;
	size_t room = 0;

	c->recipe = path;
	if (!file)
		corrupt_fail(c, "Could not open '%s': %s", path, strerror(errno));
	while (getline(&line, &room, file) >= 0) {
		c->line++;
		c->at = line;
		corrupt_run_line(c);
	}
	if (ferror(file))
		corrupt_fail(c, "Could not read '%s'", path);
	free(line);
	if (file != stdin)
		fclose(file);
}

static void run_arguments(struct corrupt *c, int argc, char **argv)
{
	c->recipe = "-e";
	for (int i = 1; i + 1 < argc; i += 2) {
		c->line++;
		c->at = argv[i + 1];
		corrupt_run_line(c);
	}
}

static bool lines_are_arguments(int argc, char **argv)
{
	if (argc < 4 || argc % 2 != 0)
		return false;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "-e") != 0)
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct corrupt c = {.random = FIRST_SEED};
	bool as_arguments = lines_are_arguments(argc, argv);

	if (argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)) {
		fputs(usage, stdout);
		return fflush(stdout) ? 1 : 0;
	}
	if (!as_arguments && (argc < 2 || argc > 3 || argv[1][0] == '-')) {
		fputs(usage, stderr);
		return 1;
	}
	open_image(&c, as_arguments ? argv[argc - 1] : argv[1]);
	if (as_arguments)
		run_arguments(&c, argc, argv);
	else
		run_file(&c, argc == 3 ? argv[2] : "-");
	if (close(c.fd) < 0)
		corrupt_fail(&c, "Could not write the image: %s", strerror(errno));
	return 0;
}
