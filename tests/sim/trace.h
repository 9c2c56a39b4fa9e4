/* SPDX-License-Identifier: MIT */
/* What happened last, kept to be printed should something turn out wrong. */
#ifndef SIM_TRACE_H
#define SIM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"

#define SIM_TRACE_LINES 512u

struct sim_event {
	uint64_t time_ns;
	const char *what; /* a string that lives on */
	uint64_t offset;
	uint64_t length;
	uint64_t number;
	int64_t result;
	uint64_t kept; /* of a cut: sectors that reached the disk */
};

struct sim_trace {
	struct sim_event events[SIM_TRACE_LINES];
	uint64_t count;
	uint64_t seed;
	const char *format;	       /* of the image */
	bool all_rings;		       /* the option --rings was given */
	uint64_t cuts;		       /* survived so far */
	char scene[400];	       /* the case in a line */
	const struct sim_bytes *bytes; /* to name offsets by */
};

/* The one that a crash of the program prints. */
extern struct sim_trace *sim_trace_current;

void sim_trace_add(struct sim_trace *t, const struct sim_event *event);
void sim_trace_note(struct sim_trace *t, const char *what, uint64_t offset, uint64_t length);
void sim_trace_print(const struct sim_trace *t, unsigned lines);

/* Says which rule was broken and how, prints the trace, and ends the program with code 1. */
_Noreturn void sim_fail(const char *rule, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Prints the same where the program dies by itself: an assertion, a bad access, no progress. */
void sim_trace_catch_signals(void);

#endif
