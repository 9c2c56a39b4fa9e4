/* SPDX-License-Identifier: MIT */
/*
 * oxbow bench: so many requests of one size, so many at once, and how long they took. Texts and
 * options are those of qemu-img bench.
 *
 * A slot holds one request. Each slot is sent again until none is left to send. A flush takes a
 * slot as well: where the queue is drained for it, it is alone.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "cli/cli.h"
#include "cli/compat/called.h"

static const char help[] =
	"usage: oxbow bench [-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=N] [-i AIO] [-n]\n"
	"                   [--no-drain] [-o OFFSET] [--pattern=BYTE] [-q] [-s BUFFER_SIZE]\n"
	"                   [-S STEP_SIZE] [-t CACHE] [-w] [-U] [--image-opts] FILE\n"
	"Measure how long reads, or with -w writes, of an image take. -w overwrites what the "
	"image\n"
	"holds.\n"
	"\n"
	"  -c, --count COUNT        so many requests in all (default: 75000)\n"
	"  -d, --depth DEPTH        so many of them at once (default: 64)\n"
	"  -f, --format FMT         format of the image; without it, the file tells it\n"
	"  --flush-interval=N       with -w: wait for all requests and flush after every N of "
	"them\n"
	"  -i, --aio AIO            how files are accessed: threads, io_uring, or native, which "
	"is\n"
	"                           io_uring past the host's page cache\n"
	"  -n, --native             the same as -i native\n"
	"  --no-drain               flush without waiting for the requests before\n"
	"  -o, --offset OFFSET      where the first request begins (default: 0)\n"
	"  --pattern=BYTE           with -w: what is written (default: 0)\n"
	"  -q, --quiet              print nothing but errors\n"
	"  -s, --buffer-size=BUFFER_SIZE\n"
	"                           bytes of a request (default: 4k)\n"
	"  -S, --step-size=STEP_SIZE\n"
	"                           how much further the next one begins (default: BUFFER_SIZE). "
	"One\n"
	"                           that would cross the end of the disk begins at 0\n"
	"  -t, --cache CACHE        writeback (the default), writethrough, none, directsync, "
	"unsafe\n"
	"  -w, --write              write, and not read\n"
	"  -U, --force-share        also while another process has the image open for writing\n"
	"  --image-opts             FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help               print this text\n";

enum {
	OPTION_FLUSH_INTERVAL = 256,
	OPTION_NO_DRAIN,
	OPTION_PATTERN,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
};

#define DEFAULT_COUNT 75000
#define DEFAULT_DEPTH 64
#define DEFAULT_SIZE 4096
#define BUFFER_ALIGNMENT 4096
#define REAP_MAX 64

struct slot {
	struct ox_request request;
	struct iovec iov;
	struct slot *next_free;
};

struct bench {
	struct ox_cli_source source;
	int count;
	int depth;
	int flush_interval; /* 0: no flushes */
	int pattern;
	uint64_t size;
	uint64_t step; /* 0: size */
	uint64_t offset;
	bool write;
	bool native;
	bool no_drain;
	bool quiet;

	struct ox_context *ctx;
	struct ox_image *image;
	struct ox_queue *queue;
	struct slot *slots;
	struct slot *free;
	uint8_t *buffers; /* of the slots of a read; a write needs one for all */
	int left;	  /* not sent yet */
	bool flush_due;
	bool draining; /* the flush is alone */
	int error;     /* the first one; then nothing is sent any more */
};

/* ---- sending ---- */

/* QEMU fails where a request crosses the end, and so on every disk whose size is no multiple of the
 * step. */
static uint64_t after(const struct bench *bench, uint64_t offset)
{
	uint64_t size = ox_image_size(bench->image);
	uint64_t next = (offset + bench->step) % size;

	return next > size - bench->size ? 0 : next;
}

