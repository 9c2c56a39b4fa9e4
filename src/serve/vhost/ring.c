/* SPDX-License-Identifier: MIT */
#include "serve/vhost/ring.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* virtio 1.2, 2.7 */
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u

#define GONE "the file of the guest's memory has become shorter"

/* As they lie in the guest's memory, little-endian. */
struct available {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[]; /* behind the last: used_event */
};

struct used_element {
	uint32_t id;
	uint32_t len;
};

struct used {
	uint16_t flags;
	uint16_t idx;
	struct used_element ring[]; /* behind the last: avail_event, 16 bits */
};

struct raw_descriptor {
	uint64_t address;
	uint64_t rest; /* length 32, flags 16, next 16 */
};

/* A copy, as numbers. */
struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags;
	uint16_t next;
};

struct ox_vhost_ring {
	struct ox_vhost_memory *memory;
	struct ox_vhost_ring_setup setup;
	enum ox_vhost_ring_state state;
	const char *why;
	bool draining;
	uint16_t size;
	uint16_t limit; /* descriptors of one chain */

	/* In guest memory; NULL: not looked up. */
	const struct raw_descriptor *descriptors;
	const struct available *available;
	struct used *used;

	uint16_t next_avail;
	uint16_t used_index; /* of what is answered */
	uint16_t told_index; /* at the last publish */
	bool must_signal;    /* nothing is known of what was signalled */
	bool is_quiet;

	unsigned in_flight;
	uint64_t *taken; /* a bit for each head that was taken and is not published */
	uint16_t *batch; /* answered and not published */
	unsigned batch_count;
	uint16_t *recovered; /* in flight when it started, oldest first */
	unsigned recovered_count;
	unsigned recovered_at;
	struct ox_vhost_inflight_part part;

	const struct ox_vhost_dirty *dirty;
	uint64_t log_address;

	struct iovec pieces[OX_VHOST_PIECES_MAX];
	struct raw_descriptor table[OX_VHOST_PIECES_MAX]; /* an indirect one */
};

/* A programmer's mistake, in release builds too. */
static void insist(bool holds)
{
	if (!holds)
		abort();
}

/* What the driver may be changing is read by these alone, and once. */
static uint16_t load16(const uint16_t *place)
{
	return le16toh(__atomic_load_n(place, __ATOMIC_RELAXED));
}

static uint16_t load16_acquire(const uint16_t *place)
{
	return le16toh(__atomic_load_n(place, __ATOMIC_ACQUIRE));
}

static void store16(uint16_t *place, uint16_t value)
{
	__atomic_store_n(place, htole16(value), __ATOMIC_RELAXED);
}

static struct descriptor decode(uint64_t address, uint64_t rest)
{
	rest = le64toh(rest);
	return (struct descriptor){
		.address = le64toh(address),
		.bytes = (uint32_t)rest,
		.flags = (uint16_t)(rest >> 32),
		.next = (uint16_t)(rest >> 48),
	};
}

/* ---- life ---- */

int ox_vhost_ring_new(struct ox_vhost_memory *memory, struct ox_vhost_ring **ret)
{
	struct ox_vhost_ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return -ENOMEM;
	ring->memory = memory;
	ring->why = "";
	*ret = ring;
	return 0;
}

static void forget(struct ox_vhost_ring *ring)
{
	free(ring->taken);
	free(ring->batch);
	free(ring->recovered);
	ring->taken = NULL;
	ring->batch = NULL;
	ring->recovered = NULL;
	ring->recovered_count = ring->recovered_at = 0;
	ring->batch_count = 0;
	ring->descriptors = NULL;
	ring->available = NULL;
	ring->used = NULL;
	ring->part = (struct ox_vhost_inflight_part){0};
}

void ox_vhost_ring_free(struct ox_vhost_ring *ring)
{
	if (!ring)
		return;
	insist(ring->in_flight == 0);
	forget(ring);
	free(ring);
}

static void *look_up(const struct ox_vhost_ring *ring, uint64_t address, uint64_t bytes,
		     uintptr_t alignment, int *code)
{
	void *place = ox_vhost_memory_user(ring->memory, address, bytes);

	if (!place)
		*code = -EFAULT;
	else if ((uintptr_t)place % alignment != 0)
		*code = -EINVAL;
	return place;
}

