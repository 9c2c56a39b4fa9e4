/* SPDX-License-Identifier: MIT */
/*
 * The simulator: cases from one seed on, until so many power cuts were survived or so many minutes
 * have passed. The first failure ends it with the seed and the trace.
 */
#include <getopt.h>
#include <stdbool.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "case.h"
#include "format.h"
#include "trace.h"

static const char usage[] =
	"usage: sim [--format F] [--seed N] [--cases N] [--cuts N] [--minutes N] [--qemu DIR] "
	"[--rings] [--deaths] [--verbose]\n"
	"  --format F   qcow2, qed, or both (both): one case in three is QED\n"
	"  --seed N     the first case's seed (1); the next case has the next number\n"
	"  --cases N    end after N cases\n"
	"  --cuts N     end after N power cuts (1000, if no other end is given)\n"
	"  --minutes N  end after N minutes\n"
	"  --rings      let every guest's requests go through rings of vhost-user, not one in "
	"eight\n"
	"  --deaths     fail where processes did not die amid all that sim_death names\n"
	"  --qemu DIR   let qemu-img check one in 50 of the images that were closed\n";

struct limits {
	uint64_t seed;
	uint64_t cases;
	uint64_t cuts;
	double minutes;
	bool all_deaths;
	const struct sim_format *format; /* NULL: both */
};

#define DEFAULT_FORMAT "both"
#define QED_EVERY 3u

/* Of the number alone, so that a case can be replayed by itself. */
static const struct sim_format *format_of(const struct limits *l, uint64_t seed)
{
	if (l->format)
		return l->format;
	return seed % QED_EVERY == 0 ? &sim_qed_format : &sim_qcow2_format;
}

static double seconds_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool parse(int argc, char **argv, struct limits *l, struct sim_run *run)
{
	static const struct option options[] = {
		{"seed", required_argument, NULL, 's'},
		{"cases", required_argument, NULL, 'n'},
		{"cuts", required_argument, NULL, 'c'},
		{"minutes", required_argument, NULL, 'm'},
		{"qemu", required_argument, NULL, 'q'},
		{"deaths", no_argument, NULL, 'd'},
		{"verbose", no_argument, NULL, 'v'},
		{"format", required_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},
		{"rings", no_argument, NULL, 'r'},
		{NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			l->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			l->cases = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			l->cuts = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			l->minutes = strtod(optarg, NULL);
			break;
		case 'q':
			run->qemu_dir = optarg;
			break;
		case 'f':
			l->format = sim_format_find(optarg);
			if (!l->format && strcmp(optarg, "both") != 0)
				return false;
			break;
		case 'r':
			run->all_rings = true;
			break;
		case 'd':
			l->all_deaths = true;
			break;
		case 'v':
			run->verbose = 1;
			break;
		default:
			return false;
		}
	}
	if (l->cases == 0 && l->cuts == 0 && l->minutes <= 0)
		l->cuts = 1000;
	return optind == argc;
}

static bool is_over(const struct limits *l, const struct sim_totals *t, double began)
{
	return (l->cases && t->cases >= l->cases) || (l->cuts && t->cuts >= l->cuts) ||
	       (l->minutes > 0 && seconds_now() - began >= 60 * l->minutes);
}

/* Disks come and go by the thousand: their memory is not given back to the kernel in between, which
 * took a third of the time. */
static void keep_memory(void)
{
	const int most = 1 << 30;

	if (!mallopt(M_MMAP_THRESHOLD, most) || !mallopt(M_TRIM_THRESHOLD, most) ||
	    !mallopt(M_TOP_PAD, 64 << 20))
		fputs("# the heap stays as it is\n", stderr);
}

static void print_totals(const struct sim_totals *t, double seconds)
{
	printf("ok power_cuts_keep_every_promise\n"
	       "# %llu cuts (%llu while opening or repairing, %llu while closing), %llu looks at "
	       "others, %llu kills (%llu adopted), "
	       "%llu closes, %llu recoveries, %llu faults, %llu failed allocations, %llu requests, "
	       "%llu cases, "
	       "%llu looked at by qemu-img, %.0f s\n",
	       (unsigned long long)t->cuts, (unsigned long long)t->cuts_opening,
	       (unsigned long long)t->cuts_closing, (unsigned long long)t->glances,
	       (unsigned long long)t->kills, (unsigned long long)t->adoptions,
	       (unsigned long long)t->closes, (unsigned long long)t->recoveries,
	       (unsigned long long)t->faults, (unsigned long long)t->memory_faults,
	       (unsigned long long)t->requests, (unsigned long long)t->cases,
	       (unsigned long long)t->checked, seconds);
	printf("# over vhost-user: %llu cases, %llu requests, %llu of them taken by a process that "
	       "died\n",
	       (unsigned long long)t->rings.cases, (unsigned long long)t->rings.requests,
	       (unsigned long long)t->rings.recovered);
	sim_death_print(t);
}

static int judge_deaths(const struct sim_totals *t)
{
	const char *missing = sim_death_missing(t);

	printf("%sok processes_die_amid_everything%s%s\n", missing ? "not " : "",
	       missing ? " # none " : "", missing ? missing : "");
	return missing ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct sim_run run = {.qemu_every = 50};
	struct limits limits = {.seed = 1, .format = sim_format_find(DEFAULT_FORMAT)};
	const struct sim_totals *t = &run.totals;
	double began = seconds_now();

	if (!parse(argc, argv, &limits, &run)) {
		fputs(usage, stderr);
		return 2;
	}
	printf("1..%d\n", limits.all_deaths ? 2 : 1);
	keep_memory();
	sim_trace_catch_signals();
	for (uint64_t seed = limits.seed; !is_over(&limits, t, began); seed++)
		sim_case_run(&run, format_of(&limits, seed), seed);
	print_totals(t, seconds_now() - began);
	return limits.all_deaths ? judge_deaths(t) : 0;
}
