/* SPDX-License-Identifier: MIT */
/* Answers for people. What is missing of an answer counts as zero, or as nothing. */
#include <inttypes.h>
#include <string.h>

#include "cli/ctl/ctl.h"

static const char *const protocols[] = {"nbd", "vhost-user-blk"};
static const char *const kinds[] = {"read", "write", "flush", "zero", "discard", "other"};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

static const char *size(json_int_t bytes, char buf[OX_CLI_SIZE_MAX])
{
	return ox_cli_size_text(bytes < 0 ? 0 : (uint64_t)bytes, buf);
}

const char *ox_ctl_name(const json_t *disk)
{
	const char *name = text(disk, "name");

	return name[0] ? name : text(disk, "image");
}

/* ---- status ---- */

static void print_since(const json_t *disk)
{
	const time_t since = (time_t)number(disk, "since");
	char date[64];
	struct tm tm;

	if (localtime_r(&since, &tm) && strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm) > 0)
		printf(", kept since %s", date);
}

static void print_addresses(const json_t *disk)
{
	for (size_t i = 0; i < COUNT(protocols); i++) {
		const char *address = text(disk, protocols[i]);

		if (address[0])
			printf("  %-14s  %s, %" JSON_INTEGER_FORMAT
			       " connected, %" JSON_INTEGER_FORMAT " requests in flight\n",
			       protocols[i], address,
			       number(json_object_get(disk, "clients"), protocols[i]),
			       number(json_object_get(disk, "in-flight"), protocols[i]));
	}
}

static void print_limits(const json_t *disk)
{
	const json_t *limits = json_object_get(disk, "limits");
	const json_int_t iops = number(limits, "iops");
	const json_int_t bandwidth = number(limits, "bandwidth");
	char buf[OX_CLI_SIZE_MAX];

	if (iops == 0 && bandwidth == 0)
		return;
	printf("  limits        ");
	if (iops > 0)
		printf("  %" JSON_INTEGER_FORMAT " requests/s", iops);
	if (bandwidth > 0)
		printf("  %s/s", size(bandwidth, buf));
	putchar('\n');
}

static void print_recovery(const json_t *disk)
{
	const json_t *recovery = json_object_get(disk, "recovery");
	const char *state = text(recovery, "state");
	const json_int_t done = number(recovery, "tables-done");
	const json_int_t total = number(recovery, "tables");

	if (strcmp(state, "running") == 0)
		printf("  recovery        %.1f %%\n",
		       total > 0 ? 100.0 * (double)done / (double)total : 0.0);
	else if (strcmp(state, "failed") == 0)
		printf("  recovery        failed: what is not damaged is served\n");
}

static void print_room(const json_t *disk)
{
	const json_t *room = json_object_get(disk, "room");
	const json_int_t waiting = number(room, "waiting");

	if (waiting > 0)
		printf("  paused          %" JSON_INTEGER_FORMAT
		       " requests wait for room on the host, for %" JSON_INTEGER_FORMAT " s\n",
		       waiting, number(room, "seconds"));
	if (json_is_true(json_object_get(room, "low")))
		printf("  room            low on the image's file system\n");
}

static void print_disk(const json_t *disk)
{
	const json_int_t deaths = number(disk, "deaths");
	char buf[OX_CLI_SIZE_MAX];

	printf("%s: %s", ox_ctl_name(disk), text(disk, "state"));
	if (json_is_integer(json_object_get(disk, "pid")))
		printf(" by process %" JSON_INTEGER_FORMAT, number(disk, "pid"));
	print_since(disk);
	printf("\n  image           %s, %s%s\n", text(disk, "image"),
	       size(number(disk, "size"), buf),
	       json_is_true(json_object_get(disk, "dirty")) ? ", dirty" : "");
	print_addresses(disk);
	print_limits(disk);
	print_recovery(disk);
	print_room(disk);
	if (deaths > 0)
		printf("  deaths          %" JSON_INTEGER_FORMAT " of processes that served it\n",
		       deaths);
}