static void send(struct bench *bench, enum ox_op op)
{
	struct slot *slot = bench->free;
	int r;

	bench->free = slot->next_free;
	slot->request = (struct ox_request){.op = op, .user = slot};
	if (op != OX_OP_FLUSH) {
		slot->request.offset = bench->offset;
		slot->request.iov = &slot->iov;
		slot->request.iov_count = 1;
		bench->offset = after(bench, bench->offset);
		bench->left--;
		bench->flush_due =
			bench->flush_interval > 0 && bench->left % bench->flush_interval == 0;
	}
	r = ox_queue_submit(bench->queue, &slot->request);
	if (r < 0 && bench->error == 0)
		bench->error = r;
}

static void send_all(struct bench *bench)
{
	while (bench->free && bench->error == 0 && !bench->draining) {
		if (bench->flush_due) {
			bench->draining = !bench->no_drain;
			if (bench->draining && ox_queue_pending(bench->queue) > 0)
				return;
			bench->flush_due = false;
			send(bench, OX_OP_FLUSH);
		} else if (bench->left > 0) {
			send(bench, bench->write ? OX_OP_WRITE : OX_OP_READ);
		} else {
			return;
		}
	}
}

/* The queue is empty, for which a flush may have waited. */
static void go_on_after_draining(struct bench *bench)
{
	if (!bench->draining)
		return;
	bench->draining = false;
	if (bench->flush_due && bench->error == 0) {
		bench->flush_due = false;
		bench->draining = true;
		send(bench, OX_OP_FLUSH);
	}
}

static void reap(struct bench *bench)
{
	struct ox_request *done[REAP_MAX];
	size_t count;

	while ((count = ox_queue_reap(bench->queue, done, REAP_MAX)) > 0) {
		for (size_t i = 0; i < count; i++) {
			struct slot *slot = done[i]->user;

			if (done[i]->result < 0 && bench->error == 0)
				bench->error = done[i]->result;
			slot->next_free = bench->free;
			bench->free = slot;
		}
	}
}

static void send_and_wait(struct bench *bench)
{
	send_all(bench);
	while (ox_queue_pending(bench->queue) > 0) {
		int r = ox_context_wait(bench->ctx);

		if (r < 0 && r != -EINTR) {
			/* The kernel may still write to the buffers: nothing can be undone. */
			ox_cli_error("%s", strerror(-r));
			exit(1);
		}
		reap(bench);
		if (ox_queue_pending(bench->queue) == 0)
			go_on_after_draining(bench);
		send_all(bench);
	}
}

/* ---- a run ---- */

