/* SPDX-License-Identifier: MIT */
/* The clock of a server: CLOCK_MONOTONIC. */
#ifndef OX_SERVE_CLOCK_H
#define OX_SERVE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t ox_serve_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t ox_serve_now_ms(void)
{
	return ox_serve_now_ns() / 1000000;
}

#endif
