/* SPDX-License-Identifier: MIT */
/* The guest: its memory, the driver's side of its rings, and what it was promised. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "img/img.h"
#include "rings.h"
#include "rt/reactor.h"

/* virtio 1.2, 2.7 and 5.2.6 */
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define TYPE_IN 0u
#define TYPE_OUT 1u
#define TYPE_FLUSH 4u
#define TYPE_DISCARD 11u
#define TYPE_WRITE_ZEROES 13u
#define FLAG_UNMAP 1u
#define STATUS_OK 0u
#define STATUS_IOERR 1u
#define NO_STATUS 0xaau

#define GUEST_BYTES ox_align_up(sizeof(struct guest_memory), 4096)
#define INFLIGHT_BYTES ox_vhost_inflight_bytes(RINGS, RING_SIZE)

/* ---- life ---- */

static void *map(int fd, size_t bytes)
{
	void *place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd < 0 || place == MAP_FAILED)
		sim_fail("sim", "no memory for a guest");
	return place;
}

/* A guest that boots: another one, perhaps, with other features. */
static void boot(struct sim_rings *rings)
{
	memset(rings->memory, 0, GUEST_BYTES);
	memset(rings->inflight, 0, INFLIGHT_BYTES);
	memset(rings->requests, 0, sizeof(rings->requests));
	memset(rings->avail_index, 0, sizeof(rings->avail_index));
	memset(rings->used_index, 0, sizeof(rings->used_index));
	rings->acked =
		OX_VIRTIO_F_VERSION_1 | OX_VIRTIO_BLK_F_DISCARD | OX_VIRTIO_BLK_F_WRITE_ZEROES;
	if (sim_random_percent(&rings->random, 70))
		rings->acked |= OX_VIRTIO_BLK_F_FLUSH;
	if (sim_random_percent(&rings->random, 60))
		rings->acked |= OX_VIRTIO_BLK_F_CONFIG_WCE;
	if (sim_random_percent(&rings->random, 50))
		rings->acked |= OX_VIRTIO_F_RING_EVENT_IDX;
	if (sim_random_percent(&rings->random, 50))
		rings->acked |= OX_VIRTIO_F_RING_INDIRECT_DESC;
	rings->wce = rings->kept_wce = OX_VHOST_WCE_UNSET;
	rings->settings = 0;
}

struct sim_rings *sim_rings_new(struct sim_model *model, enum ox_cache_mode mode, uint64_t seed,
				struct sim_rings_totals *totals)
{
	struct sim_rings *rings = sim_alloc(1, sizeof(*rings));

	rings->random.state = seed;
	rings->model = model;
	rings->mode = mode;
	rings->totals = totals;
	rings->memory_fd = memfd_create("guest", MFD_CLOEXEC);
	if (rings->memory_fd < 0 || ftruncate(rings->memory_fd, (off_t)GUEST_BYTES) < 0)
		sim_fail("sim", "no memory for a guest");
	rings->memory = map(rings->memory_fd, GUEST_BYTES);
	rings->inflight_fd = ox_vhost_inflight_make(RINGS, RING_SIZE);
	rings->inflight = map(rings->inflight_fd, INFLIGHT_BYTES);
	/* amid the slots, so that some data lie in both regions */
	rings->split = ox_align_down(
		offsetof(struct guest_memory, slots) +
			sim_random_below(&rings->random, sizeof(rings->memory->slots)),
		4096);
	boot(rings);
	return rings;
}

void sim_rings_free(struct sim_rings *rings)
{
	if (!rings)
		return;
	if (rings->device)
		sim_fail("sim", "a guest ends before its device");
	munmap(rings->memory, GUEST_BYTES);
	munmap(rings->inflight, INFLIGHT_BYTES);
	close(rings->memory_fd);
	close(rings->inflight_fd);
	free(rings);
}

unsigned sim_rings_in_flight(const struct sim_rings *rings)
{
	unsigned count = 0;

	for (unsigned i = 0; rings && i < RINGS; i++)
		for (unsigned k = 0; k < RING_SLOTS; k++)
			count += rings->requests[i][k].busy;
	return count;
}

void sim_rings_forget(struct sim_rings *rings)
{
	if (rings)
		boot(rings);
}

/* ---- deaths ---- */

static uint8_t *copy(const void *from, size_t bytes)
{
	return memcpy(sim_alloc(1, bytes), from, bytes);
}

