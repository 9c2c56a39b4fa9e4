/* SPDX-License-Identifier: MIT */
/*
 * How many warnings of a server are told. Whoever connects and misbehaves in a loop fills no log:
 * of each kind some are told at once, and then one now and then, with the number of those between.
 * One kind keeps none of another back.
 */
#ifndef OX_SERVE_LINES_H
#define OX_SERVE_LINES_H

#include <stdbool.h>
#include <stdint.h>

#define OX_SERVE_LINES_BURST 10u
#define OX_SERVE_LINES_EVERY_MS 10000u
/* Kinds beyond this are one. */
#define OX_SERVE_LINES_KINDS 32u

struct ox_serve_line_kind {
	const char *format;	 /* which makes the kind */
	uint64_t spent_until_ms; /* when all that was told is made up for */
	uint64_t left_out;
};

/* Zeroed at first. */
struct ox_serve_lines {
	struct ox_serve_line_kind kinds[OX_SERVE_LINES_KINDS];
};

/* Whether a line of this format, a literal, may be told at this time. If so, *ret_left_out is how
 * many of its kind were not since the last that was. */
bool ox_serve_lines_take(struct ox_serve_lines *lines, const char *format, int64_t now_ms,
			 uint64_t *ret_left_out);

#endif
