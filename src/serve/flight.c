/* SPDX-License-Identifier: MIT */
#include "serve/flight.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "serve/sealed.h"

/* A mark, which is stored last and cleared first; 0: there is nothing. */
#define MARK_OP UINT64_C(0x3f) /* an enum ox_op, + 1 */
#define MARK_TOLD UINT64_C(0x80)
#define MARK_DEATHS_SHIFT 8 /* 8 bits: deaths of a suspect */
#define MARK_DEATHS_MAX UINT64_C(0xff)
#define MARK_SERVER_SHIFT 32 /* the number of the server that began it, or died with it last */

#define MS_MASK UINT32_C(0x7fffffff)

struct entry {
	uint64_t mark;
	uint64_t offset;
	uint64_t length;
	uint64_t since_ms; /* of a slot; its lower 31 bits */
};

struct ox_flight_memory {
	uint64_t turns;
	uint64_t server; /* a number for each; its lower 32 bits count */
	uint64_t setting;
	struct entry slots[OX_FLIGHT_SLOTS];
	struct entry suspects[OX_FLIGHT_SUSPECTS];
};

struct ox_flight {
	struct ox_flight_memory *memory;
	uint64_t server; /* shifted into its place in a mark */
	uint16_t tried;	 /* the suspect that is carried out, + 1 */
	uint16_t suspect_count;
	unsigned free_count;
	uint16_t free[OX_FLIGHT_SLOTS];
	/* As they were when they were looked at; the one at i is that of the memory. */
	struct entry suspects[OX_FLIGHT_SUSPECTS];
};

static void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static uint64_t deaths_of(uint64_t mark)
{
	return mark >> MARK_DEATHS_SHIFT & MARK_DEATHS_MAX;
}

static uint32_t server_of(uint64_t mark)
{
	return (uint32_t)(mark >> MARK_SERVER_SHIFT);
}

static uint64_t mark_of(uint64_t op, uint64_t deaths, uint32_t server)
{
	return op | deaths << MARK_DEATHS_SHIFT | (uint64_t)server << MARK_SERVER_SHIFT;
}

/* ---- the memory ---- */

int ox_flight_make(void)
{
	return ox_sealed_make("oxbow-flight", sizeof(struct ox_flight_memory));
}

static int map(int fd, int protection, void **ret)
{
	return ox_sealed_map(fd, sizeof(struct ox_flight_memory), protection, ret);
}

/* ---- what died ---- */

static bool is_same(const struct entry *a, const struct entry *b)
{
	return (a->mark & MARK_OP) == (b->mark & MARK_OP) && a->offset == b->offset &&
	       a->length == b->length;
}

/* Where a suspect is or may be: a free place, or that of one which was not in flight this time and
 * has one death alone. NULL: there is no room. */
static struct entry *place_for(struct ox_flight_memory *m, const struct entry *died)
{
	struct entry *free = NULL;
	struct entry *old = NULL;

	for (unsigned i = 0; i < OX_FLIGHT_SUSPECTS; i++) {
		struct entry *suspect = &m->suspects[i];

		if (suspect->mark == 0)
			free = free ? free : suspect;
		else if (is_same(suspect, died))
			return suspect;
		else if (deaths_of(suspect->mark) < OX_FLIGHT_DEATHS &&
			 server_of(suspect->mark) != server_of(died->mark))
			old = suspect;
	}
	return free ? free : old;
}

/* One death for each server, however often this is begun. */
static void suspect(struct ox_flight_memory *m, const struct entry *died)
{
	struct entry *place = place_for(m, died);
	uint64_t deaths;

	if (!place)
		return;
	if (place->mark != 0 && is_same(place, died)) {
		if (server_of(place->mark) == server_of(died->mark))
			return;
		deaths = deaths_of(place->mark);
		deaths += deaths < MARK_DEATHS_MAX;
		store(&place->mark, mark_of(died->mark & MARK_OP, deaths, server_of(died->mark)) |
					    (place->mark & MARK_TOLD));
		return;
	}
	store(&place->mark, 0);
	store(&place->offset, died->offset);
	store(&place->length, died->length);
	store(&place->mark, mark_of(died->mark & MARK_OP, 1, server_of(died->mark)));
}

/* A copy: a stranger might change what lies in the memory between two looks. */
static struct entry look_at(const struct entry *entry)
{
	struct entry copy = {load(&entry->mark), load(&entry->offset), load(&entry->length),
			     load(&entry->since_ms)};
	const uint64_t op = copy.mark & MARK_OP;

	if (op == 0 || op > (uint64_t)OX_OP_EXTENT + 1)
		copy.mark = 0;
	return copy;
}

static uint32_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000) & MS_MASK;
}

/* Whoever kills a server that has clients kills it amid some request. */
static bool is_blamed(const struct entry *died, const struct ox_flight_death *death)
{
	const uint32_t lasted_ms = (death->ms - (uint32_t)died->since_ms) & MS_MASK;

	return !death->from_outside || (lasted_ms >= OX_FLIGHT_LONG_MS && lasted_ms <= MS_MASK / 2);
}

static void take_in(struct ox_flight_memory *m, const struct ox_flight_death *death)
{
	const uint64_t server = load(&m->server);

	for (unsigned i = 0; i < OX_FLIGHT_SLOTS; i++) {
		const struct entry died = look_at(&m->slots[i]);

		if (died.mark != 0 && server_of(died.mark) == (uint32_t)server &&
		    is_blamed(&died, death))
			suspect(m, &died);
		store(&m->slots[i].mark, 0);
	}
	store(&m->server, server + 1);
}

/* ---- the server ---- */

