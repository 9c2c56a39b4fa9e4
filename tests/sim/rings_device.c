/* SPDX-License-Identifier: MIT */
/* The process that serves: takes chains, hands requests to the image as the library's queue does,
 * answers, and pauses between any two of these, so that it may die there. */
#include <stdlib.h>

#include "base/arith.h"
#include "img/img.h"
#include "lib/request.h"
#include "rings.h"
#include "rt/reactor.h"

#define USER_A UINT64_C(0x7f0000000000)
#define USER_B UINT64_C(0x7e0000000000)
#define GUEST_BYTES ox_align_up(sizeof(struct guest_memory), 4096)
#define TURN_MAX_NS 200000u
#define OUT_OF_MEMORY_NS 1000000u

struct sim_device {
	struct sim_rings *rings;
	struct ox_image *img;
	struct ox_vhost_memory *memory;
	struct ox_vhost_inflight *inflight;
	struct ox_vhost_blk blk;
	struct ox_vhost_ring *ring[RINGS];
	struct ox_vhost_blk_ring *blk_ring[RINGS];
	struct ox_vhost_blk_request *done[RINGS * RING_SLOTS]; /* with a result, not answered */
	unsigned done_count;
	unsigned in_flight; /* handed to the image, and not answered */
	struct ox_co *waiter;
	bool kicked;
	bool quits;
	bool dead;
	bool ended;
};

/* ---- requests ---- */

static void wake(struct sim_device *d)
{
	struct ox_co *waiter = d->waiter;

	d->waiter = NULL;
	if (waiter)
		ox_co_wake(waiter);
}

void sim_device_kick(struct sim_device *device)
{
	device->kicked = true;
	wake(device);
}

static void request_task_co(void *arg)
{
	struct ox_vhost_blk_request *request = arg;
	struct sim_device *d = request->owner;

	request->request.result = ox_request_run_co(d->img, &request->request);
	d->done[d->done_count++] = request;
	wake(d);
}

static int submit(void *opaque, struct ox_vhost_blk_request *request)
{
	struct sim_device *d = opaque;
	int r = ox_request_check(&request->request);

	if (r < 0)
		sim_fail("rings", "the library is asked for nonsense: op %d",
			 (int)request->request.op);
	request->owner = d;
	r = ox_co_spawn(d->img->reactor, request_task_co, request);
	d->in_flight += r == 0;
	return r;
}

/* ---- turns ---- */

static void pause_co(struct sim_device *d)
{
	if (!d->dead && sim_random_percent(&d->rings->random, 30))
		ox_reactor_sleep_co(sim_random_below(&d->rings->random, TURN_MAX_NS));
}

static void complete(struct sim_device *d)
{
	while (d->done_count > 0) {
		d->in_flight--;
		ox_vhost_blk_completed(d->done[--d->done_count]);
	}
}

static void publish(struct sim_device *d)
{
	for (unsigned i = 0; i < RINGS; i++)
		if (ox_vhost_ring_publish(d->ring[i]) && !d->dead)
			sim_driver_reap(d->rings, i);
}

/* Returns whether there may be more. */
static bool take_co(struct sim_device *d)
{
	const unsigned most = (unsigned)sim_random_between(&d->rings->random, 1, RING_SLOTS);
	bool more = false;

	for (unsigned i = 0; i < RINGS; i++) {
		int r = ox_vhost_blk_take(d->blk_ring[i], most);

		if (r == -EPROTO)
			sim_fail("rings", "ring %u is broken: %s", i,
				 ox_vhost_ring_why_broken(d->ring[i]));
		if (r == -ENOMEM)
			ox_reactor_sleep_co(OUT_OF_MEMORY_NS);
		more = more || r < 0 || r == (int)most;
	}
	return more;
}

/* Asks for kicks, and sleeps if there is nothing to do. */
static void wait_co(struct sim_device *d)
{
	for (unsigned i = 0; !d->quits && i < RINGS; i++)
		if (ox_vhost_ring_listen(d->ring[i]))
			d->kicked = true;
	while (!d->kicked && !d->quits && d->done_count == 0) {
		d->waiter = ox_co_self();
		ox_co_suspend_co();
	}
	while (d->quits && d->in_flight > 0 && d->done_count == 0) {
		d->waiter = ox_co_self();
		ox_co_suspend_co();
	}
	d->kicked = false;
	for (unsigned i = 0; i < RINGS; i++)
		ox_vhost_ring_quiet(d->ring[i]);
}

static void device_task_co(void *arg)
{
	struct sim_device *d = arg;

	while (!d->quits || d->in_flight > 0) {
		bool more = false;

		complete(d);
		pause_co(d);
		publish(d);
		pause_co(d);
		if (!d->quits)
			more = take_co(d);
		publish(d); /* what needed no I/O */
		if (!more)
			wait_co(d);
	}
	publish(d);
	d->ended = true;
}

