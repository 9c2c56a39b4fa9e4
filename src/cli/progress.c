/* SPDX-License-Identifier: MIT */
/* Progress of long work. */
#include <unistd.h>

#include "cli/cli.h"

/* Work shorter than this shows nothing unless it was asked for. */
#define PATIENCE_MS 500

static long elapsed_ms(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

void ox_cli_progress_begin(struct ox_cli_progress *progress, bool asked, FILE *stream)
{
	*progress = (struct ox_cli_progress){.asked = asked, .hundredths = -1};
	if (asked)
		progress->stream = stream;
	else if (isatty(STDERR_FILENO))
		progress->stream = stderr;
	clock_gettime(CLOCK_MONOTONIC, &progress->start);
}

void ox_cli_progress_report(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_cli_progress *progress = opaque;
	int hundredths;

	if (!progress || !progress->stream || total == 0)
		return;
	if (done > total)
		done = total;
	hundredths = (int)((double)done / (double)total * 10000);
	if (hundredths == progress->hundredths)
		return;
	if (!progress->asked && !progress->shown && elapsed_ms(&progress->start) < PATIENCE_MS)
		return;
	progress->hundredths = hundredths;
	progress->shown = true;
	fprintf(progress->stream, "    (%3.2f/100%%)\r", (double)hundredths / 100);
	fflush(progress->stream);
}

void ox_cli_progress_end(struct ox_cli_progress *progress, bool completed)
{
	if (progress->asked && progress->stream) {
		if (completed)
			ox_cli_progress_report(progress, 1, 1);
		if (progress->shown)
			fputc('\n', progress->stream);
	} else if (progress->shown) {
		/* Not asked for: leave the screen as it was. */
		fputs("\r\033[K", progress->stream);
	}
	if (progress->stream)
		fflush(progress->stream);
	progress->stream = NULL;
}
