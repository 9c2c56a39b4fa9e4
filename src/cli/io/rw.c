/* SPDX-License-Identifier: MIT */
/* read, write, readv, writev, discard, flush: one request, waited for. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

#define FILL_WRITE 0xcd
#define FILL_READ 0xab

struct request {
	struct ox_cli_io_report report;
	int pattern; /* -1: none given */
	const char *pattern_file;
	uint64_t verify_start;
	uint64_t verify_length;
	bool has_start;
	bool has_length;
	bool quiet;
	bool dump;
	bool zero;
	bool compressed;
	bool vm_state;
	unsigned flags; /* enum ox_request_flags */
};

static int take_option(struct request *request, int c, const char *command)
{
	switch (c) {
	case 'C':
		request->report.machine = true;
		return 0;
	case 'q':
		request->quiet = true;
		return 0;
	case 'v':
		request->dump = true;
		return 0;
	case 'p':
	case 'r':
		return 0; /* an interface that was; buffers that the kernel is told of */
	case 'b':
		request->vm_state = true;
		return 0;
	case 'c':
		request->compressed = true;
		return 0;
	case 'f':
		request->flags |= OX_REQ_FUA;
		return 0;
	case 'n':
		request->flags |= OX_REQ_FAST_ZERO;
		return 0;
	case 'u':
		request->flags |= OX_REQ_MAY_UNMAP;
		return 0;
	case 'z':
		request->zero = true;
		return 0;
	case 'P':
		return ox_cli_io_parse_pattern(optarg, &request->pattern);
	case 'l':
		request->has_length = true;
		return ox_cli_io_parse_number(optarg, &request->verify_length);
	default:
		return ox_cli_io_usage(command);
	}
}

/* For the options of all but -s, which reads and writes understand differently. */
static int parse_options(struct request *request, int argc, char **argv, const char *options)
{
	int c, r = 0;

	*request = (struct request){.pattern = -1};
	optind = 0;
	opterr = 1;
	while (r == 0 && (c = getopt(argc, argv, options)) != -1) {
		if (c == 's' && strchr(options, 'z')) {
			request->pattern_file = optarg;
		} else if (c == 's') {
			request->has_start = true;
			r = ox_cli_io_parse_number(optarg, &request->verify_start);
		} else {
			r = take_option(request, c, argv[0]);
		}
	}
	if (r == 0 && request->vm_state) {
		printf("%s: access to the VM state is not supported\n", argv[0]);
		r = -ENOTSUP;
	}
	return r;
}

static int failed(const char *what, int r)
{
	printf("%s failed: %s\n", what, strerror(-r));
	return r;
}

static bool all_bytes_are(const uint8_t *buf, size_t count, int pattern)
{
	return count == 0 || (buf[0] == pattern && memcmp(buf, buf + 1, count - 1) == 0);
}

static int verify(const struct request *request, const uint8_t *buf)
{
	uint64_t start = request->verify_start, length = request->verify_length;

	if (request->pattern < 0 || all_bytes_are(buf + start, length, request->pattern))
		return 0;
	printf("Pattern verification failed at offset %llu, %llu bytes\n",
	       (unsigned long long)(request->report.offset + start), (unsigned long long)length);
	return -EINVAL;
}

static int finish(struct request *request, const char *verb)
{
	request->report.verb = verb;
	if (!request->quiet)
		ox_cli_io_report(&request->report);
	return 0;
}

static void start_clock(struct request *request)
{
	clock_gettime(CLOCK_MONOTONIC, &request->report.start);
}

static int parse_verify_range(struct request *request, const char *command)
{
	uint64_t length = request->report.length;

	if (request->pattern < 0 && (request->has_start || request->has_length))
		return ox_cli_io_usage(command);
	if (!request->has_length)
		request->verify_length =
			length > request->verify_start ? length - request->verify_start : 0;
	if (request->verify_start > length ||
	    request->verify_length > length - request->verify_start) {
		printf("pattern verification range exceeds end of read data\n");
		return -EINVAL;
	}
	return 0;
}

static int parse_range(struct request *request, char **arguments, bool unbounded)
{
	int r = ox_cli_io_parse_number(arguments[0], &request->report.offset);

	if (r < 0)
		return r;
	return unbounded ? ox_cli_io_parse_number(arguments[1], &request->report.length)
			 : ox_cli_io_parse_length(arguments[1], &request->report.length);
}

