/* SPDX-License-Identifier: MIT */
#ifndef SIM_SNAPSHOT_H
#define SIM_SNAPSHOT_H

#include <stdbool.h>

#include "bytes.h"

/* Takes a snapshot of a closed, clean image the way that programs do: the L1 table is copied, what
 * it names has one more name, and COPIED goes. False, and nothing changed, where the refcounts have
 * no room for it. */
bool sim_snapshot_take(struct sim_bytes *bytes);

#endif