void ox_ctl_print_status(const json_t *returned)
{
	const json_t *disks = json_object_get(returned, "disks");

	for (size_t i = 0; i < json_array_size(disks); i++)
		print_disk(json_array_get(disks, i));
	if (json_array_size(disks) == 0)
		printf("no disk is served\n");
}

/* ---- stats ---- */

/* The upper end of the bucket that has what so many in a thousand took at most. */
static void print_percentile(const json_t *buckets, json_int_t count, int permille)
{
	json_int_t seen = 0;
	size_t i = 0;
	char value[32];

	while (i < json_array_size(buckets)) {
		seen += json_integer_value(json_array_get(buckets, i));
		if (seen * 1000 >= count * permille)
			break;
		i++;
	}
	if (count == 0)
		snprintf(value, sizeof(value), "-");
	else if (i + 1 >= json_array_size(buckets))
		snprintf(value, sizeof(value), "more");
	else if (i < 10)
		snprintf(value, sizeof(value), "%llu us", 1ULL << i);
	else if (i < 20)
		snprintf(value, sizeof(value), "%.3g ms", (double)(1ULL << i) / 1e3);
	else
		snprintf(value, sizeof(value), "%.3g s", (double)(1ULL << i) / 1e6);
	printf(" %9s", value);
}

static void print_kind(const json_t *disk, const char *kind)
{
	const json_t *latency = json_object_get(json_object_get(disk, "latency"), kind);
	const json_t *buckets = json_object_get(latency, "buckets");
	json_int_t requests = 0;
	json_int_t errors = 0;
	json_int_t bytes = 0;
	char buf[OX_CLI_SIZE_MAX];

	for (size_t i = 0; i < COUNT(protocols); i++) {
		const json_t *one = json_object_get(
			json_object_get(json_object_get(disk, "requests"), protocols[i]), kind);

		requests += number(one, "requests");
		errors += number(one, "errors");
		bytes += number(one, "bytes");
	}
	printf("  %-8s %12" JSON_INTEGER_FORMAT " %10" JSON_INTEGER_FORMAT " %12s", kind, requests,
	       errors, size(bytes, buf));
	print_percentile(buckets, requests, 500);
	print_percentile(buckets, requests, 990);
	print_percentile(buckets, requests, 999);
	putchar('\n');
}

static void print_cache(const json_t *disk, const char *title, const char *hits_key,
			const char *misses_key)
{
	const json_t *cache = json_object_get(disk, "cache");
	const json_int_t hits = number(cache, hits_key);
	const json_int_t misses = number(cache, misses_key);

	printf("  %-14s  %" JSON_INTEGER_FORMAT " hits, %" JSON_INTEGER_FORMAT " misses\n", title,
	       hits, misses);
}

void ox_ctl_print_stats(const json_t *returned)
{
	const json_t *disks = json_object_get(returned, "disks");

	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *disk = json_array_get(disks, i);
		const json_t *host = json_object_get(disk, "host");

		print_disk(disk);
		printf("  %-8s %12s %10s %12s %9s %9s %9s\n", "", "requests", "errors", "bytes",
		       "p50 <", "p99 <", "p99.9 <");
		for (size_t k = 0; k < COUNT(kinds); k++)
			print_kind(disk, kinds[k]);
		printf("  image's file    %" JSON_INTEGER_FORMAT " reads, %" JSON_INTEGER_FORMAT
		       " writes, %" JSON_INTEGER_FORMAT " syncs\n",
		       number(host, "reads"), number(host, "writes"), number(host, "syncs"));
		print_cache(disk, "L2 tables", "l2-hits", "l2-misses");
		print_cache(disk, "refcounts", "refcount-hits", "refcount-misses");
		printf("  notices         %" JSON_INTEGER_FORMAT "\n", number(disk, "notices"));
	}
}
