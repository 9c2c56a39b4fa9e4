/* SPDX-License-Identifier: MIT */
/* aio_read, aio_write, aio_flush: requests that run beside each other. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

#define FILL_WRITE 0xcd
#define FILL_READ 0xab
#define REAP_MAX 16

/* Owned by the queue from submit to reap. */
struct aio {
	struct ox_request request;
	struct ox_cli_io_report report;
	struct ox_cli_io_vector vector;
	int pattern; /* -1: none given */
	bool quiet;
	bool dump;
	bool zero;
	bool invalid; /* -i */
};

static void free_aio(struct aio *aio)
{
	ox_cli_io_vector_free(&aio->vector);
	free(aio);
}

static void tell_of_read(const struct aio *aio)
{
	const struct ox_cli_io_buffer *buffer = &aio->vector.buffer;

	if (aio->request.result < 0) {
		printf("readv failed: %s\n", strerror(-aio->request.result));
		return;
	}
	for (size_t i = 0; aio->pattern >= 0 && i < buffer->size; i++) {
		if (buffer->data[i] != aio->pattern) {
			printf("Pattern verification failed at offset %llu, %zu bytes\n",
			       (unsigned long long)aio->report.offset, buffer->size);
			break;
		}
	}
	if (aio->quiet)
		return;
	if (aio->dump)
		ox_cli_io_dump(buffer->data, buffer->size, aio->report.offset);
	ox_cli_io_report(&aio->report);
}

static void tell_of_write(const struct aio *aio)
{
	if (aio->request.result < 0)
		printf("aio_write failed: %s\n", strerror(-aio->request.result));
	else if (!aio->quiet)
		ox_cli_io_report(&aio->report);
}

static void finish(struct aio *aio)
{
	if (aio->request.op == OX_OP_READ)
		tell_of_read(aio);
	else
		tell_of_write(aio);
	free_aio(aio);
}

static void reap(struct ox_cli_io *io)
{
	struct ox_request *done[REAP_MAX];
	size_t count;

	while ((count = ox_queue_reap(io->queue, done, REAP_MAX)) > 0) {
		for (size_t i = 0; i < count; i++)
			finish(done[i]->user);
	}
}

void ox_cli_io_aio_poll(struct ox_cli_io *io)
{
	int r;

	if (!io->queue || ox_queue_pending(io->queue) == 0)
		return;
	r = ox_context_poll(io->ctx);
	if (r < 0)
		ox_cli_error("%s", strerror(-r));
	reap(io);
}

void ox_cli_io_aio_drain(struct ox_cli_io *io)
{
	while (io->queue && ox_queue_pending(io->queue) > 0) {
		int r;

		reap(io);
		if (ox_queue_pending(io->queue) == 0)
			break;
		r = ox_context_wait(io->ctx);
		if (r < 0 && r != -EINTR) {
			/* Requests own memory that the kernel may still write: nothing can be
			 * undone safely. */
			ox_cli_error("%s", strerror(-r));
			exit(1);
		}
	}
}

static int take_option(struct aio *aio, int c, const char *command)
{
	switch (c) {
	case 'C':
		aio->report.machine = true;
		return 0;
	case 'f':
		aio->request.flags |= OX_REQ_FUA;
		return 0;
	case 'i':
		aio->invalid = true;
		return 0;
	case 'q':
		aio->quiet = true;
		return 0;
	case 'u':
		aio->request.flags |= OX_REQ_MAY_UNMAP;
		return 0;
	case 'v':
		aio->dump = true;
		return 0;
	case 'z':
		aio->zero = true;
		return 0;
	case 'P':
		return ox_cli_io_parse_pattern(optarg, &aio->pattern);
	default:
		return ox_cli_io_usage(command);
	}
}

static int parse_options(struct aio *aio, int argc, char **argv, const char *options)
{
	int c, r = 0;

	aio->pattern = -1;
	optind = 0;
	opterr = 1;
	while (r == 0 && (c = getopt(argc, argv, options)) != -1)
		r = take_option(aio, c, argv[0]);
	if (r == 0 && optind > argc - 2)
		r = ox_cli_io_usage(argv[0]);
	return r;
}

