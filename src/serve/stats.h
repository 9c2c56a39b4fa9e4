/* SPDX-License-Identifier: MIT */
/*
 * What is counted of a disk that is served (docs/control.md has each number's meaning). The memory
 * outlives the server (serve/sealed.h), so that counters go on where a dead one's have stopped.
 *
 *	begin, end	the server's thread, once a request: a few stores each
 *	publish		what the library counts, and how things stand, now and then
 *	load		whoever looks at it, in another process, at any time
 *
 * There is one writer, and each number is stored at once. So a reader sees numbers that were right
 * a moment ago, each by itself. It takes all of them for a stranger's: a process that went astray
 * may have written them, which makes them wrong and nothing else.
 *
 * The clock is read once between two waits, and only where a request begins or ends there.
 */
#ifndef OX_SERVE_STATS_H
#define OX_SERVE_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "oxbow.h"

enum ox_stats_protocol { OX_STATS_NBD, OX_STATS_VHOST, OX_STATS_PROTOCOLS };

enum ox_stats_kind {
	OX_STATS_READ,
	OX_STATS_WRITE,
	OX_STATS_FLUSH,
	OX_STATS_ZERO,
	OX_STATS_DISCARD,
	OX_STATS_OTHER,
	OX_STATS_KINDS
};

/* Bucket i has what took less than 2^i microseconds and is in none before; the last has the rest.
 */
#define OX_STATS_BUCKETS 27u

/* What ended. */
struct ox_stats_requests {
	uint64_t requests;
	uint64_t errors; /* of them, those answered with one */
	uint64_t bytes;	 /* of those without: transferred, zeroed or discarded */
};

/* The room on the image's host (docs/full.md). */
struct ox_stats_room {
	uint64_t waiting;    /* requests that wait for it */
	uint64_t since_ms;   /* the first of them, by CLOCK_MONOTONIC; 0: none waits */
	uint64_t is_low;     /* 1: there is less than --low-space says */
	uint64_t free_bytes; /* as it was last seen; UINT64_MAX: nobody looks */
};

/* Nothing but numbers of 64 bits. */
struct ox_stats_values {
	/* ---- counters, since the memory was made ---- */
	struct ox_stats_requests requests[OX_STATS_PROTOCOLS][OX_STATS_KINDS];
	uint64_t latency[OX_STATS_KINDS][OX_STATS_BUCKETS]; /* of all requests that ended */
	uint64_t latency_ns[OX_STATS_KINDS];		    /* their sum */
	uint64_t connections[OX_STATS_PROTOCOLS];
	uint64_t host_reads; /* of the image's own file; these as struct ox_image_stats has them */
	uint64_t host_writes;
	uint64_t host_syncs;
	uint64_t l2_hits;
	uint64_t l2_misses;
	uint64_t refcount_hits;
	uint64_t refcount_misses;
	uint64_t notices; /* of the library: damage, errors of the host */
	/* ---- how things stand: of the server that runs, or ran last ---- */
	uint64_t in_flight[OX_STATS_PROTOCOLS]; /* requests that were taken and not answered */
	uint64_t clients[OX_STATS_PROTOCOLS];
	uint64_t size_bytes; /* of the disk */
	uint64_t dirty;	     /* its image says that it was not closed */
	uint64_t recovery;   /* enum ox_recovery_state */
	uint64_t recovery_done;
	uint64_t recovery_total;
	uint64_t limit_iops; /* 0: none; these as struct ox_serve_limits has them */
	uint64_t limit_iops_burst;
	uint64_t limit_bandwidth;
	uint64_t limit_bandwidth_burst;
	uint64_t limits_stay; /* 1: an operator has set them, and they outlive the server */
	struct ox_stats_room room;
};

/* Makes the memory: a descriptor of it, or -errno. */
int ox_stats_make(void) OX_CHECKED;

/* ---- the server ---- */

struct ox_stats {
	struct ox_stats_values *memory;
	int64_t now_ns;
	bool must_look;		       /* at the clock, before it is used */
	int64_t publish_ns;	       /* not before */
	struct ox_stats_values before; /* as this server found it */
};

/* -EINVAL: it is no such memory. */
int ox_stats_open(int fd, struct ox_stats **ret) OX_CHECKED;
void ox_stats_close(struct ox_stats *stats);

/* Of a request, zeroed at first. */
struct ox_stats_note {
	int64_t since_ns;
	uint16_t place; /* protocol * OX_STATS_KINDS + kind, + 1; 0: it has not begun, or has ended
			 */
};

static inline void ox_stats_add(uint64_t *word, uint64_t count)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + count, __ATOMIC_RELAXED);
}

static inline void ox_stats_set(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

void ox_stats_take_begin(struct ox_stats *stats, struct ox_stats_note *note,
			 enum ox_stats_protocol protocol, enum ox_stats_kind kind);
void ox_stats_take_end(struct ox_stats *stats, struct ox_stats_note *note, uint64_t bytes,
		       bool failed);

/* The process has waited, or worked for others: the time is another. */
static inline void ox_stats_turn(struct ox_stats *stats)
{
	if (stats)
		stats->must_look = true;
}

/* A request is taken. stats may be NULL, as below: nothing is counted. */
static inline void ox_stats_begin(struct ox_stats *stats, struct ox_stats_note *note,
				  enum ox_stats_protocol protocol, enum ox_stats_kind kind)
{
	if (stats)
		ox_stats_take_begin(stats, note, protocol, kind);
}

/* It is answered. The second time, and without a beginning, nothing happens. */
static inline void ox_stats_end(struct ox_stats *stats, struct ox_stats_note *note, uint64_t bytes,
				bool failed)
{
	if (stats && note->place > 0)
		ox_stats_take_end(stats, note, bytes, failed);
}

/* A connection was taken. */
void ox_stats_connected(struct ox_stats *stats, enum ox_stats_protocol protocol);
/* One that outlived the last server goes on. */
void ox_stats_goes_on(struct ox_stats *stats, enum ox_stats_protocol protocol);
/* One is gone. */
void ox_stats_left(struct ox_stats *stats, enum ox_stats_protocol protocol);

struct ox_serve_limits;
/* What the disk is limited to. */
void ox_stats_limit(struct ox_stats *stats, const struct ox_serve_limits *limits);
/* Those hold for the next server too, whatever its options say. */
void ox_stats_keep_limits(struct ox_stats *stats);
/* False: nobody has set any, and *ret is as it was. */
bool ox_stats_kept_limits(const struct ox_stats *stats, struct ox_serve_limits *ret) OX_CHECKED;

/* How much room there is, and what waits for it. */
void ox_stats_set_room(struct ox_stats *stats, const struct ox_stats_room *room);

/* Whether publish is due, which is so a few times a second. */
bool ox_stats_is_due(struct ox_stats *stats) OX_CHECKED;
void ox_stats_publish(struct ox_stats *stats, const struct ox_image *image);

/* ---- whoever looks ---- */

/* -EINVAL: it is no such memory. */
int ox_stats_map(int fd, const struct ox_stats_values **ret) OX_CHECKED;
/* NULL is allowed. */
void ox_stats_unmap(const struct ox_stats_values *memory);
void ox_stats_load(const struct ox_stats_values *memory, struct ox_stats_values *ret);

#endif
