/* SPDX-License-Identifier: MIT */
/*
 * Prometheus's text format, version 0.0.4: for each metric two lines that tell what it is, then a
 * line for each disk, protocol and kind.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/control/control.h"

struct seen {
	char *name; /* as the value of a label */
	char *image;
	const struct ox_control_told *told;
	struct ox_stats_values values;
};

struct page {
	FILE *out;
	struct seen *disks;
	unsigned count;
};

static const char *const protocols[OX_STATS_PROTOCOLS] = {
	[OX_STATS_NBD] = "nbd",
	[OX_STATS_VHOST] = "vhost-user-blk",
};

static const char *const kinds[OX_STATS_KINDS] = {
	[OX_STATS_READ] = "read", [OX_STATS_WRITE] = "write",	  [OX_STATS_FLUSH] = "flush",
	[OX_STATS_ZERO] = "zero", [OX_STATS_DISCARD] = "discard", [OX_STATS_OTHER] = "other",
};

/* ---- names ---- */

/* In UTF-8, with backslashes; to be freed. NULL: memory is short. */
static char *label_value(const char *text)
{
	json_t *clean = ox_cli_json_string(text);
	const char *from = json_string_value(clean);
	char *value = from ? malloc(2 * json_string_length(clean) + 1) : NULL;
	char *to = value;

	for (; to && *from; from++) {
		if (*from == '\\' || *from == '"' || *from == '\n')
			*to++ = '\\';
		*to++ = *from == '\n' ? 'n' : *from;
	}
	if (to)
		*to = '\0';
	json_decref(clean);
	return value;
}

