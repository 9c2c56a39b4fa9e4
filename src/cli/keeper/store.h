/* SPDX-License-Identifier: MIT */
/*
 * What the keeper leaves in the service manager's store, so that the death of all processes of the
 * server loses nothing either (docs/systemd.md): the locked files, witnesses, the read end of the
 * barrier, and the state. The store is whole, and can be adopted, or it is let go.
 *
 *   NOTHING --fill--> KEPT --end--> NOTHING
 *                      |
 *                      all die, and the next keeper is handed it:
 *                      whole: ADOPTING --a worker has opened the image--> KEPT
 *                      else:  LETTING_GO --> NOTHING
 */
#ifndef OX_CLI_KEEPER_STORE_H
#define OX_CLI_KEEPER_STORE_H

#include <stdbool.h>

#include "cli/keeper/handed.h"
#include "cli/keeper/kept.h"
#include "cli/notify.h"

struct ox_kept_disk;

/* Two generations of witnesses, or that there is none, the state and the barrier beside the files.
 */
#define OX_STORE_MAX (OX_KEPT_CHAIN_MAX + 2 * OX_KEPT_WITNESSES + 3)

enum ox_store_phase {
	OX_STORE_NOTHING,
	OX_STORE_KEPT,
	OX_STORE_ADOPTING,
	OX_STORE_LETTING_GO,
};

struct ox_store {
	enum ox_store_phase phase;
	bool is_judged;	     /* of one that is adopted: the opener has seen no reason against it */
	bool has_barrier;    /* that was found: it tells when the dead have ended */
	bool is_given_up;    /* the manager takes nothing, which was said */
	unsigned generation; /* of the last witnesses */
	unsigned witness_numbers[OX_KEPT_WITNESSES]; /* of those that are left, in their order */
	unsigned count;
	struct ox_stored_name names[OX_STORE_MAX]; /* what the manager has of ours */
	/* While it is looked at: */
	bool is_wrong;	 /* something in it is not what its name says */
	bool is_used_up; /* that no witness is there is as it must be */
	unsigned file_count;
	unsigned files_seen;
};

/* At the start: takes what the manager has handed over, into the keeper. */
void ox_store_find(struct ox_kept_disk *disk);
/* Begins the keeper's life: with what was found, or anew. */
void ox_store_begin(struct ox_kept_disk *disk);
/* What was found is not adopted: once the barrier has fallen it is to be let go. */
void ox_store_refuse(struct ox_kept_disk *disk);
/* It is unlocked, taken out of the store and forgotten. The image is opened by its name, as after a
 * power cut. */
void ox_store_let_go(struct ox_kept_disk *disk);

/* Once the chain is open. The state comes last: what lacks it is not whole. */
void ox_store_fill(struct ox_kept_disk *disk);
/* The worker has got through the first sync. */
void ox_store_put_next_witnesses(struct ox_kept_disk *disk);
/* The last of those that are left, before it is used. */
void ox_store_drop_witness(struct ox_kept_disk *disk);
/* Waits, not for long, until the manager has taken all of it. */
void ox_store_settle(struct ox_kept_disk *disk);
/* All is in the image, or nobody is to adopt the rest. */
void ox_store_empty(struct ox_kept_disk *disk);

#endif