int ox_cli_io_read(struct ox_cli_io *io, int argc, char **argv)
{
	struct ox_cli_io_buffer buffer;
	struct request request;
	int r = parse_options(&request, argc, argv, "bCl:pP:qrs:v");

	if (r < 0)
		return r;
	if (optind != argc - 2)
		return ox_cli_io_usage(argv[0]);
	r = parse_range(&request, argv + optind, false);
	if (r == 0)
		r = parse_verify_range(&request, argv[0]);
	if (r == 0)
		r = ox_cli_io_buffer_new(io, request.report.length, FILL_READ, &buffer);
	if (r < 0)
		return r;
	start_clock(&request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request.report.offset, buffer.size))
		r = ox_pread(io->image, buffer.data, buffer.size, request.report.offset);
	if (r < 0) {
		failed("read", r);
	} else {
		r = verify(&request, buffer.data);
		if (request.dump && !request.quiet)
			ox_cli_io_dump(buffer.data, buffer.size, request.report.offset);
		finish(&request, "read");
	}
	ox_cli_io_buffer_free(&buffer);
	return r;
}

/* The contents of a file over and over. */
static int fill_from_file(struct ox_cli_io_buffer *buffer, const char *name)
{
	FILE *file = fopen(name, "r");
	size_t got;

	if (!file) {
		int r = -errno;

		fprintf(stderr, "%s: %s\n", name, strerror(-r));
		return r;
	}
	got = fread(buffer->data, 1, buffer->size, file);
	if (ferror(file) || (got == 0 && buffer->size > 0)) {
		fprintf(stderr, "%s: %s\n", name, ferror(file) ? "read error" : "file is empty");
		fclose(file);
		return -EIO;
	}
	fclose(file);
	for (size_t at = got; at < buffer->size; at++)
		buffer->data[at] = buffer->data[at - got];
	return 0;
}

static int check_write_options(const struct request *request)
{
	int sources = request->zero + (request->pattern >= 0) + (request->pattern_file != NULL);

	if ((request->flags & OX_REQ_FUA) && request->compressed)
		printf("-f and -b or -c cannot be specified at the same time\n");
	else if (sources > 1)
		printf("Only one of -z, -P, and -s can be specified at the same time\n");
	else if ((request->flags & OX_REQ_FAST_ZERO) && !request->zero)
		printf("-n requires -z to be specified\n");
	else if ((request->flags & OX_REQ_MAY_UNMAP) && !request->zero)
		printf("-u requires -z to be specified\n");
	else
		return 0;
	return -EINVAL;
}

bool ox_cli_io_is_zeroes(const struct ox_cli_io *io, const struct iovec *iov, int count,
			 unsigned *flags)
{
	const char *detect = io->source.detect_zeroes;

	for (int i = 0; detect && i < count; i++) {
		if (!all_bytes_are(iov[i].iov_base, iov[i].iov_len, 0))
			return false;
	}
	if (detect && strcmp(detect, "unmap") == 0)
		*flags |= OX_REQ_MAY_UNMAP;
	return detect;
}

static int put(struct ox_cli_io *io, const struct iovec *iov, int count,
	       const struct request *request)
{
	const uint64_t offset = request->report.offset;
	unsigned flags = request->flags;

	if (request->compressed)
		return ox_pwritev(io->image, iov, count, offset, flags | OX_REQ_COMPRESSED);
	if (ox_cli_io_is_zeroes(io, iov, count, &flags))
		return ox_write_zeroes(io->image, offset, request->report.length, flags);
	return ox_pwritev(io->image, iov, count, offset, flags);
}

static int write_bytes(struct ox_cli_io *io, struct request *request)
{
	struct ox_cli_io_buffer buffer;
	int fill = request->pattern < 0 ? FILL_WRITE : request->pattern;
	int r = ox_cli_io_buffer_new(io, request->report.length, fill, &buffer);

	if (r == 0 && request->pattern_file) {
		r = fill_from_file(&buffer, request->pattern_file);
		if (r < 0)
			ox_cli_io_buffer_free(&buffer);
	}
	if (r < 0)
		return r;
	start_clock(request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request->report.offset, buffer.size))
		r = put(io, &(struct iovec){buffer.data, buffer.size}, 1, request);
	ox_cli_io_buffer_free(&buffer);
	return r < 0 ? failed("write", r) : finish(request, "wrote");
}

