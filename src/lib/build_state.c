/* SPDX-License-Identifier: MIT */
#include "lib/build_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/io.h"

/* Enough for all lines, the held bytes in hexadecimal among them. */
#define TEXT_MAX (2 * OX_WITHHOLD_BYTES + OX_BUILD_IDENTITY_MAX + 512)
#define MAGIC "oxbow-resume 1\n"

static uint64_t sum_of(const char *text, size_t length)
{
	uint64_t sum = UINT64_C(14695981039346656037);

	for (size_t i = 0; i < length; i++)
		sum = (sum ^ (uint8_t)text[i]) * UINT64_C(1099511628211);
	return sum;
}

static size_t encode(const struct ox_build_state *s, char *text)
{
	int n = snprintf(text, TEXT_MAX,
			 MAGIC "phase %u\nfile %" PRIu64 " %" PRIu64 "\nmark %" PRIu64
			       "\nidentity %s\nheld %" PRIu32 " ",
			 (unsigned)s->phase, s->device, s->inode, s->mark, s->identity,
			 s->held_length);
	size_t at = (size_t)n;

	for (uint32_t i = 0; i < s->held_length; i++, at += 2)
		snprintf(text + at, TEXT_MAX - at, "%02x", s->held[i]);
	at += (size_t)snprintf(text + at, TEXT_MAX - at, "\n");
	at += (size_t)snprintf(text + at, TEXT_MAX - at, "sum %016" PRIx64 "\n", sum_of(text, at));
	return at;
}

static int write_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, text, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		length -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int write_file(const char *path, const char *text, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, text, length);
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

int ox_build_state_write(const char *path, const struct ox_build_state *state)
{
	char *text = malloc(TEXT_MAX);
	char *fresh;
	int r = -ENOMEM;

	if (asprintf(&fresh, "%s.new", path) < 0)
		fresh = NULL;
	if (text && fresh)
		r = write_file(fresh, text, encode(state, text));
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r < 0 && fresh)
		unlink(fresh);
	if (r == 0)
		r = ox_io_file_sync_directory(path);
	free(text);
	free(fresh);
	return r;
}

static bool decode_held(const char *hex, struct ox_build_state *s)
{
	unsigned byte;

	for (uint32_t i = 0; i < s->held_length; i++) {
		if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
			return false;
		s->held[i] = (uint8_t)byte;
	}
	return hex[2 * s->held_length] == '\n';
}

static bool decode(const char *text, size_t length, struct ox_build_state *s)
{
	static const char sum_line[] = "sum ";
	const size_t tail = strlen(sum_line) + 16 + 1;
	uint64_t sum;
	unsigned phase;
	int at = 0;

	if (length <= tail || strncmp(text, MAGIC, strlen(MAGIC)) != 0 ||
	    sscanf(text + length - tail, "sum %16" SCNx64, &sum) != 1 ||
	    sum != sum_of(text, length - tail))
		return false;
	if (sscanf(text + strlen(MAGIC),
		   "phase %u file %" SCNu64 " %" SCNu64 " mark %" SCNu64
		   " identity %511[^\n] held %" SCNu32 "%n",
		   &phase, &s->device, &s->inode, &s->mark, s->identity, &s->held_length, &at) != 6)
		return false;
	at++; /* the blank before the bytes */
	s->phase = (enum ox_build_phase)phase;
	return phase <= OX_BUILD_PUBLISHING && s->held_length <= OX_WITHHOLD_BYTES &&
	       length - tail == strlen(MAGIC) + (size_t)at + 2 * s->held_length + 1 &&
	       decode_held(text + strlen(MAGIC) + at, s);
}

int ox_build_state_read(const char *path, struct ox_build_state *ret, struct ox_error **err)
{
	char *text = malloc(TEXT_MAX);
	FILE *file = fopen(path, "re");
	int r = file ? 0 : -errno;
	size_t length = 0;

	*ret = (struct ox_build_state){0};
	if (text && file) {
		length = fread(text, 1, TEXT_MAX - 1, file);
		text[length] = '\0';
	}
	if (file && ferror(file))
		r = -EIO;
	if (file)
		fclose(file);
	if (!text)
		r = ox_error_set(err, -ENOMEM, "Out of memory");
	else if (r < 0 && r != -ENOENT)
		ox_error_set_errno(err, r, "Could not read '%s'", path);
	else if (r == 0 && !decode(text, length, ret))
		r = ox_error_set(err, -EINVAL, "'%s' is damaged, or no state of a conversion",
				 path);
	free(text);
	return r;
}

int ox_build_state_remove(const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	return ox_io_file_sync_directory(path);
}