/* The last two bytes of a ring are there where EVENT_IDX is. */
static int map(struct ox_vhost_ring *ring)
{
	const struct ox_vhost_ring_setup *s = &ring->setup;
	const uint64_t event = s->event_idx ? sizeof(uint16_t) : 0;
	const uint64_t size = ring->size;
	int code = 0;

	const void *descriptors =
		look_up(ring, s->descriptors, size * sizeof(struct raw_descriptor), 16, &code);
	const void *available =
		look_up(ring, s->available,
			sizeof(struct available) + size * sizeof(uint16_t) + event, 2, &code);
	void *used =
		look_up(ring, s->used,
			sizeof(struct used) + size * sizeof(struct used_element) + event, 4, &code);
	if (code < 0)
		return code;
	ring->descriptors = descriptors;
	ring->available = available;
	ring->used = used;
	return 0;
}

static unsigned in_flight_max(const struct ox_vhost_ring *ring)
{
	return ring->size < OX_VHOST_IN_FLIGHT_MAX ? ring->size : OX_VHOST_IN_FLIGHT_MAX;
}

static int allocate(struct ox_vhost_ring *ring)
{
	const struct ox_vhost_inflight *inflight = ring->setup.inflight;

	ring->taken = calloc(ring->size / 64u + 1, sizeof(*ring->taken));
	ring->batch = calloc(in_flight_max(ring), sizeof(*ring->batch));
	if (!ring->taken || !ring->batch)
		return -ENOMEM;
	if (!inflight)
		return 0;
	ring->recovered = calloc(ox_vhost_inflight_queue_size(inflight), sizeof(*ring->recovered));
	return ring->recovered ? 0 : -ENOMEM;
}

/* Whether the base lies behind requests that the driver has made available, and nobody has
 * answered. Where nothing was recorded yet nothing is in flight, if whoever stopped the ring before
 * had answered all that it took, as GET_VRING_BASE demands: then they were never taken. Cloud
 * Hypervisor sends the driver's own index after it was restored or has migrated. */
static bool skips_requests(const struct ox_vhost_ring *ring)
{
	const uint16_t waiting =
		(uint16_t)(load16_acquire(&ring->available->idx) - ring->used_index);
	const uint16_t skipped = (uint16_t)(ring->next_avail - ring->used_index);

	return waiting <= ring->size && skipped <= waiting;
}

static int recover(struct ox_vhost_ring *ring)
{
	bool fresh;
	int count;

	if (!ring->setup.inflight)
		return 0;
	count = ox_vhost_inflight_begin(ring->setup.inflight, ring->setup.index, ring->size,
					ring->used_index, ring->recovered, &fresh, &ring->part);
	if (count < 0)
		return count;
	ring->recovered_count = (unsigned)count;
	/* What was taken is either answered or recorded. */
	if (!fresh || ring->setup.goes_on)
		ring->next_avail = (uint16_t)(ring->used_index + count);
	else if (skips_requests(ring))
		ring->next_avail = ring->used_index;
	return 0;
}

static void mark(const struct ox_vhost_ring *ring, uint64_t offset, uint64_t bytes)
{
	if (ring->dirty)
		ring->dirty->mark(ring->dirty->opaque, ring->log_address + offset, bytes);
}

static uint16_t *avail_event(const struct ox_vhost_ring *ring)
{
	return (uint16_t *)(void *)&ring->used->ring[ring->size];
}

static void ask_for_kicks(struct ox_vhost_ring *ring)
{
	if (ring->setup.event_idx) {
		store16(avail_event(ring), ring->next_avail);
		mark(ring, sizeof(struct used) + ring->size * sizeof(struct used_element),
		     sizeof(uint16_t));
	}
	if (ring->is_quiet) {
		store16(&ring->used->flags, 0);
		mark(ring, 0, sizeof(uint16_t));
		ring->is_quiet = false;
	}
}