static void put_back(void *to, uint8_t **from, size_t bytes)
{
	if (*from)
		memcpy(to, *from, bytes);
	free(*from);
	*from = NULL;
}

static void wake(struct ring_request *request)
{
	struct ox_co *waiter = request->waiter;

	request->waiter = NULL;
	if (waiter)
		ox_co_wake(waiter);
}

void sim_rings_die(struct sim_rings *rings)
{
	if (!rings || !rings->device)
		return;
	rings->memory_then = copy(rings->memory, GUEST_BYTES);
	rings->inflight_then = copy(rings->inflight, INFLIGHT_BYTES);
	sim_device_die(rings->device);
	for (unsigned i = 0; i < RINGS; i++)
		for (unsigned k = 0; k < RING_SLOTS; k++)
			wake(&rings->requests[i][k]);
}

void sim_rings_end(struct sim_rings *rings)
{
	uint16_t bases[RINGS];

	if (!rings || !rings->device)
		return;
	sim_device_free(rings->device, bases);
	rings->device = NULL;
	rings->is_setting = false;
	for (unsigned i = 0; !rings->memory_then && i < RINGS; i++)
		if (bases[i] != rings->avail_index[i])
			sim_fail("rings", "ring %u ends at %u, and the driver is at %u", i,
				 bases[i], rings->avail_index[i]);
	put_back(rings->memory, &rings->memory_then, GUEST_BYTES);
	put_back(rings->inflight, &rings->inflight_then, INFLIGHT_BYTES);
}

/* ---- what is promised ---- */

bool sim_driver_is_through(const struct sim_rings *rings)
{
	const bool flush = rings->acked & OX_VIRTIO_BLK_F_FLUSH;

	if (rings->mode == OX_CACHE_UNSAFE)
		return false;
	if (rings->mode == OX_CACHE_WRITETHROUGH || rings->mode == OX_CACHE_DIRECTSYNC)
		return true;
	if (!(rings->acked & OX_VIRTIO_BLK_F_CONFIG_WCE))
		return !flush || rings->wce == OX_VHOST_WCE_OFF;
	return rings->wce == OX_VHOST_WCE_UNSET ? !flush : rings->wce != OX_VHOST_WCE_ON;
}

static void note(struct sim_rings *rings, const char *what, const struct ring_request *r)
{
	struct sim_event event = {
		.time_ns = ox_reactor_now_ns(rings->workload->img->reactor),
		.what = what,
		.offset = r->first * SIM_SECTOR_BYTES,
		.length = r->count * SIM_SECTOR_BYTES,
		.number = r->write.id,
	};

	sim_trace_add(rings->workload->trace, &event);
}

static void check_status(struct sim_rings *rings, const struct ring_request *r, uint8_t status)
{
	const struct sim_workload *w = rings->workload;

	if (status == STATUS_OK)
		return;
	if (status != STATUS_IOERR)
		sim_fail("rings", "a request ended with status %u", status);
	if (!w->errors_allowed && !r->may_fail &&
	    !sim_model_is_wild(rings->model, r->first, r->count))
		sim_fail("guest", "a request of kind %d failed without a fault", (int)r->op);
}

static void end(struct sim_rings *rings, struct ring_request *r, struct ring_slot *slot)
{
	const bool ok = slot->status == STATUS_OK;

	check_status(rings, r, slot->status);
	switch (r->op) {
	case SIM_GUEST_READ:
		sim_model_read_end(rings->model, r->began, r->first, r->count,
				   ok ? slot->data : NULL);
		break;
	case SIM_GUEST_FLUSH:
		if (ok)
			sim_model_flush_end(rings->model, r->began);
		break;
	default:
		sim_model_end(rings->model, &r->write, ok,
			      r->is_through && r->settings == rings->settings);
	}
	note(rings, ok ? "driver: answered" : "driver: failed", r);
	memset(slot, 0x5a, sizeof(*slot)); /* the guest uses its memory again */
	rings->totals->requests++;
	r->busy = false;
	wake(r);
}

/* ---- the rings ---- */

void sim_driver_reap(struct sim_rings *rings, unsigned ring)
{
	struct ring_memory *m = &rings->memory->rings[ring];

	while (rings->used_index[ring] != m->used.index) {
		const uint32_t head = m->used.ring[rings->used_index[ring]++ % RING_SIZE].head;
		const uint32_t slot = head / SLOT_DESCRIPTORS;

		if (head % SLOT_DESCRIPTORS != 0 || slot >= RING_SLOTS ||
		    !rings->requests[ring][slot].busy)
			sim_fail("rings", "ring %u answers %u, which is not in flight", ring, head);
		end(rings, &rings->requests[ring][slot], &rings->memory->slots[ring][slot]);
	}
	m->avail.used_event = rings->used_index[ring];
}

