/* SPDX-License-Identifier: MIT */
/*
 * The library as a server sees it, made up: a disk that reads as 0xab and answers when it is told
 * to. For tests of the server's loop, which runs in a thread of its own.
 */
#ifndef OX_TESTS_FAKE_LIBRARY_H
#define OX_TESTS_FAKE_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

#include "oxbow.h"

#define FAKE_DISK_BYTES ((uint64_t)64 << 20)

/* From now on requests wait (true), or all that wait and come are answered. */
void fake_hold(bool hold);
/* From now on writes that are answered find no room (true), or do. */
void fake_full(bool full);
/* The disk is so large from now on, at the next turn. */
void fake_resize(uint64_t bytes);
/* How many requests were submitted so far. */
size_t fake_submitted(void);
/* Returns when exactly so many requests are in the library's hands. */
void fake_await_in_flight(size_t count);

#endif
