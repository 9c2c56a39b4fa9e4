/* SPDX-License-Identifier: MIT */
/* info, length, map, alloc, truncate: what the image is, and how long. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/io/session.h"

#define SECTOR 512

/* Where saved machine state would begin: after the last L1 entry that the disk needs. */
static uint64_t vm_state_offset(const struct ox_image_info *info)
{
	uint64_t entry_bytes = info->extended_l2 ? 16 : 8;
	uint64_t per_table = (uint64_t)info->cluster_bytes * (info->cluster_bytes / entry_bytes);

	/* Only qcow2 has a place for one. */
	if (per_table == 0 || strcmp(info->format, "qcow2") != 0)
		return 0;
	return (info->virtual_bytes / per_table + (info->virtual_bytes % per_table != 0)) *
	       per_table;
}

int ox_cli_io_info(struct ox_cli_io *io, int argc, char **argv)
{
	char cluster[OX_CLI_SIZE_MAX], state[OX_CLI_SIZE_MAX];
	struct ox_open_options opts = io->source.open;
	struct ox_image_info *info;
	struct ox_error *err = NULL;
	int r;

	(void)argc;
	(void)argv;
	/* The image is open here, perhaps for writing: look at the file beside its locks. */
	opts.flags |= OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE;
	/* A server may have room for one client, which is here already. */
	if (opts.flags & OX_OPEN_URI)
		r = ox_image_info_get(io->image, &info, &err);
	else
		r = ox_image_info_read(io->ctx, io->source.path, &opts, &info, &err);
	if (r < 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		return r;
	}
	if (io->source.is_null) {
		/* Of the format and of the protocol, as by qemu-io. */
		printf("format name: null-co\nformat name: null-co\n");
		ox_image_info_free(info);
		return 0;
	}
	printf("format name: %s\ncluster size: %s\nvm state offset: %s\n", info->format,
	       ox_cli_io_count_text(info->cluster_bytes, cluster),
	       ox_cli_io_count_text((double)vm_state_offset(info), state));
	ox_cli_info_print_specific(info);
	ox_image_info_free(info);
	return 0;
}

int ox_cli_io_length(struct ox_cli_io *io, int argc, char **argv)
{
	char text[OX_CLI_SIZE_MAX];

	(void)argc;
	(void)argv;
	printf("%s\n", ox_cli_io_count_text((double)ox_image_size(io->image), text));
	return 0;
}

/* Whether the image's own layer holds what is at offset, and for how long that stays so. */
static int allocation_at(struct ox_cli_io *io, uint64_t offset, uint64_t length,
			 uint64_t *ret_length)
{
	struct ox_extent extent;
	int r = ox_extent_at(io->image, offset, length, &extent);

	if (r < 0)
		return r;
	*ret_length = extent.length < length ? extent.length : length;
	return extent.depth == 0 && (extent.flags & OX_EXTENT_PRESENT);
}

int ox_cli_io_map(struct ox_cli_io *io, int argc, char **argv)
{
	uint64_t size = ox_image_size(io->image), at = 0;

	(void)argc;
	(void)argv;
	while (at < size) {
		char length_text[OX_CLI_SIZE_MAX], offset_text[OX_CLI_SIZE_MAX];
		uint64_t run = 0, part;
		int first = -1, state;

		do {
			state = allocation_at(io, at + run, size - at - run, &part);
			if (state < 0) {
				printf("Failed to get allocation status: %s\n", strerror(-state));
				return state;
			}
			if (first < 0)
				first = state;
			if (state == first)
				run += part;
		} while (state == first && at + run < size);
		printf("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n",
		       ox_cli_io_count_text((double)run, length_text), run,
		       first ? "    allocated" : "not allocated",
		       ox_cli_io_count_text((double)at, offset_text), at);
		at += run;
	}
	return 0;
}

int ox_cli_io_alloc(struct ox_cli_io *io, int argc, char **argv)
{
	uint64_t size = ox_image_size(io->image), start, count = SECTOR, held = 0, part;
	char text[OX_CLI_SIZE_MAX];
	int r = ox_cli_io_parse_number(argv[1], &start);

	if (r == 0 && argc == 3)
		r = ox_cli_io_parse_number(argv[2], &count);
	if (r < 0)
		return r;
	if (start > size)
		count = 0;
	else if (count > size - start)
		count = size - start;
	for (uint64_t at = 0; at < count; at += part) {
		r = allocation_at(io, start + at, count - at, &part);
		if (r < 0) {
			printf("is_allocated failed: %s\n", strerror(-r));
			return r;
		}
		if (r)
			held += part;
	}
	printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", held, count,
	       ox_cli_io_count_text((double)start, text));
	return 0;
}

static int check_preallocation(const char *mode)
{
	static const char *const others[] = {"metadata", "falloc", "full"};

	if (strcmp(mode, "off") == 0)
		return 0;
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		if (strcmp(mode, others[i]) == 0) {
			ox_cli_error("Preallocation mode '%s' is not supported when resizing",
				     mode);
			return -ENOTSUP;
		}
	}
	ox_cli_error("Invalid preallocation mode '%s'", mode);
	return -EINVAL;
}

int ox_cli_io_truncate(struct ox_cli_io *io, int argc, char **argv)
{
	struct ox_error *err = NULL;
	uint64_t size;
	int c, r;

	optind = 0;
	opterr = 1;
	while ((c = getopt(argc, argv, "m:")) != -1) {
		if (c != 'm')
			return ox_cli_io_usage(argv[0]);
		r = check_preallocation(optarg);
		if (r < 0)
			return r;
	}
	if (optind != argc - 1)
		return ox_cli_io_usage(argv[0]);
	r = ox_cli_io_parse_number(argv[optind], &size);
	if (r < 0)
		return r;
	ox_cli_io_aio_drain(io);
	r = ox_resize(io->image, size, &err);
	if (r < 0)
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}