void sim_driver_go_on(struct sim_rings *rings)
{
	for (unsigned i = 0; i < RINGS; i++) {
		sim_driver_reap(rings, i);
		for (unsigned k = 0; k < RING_SLOTS; k++)
			if (rings->workload->may_be_full)
				rings->requests[i][k].may_fail = true;
	}
}

/* Where the guest has it. */
static uint64_t address_of(const struct sim_rings *rings, const void *place)
{
	return (uint64_t)((const uint8_t *)place - (const uint8_t *)rings->memory);
}

static unsigned add(const struct sim_rings *rings, struct ring_descriptor *to, unsigned count,
		    const void *place, size_t bytes, bool to_guest)
{
	to[count] = (struct ring_descriptor){address_of(rings, place), (uint32_t)bytes,
					     to_guest ? DESC_WRITE : 0, 0};
	return count + 1;
}

/* Returns how many descriptors it takes. */
static unsigned describe(struct sim_rings *rings, const struct ring_request *r,
			 struct ring_slot *slot)
{
	static const uint32_t types[SIM_GUEST_OPS] = {
		[SIM_GUEST_READ] = TYPE_IN,	      [SIM_GUEST_WRITE] = TYPE_OUT,
		[SIM_GUEST_ZERO] = TYPE_WRITE_ZEROES, [SIM_GUEST_DISCARD] = TYPE_DISCARD,
		[SIM_GUEST_FLUSH] = TYPE_FLUSH,
	};
	struct ring_descriptor *table = slot->table;
	unsigned count = 0;

	slot->status = NO_STATUS;
	slot->header.type = types[r->op];
	slot->header.sector = 0;
	count = add(rings, table, count, &slot->header, sizeof(slot->header), false);
	if (r->op == SIM_GUEST_READ || r->op == SIM_GUEST_WRITE) {
		slot->header.sector = r->first;
		if (r->count > 0)
			count = add(rings, table, count, slot->data, r->count * SIM_SECTOR_BYTES,
				    r->op == SIM_GUEST_READ);
	} else if (r->op != SIM_GUEST_FLUSH) {
		slot->range.sector = r->first;
		slot->range.count = (uint32_t)r->count;
		slot->range.flags =
			r->op == SIM_GUEST_ZERO && sim_random_percent(&rings->random, 60)
				? FLAG_UNMAP
				: 0;
		count = add(rings, table, count, &slot->range, sizeof(slot->range), false);
	}
	count = add(rings, table, count, &slot->status, 1, true);
	for (unsigned i = 0; i + 1 < count; i++) {
		table[i].flags |= DESC_NEXT;
		table[i].next = (uint16_t)(i + 1);
	}
	return count;
}

static void offer(struct sim_rings *rings, unsigned ring, unsigned index, unsigned count)
{
	struct ring_memory *m = &rings->memory->rings[ring];
	struct ring_slot *slot = &rings->memory->slots[ring][index];
	const uint16_t head = (uint16_t)(index * SLOT_DESCRIPTORS);
	const uint16_t before = rings->avail_index[ring];
	bool wanted;

	if (rings->acked & OX_VIRTIO_F_RING_INDIRECT_DESC) {
		(void)add(rings, m->descriptors, head, slot->table, count * sizeof(slot->table[0]),
			  false);
		m->descriptors[head].flags = DESC_INDIRECT;
	} else {
		memcpy(&m->descriptors[head], slot->table, count * sizeof(slot->table[0]));
		for (unsigned i = 0; i < count; i++)
			m->descriptors[head + i].next = (uint16_t)(head + slot->table[i].next);
	}
	m->avail.ring[before % RING_SIZE] = head;
	m->avail.index = ++rings->avail_index[ring];
	if (rings->acked & OX_VIRTIO_F_RING_EVENT_IDX)
		wanted = m->used.avail_event == before;
	else
		wanted = m->used.flags == 0;
	if (wanted)
		sim_device_kick(rings->device);
}

/* ---- requests ---- */

static bool is_change(enum sim_guest_op op)
{
	return op == SIM_GUEST_WRITE || op == SIM_GUEST_ZERO || op == SIM_GUEST_DISCARD;
}