/* ---- beginning and end ---- */

static int map_memory(struct sim_device *d)
{
	const struct sim_rings *rings = d->rings;
	const struct ox_vhost_region regions[] = {
		{0, rings->split, USER_A, 0},
		{rings->split, GUEST_BYTES - rings->split, USER_B, rings->split},
	};
	const int fds[] = {rings->memory_fd, rings->memory_fd};
	int r = ox_vhost_memory_new(&d->memory);

	if (r == 0)
		r = ox_vhost_memory_replace(d->memory, regions, fds, 2);
	if (r == 0)
		r = ox_vhost_inflight_open(rings->inflight_fd, 0,
					   ox_vhost_inflight_bytes(RINGS, RING_SIZE), RINGS,
					   RING_SIZE, &d->inflight);
	return r;
}

/* The base is what some front ends say of it: the driver's own index. */
static int start_ring(struct sim_device *d, unsigned index)
{
	const uint64_t at = USER_A + index * sizeof(struct ring_memory);
	const struct ox_vhost_ring_setup setup = {
		.size = RING_SIZE,
		.descriptors = at + offsetof(struct ring_memory, descriptors),
		.available = at + offsetof(struct ring_memory, avail),
		.used = at + offsetof(struct ring_memory, used),
		.event_idx = d->rings->acked & OX_VIRTIO_F_RING_EVENT_IDX,
		.indirect = d->rings->acked & OX_VIRTIO_F_RING_INDIRECT_DESC,
		.inflight = d->inflight,
		.index = (uint16_t)index,
	};
	int r = ox_vhost_ring_new(d->memory, &d->ring[index]);

	if (r == 0)
		r = ox_vhost_blk_ring_new(&d->blk, d->ring[index], d->memory, &d->blk_ring[index]);
	if (r < 0)
		return r;
	ox_vhost_ring_set_base(d->ring[index], d->rings->avail_index[index]);
	r = ox_vhost_ring_start(d->ring[index], &setup);
	if (r == 0)
		d->rings->totals->recovered += ox_vhost_ring_to_recover(d->ring[index]);
	return r;
}

void sim_rings_start(struct sim_rings *rings, struct sim_workload *w)
{
	struct sim_device *d;
	int r;

	if (!rings)
		return;
	d = sim_alloc(1, sizeof(*d));
	d->rings = rings;
	d->img = w->img;
	d->blk = (struct ox_vhost_blk){
		.size_bytes = sim_model_sectors(rings->model) * SIM_SECTOR_BYTES,
		.mode = rings->mode,
		.block_bytes = 512,
		.physical_bytes = 4096,
		.queues = RINGS,
		.queue_size = RING_SIZE,
		.acked = rings->acked,
		.wce = rings->kept_wce,
		.submit = submit,
		.opaque = d,
	};
	rings->device = d;
	rings->workload = w;
	r = map_memory(d);
	for (unsigned i = 0; r == 0 && i < RINGS; i++)
		r = start_ring(d, i);
	if (r == 0)
		r = ox_co_spawn(w->img->reactor, device_task_co, d);
	if (r < 0)
		sim_fail("rings", "the rings do not start: %d", r);
	d->kicked = true; /* what lies there is not waited for */
	sim_driver_go_on(rings);
}

void sim_rings_stop(struct sim_rings *rings)
{
	if (!rings || !rings->device)
		return;
	rings->device->quits = true;
	wake(rings->device);
}

bool sim_rings_have_stopped(const struct sim_rings *rings)
{
	return !rings || !rings->device || rings->device->ended;
}

int sim_device_set_cache_co(struct sim_device *device, bool on)
{
	const uint8_t value = on;
	int r = ox_vhost_blk_config_write(&device->blk, OX_VHOST_BLK_CONFIG_WCE, sizeof(value),
					  &value);

	device->rings->kept_wce = device->blk.wce;
	/* as a session does, before it says that it is off */
	return r == 0 && !on ? ox_img_flush_co(device->img) : r;
}

void sim_device_die(struct sim_device *device)
{
	device->dead = device->quits = true;
	wake(device);
}

void sim_device_free(struct sim_device *device, uint16_t *ret_bases)
{
	for (unsigned i = 0; i < RINGS; i++) {
		ret_bases[i] = ox_vhost_ring_stop(device->ring[i]);
		ox_vhost_blk_ring_free(device->blk_ring[i]);
		ox_vhost_ring_free(device->ring[i]);
	}
	ox_vhost_inflight_close(device->inflight);
	ox_vhost_memory_free(device->memory);
	free(device);
}
