/* SPDX-License-Identifier: MIT */
/*
 * Processes that work on an image in shared memory, one after the other: what a process leaves when
 * it dies, what it had answered by then, and its requests.
 *
 * The guest's disk is known in windows, and those in cells: a half of a guest's cluster each, all
 * bytes of which are alike. A request that was not answered may have been carried out or not, byte
 * by byte.
 */
#ifndef OX_TESTS_LIVES_H
#define OX_TESTS_LIVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "img/img.h"
#include "shared_store.h"

#define STATE_BYTES ((size_t)512 << 10)
#define WINDOWS 5u
#define CELLS 32u /* of a window */

/* An image, and how it is opened. */
struct kind {
	const char *format;
	uint32_t cluster_bytes;
	uint64_t tables[WINDOWS]; /* where the windows lie: at the start of these L2 tables' span */
	unsigned windows;
	uint64_t size_tables; /* the disk, in spans of an L2 table */
	bool lazy;
	bool has_snapshot;
	bool tiny;     /* caches of two slices */
	bool recovers; /* begins as a power cut left it */
	unsigned refcount_bits;
	uint64_t filled_tables; /* begins with data in those from FILLED_FROM up to here */
	bool has_holes;		/* some clusters of that data were freed again */
	uint32_t age_ms;
	uint64_t leaks_most;
	uint64_t room; /* the file gets no longer; requests may find none. 0: there is enough */
};

struct cell {
	uint8_t answered;
	uint8_t asked; /* by a request that is not answered */
	bool is_asked;
};

struct model {
	struct cell cells[WINDOWS][CELLS];
	uint64_t size_bytes;
	uint64_t asked_bytes; /* by a resize that is not answered; 0: none */
	char doing[64];
	uint64_t stops;
};

/* All that outlives a process. */
struct left {
	struct shared_bytes image;
	struct model model;
	uint8_t state[STATE_BYTES] __attribute__((aligned(4096)));
};

extern const struct kind *kind;
extern uint64_t seed; /* of the order in which tasks run */
extern enum ox_recover_mode recover_mode;
extern bool failed; /* something was complained of */
extern unsigned warnings;

struct left *new_left(int map_flags);
void copy_left(struct left *to, const struct left *from);
/* Prints the first complaint. */
__attribute__((format(printf, 2, 3))) void complain(const struct left *l, const char *format, ...);

/* ---- a process ---- */

struct process {
	struct left *left;
	struct ox_image *image;
	struct ox_reactor *reactor;
	void (*step)(void); /* of its store */
	unsigned running;   /* requests */
};

enum op { WRITE, FUA, ZERO, UNMAP, DISCARD, FLUSH, RESIZE, REST };

struct line {
	enum op op;
	unsigned window;
	unsigned first; /* cells */
	unsigned count;
	bool beside; /* the next one does not wait for it */
	uint8_t value;
	uint64_t tables; /* RESIZE */
};

/* Runs the task as a process of its own, as far as the library can tell: its argument is a struct
 * process. step: called amid its writes and after its answers; or NULL. */
void run(struct left *left, void (*step)(void), ox_co_fn fn);

uint64_t table_span(void);
void run_lines_co(struct process *p, const struct line *lines, unsigned count);
/* All that was answered is there (D10). */
void check_content_co(struct process *p);
/* 0, or what was complained of. */
int open_co(struct process *p, bool with_state);
void close_co(struct process *p);

/* ---- the image ---- */

void create_image(struct left *left);
/* Returns how many clusters are leaked; anything else that is wrong is complained of. */
uint64_t check_image(struct left *left);

#endif
