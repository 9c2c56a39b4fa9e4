/* SPDX-License-Identifier: MIT */
#include "serve/vhost/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define KNOWN_MAX 32u
#define DEATHS_MAX 2u

/* The word that says what holds. */
#define SECOND UINT64_C(1) /* the second of the two states */
#define IN_HAND UINT64_C(2)
#define ENDED UINT64_C(4)

struct hand {
	struct ox_vhost_header header;
	uint32_t fd_count;
	uint16_t slots[OX_VHOST_FDS_MAX];
	uint8_t payload[OX_VHOST_PAYLOAD_MAX];
};

struct part {
	uint64_t number; /* stored last when it begins */
	uint64_t word;
	uint64_t deaths; /* while the message was in hand */
	struct hand hand;
	struct ox_vhost_state states[2];
};

struct memory {
	uint64_t known_count; /* so far */
	uint64_t known[KNOWN_MAX];
	struct part parts[OX_PARK_FRONTS];
};

struct ox_vhost_record {
	struct memory *memory;
};

static void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* What lies behind the last ring and the last region, and in the reply behind its bytes, says
 * nothing. */
static void copy_state(struct ox_vhost_state *to, const struct ox_vhost_state *from)
{
	const size_t reply = from->reply.bytes;

	memcpy(to, from, offsetof(struct ox_vhost_state, reply.data));
	memcpy(to->reply.data, from->reply.data, reply);
	memcpy(to->rings, from->rings, from->ring_count * sizeof(from->rings[0]));
	memcpy(to->regions, from->regions, from->region_count * sizeof(from->regions[0]));
}

/* ---- the memory ---- */

int ox_vhost_record_make(void)
{
	int fd = memfd_create("oxbow-fronts", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, sizeof(struct memory)) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		ret = -errno;
	if (ret < 0)
		close(fd);
	return ret < 0 ? ret : fd;
}

int ox_vhost_record_open(int fd, struct ox_vhost_record **ret)
{
	const int seals = fcntl(fd, F_GET_SEALS);
	struct ox_vhost_record *record;
	struct stat st;
	void *memory;

	/* What could be cut short could kill whoever looks at it. */
	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 ||
	    st.st_size != (off_t)sizeof(struct memory))
		return -EINVAL;
	record = calloc(1, sizeof(*record));
	if (!record)
		return -ENOMEM;
	memory = mmap(NULL, sizeof(struct memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		free(record);
		return -errno;
	}
	(void)madvise(memory, sizeof(struct memory), MADV_DONTDUMP);
	record->memory = memory;
	*ret = record;
	return 0;
}

void ox_vhost_record_close(struct ox_vhost_record *record)
{
	if (!record)
		return;
	(void)munmap(record->memory, sizeof(*record->memory));
	free(record);
}

/* ---- for all front ends ---- */

bool ox_vhost_record_knows(const struct ox_vhost_record *record, uint64_t inode)
{
	for (unsigned i = 0; i < KNOWN_MAX; i++)
		if (inode != 0 && load(&record->memory->known[i]) == inode)
			return true;
	return false;
}

void ox_vhost_record_know(struct ox_vhost_record *record, uint64_t inode)
{
	struct memory *m = record->memory;
	const uint64_t count = load(&m->known_count);

	if (ox_vhost_record_knows(record, inode))
		return;
	store(&m->known[count % KNOWN_MAX], inode);
	store(&m->known_count, count + 1);
}

/* ---- of a front end ---- */

void ox_vhost_record_begin(struct ox_vhost_record *record, unsigned front, uint64_t number,
			   const struct ox_vhost_state *state)
{
	struct part *part = &record->memory->parts[front];

	store(&part->number, 0);
	copy_state(&part->states[0], state);
	store(&part->word, 0);
	store(&part->number, number);
}

void ox_vhost_record_end(struct ox_vhost_record *record, unsigned front)
{
	struct part *part = &record->memory->parts[front];

	store(&part->word, load(&part->word) | ENDED);
}

