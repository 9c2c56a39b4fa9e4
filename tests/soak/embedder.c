/* SPDX-License-Identifier: MIT */
/*
 * A lone user of the library, for as long as it is told to:
 *
 *     embedder IMAGE LOOP DEPTH CACHE SECONDS
 *
 * LOOP is how it meets the library: sync (calls that return when done), wait (a queue and
 * ox_context_wait) or poll (a queue and a poll loop of its own). It reads and writes blocks of 4
 * KiB, DEPTH of them at once, in the first 16 MiB of the disk, and holds what it reads against what
 * it wrote. A line with the number of requests goes out ten times a second, as long as there are
 * any.
 */
#include <err.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "oxbow.h"

#define BLOCK_BYTES 4096u
#define BLOCKS 4096u
#define DEPTH_MAX 64u
#define REAP_MAX 3u /* less than may be done: the descriptor tells of the rest */
#define REPORT_NS 100000000u

struct slot {
	struct ox_request op;
	struct iovec iov;
	unsigned block;
	uint64_t stamp; /* of a write */
	uint64_t *data; /* BLOCK_BYTES */
};

struct soak {
	struct ox_context *ctx;
	struct ox_image *image;
	struct ox_queue *queue;
	struct slot slots[DEPTH_MAX];
	unsigned depth;
	uint64_t stamps[BLOCKS]; /* what each block holds */
	bool busy[BLOCKS];
	uint64_t done;
	uint64_t random;
	uint64_t end_ns;
	uint64_t report_ns;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t draw(struct soak *s)
{
	s->random = s->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return s->random >> 33;
}

static void check(int code, const char *what)
{
	if (code < 0)
		errx(1, "%s: %s", what, strerror(-code));
}

/* The next request: a read, or one time in eight a write, and rarely a flush. */
static void prepare(struct soak *s, struct slot *slot)
{
	const uint64_t kind = draw(s) % 64;

	do
		slot->block = (unsigned)(draw(s) % BLOCKS);
	while (s->busy[slot->block]);
	s->busy[slot->block] = true;
	slot->iov = (struct iovec){slot->data, BLOCK_BYTES};
	slot->op = (struct ox_request){
		.op = kind == 0	 ? OX_OP_FLUSH
		      : kind < 8 ? OX_OP_WRITE
				 : OX_OP_READ,
		.offset = (uint64_t)slot->block * BLOCK_BYTES,
		.iov = &slot->iov,
		.iov_count = 1,
		.user = slot,
	};
	if (slot->op.op != OX_OP_WRITE)
		return;
	slot->stamp = ((uint64_t)slot->block << 32) + draw(s);
	for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
		slot->data[i] = slot->stamp;
}

static void finish(struct soak *s, struct slot *slot)
{
	uint64_t now = now_ns();

	check(slot->op.result, "a request failed");
	if (slot->op.op == OX_OP_WRITE)
		s->stamps[slot->block] = slot->stamp;
	for (unsigned i = 0; slot->op.op == OX_OP_READ && i < BLOCK_BYTES / 8; i++)
		if (slot->data[i] != s->stamps[slot->block])
			errx(1, "block %u reads as %" PRIx64 ", not %" PRIx64, slot->block,
			     slot->data[i], s->stamps[slot->block]);
	s->busy[slot->block] = false;
	s->done++;
	if (now < s->report_ns)
		return;
	s->report_ns = now + REPORT_NS;
	printf("%" PRIu64 "\n", s->done);
	fflush(stdout);
}

static void run_sync(struct soak *s)
{
	struct slot *slot = &s->slots[0];

	while (now_ns() < s->end_ns) {
		prepare(s, slot);
		if (slot->op.op == OX_OP_READ)
			slot->op.result = ox_preadv(s->image, &slot->iov, 1, slot->op.offset);
		else if (slot->op.op == OX_OP_WRITE)
			slot->op.result = ox_pwritev(s->image, &slot->iov, 1, slot->op.offset, 0);
		else
			slot->op.result = ox_flush(s->image);
		finish(s, slot);
	}
}

static void submit(struct soak *s, struct slot *slot)
{
	prepare(s, slot);
	check(ox_queue_submit(s->queue, &slot->op), "ox_queue_submit");
}

static void sleep_in_poll(struct soak *s)
{
	struct pollfd p = {.fd = ox_queue_fd(s->queue), .events = POLLIN};

	if (poll(&p, 1, -1) < 0)
		err(1, "poll");
	check(ox_context_poll(s->ctx), "ox_context_poll");
}

static void run_queue(struct soak *s, bool polls)
{
	struct ox_request *ops[REAP_MAX];
	size_t count;

	check(ox_queue_new(s->image, &s->queue), "ox_queue_new");
	for (unsigned i = 0; i < s->depth; i++)
		submit(s, &s->slots[i]);
	while (ox_queue_pending(s->queue) > 0) {
		if (polls)
			sleep_in_poll(s);
		else
			check(ox_context_wait(s->ctx), "ox_context_wait");
		count = ox_queue_reap(s->queue, ops, REAP_MAX);
		for (size_t i = 0; i < count; i++) {
			finish(s, ops[i]->user);
			if (now_ns() < s->end_ns)
				submit(s, ops[i]->user);
		}
	}
	ox_queue_free(s->queue);
}

/* Every block is allocated and says which it is. */
static void fill(struct soak *s)
{
	uint64_t *data = s->slots[0].data;

	for (unsigned block = 0; block < BLOCKS; block++) {
		s->stamps[block] = (uint64_t)block << 32;
		for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
			data[i] = s->stamps[block];
		check(ox_pwrite(s->image, data, BLOCK_BYTES, (uint64_t)block * BLOCK_BYTES, 0),
		      "ox_pwrite");
	}
}

int main(int argc, char **argv)
{
	struct ox_open_options options = OX_OPEN_OPTIONS_INIT;
	static struct soak s;
	struct ox_error *error = NULL;

	if (argc != 6)
		errx(2, "usage: embedder IMAGE sync|wait|poll DEPTH CACHE SECONDS");
	s.depth = (unsigned)atoi(argv[3]);
	if (s.depth == 0 || s.depth > DEPTH_MAX)
		errx(2, "a depth from 1 to %u", DEPTH_MAX);
	options.format = "qcow2";
	check(ox_cache_mode_parse(argv[4], &options.cache), argv[4]);
	for (unsigned i = 0; i < s.depth; i++) {
		s.slots[i].data = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
		if (!s.slots[i].data)
			errx(1, "out of memory");
	}
	if (ox_context_new(OX_ENGINE_DEFAULT, &s.ctx, &error) < 0 ||
	    ox_image_open(s.ctx, argv[1], &options, &s.image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	fill(&s);
	s.end_ns = now_ns() + (uint64_t)(atof(argv[5]) * 1e9);
	if (strcmp(argv[2], "sync") == 0)
		run_sync(&s);
	else
		run_queue(&s, strcmp(argv[2], "poll") == 0);
	if (ox_image_close(s.image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	ox_context_free(s.ctx);
	for (unsigned i = 0; i < s.depth; i++)
		free(s.slots[i].data);
	printf("%" PRIu64 "\n", s.done);
	return 0;
}
