/* SPDX-License-Identifier: MIT */
#include "serve/vhost/inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "serve/vhost/mapping.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define VERSION 1u
#define PART_ALIGN UINT64_C(64)
#define RING_SIZE_MAX 32768u
/* Of the first queue's features, of which none are defined: what is ours alone is noted there. */
#define HAS_LOSS (UINT64_C(1) << 63)

struct record {
	uint8_t inflight;
	uint8_t unused[5];
	uint16_t next;
	uint64_t counter;
};

struct ox_vhost_inflight_queue {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct record records[];
};

_Static_assert(sizeof(struct record) == 16 && offsetof(struct record, next) == 6, "the layout");
_Static_assert(offsetof(struct ox_vhost_inflight_queue, records) == 16 &&
		       offsetof(struct ox_vhost_inflight_queue, used_idx) == 14,
	       "the layout");

struct ox_vhost_inflight {
	struct ox_vhost_mapping *mapping;
	uint16_t queues;
	uint16_t queue_size;
};

/* Stores in the order of the program: whoever looks after a death sees them so. */
#define STORE(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
#define LOAD(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)

static uint64_t part_bytes(uint16_t queue_size)
{
	const uint64_t bytes =
		sizeof(struct ox_vhost_inflight_queue) + queue_size * sizeof(struct record);

	return (bytes + PART_ALIGN - 1) & ~(PART_ALIGN - 1);
}

static bool is_sensible(uint16_t queues, uint16_t queue_size)
{
	return queues > 0 && queue_size > 0 && queue_size <= RING_SIZE_MAX;
}

/* ---- the region ---- */

uint64_t ox_vhost_inflight_bytes(uint16_t queues, uint16_t queue_size)
{
	return queues * part_bytes(queue_size);
}

