/* SPDX-License-Identifier: MIT */
#include "cli/notices.h"

#include <stdio.h>
#include <time.h>

#include "cli/cli.h"

/* Of each kind so many lines at once, and then one in so much time. */
#define BURST 10
#define PAUSE_MS 10000

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void ox_cli_notices_init(struct ox_cli_notices *notices)
{
	*notices = (struct ox_cli_notices){0};
	for (unsigned i = 0; i < OX_CLI_NOTICE_KINDS; i++)
		notices->kinds[i].burst = BURST;
}

void ox_cli_notices_take(void *opaque, const struct ox_notice *notice)
{
	struct ox_cli_notices *notices = opaque;
	const unsigned kind = (unsigned)notice->kind;
	const int64_t now = now_ms();
	char more[64] = "";

	if (kind >= OX_CLI_NOTICE_KINDS)
		return;
	/* The server tells of it, once. */
	if (notice->kind == OX_NOTICE_NO_SPACE && notice->guest_length > 0 && notices->full_waits)
		return;
	if (notices->kinds[kind].burst > 0) {
		notices->kinds[kind].burst--;
	} else if (now - notices->kinds[kind].last_ms < PAUSE_MS) {
		notices->kinds[kind].held_back++;
		return;
	}
	notices->kinds[kind].last_ms = now;
	if (notices->kinds[kind].held_back > 0)
		snprintf(more, sizeof(more), " (and %llu more like this before)",
			 (unsigned long long)notices->kinds[kind].held_back);
	notices->kinds[kind].held_back = 0;
	ox_cli_error("'%s': %s%s", notice->filename, notice->message, more);
}

void ox_cli_notices_end(struct ox_cli_notices *notices)
{
	static const char *const names[OX_CLI_NOTICE_KINDS] = {
		[OX_NOTICE_DAMAGE] = "damage",
		[OX_NOTICE_REFUSED] = "refused writes",
		[OX_NOTICE_POISONED] = "failed syncs",
		[OX_NOTICE_NO_SPACE] = "no space",
		[OX_NOTICE_IO_ERROR] = "failed requests",
	};

	for (unsigned i = 0; i < OX_CLI_NOTICE_KINDS; i++)
		if (notices->kinds[i].held_back > 0)
			ox_cli_error("%llu more notices of %s were not told",
				     (unsigned long long)notices->kinds[i].held_back, names[i]);
}
