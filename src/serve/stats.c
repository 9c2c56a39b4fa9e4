/* SPDX-License-Identifier: MIT */
#include "serve/stats.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "serve/limit.h" /* the clock */
#include "serve/sealed.h"

#define PUBLISH_NS INT64_C(100000000)

_Static_assert(sizeof(struct ox_stats_values) % sizeof(uint64_t) == 0, "numbers alone");

int ox_stats_make(void)
{
	return ox_sealed_make("oxbow-stats", sizeof(struct ox_stats_values));
}

/* ---- the server ---- */

static void forget_clients(struct ox_stats_values *memory)
{
	ox_stats_set(&memory->room.waiting, 0);
	ox_stats_set(&memory->room.since_ms, 0);
	for (unsigned i = 0; i < OX_STATS_PROTOCOLS; i++) {
		ox_stats_set(&memory->in_flight[i], 0);
		ox_stats_set(&memory->clients[i], 0);
	}
}

int ox_stats_open(int fd, struct ox_stats **ret)
{
	struct ox_stats *stats = calloc(1, sizeof(*stats));
	void *memory;
	int code;

	if (!stats)
		return -ENOMEM;
	code = ox_sealed_map(fd, sizeof(struct ox_stats_values), PROT_READ | PROT_WRITE, &memory);
	if (code < 0) {
		free(stats);
		return code;
	}
	stats->memory = memory;
	stats->must_look = true;
	forget_clients(memory);
	ox_stats_load(memory, &stats->before);
	*ret = stats;
	return 0;
}

void ox_stats_close(struct ox_stats *stats)
{
	if (!stats)
		return;
	forget_clients(stats->memory);
	(void)munmap(stats->memory, sizeof(*stats->memory));
	free(stats);
}

static int64_t now_ns(struct ox_stats *stats)
{
	if (stats->must_look) {
		stats->now_ns = ox_serve_now_ns();
		stats->must_look = false;
	}
	return stats->now_ns;
}

void ox_stats_take_begin(struct ox_stats *stats, struct ox_stats_note *note,
			 enum ox_stats_protocol protocol, enum ox_stats_kind kind)
{
	note->since_ns = now_ns(stats);
	note->place = (uint16_t)(protocol * OX_STATS_KINDS + kind + 1);
	ox_stats_add(&stats->memory->in_flight[protocol], 1);
}

static unsigned bucket_of(uint64_t ns)
{
	const uint64_t us = ns / 1000;
	const unsigned bucket = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);

	return bucket < OX_STATS_BUCKETS ? bucket : OX_STATS_BUCKETS - 1;
}

void ox_stats_take_end(struct ox_stats *stats, struct ox_stats_note *note, uint64_t bytes,
		       bool failed)
{
	struct ox_stats_values *m = stats->memory;
	const unsigned protocol = (note->place - 1u) / OX_STATS_KINDS;
	const unsigned kind = (note->place - 1u) % OX_STATS_KINDS;
	const uint64_t ns = (uint64_t)(now_ns(stats) - note->since_ns);
	struct ox_stats_requests *requests = &m->requests[protocol][kind];

	note->place = 0;
	ox_stats_add(&requests->requests, 1);
	if (failed)
		ox_stats_add(&requests->errors, 1);
	else if (bytes > 0)
		ox_stats_add(&requests->bytes, bytes);
	ox_stats_add(&m->latency[kind][bucket_of(ns)], 1);
	ox_stats_add(&m->latency_ns[kind], ns);
	ox_stats_add(&m->in_flight[protocol], UINT64_MAX); /* one less */
}

void ox_stats_connected(struct ox_stats *stats, enum ox_stats_protocol protocol)
{
	if (!stats)
		return;
	ox_stats_add(&stats->memory->connections[protocol], 1);
	ox_stats_goes_on(stats, protocol);
}

void ox_stats_goes_on(struct ox_stats *stats, enum ox_stats_protocol protocol)
{
	if (stats)
		ox_stats_add(&stats->memory->clients[protocol], 1);
}

void ox_stats_left(struct ox_stats *stats, enum ox_stats_protocol protocol)
{
	if (stats)
		ox_stats_add(&stats->memory->clients[protocol], UINT64_MAX);
}

void ox_stats_limit(struct ox_stats *stats, const struct ox_serve_limits *limits)
{
	if (!stats)
		return;
	ox_stats_set(&stats->memory->limit_iops, limits->iops);
	ox_stats_set(&stats->memory->limit_iops_burst, limits->iops_burst);
	ox_stats_set(&stats->memory->limit_bandwidth, limits->bandwidth);
	ox_stats_set(&stats->memory->limit_bandwidth_burst, limits->bandwidth_burst);
}

void ox_stats_keep_limits(struct ox_stats *stats)
{
	if (stats)
		ox_stats_set(&stats->memory->limits_stay, 1);
}

/* Of a server that died: whatever stands there, it makes this one slow at the worst. */
bool ox_stats_kept_limits(const struct ox_stats *stats, struct ox_serve_limits *ret)
{
	struct ox_serve_limits limits;

	if (!stats || stats->before.limits_stay != 1)
		return false;
	limits = (struct ox_serve_limits){
		.iops = stats->before.limit_iops,
		.iops_burst = stats->before.limit_iops_burst,
		.bandwidth = stats->before.limit_bandwidth,
		.bandwidth_burst = stats->before.limit_bandwidth_burst,
	};
	if ((limits.iops == 0 && limits.iops_burst > 0) ||
	    (limits.bandwidth == 0 && limits.bandwidth_burst > 0))
		return false;
	*ret = limits;
	return true;
}

void ox_stats_set_room(struct ox_stats *stats, const struct ox_stats_room *room)
{
	if (!stats)
		return;
	ox_stats_set(&stats->memory->room.waiting, room->waiting);
	ox_stats_set(&stats->memory->room.since_ms, room->since_ms);
	ox_stats_set(&stats->memory->room.is_low, room->is_low);
	ox_stats_set(&stats->memory->room.free_bytes, room->free_bytes);
}

/* A clock that costs next to nothing: it is looked at in each turn. */
bool ox_stats_is_due(struct ox_stats *stats)
{
	struct timespec now;
	int64_t ns;

	if (!stats)
		return false;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	if (ns < stats->publish_ns)
		return false;
	stats->publish_ns = ns + PUBLISH_NS;
	return true;
}

/* ---- whoever looks ---- */

int ox_stats_map(int fd, const struct ox_stats_values **ret)
{
	void *memory;
	int code = ox_sealed_map(fd, sizeof(struct ox_stats_values), PROT_READ, &memory);

	if (code == 0)
		*ret = memory;
	return code;
}

void ox_stats_unmap(const struct ox_stats_values *memory)
{
	if (memory)
		munmap((void *)(uintptr_t)memory, sizeof(*memory));
}

void ox_stats_load(const struct ox_stats_values *memory, struct ox_stats_values *ret)
{
	const uint64_t *from = (const uint64_t *)memory;
	uint64_t *to = (uint64_t *)ret;

	for (size_t i = 0; i < sizeof(*memory) / sizeof(uint64_t); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
