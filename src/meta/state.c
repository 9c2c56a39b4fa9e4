/* SPDX-License-Identifier: MIT */
#include "meta/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"

#define PAGE_BYTES 4096u
#define VERSION 2u
#define SLOTS_MAX (UINT32_C(1) << 24)
#define COPY_MAX_BYTES (UINT64_C(1) << 40)

enum phase { EMPTY, LIVE, SPENT };

/* The first page. */
struct ox_state_head {
	char magic[8];
	uint64_t version;
	uint64_t phase;
	uint64_t recovery;
	uint64_t poison; /* a positive errno */
	uint64_t notes_used;
	uint64_t lines[OX_STATE_LINES];
	uint64_t prepared;
	struct ox_state_shape shape;
};

static const char magic[8] = "oxbowst";

static uint64_t names_bytes(uint32_t slots)
{
	return ox_align_up((uint64_t)slots * sizeof(uint64_t), PAGE_BYTES);
}

static uint64_t notes_bytes(const struct ox_state_shape *shape)
{
	return ox_align_up(ox_notes_bytes(shape->note_slots), PAGE_BYTES);
}

static uint64_t copy_bytes(const struct ox_state_shape *shape)
{
	return ox_align_up(shape->copy_bytes, PAGE_BYTES);
}

static uint64_t data_bytes(const struct ox_state_shape *shape, unsigned shelf)
{
	return ox_align_up((uint64_t)shape->slots[shelf] * shape->slice_bytes, PAGE_BYTES);
}

uint64_t ox_state_bytes(const struct ox_state_shape *shape)
{
	uint64_t bytes = PAGE_BYTES + notes_bytes(shape) + copy_bytes(shape);

	for (unsigned i = 0; i < OX_STATE_SHELVES; i++)
		bytes += names_bytes(shape->slots[i]) + data_bytes(shape, i);
	return bytes;
}

/* ---- shelves ---- */

uint32_t ox_shelf_take(struct ox_shelf *s)
{
	return s->free_count > 0 ? s->free[--s->free_count] : OX_SHELF_NONE;
}

void ox_shelf_give(struct ox_shelf *s, uint32_t slot, bool keep)
{
	ox_assert(slot < s->slots && s->free_count < s->slots);
	if (!keep)
		ox_state_store(&s->names[slot], 0);
	if (s->names[slot] == 0)
		s->free[s->free_count++] = slot;
}

static void shelf_stack(struct ox_shelf *s)
{
	s->free_count = 0;
	for (uint32_t i = s->slots; i > 0; i--) {
		if (s->names[i - 1] == 0)
			s->free[s->free_count++] = i - 1;
	}
}

static int shelf_init(struct ox_shelf *s, uint8_t *names, uint8_t *data, uint32_t slots,
		      size_t slice_bytes)
{
	*s = (struct ox_shelf){
		.names = (uint64_t *)(void *)names,
		.data = data,
		.slots = slots,
		.slice_bytes = slice_bytes,
	};
	s->free = reallocarray(NULL, (size_t)slots + 1, sizeof(*s->free));
	if (!s->free)
		return -ENOMEM;
	shelf_stack(s);
	return 0;
}

/* The parts, one behind the other. */
static int parts_init(struct ox_state *s)
{
	const struct ox_state_shape *shape = &s->head->shape;
	uint8_t *at = (uint8_t *)s->head + PAGE_BYTES;
	int r = 0;

	for (unsigned i = 0; i < OX_STATE_SHELVES && r == 0; i++) {
		uint8_t *names = at;
		uint8_t *data = names + names_bytes(shape->slots[i]);

		r = shelf_init(&s->shelves[i], names, data, shape->slots[i], shape->slice_bytes);
		at = data + data_bytes(shape, i);
	}
	s->copy = at + notes_bytes(shape);
	s->copy_bytes = shape->copy_bytes;
	return r < 0 ? r : ox_notes_init(&s->notes, at, &s->head->notes_used, shape->note_slots);
}

/* ---- the whole ---- */

static bool is_same(const struct ox_state_shape *a, const struct ox_state_shape *b)
{
	return memcmp(a->format, b->format, sizeof(a->format)) == 0 && a->device == b->device &&
	       a->inode == b->inode && a->cluster_bits == b->cluster_bits &&
	       a->slice_bytes == b->slice_bytes;
}

/* Why the memory is no state of that shape; NULL: it is one. */
static const char *judge(const struct ox_state_head *head, uint64_t bytes,
			 const struct ox_state_shape *shape)
{
	if (memcmp(head->magic, magic, sizeof(magic)) != 0)
		return "it is no state of an image";
	if (head->version != VERSION)
		return "another version of this program has written it";
	if (!is_same(&head->shape, shape))
		return "it is of another image";
	if (head->phase == LIVE && head->shape.file_bytes > shape->file_bytes)
		return "the image's file has been cut since";
	for (unsigned i = 0; i < OX_STATE_SHELVES; i++) {
		if (head->shape.slots[i] == 0 || head->shape.slots[i] > SLOTS_MAX)
			return "its sizes contradict each other";
	}
	if (head->shape.note_slots == 0 || head->shape.note_slots > SLOTS_MAX ||
	    head->shape.copy_bytes > COPY_MAX_BYTES || head->notes_used > head->shape.note_slots)
		return "its sizes contradict each other";
	return ox_state_bytes(&head->shape) <= bytes ? NULL : "its length is not what it says";
}