static void head(const struct page *page, const char *name, const char *type, const char *help)
{
	fprintf(page->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* ---- one number a disk ---- */

static uint64_t field(const struct ox_stats_values *values, size_t offset)
{
	return *(const uint64_t *)(const void *)((const char *)values + offset);
}

static const struct simple {
	const char *name;
	const char *type;
	size_t offset; /* of struct ox_stats_values */
	const char *help;
} simple[] = {
#define F(member) offsetof(struct ox_stats_values, member)
	{"oxbow_disk_size_bytes", "gauge", F(size_bytes), "Size of the disk."},
	{"oxbow_disk_dirty", "gauge", F(dirty),
	 "Whether the image's file says that it was not closed."},
	{"oxbow_host_reads_total", "counter", F(host_reads), "Reads of the image's file."},
	{"oxbow_host_writes_total", "counter", F(host_writes), "Writes to the image's file."},
	{"oxbow_host_syncs_total", "counter", F(host_syncs), "Syncs of the image's file."},
	{"oxbow_l2_cache_hits_total", "counter", F(l2_hits),
	 "Looks at L2 tables that were in memory."},
	{"oxbow_l2_cache_misses_total", "counter", F(l2_misses),
	 "Looks at L2 tables that had to be read."},
	{"oxbow_refcount_cache_hits_total", "counter", F(refcount_hits),
	 "Looks at refcount blocks that were in memory."},
	{"oxbow_refcount_cache_misses_total", "counter", F(refcount_misses),
	 "Looks at refcount blocks that had to be read."},
	{"oxbow_notices_total", "counter", F(notices),
	 "Damage of the image and errors of the host that were met."},
	{"oxbow_recovery_tables_done", "gauge", F(recovery_done),
	 "Tables that the recovery has looked through."},
	{"oxbow_recovery_tables", "gauge", F(recovery_total),
	 "Tables that the recovery has to look through."},
	{"oxbow_waiting_for_room", "gauge", F(room.waiting),
	 "Requests that wait for room on a full host."},
	{"oxbow_low_space", "gauge", F(room.is_low),
	 "Whether the image's file system has less room than was stated."},
	{"oxbow_limit_iops", "gauge", F(limit_iops), "Requests a second; 0: no limit."},
	{"oxbow_limit_bandwidth_bytes", "gauge", F(limit_bandwidth),
	 "Bytes a second; 0: no limit."},
#undef F
};

static void put_simple(const struct page *page)
{
	for (size_t i = 0; i < sizeof(simple) / sizeof(simple[0]); i++) {
		head(page, simple[i].name, simple[i].type, simple[i].help);
		for (unsigned d = 0; d < page->count; d++)
			fprintf(page->out, "%s{disk=\"%s\"} %" PRIu64 "\n", simple[i].name,
				page->disks[d].name,
				field(&page->disks[d].values, simple[i].offset));
	}
}

static void put_states(const struct page *page)
{
	head(page, "oxbow_disk_info", "gauge", "The image of a disk; always 1.");
	for (unsigned d = 0; d < page->count; d++)
		fprintf(page->out, "oxbow_disk_info{disk=\"%s\",image=\"%s\"} 1\n",
			page->disks[d].name, page->disks[d].image);
	head(page, "oxbow_disk_up", "gauge", "Whether clients are served.");
	for (unsigned d = 0; d < page->count; d++)
		fprintf(page->out, "oxbow_disk_up{disk=\"%s\"} %d\n", page->disks[d].name,
			page->disks[d].told->state == OX_CONTROL_SERVING);
	head(page, "oxbow_disk_deaths_total", "counter", "Deaths of processes that served it.");
	for (unsigned d = 0; d < page->count; d++)
		fprintf(page->out, "oxbow_disk_deaths_total{disk=\"%s\"} %" PRIu64 "\n",
			page->disks[d].name, page->disks[d].told->deaths);
	head(page, "oxbow_disk_start_time_seconds", "gauge",
	     "When the server has taken the disk on, since 1970.");
	for (unsigned d = 0; d < page->count; d++)
		fprintf(page->out, "oxbow_disk_start_time_seconds{disk=\"%s\"} %" PRId64 "\n",
			page->disks[d].name, page->disks[d].told->since);
	head(page, "oxbow_recovery_running", "gauge",
	     "Whether an image that was not closed is looked through.");
	for (unsigned d = 0; d < page->count; d++)
		fprintf(page->out, "oxbow_recovery_running{disk=\"%s\"} %d\n", page->disks[d].name,
			page->disks[d].values.recovery == OX_RECOVERY_RUNNING);
}

/* ---- by protocol and kind ---- */

static void put_by_protocol(const struct page *page, const char *name, const char *type,
			    size_t offset, const char *help)
{
	head(page, name, type, help);
	for (unsigned d = 0; d < page->count; d++)
		for (unsigned p = 0; p < OX_STATS_PROTOCOLS; p++)
			fprintf(page->out, "%s{disk=\"%s\",protocol=\"%s\"} %" PRIu64 "\n", name,
				page->disks[d].name, protocols[p],
				field(&page->disks[d].values, offset + p * sizeof(uint64_t)));
}

/* offset: of struct ox_stats_requests. */
static void put_by_kind(const struct page *page, const char *name, size_t offset, const char *help)
{
	head(page, name, "counter", help);
	for (unsigned d = 0; d < page->count; d++)
		for (unsigned p = 0; p < OX_STATS_PROTOCOLS; p++)
			for (unsigned k = 0; k < OX_STATS_KINDS; k++) {
				const struct ox_stats_values *v = &page->disks[d].values;
				const size_t at = (size_t)((const char *)&v->requests[p][k] -
							   (const char *)v);

				fprintf(page->out,
					"%s{disk=\"%s\",protocol=\"%s\",kind=\"%s\"} %" PRIu64 "\n",
					name, page->disks[d].name, protocols[p], kinds[k],
					field(v, at + offset));
			}
}

static void put_requests(const struct page *page)
{
	put_by_kind(page, "oxbow_requests_total", offsetof(struct ox_stats_requests, requests),
		    "Requests that were answered.");
	put_by_kind(page, "oxbow_request_errors_total", offsetof(struct ox_stats_requests, errors),
		    "Of them, those that failed.");
	put_by_kind(page, "oxbow_request_bytes_total", offsetof(struct ox_stats_requests, bytes),
		    "Bytes that were transferred, zeroed or discarded.");
	put_by_protocol(page, "oxbow_requests_in_flight", "gauge",
			offsetof(struct ox_stats_values, in_flight),
			"Requests that were taken and not answered.");
	put_by_protocol(page, "oxbow_clients", "gauge", offsetof(struct ox_stats_values, clients),
			"Clients that are connected.");
	put_by_protocol(page, "oxbow_connections_total", "counter",
			offsetof(struct ox_stats_values, connections),
			"Clients that have connected.");
}

/* ---- latencies ---- */

/* Microseconds, a power of two. */
static void put_bucket(const struct page *page, const struct seen *disk, unsigned kind,
		       unsigned bucket, uint64_t count)
{
	const char *const name = "oxbow_request_duration_seconds_bucket";
	const uint64_t us = UINT64_C(1) << bucket;

	if (bucket == OX_STATS_BUCKETS - 1)
		fprintf(page->out, "%s{disk=\"%s\",kind=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name,
			disk->name, kinds[kind], count);
	else
		fprintf(page->out,
			"%s{disk=\"%s\",kind=\"%s\",le=\"%" PRIu64 ".%06" PRIu64 "\"} %" PRIu64
			"\n",
			name, disk->name, kinds[kind], us / 1000000, us % 1000000, count);
}

static void put_latency(const struct page *page, const struct seen *disk, unsigned kind)
{
	const struct ox_stats_values *v = &disk->values;
	uint64_t count = 0;

	for (unsigned i = 0; i < OX_STATS_BUCKETS; i++) {
		count += v->latency[kind][i];
		put_bucket(page, disk, kind, i, count);
	}
	fprintf(page->out,
		"oxbow_request_duration_seconds_sum{disk=\"%s\",kind=\"%s\"} %" PRIu64 ".%09" PRIu64
		"\n",
		disk->name, kinds[kind], v->latency_ns[kind] / 1000000000,
		v->latency_ns[kind] % 1000000000);
	fprintf(page->out,
		"oxbow_request_duration_seconds_count{disk=\"%s\",kind=\"%s\"} %" PRIu64 "\n",
		disk->name, kinds[kind], count);
}

static void put_latencies(const struct page *page)
{
	head(page, "oxbow_request_duration_seconds", "histogram",
	     "From when a request was taken to its answer.");
	for (unsigned d = 0; d < page->count; d++)
		for (unsigned k = 0; k < OX_STATS_KINDS; k++)
			put_latency(page, &page->disks[d], k);
}

/* ---- all of it ---- */

static int see(struct page *page, const struct ox_control_disk *disk)
{
	struct seen *seen = &page->disks[page->count++];

	seen->told = &disk->told;
	seen->name = label_value(disk->told.name);
	seen->image = label_value(disk->told.image);
	ox_control_disk_look(disk, &seen->values);
	return seen->name && seen->image ? 0 : -1;
}

static void put_all(const struct page *page)
{
	put_states(page);
	put_simple(page);
	put_requests(page);
	put_latencies(page);
}

char *ox_control_metrics(const struct ox_control *control, const struct ox_control_disk *only,
			 size_t *ret_bytes)
{
	struct page page = {.disks = calloc(control->disk_count + 1, sizeof(*page.disks))};
	char *text = NULL;
	int ret = page.disks ? 0 : -1;

	for (unsigned i = 0; ret == 0 && i < control->disk_count; i++)
		if (!only || only == &control->disks[i])
			ret = see(&page, &control->disks[i]);
	page.out = ret == 0 ? open_memstream(&text, ret_bytes) : NULL;
	if (page.out) {
		put_all(&page);
		if (fclose(page.out) != 0) {
			free(text);
			text = NULL;
		}
	}
	for (unsigned i = 0; i < page.count; i++) {
		free(page.disks[i].name);
		free(page.disks[i].image);
	}
	free(page.disks);
	return text;
}
