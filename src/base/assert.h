/* SPDX-License-Identifier: MIT */
/*
 * Assertions that stay on in release builds: a programmer's mistake stops the program before it
 * can reach a disk. Never used on bytes that came from a disk, a socket or a guest; those are
 * answered with an error.
 */
#ifndef OX_BASE_ASSERT_H
#define OX_BASE_ASSERT_H

_Noreturn void ox_assert_fail(const char *expr, const char *file, int line, const char *func);

#define ox_assert(expr)                                                                            \
	do {                                                                                       \
		if (__builtin_expect(!(expr), 0))                                                  \
			ox_assert_fail(#expr, __FILE__, __LINE__, __func__);                       \
	} while (0)

#endif
