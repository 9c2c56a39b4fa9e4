/* SPDX-License-Identifier: MIT */
#include "serve/lines.h"

#include <stddef.h>

static struct ox_serve_line_kind *kind_of(struct ox_serve_lines *lines, const char *format)
{
	unsigned i = 0;

	while (i + 1 < OX_SERVE_LINES_KINDS && lines->kinds[i].format &&
	       lines->kinds[i].format != format)
		i++;
	lines->kinds[i].format = format;
	return &lines->kinds[i];
}

bool ox_serve_lines_take(struct ox_serve_lines *lines, const char *format, int64_t now_ms,
			 uint64_t *ret_left_out)
{
	const uint64_t now = (uint64_t)now_ms;
	struct ox_serve_line_kind *kind = kind_of(lines, format);

	if (kind->spent_until_ms < now)
		kind->spent_until_ms = now;
	if (kind->spent_until_ms - now > (OX_SERVE_LINES_BURST - 1) * OX_SERVE_LINES_EVERY_MS) {
		kind->left_out++;
		return false;
	}
	kind->spent_until_ms += OX_SERVE_LINES_EVERY_MS;
	*ret_left_out = kind->left_out;
	kind->left_out = 0;
	return true;
}
