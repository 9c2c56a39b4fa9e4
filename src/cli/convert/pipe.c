/* SPDX-License-Identifier: MIT */
/* A target that is standard output: raw bytes, in order, and nothing else on it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/convert/convert.h"
#include "cli/signals.h"

#define PIECE_BYTES ((size_t)1 << 20)
#define SECTOR_BYTES ((size_t)512)

struct pipe {
	struct ox_cli_convert *convert;
	uint8_t *buffer;
	uint64_t done; /* of all sources */
	struct timespec start;
};

/* A file or a device has a path of its own, and is written as any other. */
bool ox_cli_convert_is_pipe(const char *target)
{
	struct stat st;

	if (ox_called_by_old_name())
		return false;
	if (strcmp(target, "-") == 0)
		return true;
	return strcmp(target, "/dev/stdout") == 0 && fstat(STDOUT_FILENO, &st) == 0 &&
	       !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
}

const char *ox_cli_convert_refuse_pipe(const struct ox_cli_convert *c)
{
	if (strcmp(c->target_format, "raw") != 0)
		return "Standard output takes a raw image alone";
	if (c->no_create || c->options.count > 0)
		return "Standard output is neither created nor opened: -n and -o do not go with it";
	if (c->resume || c->verify)
		return "Standard output cannot be read back: --resume and --verify do not go with "
		       "it";
	if (c->any_order)
		return "Standard output is written in order: -W does not go with it";
	return NULL;
}

/* All of it, however long the reader takes. */
static int put(struct pipe *p, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n;

		if (ox_cli_signals_interrupted(&p->convert->progress))
			return -ECANCELED;
		n = write(STDOUT_FILENO, bytes, length);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd room = {.fd = STDOUT_FILENO, .events = POLLOUT};

			poll(&room, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			int error = errno;

			ox_cli_error("Could not write to standard output: %s", strerror(error));
			return -error;
		} else if (n > 0) {
			bytes += n;
			length -= (size_t)n;
		}
	}
	return 0;
}

/* What can be read of it; zeroes for the rest. */
static void salvage(struct pipe *p, struct ox_image *image, size_t length, uint64_t offset)
{
	for (size_t at = 0; at < length; at += SECTOR_BYTES) {
		size_t n = length - at < SECTOR_BYTES ? length - at : SECTOR_BYTES;
		int r = ox_pread(image, p->buffer + at, n, offset + at);

		if (r == 0)
			continue;
		memset(p->buffer + at, 0, n);
		if (!p->convert->quiet)
			ox_cli_error("warning: error while reading offset %llu: %s",
				     (unsigned long long)(p->done + at), strerror(-r));
	}
}

static void keep_to_rate(const struct pipe *p)
{
	uint64_t rate = p->convert->rate_bytes;
	struct timespec until = p->start;

	if (rate == 0)
		return;
	until.tv_sec += (time_t)(p->done / rate);
	until.tv_nsec += (long)((double)(p->done % rate) / (double)rate * 1e9);
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static int copy_piece(struct pipe *p, struct ox_image *image, size_t length, uint64_t offset)
{
	int r = ox_pread(image, p->buffer, length, offset);

	if (r < 0 && !p->convert->salvage) {
		ox_cli_error("error while reading at byte %llu: %s", (unsigned long long)p->done,
			     strerror(-r));
		return r;
	}
	if (r < 0)
		salvage(p, image, length, offset);
	r = put(p, p->buffer, length);
	if (r < 0)
		return r;
	p->done += length;
	ox_cli_progress_report(&p->convert->progress, p->done, p->convert->total_bytes);
	keep_to_rate(p);
	return 0;
}

static int copy_image(struct pipe *p, struct ox_image *image)
{
	uint64_t size = ox_image_size(image);
	uint64_t left = p->convert->copy_bytes - p->done;
	uint64_t at = 0;
	int r = 0;

	if (size > left) /* a snapshot of a larger disk */
		size = left;
	while (r == 0 && at < size) {
		size_t n = size - at < PIECE_BYTES ? (size_t)(size - at) : PIECE_BYTES;

		r = copy_piece(p, image, n, at);
		at += n;
	}
	return r;
}

/* Behind a snapshot that was smaller than its image is now. */
static int put_rest(struct pipe *p)
{
	uint64_t total = p->convert->total_bytes;
	int r = 0;

	memset(p->buffer, 0, PIECE_BYTES);
	while (r == 0 && p->done < total) {
		size_t n = total - p->done < PIECE_BYTES ? (size_t)(total - p->done) : PIECE_BYTES;

		r = put(p, p->buffer, n);
		p->done += n;
	}
	return r;
}

/* J1, where it is a file after all. */
static int sync_file(void)
{
	struct stat st;

	if (fstat(STDOUT_FILENO, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) ||
	    fsync(STDOUT_FILENO) == 0)
		return 0;
	ox_cli_error("Could not write to standard output: %s", strerror(errno));
	return -EIO;
}

int ox_cli_convert_to_pipe(struct ox_cli_convert *c)
{
	struct pipe p = {.convert = c, .buffer = malloc(PIECE_BYTES)};
	int r = 0;

	if (!p.buffer) {
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error like others */
	clock_gettime(CLOCK_MONOTONIC, &p.start);
	for (size_t i = 0; r == 0 && i < c->source_count; i++)
		r = copy_image(&p, c->images[i]);
	if (r == 0)
		r = put_rest(&p);
	free(p.buffer);
	return r < 0 ? r : sync_file();
}