static int make_slots(struct bench *bench)
{
	size_t used = (size_t)(bench->depth < bench->count ? bench->depth : bench->count);
	size_t one = (bench->size + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
	size_t bytes;

	if (used == 0)
		used = 1;
	if (one == 0)
		one = BUFFER_ALIGNMENT;
	if (__builtin_mul_overflow(one, bench->write ? 1 : used, &bytes))
		return -ENOMEM;
	bench->slots = calloc(used, sizeof(*bench->slots));
	bench->buffers = aligned_alloc(BUFFER_ALIGNMENT, bytes);
	if (!bench->slots || !bench->buffers)
		return -ENOMEM;
	if (bench->write)
		memset(bench->buffers, bench->pattern, one);
	for (size_t i = used; i-- > 0;) {
		struct slot *slot = &bench->slots[i];

		slot->iov.iov_base = bench->buffers + (bench->write ? 0 : one * i);
		slot->iov.iov_len = bench->size;
		slot->next_free = bench->free;
		bench->free = slot;
	}
	return 0;
}

static void print_plan(const struct bench *bench)
{
	if (bench->quiet)
		return;
	printf("Sending %d %s requests, %" PRIu64 " bytes each, %d in parallel "
	       "(starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
	       bench->count, bench->write ? "write" : "read", bench->size, bench->depth,
	       bench->offset, bench->step);
	if (bench->flush_interval > 0)
		printf("Sending flush every %d requests\n", bench->flush_interval);
	fflush(stdout);
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static int measure(struct bench *bench)
{
	uint64_t disk = ox_image_size(bench->image);
	struct timespec start;

	print_plan(bench);
	bench->left = bench->count;
	clock_gettime(CLOCK_MONOTONIC, &start);
	/* The first request is where the user wants it, or nowhere. */
	if (bench->count > 0 && (bench->size > disk || bench->offset > disk - bench->size))
		bench->error = -EIO;
	else if (bench->count > 0 && disk > 0)
		send_and_wait(bench);
	if (bench->error < 0) {
		ox_cli_error("Failed request: %s", strerror(-bench->error));
		return bench->error;
	}
	if (!bench->quiet)
		printf("Run completed in %3.3f seconds.\n", seconds_since(&start));
	return 0;
}

static int run_open(struct bench *bench)
{
	struct ox_error *err = NULL;
	int r = make_slots(bench);

	if (r == 0)
		r = ox_queue_new(bench->image, &bench->queue);
	if (r < 0)
		ox_cli_error("%s", strerror(-r));
	else
		r = measure(bench);
	ox_queue_free(bench->queue);
	if (ox_image_close(bench->image, &err) < 0 && r == 0) {
		ox_cli_error("%s", ox_error_message(err));
		r = -EIO;
	}
	ox_error_free(err);
	free(bench->slots);
	free(bench->buffers);
	return r;
}

static bool is_direct(const struct ox_cli_source *source)
{
	return source->open.cache == OX_CACHE_NONE || source->open.cache == OX_CACHE_DIRECTSYNC;
}

static int run(struct bench *bench, const char *name)
{
	int r;

	if (ox_cli_source_set(&bench->source, name) < 0)
		return 1;
	if (bench->native && !is_direct(&bench->source)) {
		ox_cli_error("Could not open '%s': aio=native was specified, but it requires "
			     "cache.direct=on, which was not specified.",
			     name);
		return 1;
	}
	if (ox_cli_context_new(bench->source.engine, &bench->ctx) < 0)
		return 1;
	r = ox_cli_source_open(bench->ctx, &bench->source, &bench->image);
	if (r == 0)
		r = run_open(bench);
	ox_context_free(bench->ctx);
	return r < 0 ? 1 : 0;
}

/* ---- the command line ---- */

static int parse_size(const char *what, const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t value;
	int r = ox_cli_size_parse(text, &value);

	if (r == 0 && value <= max) {
		*ret = value;
		return 0;
	}
	if (r == -EINVAL) {
		ox_cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for",
			     what);
		ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	} else {
		ox_cli_error("Invalid %s specified. Must be between 0 and %" PRIu64 ".", what, max);
	}
	return 1;
}

static int parse_number(const char *what, const char *text, long min, long max, int *ret)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 0);
	if (errno == 0 && end != text && *end == '\0' && value >= min && value <= max) {
		*ret = (int)value;
		return 0;
	}
	ox_cli_error("Invalid %s specified", what);
	return 1;
}

static int set_engine(struct bench *bench, const char *mode)
{
	bench->native = strcmp(mode, "native") == 0;
	if (strcmp(mode, "threads") == 0)
		bench->source.engine = OX_ENGINE_THREAD_POOL;
	else if (strcmp(mode, "io_uring") == 0)
		bench->source.engine = OX_ENGINE_IO_URING;
	else if (!bench->native) {
		ox_cli_error("Invalid aio option: %s", mode);
		return 1;
	}
	return 0;
}

