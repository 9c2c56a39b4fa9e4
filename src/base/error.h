/* SPDX-License-Identifier: MIT */
/*
 * The diagnostic of the control plane (open, create, check, close). The data path returns
 * negative errno values alone. Every function here accepts err == NULL ("the caller does not
 * want the text").
 *
 * struct ox_error is opaque in oxbow.h, which also declares ox_error_message and ox_error_free.
 */
#ifndef OX_BASE_ERROR_H
#define OX_BASE_ERROR_H

#include <stdarg.h>

#include "oxbow.h"

/*
 * Stores a message in *err and returns code, which must be negative, so that a failing function
 * can end with "return ox_error_set(err, -EINVAL, ...)". An earlier message in *err is replaced.
 * If memory runs out, *err holds a static out-of-memory message.
 */
int ox_error_set(struct ox_error **err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As ox_error_set, with ": " and the text of strerror(-code) appended. */
int ox_error_set_errno(struct ox_error **err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * What these return is negative, and the compiler has to be told: where it inlines a function that
 * leaves its outputs alone when it fails, it would else see a way on which it neither fails nor
 * sets them, and warn of that.
 */
static inline int ox_error_negative(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}

#define ox_error_set(err, code, ...) ox_error_negative((ox_error_set)(err, code, __VA_ARGS__))
#define ox_error_set_errno(err, code, ...)                                                         \
	ox_error_negative((ox_error_set_errno)(err, code, __VA_ARGS__))

/* Puts text in front of the message in *err, if there is one. */
void ox_error_prefix(struct ox_error **err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