int ox_vhost_ring_start(struct ox_vhost_ring *ring, const struct ox_vhost_ring_setup *setup)
{
	int code;

	insist(ring->state == OX_VHOST_RING_STOPPED);
	if (setup->size == 0 || setup->size > OX_VHOST_RING_SIZE_MAX ||
	    (setup->size & (setup->size - 1)) != 0)
		return -EINVAL;
	ring->setup = *setup;
	ring->size = (uint16_t)setup->size;
	ring->limit = ring->size > OX_VHOST_INDIRECT_MIN ? ring->size : OX_VHOST_INDIRECT_MIN;
	if (ring->limit > OX_VHOST_PIECES_MAX)
		ring->limit = OX_VHOST_PIECES_MAX;
	code = map(ring);
	if (code == 0)
		code = allocate(ring);
	if (code == 0) {
		/* Read anew at each start: the guest may have booted. */
		ring->used_index = ring->told_index = load16(&ring->used->idx);
		code = recover(ring);
	}
	if (code < 0) {
		forget(ring);
		return code;
	}
	ring->state = OX_VHOST_RING_STARTED;
	ring->why = "";
	ring->draining = false;
	ring->must_signal = true;
	ring->is_quiet = true; /* a predecessor may have left it so */
	ask_for_kicks(ring);
	return 0;
}

uint16_t ox_vhost_ring_stop(struct ox_vhost_ring *ring)
{
	insist(ring->in_flight == 0);
	ring->state = OX_VHOST_RING_STOPPED;
	ring->why = "";
	forget(ring);
	return ring->next_avail;
}

uint16_t ox_vhost_ring_next(const struct ox_vhost_ring *ring)
{
	return ring->next_avail;
}

void ox_vhost_ring_set_base(struct ox_vhost_ring *ring, uint16_t base)
{
	insist(ring->state == OX_VHOST_RING_STOPPED);
	ring->next_avail = base;
}

int ox_vhost_ring_remap(struct ox_vhost_ring *ring)
{
	int code;

	if (ring->state == OX_VHOST_RING_STOPPED)
		return 0;
	ring->descriptors = NULL;
	ring->available = NULL;
	ring->used = NULL;
	code = map(ring);
	if (code < 0)
		ox_vhost_ring_break(ring, "its addresses are in no region any more");
	return code;
}

enum ox_vhost_ring_state ox_vhost_ring_state(const struct ox_vhost_ring *ring)
{
	return ring->state;
}

const char *ox_vhost_ring_why_broken(const struct ox_vhost_ring *ring)
{
	return ring->why;
}

void ox_vhost_ring_break(struct ox_vhost_ring *ring, const char *why)
{
	if (ring->state != OX_VHOST_RING_STARTED)
		return;
	ring->state = OX_VHOST_RING_BROKEN;
	ring->why = why;
}

unsigned ox_vhost_ring_in_flight(const struct ox_vhost_ring *ring)
{
	return ring->in_flight;
}

unsigned ox_vhost_ring_to_recover(const struct ox_vhost_ring *ring)
{
	return ring->recovered_count - ring->recovered_at;
}

void ox_vhost_ring_set_draining(struct ox_vhost_ring *ring, bool draining)
{
	ring->draining = draining;
}

void ox_vhost_ring_set_dirty(struct ox_vhost_ring *ring, const struct ox_vhost_dirty *dirty,
			     uint64_t log_address)
{
	ring->dirty = dirty;
	ring->log_address = log_address;
}

/* ---- chains: each function returns why the ring is broken, or NULL ---- */

static const char *add_piece(struct ox_vhost_ring *ring, const struct descriptor *d,
			     struct ox_vhost_chain *chain)
{
	const int count = chain->readable_count + chain->writable_count;
	const bool writable = d->flags & DESC_WRITE;
	int pieces;

	if (!writable && chain->writable_count > 0)
		return "what is to be read follows what is to be written";
	if (d->bytes == 0)
		return NULL;
	pieces = ox_vhost_memory_translate(ring->memory, d->address, d->bytes, &ring->pieces[count],
					   OX_VHOST_PIECES_MAX - count);
	if (pieces == -E2BIG)
		return "a chain has too many pieces";
	if (pieces < 0)
		return "a buffer is outside of the guest's memory";
	if (writable) {
		chain->writable_count += pieces;
		chain->writable_bytes += d->bytes;
	} else {
		chain->readable_count += pieces;
		chain->readable_bytes += d->bytes;
	}
	return NULL;
}

