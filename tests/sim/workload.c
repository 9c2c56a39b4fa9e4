/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "rings.h"

/* Sectors of the guest. */
struct range {
	uint64_t first;
	uint64_t count;
};

/* full: it needed a cluster while there was no room. Over damage anything may fail. */
static void check_result(const struct sim_workload *w, const char *what, const struct range *at,
			 bool full, int r)
{
	if ((r == -ENOSPC && full) || sim_model_is_wild(w->model, at->first, at->count))
		return;
	if (r < 0 && !w->errors_allowed && !w->stop)
		sim_fail("guest", "%s failed without a fault: %s", what, strerror(-r));
}

static const struct range nowhere;

static void note(struct sim_workload *w, const char *what, uint32_t id, uint64_t first,
		 uint64_t count)
{
	struct sim_event event = {
		.time_ns = ox_reactor_now_ns(w->img->reactor),
		.what = what,
		.offset = first * SIM_SECTOR_BYTES,
		.length = count * SIM_SECTOR_BYTES,
		.number = id,
	};

	sim_trace_add(w->trace, &event);
}

static bool promises_each(const struct sim_workload *w)
{
	return w->img->cache == OX_CACHE_WRITETHROUGH || w->img->cache == OX_CACHE_DIRECTSYNC;
}

/* ---- one request each ---- */

static void read_co(struct sim_workload *w, uint64_t first, uint64_t count)
{
	uint8_t *buf = sim_buffer(count * SIM_SECTOR_BYTES);
	struct iovec iov = {buf, count * SIM_SECTOR_BYTES};
	uint64_t began;
	int r;

	memset(buf, 0xa5, iov.iov_len);
	began = sim_model_read_begin(w->model);
	r = ox_img_preadv_co(w->img, &iov, 1, first * SIM_SECTOR_BYTES);
	if (!w->stop) {
		check_result(w, "a read", &(struct range){first, count}, false, r);
		sim_model_read_end(w->model, began, first, count, r == 0 ? buf : NULL);
	}
	free(buf);
}

/* No request frees more than what it touches. */
static void count_freed(struct sim_workload *w, uint64_t first, uint64_t count)
{
	uint64_t per_cluster = w->cluster_bytes / SIM_SECTOR_BYTES;

	w->freed_clusters += ox_div_up(first + count, per_cluster) - first / per_cluster;
}

/* Whole clusters may be compressed. */
static unsigned draw_compressed(struct sim_workload *w, uint64_t first, uint64_t count)
{
	uint64_t per_cluster = w->cluster_bytes / SIM_SECTOR_BYTES;

	if (!w->img->ops->pwritev_compressed_co || count == 0 || first % per_cluster != 0 ||
	    count % per_cluster != 0 || !sim_random_percent(&w->random, w->compressed_percent))
		return 0;
	count_freed(w, first, count);
	return OX_REQ_COMPRESSED;
}

static void write_co(struct sim_workload *w, uint64_t first, uint64_t count, bool fua)
{
	unsigned flags = (fua ? OX_REQ_FUA : 0) | draw_compressed(w, first, count);
	uint8_t *buf = sim_buffer(count * SIM_SECTOR_BYTES);
	bool full = w->may_be_full;
	struct iovec iov[2];
	uint64_t cut = sim_random_below(&w->random, count) * SIM_SECTOR_BYTES;
	struct sim_write write;
	int r;

	sim_model_begin(w->model, &write, SIM_MODEL_WRITE, first, count);
	for (uint64_t i = 0; i < count; i++)
		sim_model_pattern(write.id, first + i, buf + i * SIM_SECTOR_BYTES);
	iov[0] = (struct iovec){buf, cut};
	iov[1] = (struct iovec){buf + cut, count * SIM_SECTOR_BYTES - cut};
	note(w,
	     flags & OX_REQ_COMPRESSED ? "guest: write, compressed"
	     : fua		       ? "guest: write, FUA"
				       : "guest: write",
	     write.id, first, count);
	w->compressing += flags & OX_REQ_COMPRESSED ? 1 : 0;
	r = ox_img_pwritev_co(w->img, iov, 2, first * SIM_SECTOR_BYTES, flags);
	w->compressing -= flags & OX_REQ_COMPRESSED ? 1 : 0;
	if (!w->stop) {
		check_result(w, "a write", &(struct range){first, count}, full, r);
		sim_model_end(w->model, &write, r == 0, fua || promises_each(w));
		note(w, r == 0 ? "guest: write done" : "guest: write failed", write.id, first,
		     count);
	}
	memset(buf, 0x5a, count * SIM_SECTOR_BYTES); /* the guest uses its memory again */
	free(buf);
}