int ox_cli_io_write(struct ox_cli_io *io, int argc, char **argv)
{
	struct request request;
	int r = parse_options(&request, argc, argv, "bcCfnpP:qrs:uz");

	if (r < 0)
		return r;
	if (optind != argc - 2)
		return ox_cli_io_usage(argv[0]);
	r = check_write_options(&request);
	/* Without a fallback nothing of the length is ever held in memory. */
	if (r == 0)
		r = parse_range(&request, argv + optind, request.flags & OX_REQ_FAST_ZERO);
	if (r < 0)
		return r;
	if (!request.zero)
		return write_bytes(io, &request);
	start_clock(&request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request.report.offset, request.report.length))
		r = ox_write_zeroes(io->image, request.report.offset, request.report.length,
				    request.flags);
	return r < 0 ? failed("write", r) : finish(&request, "wrote");
}

/* "off len [len..]" after the options. */
static int parse_vector(struct ox_cli_io *io, struct request *request, int argc, char **argv,
			int fill, struct ox_cli_io_vector *ret_vector)
{
	int r;

	if (optind > argc - 2)
		return ox_cli_io_usage(argv[0]);
	r = ox_cli_io_parse_number(argv[optind], &request->report.offset);
	if (r == 0)
		r = ox_cli_io_vector_new(io, argv + optind + 1, argc - optind - 1, fill,
					 ret_vector);
	if (r == 0)
		request->report.length = ret_vector->buffer.size;
	return r;
}

int ox_cli_io_readv(struct ox_cli_io *io, int argc, char **argv)
{
	struct ox_cli_io_vector vector;
	struct request request;
	int r = parse_options(&request, argc, argv, "CP:qrv");

	if (r == 0)
		r = parse_vector(io, &request, argc, argv, FILL_READ, &vector);
	if (r < 0)
		return r;
	request.verify_length = vector.buffer.size;
	start_clock(&request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request.report.offset, vector.buffer.size))
		r = ox_preadv(io->image, vector.iov, vector.count, request.report.offset);
	if (r < 0) {
		failed("readv", r);
	} else {
		r = verify(&request, vector.buffer.data);
		if (request.dump && !request.quiet)
			ox_cli_io_dump(vector.buffer.data, vector.buffer.size,
				       request.report.offset);
		finish(&request, "read");
	}
	ox_cli_io_vector_free(&vector);
	return r;
}

int ox_cli_io_writev(struct ox_cli_io *io, int argc, char **argv)
{
	struct ox_cli_io_vector vector;
	struct request request;
	int fill, r = parse_options(&request, argc, argv, "CfqrP:");

	if (r < 0)
		return r;
	fill = request.pattern < 0 ? FILL_WRITE : request.pattern;
	r = parse_vector(io, &request, argc, argv, fill, &vector);
	if (r < 0)
		return r;
	start_clock(&request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request.report.offset, vector.buffer.size))
		r = put(io, vector.iov, vector.count, &request);
	ox_cli_io_vector_free(&vector);
	return r < 0 ? failed("writev", r) : finish(&request, "wrote");
}

int ox_cli_io_discard(struct ox_cli_io *io, int argc, char **argv)
{
	struct request request;
	int r = parse_options(&request, argc, argv, "Cq");

	if (r < 0)
		return r;
	if (optind != argc - 2)
		return ox_cli_io_usage(argv[0]);
	r = parse_range(&request, argv + optind, false);
	if (r < 0)
		return r;
	start_clock(&request);
	r = -EIO;
	if (ox_cli_io_in_bounds(io, request.report.offset, request.report.length))
		r = ox_discard(io->image, request.report.offset, request.report.length);
	return r < 0 ? failed("discard", r) : finish(&request, "discard");
}

int ox_cli_io_flush(struct ox_cli_io *io, int argc, char **argv)
{
	int r = ox_flush(io->image);

	(void)argc;
	(void)argv;
	return r < 0 ? failed("flush", r) : 0;
}