static int submit(struct ox_cli_io *io, struct aio *aio)
{
	int r;

	aio->request.user = aio;
	aio->request.offset = aio->report.offset;
	aio->request.iov = aio->vector.iov;
	aio->request.iov_count = aio->vector.count;
	aio->request.length = aio->report.length;
	clock_gettime(CLOCK_MONOTONIC, &aio->report.start);
	if (!ox_cli_io_in_bounds(io, aio->report.offset, aio->report.length)) {
		aio->request.result = -EIO;
		finish(aio);
		return 0;
	}
	r = ox_queue_submit(io->queue, &aio->request);
	if (r < 0) {
		printf("%s\n", strerror(-r));
		free_aio(aio);
	}
	return r;
}

static int prepare_read(struct ox_cli_io *io, struct aio *aio, int argc, char **argv)
{
	int r = parse_options(aio, argc, argv, "CiP:qv");

	aio->request.op = OX_OP_READ;
	aio->report.verb = "read";
	if (r < 0)
		return r;
	if (aio->invalid) {
		printf("injecting invalid read request\n");
		return 1;
	}
	r = ox_cli_io_parse_number(argv[optind], &aio->report.offset);
	if (r == 0)
		r = ox_cli_io_vector_new(io, argv + optind + 1, argc - optind - 1, FILL_READ,
					 &aio->vector);
	aio->report.length = aio->vector.buffer.size;
	return r;
}

static int check_write_options(const struct aio *aio, int lengths)
{
	if (aio->zero && lengths != 1)
		printf("-z supports only a single length parameter\n");
	else if ((aio->request.flags & OX_REQ_MAY_UNMAP) && !aio->zero)
		printf("-u requires -z to be specified\n");
	else
		return 0;
	return -EINVAL;
}

static int prepare_write(struct ox_cli_io *io, struct aio *aio, int argc, char **argv)
{
	int r = parse_options(aio, argc, argv, "CfiP:quz");

	aio->request.op = aio->zero ? OX_OP_WRITE_ZEROES : OX_OP_WRITE;
	aio->report.verb = "wrote";
	if (r == 0)
		r = check_write_options(aio, argc - optind - 1);
	if (r < 0)
		return r;
	if (aio->invalid) {
		printf("injecting invalid write request\n");
		return 1;
	}
	r = ox_cli_io_parse_number(argv[optind], &aio->report.offset);
	if (r < 0)
		return r;
	if (aio->zero)
		return ox_cli_io_parse_length(argv[optind + 1], &aio->report.length);
	r = ox_cli_io_vector_new(io, argv + optind + 1, argc - optind - 1,
				 aio->pattern < 0 ? FILL_WRITE : aio->pattern, &aio->vector);
	if (r < 0)
		return r;
	aio->report.length = aio->vector.buffer.size;
	if (ox_cli_io_is_zeroes(io, aio->vector.iov, aio->vector.count, &aio->request.flags)) {
		aio->request.op = OX_OP_WRITE_ZEROES;
		ox_cli_io_vector_free(&aio->vector);
	}
	return 0;
}

/* prepare says 0 to submit, positive where there is nothing to submit. */
static int start(struct ox_cli_io *io, int argc, char **argv,
		 int (*prepare)(struct ox_cli_io *io, struct aio *aio, int argc, char **argv))
{
	struct aio *aio = calloc(1, sizeof(*aio));
	int r = aio ? prepare(io, aio, argc, argv) : -ENOMEM;

	if (r == 0)
		return submit(io, aio);
	if (aio)
		free_aio(aio);
	return r < 0 ? r : 0;
}

int ox_cli_io_aio_read(struct ox_cli_io *io, int argc, char **argv)
{
	return start(io, argc, argv, prepare_read);
}

int ox_cli_io_aio_write(struct ox_cli_io *io, int argc, char **argv)
{
	return start(io, argc, argv, prepare_write);
}

int ox_cli_io_aio_flush(struct ox_cli_io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	ox_cli_io_aio_drain(io);
	return 0;
}