static int take_number(struct bench *bench, int c)
{
	switch (c) {
	case 'c':
		return parse_number("request count", optarg, 0, INT_MAX, &bench->count);
	case 'd':
		return parse_number("queue depth", optarg, 1, INT_MAX, &bench->depth);
	case 'o':
		return parse_size("offset", optarg, INT64_MAX, &bench->offset);
	case 's':
		return parse_size("buffer size", optarg, INT_MAX, &bench->size);
	case 'S':
		return parse_size("step_size", optarg, INT_MAX, &bench->step);
	case OPTION_FLUSH_INTERVAL:
		return parse_number("flush interval", optarg, 0, INT_MAX, &bench->flush_interval);
	default:
		return parse_number("pattern byte", optarg, 0, 255, &bench->pattern);
	}
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct bench *bench, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'c':
	case 'd':
	case 'o':
	case 's':
	case 'S':
	case OPTION_FLUSH_INTERVAL:
	case OPTION_PATTERN:
		return take_number(bench, c);
	case 'f':
		bench->source.open.format = optarg;
		return 0;
	case 'i':
		return set_engine(bench, optarg);
	case 'n':
		bench->native = true;
		return 0;
	case 'q':
		bench->quiet = true;
		return 0;
	case 't':
		if (ox_cache_mode_parse(optarg, &bench->source.open.cache) == 0)
			return 0;
		ox_cli_error("Invalid cache mode");
		return 1;
	case 'w':
		bench->write = true;
		bench->source.open.flags &= ~(unsigned)OX_OPEN_READ_ONLY;
		return 0;
	case 'U':
		bench->source.open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_NO_DRAIN:
		bench->no_drain = true;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		bench->source.image_opts = true;
		return 0;
	default:
		return ox_cli_option_error("bench", c, argv);
	}
}

static int refuse_options(const struct bench *bench)
{
	if (bench->source.image_opts && bench->source.open.format) {
		ox_cli_error("--image-opts and --format are mutually exclusive");
		return 1;
	}
	if (!bench->write && bench->flush_interval > 0) {
		ox_cli_error("--flush-interval is only available in write tests");
		return 1;
	}
	if (bench->flush_interval > 0 && bench->flush_interval < bench->depth) {
		ox_cli_error("Flush interval can't be smaller than depth");
		return 1;
	}
	return 0;
}

static const struct option longs[] = {
	{"aio", required_argument, NULL, 'i'},
	{"buffer-size", required_argument, NULL, 's'},
	{"cache", required_argument, NULL, 't'},
	{"count", required_argument, NULL, 'c'},
	{"depth", required_argument, NULL, 'd'},
	{"flush-interval", required_argument, NULL, OPTION_FLUSH_INTERVAL},
	{"force-share", no_argument, NULL, 'U'},
	{"format", required_argument, NULL, 'f'},
	{"help", no_argument, NULL, 'h'},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{"native", no_argument, NULL, 'n'},
	{"no-drain", no_argument, NULL, OPTION_NO_DRAIN},
	{"offset", required_argument, NULL, 'o'},
	{"pattern", required_argument, NULL, OPTION_PATTERN},
	{"quiet", no_argument, NULL, 'q'},
	{"step-size", required_argument, NULL, 'S'},
	{"write", no_argument, NULL, 'w'},
	{0},
};

int ox_cli_bench(int argc, char **argv)
{
	struct bench bench = {
		.source = OX_CLI_SOURCE_INIT,
		.count = DEFAULT_COUNT,
		.depth = DEFAULT_DEPTH,
		.size = DEFAULT_SIZE,
	};
	int c, status = 0;

	bench.source.open.flags = OX_OPEN_READ_ONLY;
	bench.source.open.cache = OX_CACHE_WRITEBACK;
	opterr = 0;
	while (status == 0 &&
	       (c = getopt_long(argc, argv, ":hc:d:f:i:no:qs:S:t:wU", longs, NULL)) != -1)
		status = take_option(&bench, c, argv);
	if (status == 0 && optind + 1 != argc)
		status = ox_cli_usage_error("bench", "Expecting one image file name");
	if (status == 0)
		status = refuse_options(&bench);
	if (bench.step == 0)
		bench.step = bench.size;
	if (status == 0)
		status = run(&bench, argv[optind]);
	ox_cli_source_free(&bench.source);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
