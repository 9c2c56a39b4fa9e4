/* SPDX-License-Identifier: MIT */
/* Progress of long work. */
#include <inttypes.h>
#include <unistd.h>

#include "cli/cli.h"

/* Work shorter than this shows nothing unless it was asked for. */
#define PATIENCE_SECONDS 0.5
#define JSON_INTERVAL_SECONDS 0.5
#define SCREEN_INTERVAL_SECONDS 0.1
/* A rate of less than this is chance. */
#define RATE_SECONDS 0.1

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

/* Work a second in this pass; 0 while it cannot be told. */
static double rate(const struct ox_cli_progress *progress)
{
	double seconds = seconds_since(&progress->start);

	if (seconds < RATE_SECONDS)
		return 0;
	return (double)(progress->done - progress->first_done) / seconds;
}

void ox_cli_progress_begin(struct ox_cli_progress *progress, bool asked, FILE *stream)
{
	*progress = (struct ox_cli_progress){.asked = asked, .hundredths = -1};
	if (asked)
		progress->stream = stream;
	else if (isatty(STDERR_FILENO))
		progress->stream = stderr;
	clock_gettime(CLOCK_MONOTONIC, &progress->start);
	progress->last = progress->start;
}

void ox_cli_progress_begin_json(struct ox_cli_progress *progress, const char *unit, FILE *stream)
{
	ox_cli_progress_begin(progress, true, stream);
	progress->json = true;
	progress->unit = unit;
}

static void show_json(struct ox_cli_progress *progress)
{
	double per_second = rate(progress);

	fprintf(progress->stream,
		"{\"done\": %" PRIu64 ", \"total\": %" PRIu64 ", \"unit\": \"%s\"", progress->done,
		progress->total, progress->unit);
	if (per_second > 0)
		fprintf(progress->stream, ", \"per_second\": %.1f, \"seconds_left\": %.1f}\n",
			per_second, (double)(progress->total - progress->done) / per_second);
	else
		fputs(", \"per_second\": null, \"seconds_left\": null}\n", progress->stream);
}

/* "1:02:03", or "2:03". */
static void show_time(FILE *stream, double seconds)
{
	uint64_t whole = (uint64_t)(seconds + 0.5);

	if (whole >= 3600)
		fprintf(stream, "%" PRIu64 ":%02u:%02u", whole / 3600, (unsigned)(whole / 60 % 60),
			(unsigned)(whole % 60));
	else
		fprintf(stream, "%u:%02u", (unsigned)(whole / 60), (unsigned)(whole % 60));
}

/* A line that the next one overwrites. Programs read the one that is asked for, so it holds
 * nothing more. */
static void show_line(struct ox_cli_progress *progress)
{
	double per_second = progress->asked ? 0 : rate(progress);

	fprintf(progress->stream, "    (%3.2f/100%%)", (double)progress->hundredths / 100);
	if (per_second > 0) {
		fprintf(progress->stream, "  %.0f/s, ", per_second);
		show_time(progress->stream,
			  (double)(progress->total - progress->done) / per_second);
		fputs(" left\033[K", progress->stream);
	}
	fputc('\r', progress->stream);
}

static bool is_due(const struct ox_cli_progress *progress, int hundredths)
{
	if (progress->json)
		return !progress->shown || progress->done == progress->total ||
		       seconds_since(&progress->last) >= JSON_INTERVAL_SECONDS;
	if (hundredths == progress->hundredths)
		return false;
	if (progress->asked)
		return true;
	if (!progress->shown)
		return seconds_since(&progress->start) >= PATIENCE_SECONDS;
	return seconds_since(&progress->last) >= SCREEN_INTERVAL_SECONDS;
}

void ox_cli_progress_report(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_cli_progress *progress = opaque;
	int hundredths;

	if (!progress || total == 0)
		return;
	if (done > total)
		done = total;
	if (!progress->stream) {
		progress->done = done; /* for whoever asks by a signal */
		progress->total = total;
		return;
	}
	/* A second pass begins: after a repair everything is looked at again. */
	if (done < progress->done) {
		clock_gettime(CLOCK_MONOTONIC, &progress->start);
		progress->first_done = done;
	}
	progress->done = done;
	progress->total = total;
	hundredths = (int)((double)done / (double)total * 10000);
	if (!is_due(progress, hundredths))
		return;
	progress->hundredths = hundredths;
	progress->shown = true;
	clock_gettime(CLOCK_MONOTONIC, &progress->last);
	if (progress->json)
		show_json(progress);
	else
		show_line(progress);
	fflush(progress->stream);
}

void ox_cli_progress_end(struct ox_cli_progress *progress, bool completed)
{
	if (progress->json) {
		/* A pass may end before its total, and work may be none: the last line says so. */
		if (completed && (!progress->shown || progress->done != progress->total)) {
			progress->done = progress->total;
			show_json(progress);
		}
	} else if (progress->asked && progress->stream) {
		progress->hundredths = -1; /* the end is told again, as by qemu-img */
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