/* Whether a change of these sectors is in flight. */
static bool is_changing(const struct sim_rings *rings, uint64_t first, uint64_t count)
{
	for (unsigned i = 0; i < RINGS; i++)
		for (unsigned k = 0; k < RING_SLOTS; k++) {
			const struct ring_request *r = &rings->requests[i][k];

			if (r->busy && is_change(r->op) && first < r->first + r->count &&
			    r->first < first + count)
				return true;
		}
	return false;
}

/* RING_SLOTS: there is none. */
static unsigned free_slot(const struct sim_rings *rings, unsigned ring)
{
	unsigned slot = 0;

	while (slot < RING_SLOTS && rings->requests[ring][slot].busy)
		slot++;
	return slot;
}

static void begin(struct sim_rings *rings, struct ring_request *r, struct ring_slot *slot)
{
	static const enum sim_change_kind kinds[SIM_GUEST_OPS] = {
		[SIM_GUEST_WRITE] = SIM_MODEL_WRITE,
		[SIM_GUEST_ZERO] = SIM_MODEL_ZERO,
		[SIM_GUEST_DISCARD] = SIM_MODEL_DISCARD,
	};

	r->busy = true;
	r->may_fail = rings->workload->may_be_full;
	r->is_through = sim_driver_is_through(rings);
	r->settings = rings->settings;
	if (r->op == SIM_GUEST_READ)
		r->began = sim_model_read_begin(rings->model);
	else if (r->op == SIM_GUEST_FLUSH)
		r->began = sim_model_flush_begin(rings->model);
	else
		sim_model_begin(rings->model, &r->write, kinds[r->op], r->first, r->count);
	for (uint64_t i = 0; r->op == SIM_GUEST_WRITE && i < r->count; i++)
		sim_model_pattern(r->write.id, r->first + i, slot->data + i * SIM_SECTOR_BYTES);
	note(rings, "driver: asks", r);
}

/* The guest sets the field writeback. Off is told once what the cache held is durable. */
static void set_cache_co(struct sim_rings *rings)
{
	const bool on = sim_random_percent(&rings->random, 50);
	const uint64_t began = sim_model_flush_begin(rings->model);
	struct sim_workload *w = rings->workload;
	int r;

	if (!(rings->acked & OX_VIRTIO_BLK_F_CONFIG_WCE) || rings->is_setting)
		return;
	rings->settings++;
	rings->is_setting = true;
	r = sim_device_set_cache_co(rings->device, on);
	if (w->stop)
		return;
	rings->is_setting = false;
	if (r == 0)
		rings->wce = on ? OX_VHOST_WCE_ON : OX_VHOST_WCE_OFF;
	if (r == 0 && !on)
		sim_model_flush_end(rings->model, began);
	if (r < 0 && !w->errors_allowed && !(on && sim_driver_is_through(rings)))
		sim_fail("rings", "the cache cannot be turned %s: %s", on ? "on" : "off",
			 strerror(-r));
}

void sim_rings_request_co(struct sim_rings *rings, enum sim_guest_op op, uint64_t first,
			  uint64_t count)
{
	const unsigned ring = (unsigned)sim_random_below(&rings->random, RINGS);
	const unsigned index = free_slot(rings, ring);
	struct ring_request *r;

	if (op == SIM_GUEST_EXTENT) {
		set_cache_co(rings);
		return;
	}
	if (op == SIM_GUEST_WRITE_FUA)
		op = SIM_GUEST_WRITE;
	if (op == SIM_GUEST_READ || op == SIM_GUEST_WRITE)
		count = ox_min_u64(count, SLOT_DATA_BYTES / SIM_SECTOR_BYTES);
	if (op == SIM_GUEST_FLUSH)
		first = count = 0;
	if (index == RING_SLOTS || (is_change(op) && is_changing(rings, first, count)) ||
	    (op == SIM_GUEST_FLUSH && !(rings->acked & OX_VIRTIO_BLK_F_FLUSH)))
		return;
	r = &rings->requests[ring][index];
	*r = (struct ring_request){.op = op, .first = first, .count = count};
	begin(rings, r, &rings->memory->slots[ring][index]);
	offer(rings, ring, index, describe(rings, r, &rings->memory->slots[ring][index]));
	r->waiter = ox_co_self();
	while (r->waiter == ox_co_self())
		ox_co_suspend_co();
}
