/* SPDX-License-Identifier: MIT */
/*
 * Whether what the clients of one block were answered can come from requests that were carried out
 * one after another, each at one instant between its call and its answer.
 */
#ifndef OX_TESTS_LINEAR_H
#define OX_TESTS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct linear_op {
	uint64_t began;
	uint64_t ended;
	uint64_t value; /* written, or read; each value is written by one request alone */
	bool write;
};

/* Sorts the requests. False: no order of them gives these answers; *ret_value is one of those that
 * show it. */
bool linear_check(struct linear_op *ops, size_t n, uint64_t *ret_value);

#endif