static void zero_co(struct sim_workload *w, uint64_t first, uint64_t count)
{
	unsigned flags = sim_random_percent(&w->random, 60) ? OX_REQ_MAY_UNMAP : 0;
	bool fua = sim_random_percent(&w->random, 25);
	bool full = w->may_be_full;
	struct sim_write write;
	int r;

	if (fua)
		flags |= OX_REQ_FUA;
	count_freed(w, first, count);
	sim_model_begin(w->model, &write, SIM_MODEL_ZERO, first, count);
	note(w, flags & OX_REQ_MAY_UNMAP ? "guest: zero, may unmap" : "guest: zero", 0, first,
	     count);
	r = ox_img_zero_co(w->img, first * SIM_SECTOR_BYTES, count * SIM_SECTOR_BYTES, flags);
	if (w->stop)
		return;
	check_result(w, "a write of zeroes", &(struct range){first, count}, full, r);
	sim_model_end(w->model, &write, r == 0, fua || promises_each(w));
	note(w, r == 0 ? "guest: zero done" : "guest: zero failed", 0, first, count);
}

static void discard_co(struct sim_workload *w, uint64_t first, uint64_t count)
{
	struct sim_write write;
	int r;

	count_freed(w, first, count);
	sim_model_begin(w->model, &write, SIM_MODEL_DISCARD, first, count);
	note(w, "guest: discard", 0, first, count);
	r = ox_img_discard_co(w->img, first * SIM_SECTOR_BYTES, count * SIM_SECTOR_BYTES);
	if (w->stop)
		return;
	check_result(w, "a discard", &(struct range){first, count}, false, r);
	sim_model_end(w->model, &write, r == 0, promises_each(w));
	note(w, r == 0 ? "guest: discard done" : "guest: discard failed", 0, first, count);
}

static void flush_co(struct sim_workload *w)
{
	uint64_t began = sim_model_flush_begin(w->model);
	int r;

	note(w, "guest: flush", 0, 0, 0);
	r = ox_img_flush_co(w->img);
	if (w->stop)
		return;
	check_result(w, "a flush", &nowhere, false, r);
	if (r == 0)
		sim_model_flush_end(w->model, began);
	note(w, r == 0 ? "guest: flush done" : "guest: flush failed", 0, 0, 0);
}

static void extent_co(struct sim_workload *w, uint64_t first, uint64_t count)
{
	struct ox_extent extent;
	int r;

	if (count == 0)
		return;
	r = ox_img_extent_co(w->img, first * SIM_SECTOR_BYTES, count * SIM_SECTOR_BYTES, &extent);

	check_result(w, "a look at an extent", &(struct range){first, count}, false, r);
}

/* ---- the tasks ---- */

static enum sim_guest_op choose(struct sim_workload *w)
{
	uint64_t total = 0;
	uint64_t dice;
	unsigned op = 0;

	for (unsigned i = 0; i < SIM_GUEST_OPS; i++)
		total += w->weights[i];
	dice = sim_random_below(&w->random, total);
	for (; dice >= w->weights[op]; op++)
		dice -= w->weights[op];
	return (enum sim_guest_op)op;
}

/* Half of the requests are whole clusters, as file systems like them. */
static void place(struct sim_workload *w, uint64_t *ret_first, uint64_t *ret_count)
{
	uint64_t sectors = w->sectors;
	uint64_t per_cluster = w->cluster_bytes / SIM_SECTOR_BYTES;
	bool hot = sim_random_percent(&w->random, 80);
	uint64_t first = hot ? w->hot_first + sim_random_below(&w->random, w->hot_count)
			     : sim_random_below(&w->random, sectors);
	uint64_t count = sim_random_between(&w->random, 1, w->most_sectors);

	if (sim_random_percent(&w->random, 40))
		count = sim_random_between(&w->random, 1, 4);
	if (sim_random_percent(&w->random, 50)) {
		first = first / per_cluster * per_cluster;
		count = ox_align_up(count, per_cluster);
	}
	*ret_first = first;
	*ret_count = ox_min_u64(count, sectors - first);
	if (sim_random_percent(&w->random, 1)) { /* nothing, at the very end, is no error */
		*ret_first = sectors;
		*ret_count = 0;
	}
}

