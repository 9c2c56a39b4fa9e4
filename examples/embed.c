/* SPDX-License-Identifier: MIT */
/*
 * oxbow in a program with an event loop of its own: writes and reads a block through a queue.
 *
 *	cc embed.c $(pkg-config --cflags --libs oxbow) -o embed && ./embed disk.qcow2
 */
#include <oxbow.h>
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static char sent[4096], received[4096];

/* Runs one request. A real loop has many in flight, and other descriptors beside the queue's. */
static void run(struct ox_context *ctx, struct ox_queue *queue, enum ox_op op, char *buf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(sent)};
	struct ox_request request = {.op = op, .offset = 1 << 20, .iov = &iov, .iov_count = 1};
	struct ox_request *done;
	struct pollfd loop = {.fd = ox_queue_fd(queue), .events = POLLIN};

	if (ox_queue_submit(queue, &request) < 0)
		errx(1, "out of memory");
	for (;;) {
		if (ox_context_poll(ctx) < 0) /* starts what was submitted, ends what is ready */
			errx(1, "the I/O engine failed");
		if (ox_queue_reap(queue, &done, 1) == 1)
			break;
		poll(&loop, 1, -1);
	}
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

	opts.format = "qcow2";
	if (argc != 2)
		errx(1, "usage: embed IMAGE");
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, &error) < 0 ||
	    ox_image_open(ctx, argv[1], &opts, &image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	if (ox_queue_new(image, &queue) < 0)
		errx(1, "out of memory");

	memset(sent, 0x5a, sizeof(sent));
	run(ctx, queue, OX_OP_WRITE, sent);
	run(ctx, queue, OX_OP_READ, received);
	if (memcmp(sent, received, sizeof(sent)) != 0)
		errx(1, "read something else than was written");

	ox_queue_free(queue);
	if (ox_image_close(image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	ox_context_free(ctx);
	puts("wrote and read 4096 bytes");
}
