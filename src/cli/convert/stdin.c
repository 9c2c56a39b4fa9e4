/* SPDX-License-Identifier: MIT */
/*
 * A source that is standard input: raw bytes whose length nobody knows before their end. The target
 * begins with nothing, is doubled as often as they ask for it, and is cut to their length.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/convert/convert.h"
#include "cli/signals.h"

#define PIECE_BYTES ((size_t)1 << 20)
#define FIRST_BYTES (UINT64_C(64) << 20)
#define SECTOR_BYTES ((size_t)512)
#define SPARSE_BYTES ((size_t)4096)

/* A file or a device has a path of its own, and a length. */
bool ox_cli_convert_is_stdin(const char *source)
{
	return !ox_called_by_old_name() && strcmp(source, "-") == 0;
}

const char *ox_cli_convert_refuse_stdin(const struct ox_cli_convert *c)
{
	const char *prealloc = ox_cli_create_get(&c->values, "preallocation");

	if (!c->format || strcmp(c->format, "raw") != 0)
		return "Standard input is raw bytes: -f raw has to say so";
	if (c->source_count > 1 || c->to_pipe)
		return "Standard input is the one source, of a target that is a file";
	if (strcmp(c->target_format, "raw") != 0 && strcmp(c->target_format, "qcow2") != 0)
		return "Standard input has no length: its target is raw or qcow2";
	if (c->no_create || c->compress || ox_cli_snapshot_is_set(&c->at) ||
	    (prealloc && strcmp(prealloc, "off") != 0))
		return "Standard input has no length: -n, -c, -l and preallocation do not go with "
		       "it";
	if (c->resume || c->verify || c->show_progress || c->rate_bytes > 0)
		return "Standard input is read once, as it comes: --resume, --verify, -p and -r do "
		       "not go with it";
	return NULL;
}

/* A whole piece, less at the end alone. Bytes or a negative errno. */
static ssize_t fill(struct ox_cli_convert *c, uint8_t *buffer)
{
	size_t got = 0;

	while (got < PIECE_BYTES) {
		ssize_t n;

		if (ox_cli_signals_interrupted(&c->progress))
			return -ECANCELED;
		n = read(STDIN_FILENO, buffer + got, PIECE_BYTES - got);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd more = {.fd = STDIN_FILENO, .events = POLLIN};

			poll(&more, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			int error = errno;

			ox_cli_error("Could not read standard input: %s", strerror(error));
			return -error;
		} else if (n == 0) {
			break;
		} else if (n > 0) {
			got += (size_t)n;
		}
	}
	return (ssize_t)got;
}

static int resize(struct ox_image *image, uint64_t bytes)
{
	struct ox_error *err = NULL;
	int r = ox_image_size(image) == bytes ? 0 : ox_resize(image, bytes, &err);

	if (r < 0)
		ox_cli_error("Could not resize the target: %s",
			     err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* The granules from at on that are alike, in bytes. */
static size_t run_at(const uint8_t *bytes, size_t at, size_t length, size_t sparse, bool *ret_zero)
{
	size_t start = at;

	while (at < length) {
		size_t n = length - at < sparse ? length - at : sparse;
		bool zero = is_zero(bytes + at, n);

		if (at > start && zero != *ret_zero)
			break;
		*ret_zero = zero;
		at += n;
	}
	return at - start;
}

static int write_piece(struct ox_cli_convert *c, const uint8_t *bytes, size_t length,
		       uint64_t offset)
{
	struct ox_image *image = ox_build_image(c->build);
	size_t sparse = c->sparse_set ? (size_t)c->sparse_bytes : SPARSE_BYTES;
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < length) {
		bool zero = false;
		size_t n = sparse > 0 ? run_at(bytes, at, length, sparse, &zero) : length;

		if (!zero || !ox_build_is_new(c->build))
			r = ox_pwrite(image, bytes + at, n, offset + at, 0);
		at += n;
	}
	if (r < 0)
		ox_cli_error("error while writing at byte %llu: %s", (unsigned long long)offset,
			     strerror(-r));
	return r;
}

static int copy(struct ox_cli_convert *c, uint8_t *buffer)
{
	struct ox_image *image = ox_build_image(c->build);
	uint64_t done = 0;
	ssize_t got;
	int r = 0;

	while (r == 0 && (got = fill(c, buffer)) != 0) {
		size_t whole;

		if (got < 0)
			return (int)got;
		/* The end is rounded up to a sector, as that of a raw file is. */
		whole = ((size_t)got + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
		memset(buffer + got, 0, whole - (size_t)got);
		if (done + whole > ox_image_size(image))
			r = resize(image, done == 0 ? FIRST_BYTES : 2 * ox_image_size(image));
		if (r == 0)
			r = write_piece(c, buffer, whole, done);
		done += whole;
		if ((size_t)got < PIECE_BYTES)
			break;
	}
	return r < 0 ? r : resize(image, done);
}

int ox_cli_convert_from_stdin(struct ox_cli_convert *c)
{
	uint8_t *buffer = malloc(PIECE_BYTES);
	int r = buffer ? copy(c, buffer) : -ENOMEM;

	if (!buffer)
		ox_cli_error("%s", strerror(ENOMEM));
	free(buffer);
	return r;
}