int ox_flight_open(int fd, const struct ox_flight_death *death, struct ox_flight **ret)
{
	struct ox_flight *flight = calloc(1, sizeof(*flight));
	void *memory;
	int code;

	if (!flight)
		return -ENOMEM;
	code = map(fd, PROT_READ | PROT_WRITE, &memory);
	if (code < 0) {
		free(flight);
		return code;
	}
	flight->memory = memory;
	take_in(flight->memory, death);
	flight->server = flight->memory->server << MARK_SERVER_SHIFT;
	for (unsigned i = 0; i < OX_FLIGHT_SLOTS; i++)
		flight->free[flight->free_count++] = (uint16_t)(OX_FLIGHT_SLOTS - 1 - i);
	for (unsigned i = 0; i < OX_FLIGHT_SUSPECTS; i++) {
		flight->suspects[i] = look_at(&flight->memory->suspects[i]);
		if (flight->suspects[i].mark != 0)
			flight->suspect_count++;
	}
	*ret = flight;
	return 0;
}

void ox_flight_close(struct ox_flight *flight)
{
	if (!flight)
		return;
	(void)munmap(flight->memory, sizeof(*flight->memory));
	free(flight);
}

uint64_t *ox_flight_turns(struct ox_flight *flight)
{
	return &flight->memory->turns;
}

uint64_t ox_flight_setting(const struct ox_flight *flight)
{
	return load(&flight->memory->setting);
}

void ox_flight_set_setting(struct ox_flight *flight, uint64_t setting)
{
	store(&flight->memory->setting, setting);
}

static bool is_refused(const struct entry *suspect)
{
	return deaths_of(suspect->mark) >= OX_FLIGHT_DEATHS;
}

bool ox_flight_next_refused(struct ox_flight *flight, struct ox_flight_request *ret)
{
	for (unsigned i = 0; i < OX_FLIGHT_SUSPECTS; i++) {
		struct entry *s = &flight->suspects[i];
		const uint64_t op = s->mark & MARK_OP;

		if (!is_refused(s) || (s->mark & MARK_TOLD))
			continue;
		s->mark |= MARK_TOLD;
		store(&flight->memory->suspects[i].mark, s->mark);
		*ret = (struct ox_flight_request){(enum ox_op)(op - 1), s->offset, s->length};
		return true;
	}
	return false;
}

/* + 1; 0: it is none. */
static uint16_t find_suspect(const struct ox_flight *flight, const struct entry *entry)
{
	for (unsigned i = 0; i < OX_FLIGHT_SUSPECTS; i++)
		if (flight->suspects[i].mark != 0 && is_same(&flight->suspects[i], entry))
			return (uint16_t)(i + 1);
	return 0;
}

static enum ox_flight_verdict judge(struct ox_flight *flight, const struct entry *entry,
				    struct ox_flight_note *note)
{
	const uint16_t suspect = find_suspect(flight, entry);

	if (suspect == 0)
		return OX_FLIGHT_GO;
	if (is_refused(&flight->suspects[suspect - 1]))
		return OX_FLIGHT_REFUSE;
	if (flight->tried > 0)
		return OX_FLIGHT_WAIT;
	flight->tried = note->suspect = suspect;
	return OX_FLIGHT_GO;
}

enum ox_flight_verdict ox_flight_begin(struct ox_flight *flight,
				       const struct ox_flight_request *request,
				       struct ox_flight_note *note)
{
	const uint64_t mark = ((uint64_t)request->op + 1) | flight->server;

	if (flight->suspect_count > 0) {
		const struct entry entry = {mark, request->offset, request->length, 0};
		const enum ox_flight_verdict verdict = judge(flight, &entry, note);

		if (verdict != OX_FLIGHT_GO)
			return verdict;
	}
	if (flight->free_count > 0) {
		const uint16_t slot = flight->free[--flight->free_count];
		struct entry *at = &flight->memory->slots[slot];

		note->slot = (uint16_t)(slot + 1);
		store(&at->offset, request->offset);
		store(&at->length, request->length);
		store(&at->since_ms, now_ms());
		store(&at->mark, mark);
	}
	return OX_FLIGHT_GO;
}

void ox_flight_forget(struct ox_flight *flight, struct ox_flight_note *note)
{
	if (note->suspect > 0) {
		assert(flight->tried == note->suspect && flight->suspect_count > 0);
		store(&flight->memory->suspects[note->suspect - 1].mark, 0);
		flight->suspects[note->suspect - 1].mark = 0;
		flight->suspect_count--;
		flight->tried = 0;
	}
	if (note->slot > 0) {
		store(&flight->memory->slots[note->slot - 1].mark, 0);
		flight->free[flight->free_count++] = (uint16_t)(note->slot - 1);
	}
	*note = (struct ox_flight_note){0};
}

bool ox_flight_tries(const struct ox_flight *flight)
{
	return flight->tried > 0;
}

/* ---- whoever watches ---- */

int ox_flight_watch(int fd, struct ox_flight_watch *ret)
{
	void *memory;
	int code = map(fd, PROT_READ, &memory);

	if (code < 0)
		return code;
	*ret = (struct ox_flight_watch){.memory = memory};
	ret->turns = load(&ret->memory->turns);
	return 0;
}

void ox_flight_watch_free(struct ox_flight_watch *watch)
{
	if (watch->memory)
		munmap((void *)(uintptr_t)watch->memory, sizeof(*watch->memory));
	watch->memory = NULL;
}

bool ox_flight_has_turned(struct ox_flight_watch *watch)
{
	const uint64_t turns = load(&watch->memory->turns);
	const bool turned = turns != watch->turns;

	watch->turns = turns;
	return turned;
}
