/* SPDX-License-Identifier: MIT */
/*
 * A user of the public API whose instructions are counted (tests/bench/counts.py):
 *
 *     counted IMAGE FORMAT LOAD DEPTH REQUESTS STATE
 *
 * LOAD is alloc (4 KiB into a cluster that has no place yet), write or read (4 KiB in place), or
 * trim (a whole cluster); each request is for the next cluster, all but alloc's in such as are
 * written before, one round after another. DEPTH requests are in flight, and after every 256 of
 * them, but for reads, a flush is waited for. STATE is state, or none. What the image's file was
 * asked for is printed: host writes and syncs, from the opening to the close.
 */
#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "oxbow.h"

#define BLOCK_BYTES 4096u
#define CLUSTER_BYTES UINT64_C(65536)
#define IN_PLACE_CLUSTERS 4096u
#define DEPTH_MAX 64u
#define FLUSH_EVERY 256u

struct counted {
	struct ox_context *ctx;
	struct ox_image *image;
	struct ox_queue *queue;
	struct ox_request slots[DEPTH_MAX];
	struct iovec iov;
	size_t depth;
};

static void fail_on(int ret, const char *what)
{
	if (ret < 0)
		errx(1, "%s: %s", what, strerror(-ret));
}

static struct ox_request *reap(struct counted *c)
{
	struct ox_request *done;

	fail_on(ox_context_poll(c->ctx), "poll");
	while (ox_queue_reap(c->queue, &done, 1) == 0)
		fail_on(ox_context_wait(c->ctx), "wait");
	fail_on(done->result, "request");
	return done;
}

/* Requests number..number + count, each into the cluster of its number. */
static void run(struct counted *c, enum ox_op op, uint64_t number, uint64_t count)
{
	uint64_t end = number + count;

	for (size_t i = 0; i < c->depth && number < end; i++, number++) {
		c->slots[i] = (struct ox_request){
			.op = op,
			.offset = number * CLUSTER_BYTES,
			.length = op == OX_OP_DISCARD ? CLUSTER_BYTES : 0,
			.iov = &c->iov,
			.iov_count = 1,
		};
		fail_on(ox_queue_submit(c->queue, &c->slots[i]), "submit");
	}
	while (ox_queue_pending(c->queue) > 0) {
		struct ox_request *request = reap(c);

		if (number == end)
			continue;
		request->offset = number++ * CLUSTER_BYTES;
		fail_on(ox_queue_submit(c->queue, request), "submit");
	}
}

static void run_all(struct counted *c, const char *load, uint64_t requests)
{
	bool allocates = strcmp(load, "alloc") == 0;
	enum ox_op op = strcmp(load, "read") == 0   ? OX_OP_READ
			: strcmp(load, "trim") == 0 ? OX_OP_DISCARD
						    : OX_OP_WRITE;

	for (uint64_t done = 0; done < requests; done += FLUSH_EVERY) {
		run(c, op, allocates ? done : done % IN_PLACE_CLUSTERS, FLUSH_EVERY);
		if (op != OX_OP_READ)
			fail_on(ox_flush(c->image), "flush");
	}
}

static void open_image(struct counted *c, char **argv, bool with_state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *error = NULL;

	opts.format = argv[2];
	if (with_state)
		opts.state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (opts.state_fd < 0)
		err(1, "memfd_create");
	/* What depends on how long things take is left out. */
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	if (ox_context_new(OX_ENGINE_DEFAULT, &c->ctx, &error) < 0 ||
	    ox_image_open(c->ctx, argv[1], &opts, &c->image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	fail_on(ox_queue_new(c->image, &c->queue), "queue");
}

int main(int argc, char **argv)
{
	static char block[BLOCK_BYTES];
	struct counted c = {.iov = {.iov_base = block, .iov_len = BLOCK_BYTES}};
	struct ox_image_stats stats;
	uint64_t requests;

	if (argc != 7)
		errx(1, "usage: counted IMAGE FORMAT LOAD DEPTH REQUESTS STATE");
	memset(block, 0x5a, sizeof(block));
	c.depth = strtoul(argv[4], NULL, 10);
	requests = strtoul(argv[5], NULL, 10);
	if (c.depth == 0 || c.depth > DEPTH_MAX || requests % FLUSH_EVERY != 0)
		errx(1, "a depth up to %u, and requests by %u", DEPTH_MAX, FLUSH_EVERY);
	open_image(&c, argv, strcmp(argv[6], "state") == 0);
	if (strcmp(argv[3], "alloc") != 0)
		run(&c, OX_OP_WRITE, 0, IN_PLACE_CLUSTERS);
	run_all(&c, argv[3], requests);
	fail_on(ox_flush(c.image), "flush");
	ox_image_stats(c.image, &stats);
	printf("%" PRIu64 " %" PRIu64 "\n", stats.host_writes, stats.host_syncs);
	ox_queue_free(c.queue);
	fail_on(ox_image_close(c.image, NULL), "close");
	ox_context_free(c.ctx);
	return 0;
}
