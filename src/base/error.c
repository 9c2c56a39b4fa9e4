/* SPDX-License-Identifier: MIT */
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* The functions themselves are defined here. */
#undef ox_error_set
#undef ox_error_set_errno

struct ox_error {
	char *message;
};

/* Stands in where there is no memory for a message; never freed. */
static struct ox_error error_no_memory = {(char *)"Out of memory"};

__attribute__((visibility("default"))) const char *ox_error_message(const struct ox_error *err)
{
	return err ? err->message : "";
}

__attribute__((visibility("default"))) void ox_error_free(struct ox_error *err)
{
	if (!err || err == &error_no_memory)
		return;
	free(err->message);
	free(err);
}

/* Takes message over; NULL stands for "no memory". */
static void error_store(struct ox_error **err, char *message)
{
	struct ox_error *fresh = message ? malloc(sizeof(*fresh)) : NULL;

	ox_error_free(*err);
	if (!fresh) {
		free(message);
		*err = &error_no_memory;
		return;
	}
	fresh->message = message;
	*err = fresh;
}

static char *format_message(const char *fmt, va_list ap)
{
	char *text;

	return vasprintf(&text, fmt, ap) < 0 ? NULL : text;
}

int ox_error_set(struct ox_error **err, int code, const char *fmt, ...)
{
	va_list ap;

	ox_assert(code < 0);
	if (!err)
		return code;
	va_start(ap, fmt);
	error_store(err, format_message(fmt, ap));
	va_end(ap);
	return code;
}

int ox_error_set_errno(struct ox_error **err, int code, const char *fmt, ...)
{
	va_list ap;
	char *text;
	char *whole;

	ox_assert(code < 0);
	if (!err)
		return code;
	va_start(ap, fmt);
	text = format_message(fmt, ap);
	va_end(ap);
	if (!text || asprintf(&whole, "%s: %s", text, strerror(-code)) < 0)
		whole = NULL;
	free(text);
	error_store(err, whole);
	return code;
}

void ox_error_prefix(struct ox_error **err, const char *fmt, ...)
{
	va_list ap;
	char *text;
	char *whole;

	if (!err || !*err)
		return;
	va_start(ap, fmt);
	text = format_message(fmt, ap);
	va_end(ap);
	if (!text || asprintf(&whole, "%s%s", text, (*err)->message) < 0)
		whole = NULL;
	free(text);
	error_store(err, whole);
}
