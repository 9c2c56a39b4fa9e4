/* SPDX-License-Identifier: MIT */
/*
 * Notes of clusters in memory that outlives the process (D10): what is known of them that neither
 * an entry nor a count on disk says. A note is one stretch of clusters of one kind, and each change
 * of it one store of a word; the process may die between any two.
 *
 * Two notes never name one cluster, but for what is freed as often as it had references. Whoever
 * moves a cluster from one note to another takes it out of the first before it goes into the
 * second: a death in between leaks it, and hands it to nobody twice.
 */
#ifndef OX_META_NOTES_H
#define OX_META_NOTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ox_note_kind {
	OX_NOTE_NONE,
	OX_NOTE_BATCH,	      /* on its way into the reserve, perhaps counted */
	OX_NOTE_RESERVE,      /* in the reserve, */
	OX_NOTE_RESERVE_ZERO, /* and durably zero (H2) */
	OX_NOTE_TAKEN,	      /* out of the reserve for guest clusters that may name it by now */
	OX_NOTE_TAKEN_TABLE,  /* the same for a table */
	OX_NOTE_FREED,	      /* lost its entry, and waits for its release (D4) */
	OX_NOTE_RELEASING,    /* is getting the count that detail says */
	OX_NOTE_FREE,	      /* known to be free, where the format has no record of it */
	OX_NOTE_CHANGED,      /* numbers of slices (QED) */
	OX_NOTE_KINDS
};

struct ox_note_slot;

/* Notes are numbered from 1 on; 0: none. */
struct ox_notes {
	struct ox_note_slot *slots; /* NULL: nothing is kept */
	uint64_t *used;		    /* slots that ever were in use: what lies behind is empty */
	uint32_t count;
	uint32_t *free; /* stack of emptied slots */
	uint32_t free_count;
};

struct ox_noted {
	enum ox_note_kind kind;
	uint64_t start;
	uint64_t end; /* exclusive */
	uint64_t detail;
};

/* Bytes for so many notes. */
uint64_t ox_notes_bytes(uint32_t count);
/* Over memory that is zeroed, or that a process has left. -ENOMEM; -EINVAL where what is in it
 * cannot be. */
int ox_notes_init(struct ox_notes *n, void *memory, uint64_t *used, uint32_t count);
void ox_notes_fini(struct ox_notes *n);
/* All notes are void. */
void ox_notes_clear(struct ox_notes *n);

/* 0 where nothing is kept, or there is no room: then a death leaks the clusters. */
uint32_t ox_note_add(struct ox_notes *n, enum ox_note_kind kind, uint64_t start, uint64_t end,
		     uint64_t detail);
/* All of these take 0 as well, and do nothing. */
void ox_note_move_start(struct ox_notes *n, uint32_t note, uint64_t start);
void ox_note_move_end(struct ox_notes *n, uint32_t note, uint64_t end);
void ox_note_turn(struct ox_notes *n, uint32_t note, enum ox_note_kind kind);
void ox_note_drop(struct ox_notes *n, uint32_t note);

/* For whoever adopts: what a note says; kind NONE: it is empty. From 1 to *used. */
struct ox_noted ox_note_read(const struct ox_notes *n, uint32_t note);
/*
 * Whether all notes are of clusters below end (batches, slices: of any; freed ones: at most so many
 * past it), none of cluster 0, each once (freed ones: as often as they like).
 * 0, -EINVAL or -ENOMEM.
 */
int ox_notes_judge(const struct ox_notes *n, uint64_t end, uint64_t freed_past_end);

#endif
