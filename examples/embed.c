/* SPDX-License-Identifier: MIT */
/*
 * oxbow in a program with an event loop of its own: opens an image, writes and reads a block
 * through a queue, and closes the image, without ever waiting but in the loop.
 *
 *	cc embed.c $(pkg-config --cflags --libs oxbow) -o embed && ./embed disk.qcow2
 */
#include <oxbow.h>
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static char sent[4096], received[4096];

/* One turn of the loop. A real one watches other descriptors beside the library's. */
static void turn(struct ox_context *ctx)
{
	struct pollfd loop = {.fd = ox_context_fd(ctx), .events = POLLIN};

	poll(&loop, 1, -1);
	if (ox_context_poll(ctx) < 0) /* starts what was submitted, ends what is ready */
		errx(1, "the I/O engine failed");
}

/* An opening (image: where it goes) or a closing. A real loop does other things meanwhile. */
static void finish(struct ox_context *ctx, struct ox_job *job, struct ox_image **image)
{
	struct ox_error *error = NULL;

	while (!ox_job_is_done(job))
		turn(ctx);
	if (ox_job_end(job, image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
}

/* Runs one request. A real loop has many in flight. */
static void run(struct ox_context *ctx, struct ox_queue *queue, enum ox_op op, char *buf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(sent)};
	struct ox_request request = {.op = op, .offset = 1 << 20, .iov = &iov, .iov_count = 1};
	struct ox_request *done;

	if (ox_queue_submit(queue, &request) < 0)
		errx(1, "out of memory");
	while (ox_queue_reap(queue, &done, 1) == 0)
		turn(ctx);
	if (done->result < 0)
		errx(1, "request: %s", strerror(-done->result));
}

int main(int argc, char **argv)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *error = NULL;
	struct ox_context *ctx;
	struct ox_image *image;
	struct ox_queue *queue;
	struct ox_job *job;

	opts.format = "qcow2";
	if (argc != 2)
		errx(1, "usage: embed IMAGE");
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, &error) < 0 ||
	    ox_image_open_start(ctx, argv[1], &opts, &job, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	finish(ctx, job, &image);
	if (ox_queue_new(image, &queue) < 0)
		errx(1, "out of memory");

	memset(sent, 0x5a, sizeof(sent));
	run(ctx, queue, OX_OP_WRITE, sent);
	run(ctx, queue, OX_OP_READ, received);
	if (memcmp(sent, received, sizeof(sent)) != 0)
		errx(1, "read something else than was written");

	ox_queue_free(queue);
	if (ox_image_close_start(image, &job, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	finish(ctx, job, NULL);
	ox_context_free(ctx);
	puts("wrote and read 4096 bytes");
}