/* The table, as it is at this moment. */
static const char *copy_table(struct ox_vhost_ring *ring, const struct descriptor *d,
			      unsigned *ret_count)
{
	uint8_t *to = (uint8_t *)ring->table;
	struct iovec places[8];
	int count;

	if (!ring->setup.indirect)
		return "an indirect table was not negotiated";
	if (d->flags & DESC_NEXT)
		return "an indirect table is followed by more";
	if (d->bytes == 0 || d->bytes % sizeof(ring->table[0]) != 0)
		return "the length of an indirect table is wrong";
	if (d->bytes / sizeof(ring->table[0]) > ring->limit)
		return "an indirect table is too long";
	count = ox_vhost_memory_translate(ring->memory, d->address, d->bytes, places,
					  sizeof(places) / sizeof(places[0]));
	if (count < 0)
		return "an indirect table is outside of the guest's memory";
	for (int i = 0; i < count; i++) {
		memcpy(to, places[i].iov_base, places[i].iov_len);
		to += places[i].iov_len;
	}
	/* From here on only the copy is looked at, whatever the compiler knows of its origin. */
	__asm__ volatile("" ::: "memory");
	*ret_count = d->bytes / (unsigned)sizeof(ring->table[0]);
	return NULL;
}

static const char *walk_table(struct ox_vhost_ring *ring, const struct descriptor *table,
			      unsigned steps, struct ox_vhost_chain *chain)
{
	unsigned count = 0;
	unsigned at = 0;
	const char *why = copy_table(ring, table, &count);

	while (!why) {
		const struct descriptor d = decode(ring->table[at].address, ring->table[at].rest);

		if (++steps > ring->limit)
			return "a chain is too long, or goes in a circle";
		if (d.flags & DESC_INDIRECT)
			return "an indirect table is in another";
		why = add_piece(ring, &d, chain);
		if (why || !(d.flags & DESC_NEXT))
			break;
		at = d.next;
		if (at >= count)
			return "a chain leaves its indirect table";
	}
	return why;
}

static const char *walk(struct ox_vhost_ring *ring, uint16_t head, struct ox_vhost_chain *chain)
{
	uint16_t at = head;

	for (unsigned steps = 1; steps <= ring->size && steps <= ring->limit; steps++) {
		const struct raw_descriptor *raw = &ring->descriptors[at];
		const struct descriptor d = decode(__atomic_load_n(&raw->address, __ATOMIC_RELAXED),
						   __atomic_load_n(&raw->rest, __ATOMIC_RELAXED));
		const char *why;

		if (d.flags & DESC_INDIRECT)
			return walk_table(ring, &d, steps - 1, chain);
		why = add_piece(ring, &d, chain);
		if (why || !(d.flags & DESC_NEXT))
			return why;
		at = d.next;
		if (at >= ring->size)
			return "a chain leaves the descriptor table";
	}
	return "a chain is too long, or goes in a circle";
}

/* ---- the available ring ---- */

static bool is_taken(const struct ox_vhost_ring *ring, uint16_t head)
{
	return ring->taken[head / 64] >> head % 64 & 1;
}

bool ox_vhost_ring_has_more(struct ox_vhost_ring *ring)
{
	uint16_t count;

	if (ring->state != OX_VHOST_RING_STARTED ||
	    ring->in_flight + ring->batch_count >= in_flight_max(ring))
		return false;
	if (ox_vhost_ring_to_recover(ring) > 0)
		return true;
	if (ring->draining)
		return false;
	/* Pairs with the driver's barrier: what the index covers is there. */
	count = (uint16_t)(load16_acquire(&ring->available->idx) - ring->next_avail);
	if (count <= ring->size)
		return count > 0;
	ox_vhost_ring_break(ring, "the available index has jumped");
	return false;
}

/* The head of the next chain; why it cannot be one, or NULL. */
static const char *next_head(const struct ox_vhost_ring *ring, uint16_t *ret_head)
{
	const uint16_t head =
		ring->recovered_at < ring->recovered_count
			? ring->recovered[ring->recovered_at]
			: load16(&ring->available->ring[ring->next_avail & (ring->size - 1)]);

	if (head >= ring->size)
		return "a chain begins outside of the descriptor table";
	if (is_taken(ring, head))
		return "a chain that is in flight was made available again";
	*ret_head = head;
	return NULL;
}

static bool is_memory_gone(const struct ox_vhost_ring *ring)
{
	return ox_vhost_memory_is_broken(ring->memory) ||
	       (ring->setup.inflight && ox_vhost_inflight_is_broken(ring->setup.inflight));
}

