/* SPDX-License-Identifier: MIT */
/*
 * Loads a server of vhost-user-blk, as tests/bench/guest.py asks it to:
 *
 *     vhost_load SOCKET LOAD QUEUES DEPTH MS SEED
 *
 * LOAD is read or write (4 KiB at random places of the disk), or alloc (4 KiB at the beginning of
 * one cluster of 64 KiB after the other, up to the end of the disk). DEPTH requests are in flight
 * in each of QUEUES. Reads and writes run for a tenth of the time before they are counted. One line
 * is printed:
 *
 *     REQUESTS SECONDS P50_US P99_US KICKS WAKES
 *
 * Then the end of the standard input is waited for, so that the server can be looked at while the
 * front end is connected.
 */
#include <err.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vhost_client.h"

#define CLUSTER_BYTES UINT64_C(65536)
/* Times are counted in 32 steps for each doubling. */
#define STEP_BITS 5
#define STEPS (64u << STEP_BITS)

struct load {
	struct client client;
	unsigned depth;
	enum client_op op;
	bool allocates;
	bool over; /* nothing new is asked for */
	uint64_t random;
	uint64_t next_cluster;
	uint64_t began_ns[CLIENT_QUEUES_MAX][CLIENT_RING_SIZE];
	uint64_t done;
	uint64_t times[STEPS]; /* how many requests took so long */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- how long requests took ---- */

static unsigned step_of(uint64_t ns)
{
	const unsigned bits = 63u - (unsigned)__builtin_clzll(ns | 1);

	if (bits <= STEP_BITS)
		return (unsigned)ns;
	return ((bits - STEP_BITS) << STEP_BITS) + (unsigned)(ns >> (bits - STEP_BITS));
}

static uint64_t ns_of(unsigned step)
{
	const unsigned shift = step >> STEP_BITS;

	if (shift <= 1)
		return step;
	return (uint64_t)((step & ((1u << STEP_BITS) - 1)) + (1u << STEP_BITS)) << (shift - 1);
}

/* The time that so many of a thousand requests kept to. */
static double thousandth_us(const struct load *load, uint64_t thousandths)
{
	const uint64_t wanted = load->done * thousandths / 1000;
	uint64_t seen = 0;
	unsigned step = 0;

	while (step + 1 < STEPS && (seen += load->times[step]) <= wanted)
		step++;
	return (double)ns_of(step) / 1000;
}

/* ---- the load ---- */

/* xorshift64* */
static uint64_t random_below(struct load *load, uint64_t limit)
{
	uint64_t x = load->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	load->random = x;
	return (x * UINT64_C(0x2545f4914f6cdd1d) >> 20) % limit;
}

static void put(struct load *load, unsigned queue, unsigned slot, uint64_t at_ns)
{
	const uint64_t capacity = load->client.capacity_bytes;
	uint64_t offset;

	if (load->allocates) {
		offset = load->next_cluster++ * CLUSTER_BYTES;
		load->over = load->over || offset + CLUSTER_BYTES > capacity;
	} else {
		offset = random_below(load, capacity / CLIENT_BLOCK_BYTES) * CLIENT_BLOCK_BYTES;
	}
	if (load->over)
		return;
	load->began_ns[queue][slot] = at_ns;
	client_put(&load->client.queues[queue], slot, load->op, offset);
}

/* Takes what is answered, and puts as many. True: something was. */
static bool turn(struct load *load, unsigned index, unsigned *in_flight)
{
	struct client_queue *queue = &load->client.queues[index];
	int slot = client_take(queue);
	const uint64_t at_ns = now_ns();

	if (slot < 0)
		return false;
	for (; slot >= 0; slot = client_take(queue)) {
		load->times[step_of(at_ns - load->began_ns[index][slot])]++;
		load->done++;
		put(load, index, (unsigned)slot, at_ns);
		*in_flight -= load->over;
	}
	client_push(queue);
	return true;
}

static void begin(struct load *load, unsigned *in_flight)
{
	for (unsigned i = 0; i < load->client.queue_count; i++) {
		for (unsigned slot = 0; slot < load->depth && !load->over; slot++) {
			memset(client_block(&load->client.queues[i], slot), (int)(slot + 1),
			       CLIENT_BLOCK_BYTES);
			put(load, i, slot, now_ns());
			*in_flight += !load->over;
		}
		client_push(&load->client.queues[i]);
	}
}

/* From here on is counted. */
static uint64_t begin_to_count(struct load *load)
{
	memset(load->times, 0, sizeof(load->times));
	load->done = load->client.wakes = 0;
	for (unsigned i = 0; i < load->client.queue_count; i++)
		load->client.queues[i].kicks = 0;
	return now_ns();
}

/* Returns the seconds that were counted. */
static double run(struct load *load, uint64_t run_ns)
{
	uint64_t from_ns = now_ns();
	const uint64_t warm_ns = load->allocates ? from_ns : from_ns + run_ns / 10;
	const uint64_t end_ns = warm_ns + run_ns;
	bool counting = load->allocates;
	uint64_t to_ns = from_ns;
	unsigned in_flight = 0;

	begin(load, &in_flight);
	while (in_flight > 0) {
		bool any = false;

		for (unsigned i = 0; i < load->client.queue_count; i++)
			any = turn(load, i, &in_flight) || any;
		to_ns = now_ns();
		if (!counting && to_ns >= warm_ns) {
			from_ns = begin_to_count(load);
			counting = true;
		}
		load->over = load->over || to_ns >= end_ns;
		if (!any)
			client_wait(&load->client);
	}
	return (double)(to_ns - from_ns) / 1e9;
}

static unsigned number(const char *text, unsigned most)
{
	const unsigned long value = strtoul(text, NULL, 10);

	if (value == 0 || value > most)
		errx(1, "%s is no number up to %u", text, most);
	return (unsigned)value;
}

static void set_load(struct load *load, const char *name)
{
	load->allocates = strcmp(name, "alloc") == 0;
	load->op = strcmp(name, "read") == 0 ? CLIENT_READ : CLIENT_WRITE;
	if (!load->allocates && load->op == CLIENT_WRITE && strcmp(name, "write") != 0)
		errx(1, "no load is named %s", name);
}

int main(int argc, char **argv)
{
	static struct load load;
	uint64_t kicks = 0;
	double seconds;
	char end;

	if (argc != 7)
		errx(1, "usage: vhost_load SOCKET LOAD QUEUES DEPTH MS SEED");
	set_load(&load, argv[2]);
	load.depth = number(argv[4], CLIENT_RING_SIZE);
	load.random = number(argv[6], UINT32_MAX) * UINT64_C(0x9e3779b97f4a7c15);
	client_connect(&load.client, argv[1], number(argv[3], CLIENT_QUEUES_MAX));
	seconds = run(&load, number(argv[5], 3600000) * UINT64_C(1000000));
	for (unsigned i = 0; i < load.client.queue_count; i++)
		kicks += load.client.queues[i].kicks;
	printf("%" PRIu64 " %.6f %.1f %.1f %" PRIu64 " %" PRIu64 "\n", load.done, seconds,
	       thousandth_us(&load, 500), thousandth_us(&load, 990), kicks, load.client.wakes);
	fflush(stdout);
	while (read(STDIN_FILENO, &end, 1) > 0)
		;
	client_disconnect(&load.client);
	return 0;
}
