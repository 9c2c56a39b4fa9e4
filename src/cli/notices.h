/* SPDX-License-Identifier: MIT */
/* Notices of an image that is served: one line each, and of many of a kind only some. */
#ifndef OX_CLI_NOTICES_H
#define OX_CLI_NOTICES_H

#include <stdbool.h>
#include <stdint.h>

#include "oxbow.h"

#define OX_CLI_NOTICE_KINDS 5

struct ox_cli_notices {
	struct {
		unsigned burst; /* lines that may follow at once */
		int64_t last_ms;
		uint64_t held_back; /* since the last line */
	} kinds[OX_CLI_NOTICE_KINDS];
	bool full_waits; /* a write that finds no room waits: no line for each */
};

void ox_cli_notices_init(struct ox_cli_notices *notices);
/* For ox_image_set_notice; opaque is the struct ox_cli_notices. */
void ox_cli_notices_take(void *opaque, const struct ox_notice *notice);
/* Tells how many were held back since. */
void ox_cli_notices_end(struct ox_cli_notices *notices);

#endif
