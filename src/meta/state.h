/* SPDX-License-Identifier: MIT */
/*
 * State that outlives the process (D10): memory that somebody else holds as well, a sealed memory
 * file as a rule. In it lies what an answer may rest on and the image does not have yet: the slices
 * of tables that were changed and not written. The table cache keeps its slices in it, so that
 * there is nothing to copy, no log to replay and none to revoke. Beside them lie notes of clusters
 * (notes.h), and what a running recovery has to go on with.
 *
 *   EMPTY --ox_state_begin--> LIVE --ox_state_spend--> SPENT
 *                              |  ^
 *                              +--+ the process died: the next one adopts
 *
 * Each change is one store of an aligned word, and the process may die between any two stores:
 *
 *   a slice's slot in names[]   offset | 1 once the slice was changed; 0 once a write has completed
 *                               that has all changes, or the table is gone
 *
 * What is read from it is held to the same bounds as an image's bytes: another program may have
 * written it. All numbers are the machine's own: no other one reads them.
 */
#ifndef OX_META_STATE_H
#define OX_META_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "meta/notes.h"

/* Slots for slices of one cache. */
struct ox_shelf {
	uint8_t *data;
	uint64_t *names; /* by slot: the changed slice's offset | 1; 0: none */
	size_t slice_bytes;
	uint32_t slots;
	uint32_t *free; /* slots that no block has */
	uint32_t free_count;
};

#define OX_SHELF_NONE UINT32_MAX
#define OX_SHELF_CHANGED UINT64_C(1)

enum ox_state_shelf { OX_STATE_MAP, OX_STATE_COUNTS, OX_STATE_SHELVES };

/* What the state is of; a state of anything else is not adopted. */
struct ox_state_shape {
	char format[8];
	uint64_t device; /* of the image's file */
	uint64_t inode;
	uint64_t file_bytes; /* the file is not shorter */
	uint32_t cluster_bits;
	uint32_t slice_bytes;
	/* Sizes; a state that is adopted has its own. */
	uint32_t slots[OX_STATE_SHELVES]; /* at the least one */
	uint32_t note_slots;		  /* at the least one */
	uint64_t copy_bytes;		  /* for ox_state_copy */
};

/* What whoever adopts has to do about free clusters. */
enum ox_state_recovery {
	OX_STATE_KNOWS,	 /* nothing: the counts, or the notes, tell */
	OX_STATE_ANEW,	 /* look through the image as after a power cut; the notes are void */
	OX_STATE_BESIDE, /* go on with a recovery: lines and copy are its */
};

/* Words of the format's own, each one store. */
#define OX_STATE_LINES 8u

struct ox_state_head;

struct ox_state {
	struct ox_state_head *head;
	uint64_t bytes;
	bool mapped; /* here */
	bool adopts; /* a process died with it */
	struct ox_shelf shelves[OX_STATE_SHELVES];
	struct ox_notes notes;
	uint8_t *copy;
	uint64_t copy_bytes;
};

/* Bytes for a state of that shape. */
uint64_t ox_state_bytes(const struct ox_state_shape *shape);
/*
 * Over memory that the caller keeps as long as it lives, of as many bytes or more; zeroed, or of a
 * process that died.
 * -ENOTRECOVERABLE: it is no state of that shape; then nothing was changed.
 */
int ox_state_over(void *memory, uint64_t bytes, const struct ox_state_shape *shape,
		  struct ox_state **ret, struct ox_error **err);
/* Over a memory file: an empty one is made as long as is needed, and sealed. */
int ox_state_open(int fd, const struct ox_state_shape *shape, struct ox_state **ret,
		  struct ox_error **err);
/* The memory stays. */
void ox_state_close(struct ox_state *s);

/* From now on what a death leaves is to be adopted; what an earlier one left was, or is void. */
void ox_state_begin(struct ox_state *s);
/* All is in the image. */
void ox_state_spend(struct ox_state *s);
void ox_state_set_recovery(struct ox_state *s, enum ox_state_recovery recovery);
enum ox_state_recovery ox_state_recovery(const struct ox_state *s);
void ox_state_set_line(struct ox_state *s, unsigned index, uint64_t value);
uint64_t ox_state_line(const struct ox_state *s, unsigned index);
/* Before the file is cut, and once it has grown: it is never shorter than this. */
void ox_state_set_file_bytes(struct ox_state *s, uint64_t bytes);
/* The error since which nothing is written any more (M3); a death does not lift it. 0: none. */
void ox_state_set_poison(struct ox_state *s, int error);
int ox_state_poison(const struct ox_state *s);

/* The header tells durably that the image is changed (H9). */
void ox_state_set_prepared(struct ox_state *s, bool prepared);
bool ox_state_is_prepared(const struct ox_state *s);

/* ---- slots ---- */

/* A slot that no block has, and that has no name. OX_SHELF_NONE: all are taken. */
uint32_t ox_shelf_take(struct ox_shelf *s);
/* Gives it back. What was changed there is void; or, with keep, stays for whoever adopts. */
void ox_shelf_give(struct ox_shelf *s, uint32_t slot, bool keep);

static inline uint8_t *ox_shelf_at(const struct ox_shelf *s, uint32_t slot)
{
	return s->data + (size_t)slot * s->slice_bytes;
}

/* One store, before anything that follows it in the program. */
static inline void ox_state_store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

#endif
