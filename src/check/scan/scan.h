/* SPDX-License-Identifier: MIT */
/*
 * Reads a sequence of ranges of a store, several in flight, and hands them on in order.
 */
#ifndef OX_CHECK_SCAN_H
#define OX_CHECK_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/io.h"

struct ox_scan_item {
	uint64_t offset;
	size_t size_bytes; /* 1 to ox_scan_item_max */
	uint64_t tag;	   /* the caller's */
};

struct ox_scan_ops {
	/* The next range, or false when there is no more. Called in order, some items ahead of
	 * visit_co. Never suspends. */
	bool (*next)(void *arg, struct ox_scan_item *ret);
	/* The bytes of an item, or the error that reading them gave. May change them (they are
	 * not written back) and may suspend. A negative errno ends the scan. */
	int (*visit_co)(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error);
};

/* The most that one item may read: a cluster, or more where clusters are small. */
size_t ox_scan_item_max(uint64_t cluster_bytes);

/* 0 when every item was visited; -ENOMEM; or what visit_co returned. */
int ox_scan_co(struct ox_io *io, uint64_t cluster_bytes, const struct ox_scan_ops *ops, void *arg);

#endif
