/* SPDX-License-Identifier: MIT */
/*
 * Names and words that an image or a server has given, on their way to a terminal: what could move
 * its cursor, or worse, is shown as \xNN. So are bytes that are no UTF-8, which a terminal may take
 * for control characters.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* "\x1b" */
#define ESCAPED_BYTES 4

static bool is_continuation(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

/* The bytes of the character at text; 0: its first byte begins none. No longer form than needed,
 * no half of a surrogate pair, nothing behind U+10FFFF. */
static size_t character_bytes(const unsigned char *text)
{
	static const unsigned char second_min[] = {[0xe0 - 0xc0] = 0xa0, [0xf0 - 0xc0] = 0x90};
	static const unsigned char second_max[] = {[0xed - 0xc0] = 0x9f, [0xf4 - 0xc0] = 0x8f};
	const unsigned char first = text[0];
	const size_t at = first >= 0xc0 ? first - 0xc0u : 0;
	size_t bytes;

	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	bytes = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	for (size_t i = 1; i < bytes; i++) /* the terminator is none */
		if (!is_continuation(text[i]))
			return 0;
	if (at < sizeof(second_min) && second_min[at] > text[1])
		return 0;
	if (at < sizeof(second_max) && second_max[at] && second_max[at] < text[1])
		return 0;
	return bytes;
}

/* Of so many bytes. */
static bool is_control(const unsigned char *text, size_t bytes)
{
	if (bytes == 1)
		return text[0] < ' ' || text[0] == 0x7f;
	return bytes == 2 && text[0] == 0xc2 && text[1] < 0xa0; /* U+0080 to U+009F */
}

/* What of the text comes next, and how many bytes of it are to be shown as they are; 0: the first
 * one is to be escaped. */
static size_t plain_bytes(const unsigned char *text)
{
	size_t bytes = character_bytes(text);

	return bytes == 0 || is_control(text, bytes) ? 0 : bytes;
}

static void escape(unsigned char c, char ret[ESCAPED_BYTES + 1])
{
	snprintf(ret, ESCAPED_BYTES + 1, "\\x%02x", c);
}

/* What the library's words for a lock go on with in a line of their own (io/file_lock.c). A name
 * that has one of them in it says no more than they do. */
static bool is_own_line(const char *text)
{
	static const char *const lines[] = {
		"Is another process using the image [",
		"(held by ",
		"The file system has no locks, ",
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (strncmp(text, lines[i], strlen(lines[i])) == 0)
			return true;
	return false;
}

char *ox_cli_printable(const char *text, bool keeps_lines)
{
	const unsigned char *at = (const unsigned char *)text;
	char *result = malloc(strlen(text) * ESCAPED_BYTES + 1);
	char *to = result;

	if (!result)
		return NULL;
	while (*at) {
		const bool ends_line =
			*at == '\n' && (keeps_lines || is_own_line((const char *)at + 1));
		size_t bytes = ends_line ? 1 : plain_bytes(at);

		if (bytes > 0) {
			to = mempcpy(to, at, bytes);
			at += bytes;
		} else {
			escape(*at++, to);
			to += ESCAPED_BYTES;
		}
	}
	*to = '\0';
	return result;
}

void ox_cli_print_name(FILE *to, const char *name, int columns)
{
	const unsigned char *at = (const unsigned char *)name;
	char escaped[ESCAPED_BYTES + 1];

	while (*at) {
		size_t bytes = plain_bytes(at);

		if (bytes > 0) {
			fwrite(at, 1, bytes, to);
			columns -= (int)bytes;
			at += bytes;
		} else {
			escape(*at++, escaped);
			fputs(escaped, to);
			columns -= ESCAPED_BYTES;
		}
	}
	for (; columns > 0; columns--)
		putc(' ', to);
}