int ox_vhost_ring_take(struct ox_vhost_ring *ring, struct ox_vhost_chain *ret)
{
	struct ox_vhost_chain chain = {.pieces = ring->pieces};
	const char *why;

	if (ring->state != OX_VHOST_RING_STARTED)
		return 0;
	/* Whoever went on could fill the zero pages that are in its place. */
	if (is_memory_gone(ring))
		ox_vhost_ring_break(ring, GONE);
	if (!ox_vhost_ring_has_more(ring))
		return ring->state == OX_VHOST_RING_BROKEN ? -EPROTO : 0;
	why = next_head(ring, &chain.head);
	if (!why)
		why = walk(ring, chain.head, &chain);
	if (why) {
		ox_vhost_ring_break(ring, why);
		return -EPROTO;
	}
	if (ring->recovered_at < ring->recovered_count) {
		ring->recovered_at++; /* it is recorded, with its place in the order */
	} else {
		ring->next_avail++;
		ox_vhost_inflight_take(&ring->part, chain.head);
	}
	ring->taken[chain.head / 64] |= UINT64_C(1) << chain.head % 64;
	ring->in_flight++;
	*ret = chain;
	return 1;
}

void ox_vhost_ring_quiet(struct ox_vhost_ring *ring)
{
	if (ring->state != OX_VHOST_RING_STARTED || ring->is_quiet)
		return;
	ring->is_quiet = true;
	if (ring->setup.event_idx)
		return; /* avail_event stays behind, and that says the same */
	store16(&ring->used->flags, USED_NO_NOTIFY);
	mark(ring, 0, sizeof(uint16_t));
}

bool ox_vhost_ring_listen(struct ox_vhost_ring *ring)
{
	if (ring->state != OX_VHOST_RING_STARTED)
		return false;
	ask_for_kicks(ring);
	/* The driver stores its index and then looks whether we want a kick; we the other way
	 * round. One of the two sees the other. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return ox_vhost_ring_has_more(ring);
}

/* ---- the used ring ---- */

void ox_vhost_ring_answer(struct ox_vhost_ring *ring, uint16_t head, uint32_t written_bytes)
{
	const uint16_t slot = ring->used_index & (ring->size - 1);

	insist(ring->in_flight > 0 && head < ring->size && is_taken(ring, head));
	ring->in_flight--;
	if (!ring->used)
		return;
	__atomic_store_n(&ring->used->ring[slot].id, htole32(head), __ATOMIC_RELAXED);
	__atomic_store_n(&ring->used->ring[slot].len, htole32(written_bytes), __ATOMIC_RELAXED);
	mark(ring, sizeof(struct used) + slot * sizeof(struct used_element),
	     sizeof(struct used_element));
	ox_vhost_inflight_link(&ring->part, head);
	ring->batch[ring->batch_count++] = head;
	ring->used_index++;
}

void ox_vhost_ring_leave(struct ox_vhost_ring *ring, uint16_t head)
{
	insist(ring->in_flight > 0 && head < ring->size && is_taken(ring, head));
	ring->in_flight--;
}

static bool wants_signal(struct ox_vhost_ring *ring, uint16_t told)
{
	const uint16_t now = ring->used_index;
	const bool must = ring->must_signal;
	uint16_t event;

	ring->must_signal = false;
	if (must)
		return true;
	if (!ring->setup.event_idx)
		return !(load16(&ring->available->flags) & AVAIL_NO_INTERRUPT);
	event = load16(&ring->available->ring[ring->size]);
	return (uint16_t)(now - event - 1) < (uint16_t)(now - told);
}

bool ox_vhost_ring_publish(struct ox_vhost_ring *ring)
{
	const uint16_t told = ring->told_index;

	if (ring->batch_count == 0 || !ring->used)
		return false;
	if (is_memory_gone(ring)) {
		/* What was written may not have reached the guest, and what was read not be its. */
		ox_vhost_ring_break(ring, GONE);
		ring->batch_count = 0;
		ring->used_index = told;
		ring->used = NULL;
		return false;
	}
	/* Behind statuses, data, elements and the links of the inflight region. */
	__atomic_store_n(&ring->used->idx, htole16(ring->used_index), __ATOMIC_RELEASE);
	mark(ring, sizeof(uint16_t), sizeof(uint16_t));
	for (unsigned i = 0; i < ring->batch_count; i++)
		ring->taken[ring->batch[i] / 64] &= ~(UINT64_C(1) << ring->batch[i] % 64);
	ox_vhost_inflight_answered(&ring->part, ring->batch, ring->batch_count, ring->used_index);
	ring->batch_count = 0;
	ring->told_index = ring->used_index;
	/* The driver stores what it wants and then looks at the index; we the other way round. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return wants_signal(ring, told);
}
