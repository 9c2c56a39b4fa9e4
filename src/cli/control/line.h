/* SPDX-License-Identifier: MIT */
/* A line from an operator: an object of JSON with a command and what belongs to it. */
#ifndef OX_CLI_CONTROL_LINE_H
#define OX_CLI_CONTROL_LINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/keeper/control_wire.h"
#include "oxbow.h"

enum ox_control_verb {
	OX_CONTROL_STATUS,
	OX_CONTROL_STATS,
	OX_CONTROL_METRICS,
	OX_CONTROL_FLUSH,
	OX_CONTROL_RESIZE,
	OX_CONTROL_LIMIT,
	OX_CONTROL_RESUME,
	OX_CONTROL_STOP_ALL,
	OX_CONTROL_REMOVE_DISK,
	OX_CONTROL_ADD_DISK,
	OX_CONTROL_VERBS
};

struct ox_control_line {
	enum ox_control_verb verb;
	bool has_disk;
	char disk[OX_CONTROL_NAME_BYTES];
	/* As serve/command.h has them; of ADD_DISK: how many descriptors it comes with, by enum
	 * ox_control_given. */
	uint64_t values[4];
	struct ox_control_add *add; /* of ADD_DISK, to be freed; else NULL */
};

/* add.c: what ADD_DISK takes. */
int ox_control_line_take_add(const json_t *object, struct ox_control_line *line,
			     const char **ret_why) OX_CHECKED;

/* 0; -EINVAL: *ret_why, a literal, says what is wrong with it. */
int ox_control_line_parse(const char *text, size_t bytes, struct ox_control_line *ret,
			  const char **ret_why) OX_CHECKED;

#endif