/* Long enough for the engine to take the guest for idle, mostly. */
static void linger_co(struct sim_workload *w)
{
	if (!w->stop && w->linger_ns > 0)
		ox_reactor_sleep_co(sim_random_below(&w->random, w->linger_ns));
}

static void request_co(struct sim_workload *w, enum sim_guest_op op, uint64_t first, uint64_t count)
{
	switch (op) {
	case SIM_GUEST_READ:
		read_co(w, first, count);
		break;
	case SIM_GUEST_WRITE:
		write_co(w, first, count, false);
		break;
	case SIM_GUEST_WRITE_FUA:
		write_co(w, first, count, true);
		break;
	case SIM_GUEST_ZERO:
		zero_co(w, first, count);
		break;
	case SIM_GUEST_DISCARD:
		discard_co(w, first, count);
		break;
	case SIM_GUEST_FLUSH:
		flush_co(w);
		break;
	case SIM_GUEST_EXTENT:
	case SIM_GUEST_OPS:
		extent_co(w, first, count);
		break;
	}
}

static void ring_request_co(struct sim_workload *w, enum sim_guest_op op, uint64_t first,
			    uint64_t count)
{
	if (op == SIM_GUEST_ZERO || op == SIM_GUEST_DISCARD)
		count_freed(w, first, count);
	sim_rings_request_co(w->rings, op, first, count);
}

static void guest_task_co(void *arg)
{
	struct sim_workload *w = arg;

	for (unsigned i = 0; i < w->operations && !w->stop; i++) {
		enum sim_guest_op op = choose(w);
		uint64_t first;
		uint64_t count;

		place(w, &first, &count);
		if ((op == SIM_GUEST_ZERO || op == SIM_GUEST_DISCARD) &&
		    sim_random_percent(&w->random, w->whole_percent)) {
			first = 0;
			count = w->sectors;
		}
		if (w->rings)
			ring_request_co(w, op, first, count);
		else
			request_co(w, op, first, count);
		if (!w->stop && sim_random_percent(&w->random, w->quiet_percent))
			ox_reactor_sleep_co(sim_random_below(&w->random, 3000000));
		if (i % 16 == 15)
			linger_co(w);
	}
	linger_co(w);
	w->tasks--;
}

/* The tasks keep to what is there before and after. */
static void resize_task_co(void *arg)
{
	struct sim_workload *w = arg;
	bool full;
	int r;

	if (sim_random_percent(&w->random, 70))
		ox_reactor_sleep_co(sim_random_below(&w->random, 20000000));
	if (!w->stop) {
		full = w->may_be_full;
		/* entries past the end, where it was and where it will be */
		w->freed_clusters = UINT64_MAX / 2;
		sim_model_resize_begin(w->model, w->resize_sectors);
		note(w, "guest: resize", 0, 0, w->resize_sectors);
		w->resizing = true;
		r = ox_img_resize_co(w->img, w->resize_sectors * SIM_SECTOR_BYTES, NULL);
		w->resizing = false;
		if (!w->stop) {
			check_result(w, "a resize", &(struct range){0, UINT64_MAX}, full, r);
			sim_model_resize_end(w->model, r == 0);
			note(w, r == 0 ? "guest: resize done" : "guest: resize failed", 0, 0, 1);
		}
	}
	w->tasks--;
}

/* From then on nobody has a reason to be refused. */
static void room_task_co(void *arg)
{
	struct sim_workload *w = arg;

	ox_reactor_sleep_co(w->room_comes_ns);
	if (!w->stop) {
		note(w, "=== there is room", 0, 0, 0);
		w->space->room = SIM_ROOM_ENDLESS;
		w->may_be_full = false;
	}
	w->tasks--;
}

bool sim_workload_start(struct sim_workload *w, struct ox_reactor *r, unsigned tasks)
{
	w->tasks = tasks;
	if (w->resize_sectors > 0) {
		w->tasks++;
		if (ox_co_spawn(r, resize_task_co, w) < 0)
			return false;
	}
	if (w->room_comes_ns > 0) {
		w->tasks++;
		if (ox_co_spawn(r, room_task_co, w) < 0)
			return false;
	}
	for (unsigned i = 0; i < tasks; i++)
		if (ox_co_spawn(r, guest_task_co, w) < 0)
			return false;
	return true;
}