int ox_vhost_inflight_make(uint16_t queues, uint16_t queue_size)
{
	int code = 0;
	int fd;

	if (!is_sensible(queues, queue_size))
		return -EINVAL;
	fd = memfd_create("oxbow-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)ox_vhost_inflight_bytes(queues, queue_size)) < 0 ||
	    fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		code = -errno;
	if (code < 0)
		close(fd);
	return code < 0 ? code : fd;
}

int ox_vhost_inflight_open(int fd, uint64_t offset, uint64_t bytes, uint16_t queues,
			   uint16_t queue_size, struct ox_vhost_inflight **ret)
{
	const uint64_t needed = ox_vhost_inflight_bytes(queues, queue_size);
	struct ox_vhost_inflight *region;
	int code;

	if (!is_sensible(queues, queue_size) || bytes < needed || offset % PART_ALIGN != 0)
		return -EINVAL;
	region = calloc(1, sizeof(*region));
	if (!region)
		return -ENOMEM;
	region->queues = queues;
	region->queue_size = queue_size;
	code = ox_vhost_mapping_open(fd, offset, needed, &region->mapping);
	if (code < 0) {
		free(region);
		return code;
	}
	*ret = region;
	return 0;
}

void ox_vhost_inflight_close(struct ox_vhost_inflight *inflight)
{
	if (!inflight)
		return;
	ox_vhost_mapping_close(inflight->mapping);
	free(inflight);
}

bool ox_vhost_inflight_is_broken(const struct ox_vhost_inflight *inflight)
{
	return ox_vhost_mapping_is_broken(inflight->mapping);
}

uint16_t ox_vhost_inflight_queue_size(const struct ox_vhost_inflight *inflight)
{
	return inflight->queue_size;
}

static struct ox_vhost_inflight_queue *part_of(const struct ox_vhost_inflight *region,
					       uint16_t index)
{
	return (void *)(ox_vhost_mapping_start(region->mapping) +
			index * part_bytes(region->queue_size));
}

bool ox_vhost_inflight_is_used(const struct ox_vhost_inflight *inflight)
{
	for (uint16_t i = 0; i < inflight->queues; i++)
		if (LOAD(&part_of(inflight, i)->version) != 0)
			return true;
	return false;
}

void ox_vhost_inflight_note_loss(struct ox_vhost_inflight *inflight)
{
	struct ox_vhost_inflight_queue *first = part_of(inflight, 0);

	STORE(&first->features, LOAD(&first->features) | HAS_LOSS);
}

bool ox_vhost_inflight_has_loss(const struct ox_vhost_inflight *inflight)
{
	return LOAD(&part_of(inflight, 0)->features) & HAS_LOSS;
}

void ox_vhost_inflight_renew(struct ox_vhost_inflight *inflight, uint16_t index)
{
	STORE(&part_of(inflight, index)->version, 0);
}

/* ---- recovery ---- */

struct found {
	uint64_t counter;
	uint16_t head;
};

static int compare(const void *a, const void *b)
{
	const struct found *x = a;
	const struct found *y = b;

	if (x->counter != y->counter)
		return x->counter < y->counter ? -1 : 1;
	return (x->head > y->head) - (x->head < y->head);
}

/* The first ring that uses the part. Its version comes last: a death before leaves it unused. */
static void set_up(struct ox_vhost_inflight_queue *queue, uint16_t size, uint16_t used_index)
{
	for (uint16_t i = 0; i < size; i++)
		STORE(&queue->records[i].inflight, 0);
	if (LOAD(&queue->version) == 0)
		STORE(&queue->features, 0);
	STORE(&queue->desc_num, size);
	STORE(&queue->last_batch_head, 0);
	STORE(&queue->used_idx, used_index);
	STORE(&queue->version, VERSION);
}

/* The driver has seen the last batch, and the death came before it was cleared. Nothing is stored
 * before all of the batch is known to make sense. */
static int finish_batch(struct ox_vhost_inflight_queue *queue, uint16_t size, uint16_t used_index,
			uint16_t *heads)
{
	const uint16_t count = (uint16_t)(used_index - LOAD(&queue->used_idx));
	uint16_t head = LOAD(&queue->last_batch_head);

	if (count > size)
		return -EPROTO;
	for (uint16_t i = 0; i < count; i++) {
		if (head >= size)
			return -EPROTO;
		heads[i] = head;
		head = LOAD(&queue->records[head].next);
	}
	for (uint16_t i = 0; i < count; i++)
		STORE(&queue->records[heads[i]].inflight, 0);
	STORE(&queue->used_idx, used_index);
	return 0;
}

/* How many are in flight, oldest first; -errno. */
static int collect(struct ox_vhost_inflight_queue *queue, uint16_t size, uint16_t *ret_heads,
		   uint64_t *ret_next_counter)
{
	struct found *found = calloc(size, sizeof(*found));
	int count = 0;

	if (!found)
		return -ENOMEM;
	for (uint16_t i = 0; i < size; i++) {
		const uint8_t inflight = LOAD(&queue->records[i].inflight);

		if (inflight != 0)
			found[count++] = (struct found){LOAD(&queue->records[i].counter), i};
	}
	qsort(found, (size_t)count, sizeof(*found), compare);
	for (int i = 0; i < count; i++)
		ret_heads[i] = found[i].head;
	*ret_next_counter = count > 0 ? found[count - 1].counter + 1 : 0;
	free(found);
	return count;
}

/* A part that a ring has used before. How many are in flight, or -errno; *ret_fresh: none is, and
 * the ring is of another size this time. */
static int recover(const struct ox_vhost_inflight *region, struct ox_vhost_inflight_part *part,
		   uint16_t used_index, uint16_t *heads, bool *ret_fresh)
{
	struct ox_vhost_inflight_queue *queue = part->queue;
	const uint16_t desc_num = LOAD(&queue->desc_num);
	int count, code;

	if (LOAD(&queue->version) != VERSION || desc_num == 0 || desc_num > region->queue_size)
		return -EPROTO;
	count = collect(queue, desc_num, heads, &part->next_counter);
	*ret_fresh = count == 0 && desc_num != part->size;
	if (count < 0 || *ret_fresh)
		return count;
	if (desc_num != part->size)
		return -EPROTO;
	if (count == 0) {
		/* All was answered, and the ring may have begun anew since: a guest that booted. */
		STORE(&queue->used_idx, used_index);
		return 0;
	}
	code = finish_batch(queue, part->size, used_index, heads);
	return code < 0 ? code : collect(queue, part->size, heads, &part->next_counter);
}

int ox_vhost_inflight_begin(struct ox_vhost_inflight *region, uint16_t index, uint16_t size,
			    uint16_t used_index, uint16_t *ret_heads, bool *ret_fresh,
			    struct ox_vhost_inflight_part *ret)
{
	struct ox_vhost_inflight_part part = {.region = region, .size = size};
	bool fresh = false;
	int count = 0;

	if (index >= region->queues || size > region->queue_size || size == 0)
		return -EINVAL;
	part.queue = part_of(region, index);
	if (LOAD(&part.queue->version) == 0)
		fresh = true;
	else
		count = recover(region, &part, used_index, ret_heads, &fresh);
	if (count < 0)
		return count;
	if (fresh)
		set_up(part.queue, size, used_index);
	if (ox_vhost_inflight_is_broken(region))
		return -EIO;
	*ret_fresh = fresh;
	*ret = part;
	return count;
}

/* ---- a ring that runs ---- */

void ox_vhost_inflight_take(struct ox_vhost_inflight_part *part, uint16_t head)
{
	if (!part->region)
		return;
	STORE(&part->queue->records[head].counter, part->next_counter++);
	STORE(&part->queue->records[head].inflight, 1);
}

void ox_vhost_inflight_link(struct ox_vhost_inflight_part *part, uint16_t head)
{
	if (!part->region)
		return;
	STORE(&part->queue->records[head].next, part->last);
	STORE(&part->queue->last_batch_head, head);
	part->last = head;
}

void ox_vhost_inflight_answered(struct ox_vhost_inflight_part *part, const uint16_t *heads,
				unsigned count, uint16_t used_index)
{
	if (!part->region)
		return;
	for (unsigned i = 0; i < count; i++)
		STORE(&part->queue->records[heads[i]].inflight, 0);
	STORE(&part->queue->used_idx, used_index);
}
