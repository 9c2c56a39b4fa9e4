/* SPDX-License-Identifier: MIT */
/*
 * What an image owes at every instant of a repair, read from its bytes alone: no cluster is counted
 * less often than it is named (D3), and none that is named more than once is named with COPIED
 * (D2). A damaged image may fail in that before it is repaired; a repair adds no cluster to those.
 */
#ifndef OX_TESTS_PROMISES_H
#define OX_TESTS_PROMISES_H

#include <stdbool.h>
#include <stdint.h>

struct promises;

/* NULL where the header tells nothing. Of the first 8192 clusters. */
struct promises *promises_of(const uint8_t *bytes, uint64_t length);
void promises_free(struct promises *p);
/* Fails the test where a repair that was cut left an image that keeps less than it did. */
void promises_check(const struct promises *before, const uint8_t *bytes, uint64_t length,
		    const char *what);
#endif