void ox_vhost_record_take(struct ox_vhost_record *record, unsigned front,
			  const struct ox_vhost_message *message)
{
	struct part *part = &record->memory->parts[front];
	struct hand *hand = &part->hand;

	hand->header = message->header;
	hand->fd_count = message->fd_count;
	memcpy(hand->slots, message->slots, sizeof(hand->slots));
	memcpy(hand->payload, message->payload, message->header.bytes);
	store(&part->deaths, 0);
	store(&part->word, load(&part->word) | IN_HAND);
}

void ox_vhost_record_commit(struct ox_vhost_record *record, unsigned front,
			    const struct ox_vhost_state *state, bool done)
{
	struct part *part = &record->memory->parts[front];
	const uint64_t word = load(&part->word);
	const unsigned other = word & SECOND ? 0 : 1;

	copy_state(&part->states[other], state);
	store(&part->word, (done ? 0 : word & IN_HAND) | (word & ENDED) | (other ? SECOND : 0));
}

/* ---- what was left ---- */

static bool is_slot(uint16_t slot)
{
	return slot < OX_PARK_SLOTS || slot == OX_PARK_NO_SLOT;
}

static bool has_bounds(const struct ox_vhost_state *state)
{
	bool fits = state->ring_count <= OX_SERVE_VHOST_QUEUES_MAX &&
		    state->region_count <= OX_VHOST_REGIONS_MAX &&
		    state->reply.bytes <= sizeof(state->reply.data) && is_slot(state->reply.slot) &&
		    is_slot(state->channel) && is_slot(state->own_inflight) &&
		    is_slot(state->inflight.slot) && is_slot(state->log.slot);

	for (unsigned i = 0; fits && i < state->ring_count; i++)
		fits = is_slot(state->rings[i].kick) && is_slot(state->rings[i].call) &&
		       is_slot(state->rings[i].error);
	for (unsigned i = 0; fits && i < state->region_count; i++)
		fits = state->regions[i].slot < OX_PARK_SLOTS;
	return fits;
}

static bool read_message(const struct hand *hand, struct ox_vhost_message *ret)
{
	static const struct ox_vhost_message none;
	struct hand copy;

	memcpy(&copy, hand, sizeof(copy));
	*ret = none;
	if (copy.header.bytes > OX_VHOST_PAYLOAD_MAX || copy.fd_count > OX_VHOST_FDS_MAX)
		return false;
	ret->header = copy.header;
	memcpy(ret->payload, copy.payload, copy.header.bytes);
	memcpy(ret->slots, copy.slots, sizeof(ret->slots));
	ret->fd_count = copy.fd_count;
	for (unsigned i = 0; i < ret->fd_count; i++) {
		if (ret->slots[i] >= OX_PARK_SLOTS)
			return false;
		ret->fds[i] = -1;
	}
	return true;
}

enum ox_vhost_found ox_vhost_record_find(const struct ox_vhost_record *record, unsigned front,
					 uint64_t number, bool is_blamed,
					 struct ox_vhost_state *ret_state,
					 struct ox_vhost_message *ret_message)
{
	struct part *part = &record->memory->parts[front];
	const uint64_t found = load(&part->number);
	const uint64_t word = load(&part->word);

	if (found != number)
		return OX_VHOST_FOUND_NOTHING;
	if (word & ENDED)
		return OX_VHOST_FOUND_ENDED;
	/* All of it, so that no number is looked at twice where it lies. */
	memcpy(ret_state, &part->states[word & SECOND ? 1 : 0], sizeof(*ret_state));
	if (!has_bounds(ret_state))
		return OX_VHOST_FOUND_NONSENSE;
	if (!(word & IN_HAND))
		return OX_VHOST_FOUND_STATE;
	if (is_blamed)
		store(&part->deaths, load(&part->deaths) + 1);
	if (load(&part->deaths) >= DEATHS_MAX)
		return OX_VHOST_FOUND_BLAMED;
	return read_message(&part->hand, ret_message) ? OX_VHOST_FOUND_MESSAGE
						      : OX_VHOST_FOUND_NONSENSE;
}