static bool is_blank(const struct ox_state_head *head)
{
	static const char none[sizeof(head->magic)];

	return memcmp(head->magic, none, sizeof(none)) == 0;
}

/* What an ended session may have left in the slots' names, and in notes, is void. */
static void clear(struct ox_state *s)
{
	for (unsigned i = 0; i < OX_STATE_SHELVES; i++) {
		memset(s->shelves[i].names, 0, s->shelves[i].slots * sizeof(uint64_t));
		shelf_stack(&s->shelves[i]);
	}
	ox_notes_clear(&s->notes);
	s->head->recovery = OX_STATE_KNOWS;
	s->head->prepared = 0;
	s->head->poison = 0;
}

/* The magic comes last: a process that dies before leaves a blank state. */
static void format(struct ox_state_head *head, const struct ox_state_shape *shape)
{
	head->version = VERSION;
	head->phase = EMPTY;
	head->shape = *shape;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy(head->magic, magic, sizeof(magic));
}

int ox_state_over(void *memory, uint64_t bytes, const struct ox_state_shape *shape,
		  struct ox_state **ret, struct ox_error **err)
{
	struct ox_state *s = calloc(1, sizeof(*s));
	const char *wrong;

	if (!s)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	s->head = memory;
	s->bytes = bytes;
	if (ox_state_bytes(shape) <= bytes && is_blank(s->head))
		format(s->head, shape);
	wrong = bytes < PAGE_BYTES ? "it is too short" : judge(s->head, bytes, shape);
	if (wrong) {
		free(s);
		return ox_error_set(err, -ENOTRECOVERABLE, "The state cannot be used: %s", wrong);
	}
	if (parts_init(s) < 0) {
		ox_state_close(s);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	s->adopts = s->head->phase == LIVE;
	if (!s->adopts)
		clear(s);
	*ret = s;
	return 0;
}

/* Nobody shall make it shorter while it is mapped. */
static int seal(int fd)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	int have = fcntl(fd, F_GET_SEALS);

	if (have < 0)
		return -errno;
	if ((have & F_SEAL_SHRINK) && (have & F_SEAL_GROW))
		return 0;
	return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int ox_state_open(int fd, const struct ox_state_shape *shape, struct ox_state **ret,
		  struct ox_error **err)
{
	struct stat st;
	void *memory;
	int r;

	if (fstat(fd, &st) < 0)
		return ox_error_set_errno(err, -errno, "The state cannot be used");
	if (st.st_size == 0 && ftruncate(fd, (off_t)ox_state_bytes(shape)) < 0)
		return ox_error_set_errno(err, -errno, "The state cannot be made long enough");
	r = seal(fd);
	if (r < 0)
		return ox_error_set_errno(err, r, "The state is no memory file that can be sealed");
	if (fstat(fd, &st) < 0 || st.st_size < PAGE_BYTES)
		return ox_error_set(err, -ENOTRECOVERABLE,
				    "The state cannot be used: it is too short");
	memory = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return ox_error_set_errno(err, -errno, "The state cannot be mapped");
	(void)madvise(memory, (size_t)st.st_size, MADV_DONTDUMP);
	r = ox_state_over(memory, (uint64_t)st.st_size, shape, ret, err);
	if (r < 0)
		(void)munmap(memory, (size_t)st.st_size);
	else
		(*ret)->mapped = true;
	return r;
}

void ox_state_close(struct ox_state *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < OX_STATE_SHELVES; i++)
		free(s->shelves[i].free);
	ox_notes_fini(&s->notes);
	if (s->mapped)
		(void)munmap(s->head, (size_t)s->bytes);
	free(s);
}

void ox_state_begin(struct ox_state *s)
{
	s->adopts = false;
	ox_state_store(&s->head->phase, LIVE);
}

void ox_state_spend(struct ox_state *s)
{
	ox_state_store(&s->head->phase, SPENT);
}

void ox_state_set_recovery(struct ox_state *s, enum ox_state_recovery recovery)
{
	ox_state_store(&s->head->recovery, recovery);
}

/* What cannot be is the one that asks for most. */
enum ox_state_recovery ox_state_recovery(const struct ox_state *s)
{
	switch (s->head->recovery) {
	case OX_STATE_KNOWS:
		return OX_STATE_KNOWS;
	case OX_STATE_BESIDE:
		return OX_STATE_BESIDE;
	default:
		return OX_STATE_ANEW;
	}
}

void ox_state_set_line(struct ox_state *s, unsigned index, uint64_t value)
{
	ox_assert(index < OX_STATE_LINES);
	ox_state_store(&s->head->lines[index], value);
}

uint64_t ox_state_line(const struct ox_state *s, unsigned index)
{
	ox_assert(index < OX_STATE_LINES);
	return s->head->lines[index];
}

void ox_state_set_file_bytes(struct ox_state *s, uint64_t bytes)
{
	ox_state_store(&s->head->shape.file_bytes, bytes);
}

void ox_state_set_poison(struct ox_state *s, int error)
{
	ox_assert(error < 0);
	ox_state_store(&s->head->poison, (uint64_t)-error);
}

int ox_state_poison(const struct ox_state *s)
{
	return s->head->poison != 0 ? -EIO : 0;
}

void ox_state_set_prepared(struct ox_state *s, bool prepared)
{
	ox_state_store(&s->head->prepared, prepared);
}

bool ox_state_is_prepared(const struct ox_state *s)
{
	return s->head->prepared != 0;
}
