/* SPDX-License-Identifier: MIT */
/* The counts on disk, for passes that meet clusters here and there. */
#ifndef OX_CHECK_STORED_H
#define OX_CHECK_STORED_H

#include <stdint.h>

#include "check/ledger/ledger.h"

#define OX_STORED_BLOCKS 8

/* A few refcount blocks. All-zero: empty. */
struct ox_stored {
	struct {
		uint64_t index;
		uint8_t *bytes; /* NULL: empty */
	} blocks[OX_STORED_BLOCKS];
	unsigned next_victim;
};

/* 1 and the count on disk; 0 where no block tells it; or a negative errno. */
int ox_stored_count_co(const struct ox_ledger *k, struct ox_stored *cache, uint64_t cluster,
		       uint64_t *ret);
void ox_stored_free(struct ox_stored *cache);

#endif
