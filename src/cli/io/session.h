/* SPDX-License-Identifier: MIT */
/*
 * oxbow io: a session reads commands and carries them out on one open image. A command is a row of
 * commands.c's table; each group of commands has a file. Output and exit status are qemu-io's.
 */
#ifndef OX_CLI_IO_SESSION_H
#define OX_CLI_IO_SESSION_H

#include "cli/cli.h"

/* A request is at most this long: INT_MAX rounded down to 512 bytes. */
#define OX_CLI_IO_REQUEST_MAX 2147483136ull

struct ox_cli_io {
	struct ox_context *ctx;
	struct ox_image *image;	     /* NULL: none is open */
	struct ox_queue *queue;	     /* of image; for aio_* */
	struct ox_cli_source source; /* what image was opened from */
	char *source_text;	     /* owned: source.text, where it came from a command */
	bool misalign;		     /* -m: buffers begin at an odd place */
	bool quit;
};

struct ox_cli_io_command {
	const char *name;
	const char *alias; /* NULL: none */
	int min_args;
	int max_args; /* -1: any number */
	bool needs_image;
	bool writes;
	const char *args;
	const char *summary;
	const char *help; /* NULL: the summary is all */
	/* Negative: the command failed, and so will the session. argv[0] is the name as typed. */
	int (*run)(struct ox_cli_io *io, int argc, char **argv);
};

/* ---- commands.c ---- */

/* Runs one line. */
int ox_cli_io_run_line(struct ox_cli_io *io, char *line);
/* Prints how to call the command and returns -EINVAL. */
int ox_cli_io_usage(const char *name);

/* ---- report.c ---- */

/* A byte count as "1.500 KiB". Returns buf. */
const char *ox_cli_io_count_text(double value, char buf[OX_CLI_SIZE_MAX]);
/* A size argument; prints what is wrong with it. */
int ox_cli_io_parse_number(const char *text, uint64_t *ret) OX_CHECKED;
/* As parse_number, at most OX_CLI_IO_REQUEST_MAX. */
int ox_cli_io_parse_length(const char *text, uint64_t *ret) OX_CHECKED;
/* A byte, decimal, octal or hexadecimal. */
int ox_cli_io_parse_pattern(const char *text, int *ret) OX_CHECKED;

struct ox_cli_io_report {
	const char *verb; /* "read", "wrote", "discard" */
	uint64_t offset;
	uint64_t length;
	struct timespec start;
	bool machine; /* -C */
};

void ox_cli_io_report(const struct ox_cli_io_report *report);
void ox_cli_io_dump(const uint8_t *buf, size_t count, uint64_t offset);

/* ---- buffer.c ---- */

/* Memory for a request, with what makes it free. */
struct ox_cli_io_buffer {
	void *allocation;
	uint8_t *data;
	size_t size;
};

int ox_cli_io_buffer_new(const struct ox_cli_io *io, size_t size, int fill,
			 struct ox_cli_io_buffer *ret_buffer) OX_CHECKED;
void ox_cli_io_buffer_free(struct ox_cli_io_buffer *buffer);

/* A buffer cut into the lengths that a command line names. */
struct ox_cli_io_vector {
	struct ox_cli_io_buffer buffer;
	struct iovec *iov;
	int count;
};

int ox_cli_io_vector_new(const struct ox_cli_io *io, char **lengths, int count, int fill,
			 struct ox_cli_io_vector *ret_vector) OX_CHECKED;
void ox_cli_io_vector_free(struct ox_cli_io_vector *vector);

/* Whether count bytes at offset lie within the disk. */
bool ox_cli_io_in_bounds(const struct ox_cli_io *io, uint64_t offset, uint64_t count);

/* ---- rw.c ---- */

int ox_cli_io_read(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_write(struct ox_cli_io *io, int argc, char **argv);
/* Whether what is to be written is to become zeroes by name, as the image is to be searched for
 * them (detect-zeroes); then with what further flags. */
bool ox_cli_io_is_zeroes(const struct ox_cli_io *io, const struct iovec *iov, int count,
			 unsigned *flags);
int ox_cli_io_readv(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_writev(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_discard(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_flush(struct ox_cli_io *io, int argc, char **argv);

/* ---- aio.c ---- */

int ox_cli_io_aio_read(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_aio_write(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_aio_flush(struct ox_cli_io *io, int argc, char **argv);
/* Lets requests in flight go on, and tells of those that are done. */
void ox_cli_io_aio_poll(struct ox_cli_io *io);
/* Waits until none is in flight. */
void ox_cli_io_aio_drain(struct ox_cli_io *io);

/* ---- file.c ---- */

/* Opens io->source; a failure is printed. */
int ox_cli_io_open_image(struct ox_cli_io *io) OX_CHECKED;
/* Waits for requests in flight and closes; a failure is printed. NULL-safe. */
int ox_cli_io_close_image(struct ox_cli_io *io);
/* The argument of -d; prints what is wrong with it. */
int ox_cli_io_set_discard(struct ox_cli_source *source, const char *mode) OX_CHECKED;

int ox_cli_io_open(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_close(struct ox_cli_io *io, int argc, char **argv);

/* ---- reopen.c ---- */

int ox_cli_io_reopen(struct ox_cli_io *io, int argc, char **argv);

/* ---- facts.c ---- */

int ox_cli_io_info(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_length(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_map(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_alloc(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_truncate(struct ox_cli_io *io, int argc, char **argv);

/* ---- process.c ---- */

int ox_cli_io_no_blkdebug(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_abort(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_sleep(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_sigraise(struct ox_cli_io *io, int argc, char **argv);
int ox_cli_io_quit(struct ox_cli_io *io, int argc, char **argv);

#endif
