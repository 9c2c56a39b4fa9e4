/* SPDX-License-Identifier: MIT */
#include "trace.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"

struct sim_trace *sim_trace_current;

void sim_trace_add(struct sim_trace *t, const struct sim_event *event)
{
	t->events[t->count++ % SIM_TRACE_LINES] = *event;
}

void sim_trace_note(struct sim_trace *t, const char *what, uint64_t offset, uint64_t length)
{
	struct sim_event event = {.what = what, .offset = offset, .length = length};

	sim_trace_add(t, &event);
}

static void print_event(const struct sim_event *e, const struct sim_image *image)
{
	char name[64] = "";

	if (image && e->length > 0 && strncmp(e->what, "guest", 5) != 0)
		sim_image_name(image, e->offset, name, sizeof(name));
	printf("%10.3f us  %s", (double)e->time_ns / 1000, e->what);
	if (e->offset || e->length)
		printf(" 0x%llx+0x%llx %s", (unsigned long long)e->offset,
		       (unsigned long long)e->length, name);
	if (e->number)
		printf(" #%llu", (unsigned long long)e->number);
	if (e->kept || strncmp(e->what, "  kept", 6) == 0)
		printf(" kept=%llu", (unsigned long long)e->kept);
	if (e->result < 0)
		printf(" FAILED %lld", (long long)e->result);
	putchar('\n');
}

void sim_trace_print(const struct sim_trace *t, unsigned lines)
{
	uint64_t first = t->count > SIM_TRACE_LINES ? t->count - SIM_TRACE_LINES : 0;
	struct sim_image image;
	const char *why;
	bool named = t->bytes && sim_image_parse(t->bytes, &image, &why);

	if (t->count > lines && first < t->count - lines)
		first = t->count - lines;
	for (uint64_t i = first; i < t->count; i++)
		print_event(&t->events[i % SIM_TRACE_LINES], named ? &image : NULL);
}

static void print_scene(const char *rule, const char *text)
{
	const struct sim_trace *t = sim_trace_current;

	printf("\n");
	if (t) {
		sim_trace_print(t, getenv("SIM_TRACE") ? 512 : 80);
		printf("case: %s\n", t->scene);
		printf("after %llu cuts\n", (unsigned long long)t->cuts);
	}
	printf("FAILED %s: %s\n", rule, text);
	if (t)
		printf("replay: sim --format %s%s --seed %llu --cases 1\n", t->format,
		       t->all_rings ? " --rings" : "", (unsigned long long)t->seed);
	fflush(stdout);
}

_Noreturn void sim_fail(const char *rule, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	print_scene(rule, text);
	_exit(1);
}

static void on_signal(int number)
{
	signal(number, SIG_DFL);
	print_scene("the program", number == SIGPROF   ? "makes no progress"
				   : number == SIGABRT ? "stopped at an assertion"
						       : "crashed");
	_exit(1);
}

void sim_trace_catch_signals(void)
{
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
	signal(SIGPROF, on_signal);
}
