/* SPDX-License-Identifier: MIT */
/* A disk as JSON: docs/control.md has each member. */
#include "cli/control/control.h"

static const char *const protocols[OX_STATS_PROTOCOLS] = {
	[OX_STATS_NBD] = "nbd",
	[OX_STATS_VHOST] = "vhost-user-blk",
};

static const char *const kinds[OX_STATS_KINDS] = {
	[OX_STATS_READ] = "read", [OX_STATS_WRITE] = "write",	  [OX_STATS_FLUSH] = "flush",
	[OX_STATS_ZERO] = "zero", [OX_STATS_DISCARD] = "discard", [OX_STATS_OTHER] = "other",
};

static const char *recovery_name(uint64_t state)
{
	switch (state) {
	case OX_RECOVERY_RUNNING:
		return "running";
	case OX_RECOVERY_DONE:
		return "done";
	case OX_RECOVERY_FAILED:
		return "failed";
	default:
		return "none";
	}
}

/* A number of JSON has 63 bits here; what a counter says beyond is nonsense. */
static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)(value > INT64_MAX ? INT64_MAX : value));
}

static void set(json_t *object, const char *key, json_t *value)
{
	(void)json_object_set_new(object, key, value); /* without memory it is missing */
}

static json_t *by_protocol(const uint64_t *values)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < OX_STATS_PROTOCOLS; i++)
		set(object, protocols[i], number(values[i]));
	return object;
}

/* ---- how it stands ---- */

static json_t *recovery(const struct ox_stats_values *v)
{
	json_t *object = json_object();

	set(object, "state", json_string(recovery_name(v->recovery)));
	set(object, "tables-done", number(v->recovery_done));
	set(object, "tables", number(v->recovery_total));
	return object;
}

static json_t *limits(const struct ox_stats_values *v)
{
	json_t *object = json_object();

	set(object, "iops", number(v->limit_iops));
	set(object, "iops-burst", number(v->limit_iops_burst));
	set(object, "bandwidth", number(v->limit_bandwidth));
	set(object, "bandwidth-burst", number(v->limit_bandwidth_burst));
	return object;
}

static json_t *room(const struct ox_stats_values *v)
{
	const uint64_t now_ms = (uint64_t)ox_control_now_ms();
	const bool waits = v->room.since_ms > 0 && v->room.since_ms <= now_ms;
	json_t *object = json_object();

	set(object, "low", json_boolean(v->room.is_low != 0));
	set(object, "waiting", number(v->room.waiting));
	set(object, "seconds", number(waits ? (now_ms - v->room.since_ms) / 1000 : 0));
	return object;
}

static json_t *optional_text(const char *text)
{
	return text[0] ? ox_cli_json_string(text) : json_null();
}

static void show_state(json_t *object, const struct ox_control_told *told,
		       const struct ox_stats_values *v)
{
	set(object, "name", ox_cli_json_string(told->name));
	set(object, "image", ox_cli_json_string(told->image));
	set(object, "nbd", optional_text(told->nbd));
	set(object, "vhost-user-blk", optional_text(told->vhost));
	set(object, "state", json_string(ox_control_state_name(told->state)));
	set(object, "pid", told->pid ? json_integer((json_int_t)told->pid) : json_null());
	set(object, "added", json_boolean(told->is_added));
	set(object, "since", json_integer((json_int_t)told->since));
	set(object, "deaths", number(told->deaths));
	set(object, "size", number(v->size_bytes));
	set(object, "dirty", json_boolean(v->dirty));
	set(object, "clients", by_protocol(v->clients));
	set(object, "in-flight", by_protocol(v->in_flight));
	set(object, "recovery", recovery(v));
	set(object, "limits", limits(v));
	set(object, "room", room(v));
}

/* ---- what is counted ---- */

static json_t *requests(const struct ox_stats_values *v)
{
	json_t *object = json_object();

	for (unsigned p = 0; p < OX_STATS_PROTOCOLS; p++) {
		json_t *of_protocol = json_object();

		for (unsigned k = 0; k < OX_STATS_KINDS; k++) {
			const struct ox_stats_requests *r = &v->requests[p][k];
			json_t *one = json_object();

			set(one, "requests", number(r->requests));
			set(one, "errors", number(r->errors));
			set(one, "bytes", number(r->bytes));
			set(of_protocol, kinds[k], one);
		}
		set(object, protocols[p], of_protocol);
	}
	return object;
}

static json_t *latency(const struct ox_stats_values *v)
{
	json_t *object = json_object();

	for (unsigned k = 0; k < OX_STATS_KINDS; k++) {
		json_t *of_kind = json_object();
		json_t *buckets = json_array();

		for (unsigned i = 0; i < OX_STATS_BUCKETS; i++)
			(void)json_array_append_new(buckets, number(v->latency[k][i]));
		set(of_kind, "sum-ns", number(v->latency_ns[k]));
		set(of_kind, "buckets", buckets);
		set(object, kinds[k], of_kind);
	}
	return object;
}

static void show_counters(json_t *object, const struct ox_stats_values *v)
{
	json_t *host = json_object();
	json_t *cache = json_object();

	set(object, "requests", requests(v));
	set(object, "latency", latency(v));
	set(object, "connections", by_protocol(v->connections));
	set(host, "reads", number(v->host_reads));
	set(host, "writes", number(v->host_writes));
	set(host, "syncs", number(v->host_syncs));
	set(object, "host", host);
	set(cache, "l2-hits", number(v->l2_hits));
	set(cache, "l2-misses", number(v->l2_misses));
	set(cache, "refcount-hits", number(v->refcount_hits));
	set(cache, "refcount-misses", number(v->refcount_misses));
	set(object, "cache", cache);
	set(object, "notices", number(v->notices));
}

json_t *ox_control_show(const struct ox_control_disk *disk, bool all)
{
	json_t *object = json_object();
	struct ox_stats_values values;

	ox_control_disk_look(disk, &values);
	show_state(object, &disk->told, &values);
	if (all)
		show_counters(object, &values);
	return object;
}
