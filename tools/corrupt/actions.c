/* SPDX-License-Identifier: MIT */
/* What a line does. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "corrupt.h"

#define SECTOR UINT64_C(512)
#define MOST_BYTES (UINT64_C(256) << 20)

/* The arguments of a word are apart by commas. */
static uint64_t next_value(struct corrupt *c)
{
	if (!corrupt_take(c, ","))
		corrupt_fail(c, "',' is expected before '%.20s'", c->at);
	return corrupt_parse_value(c);
}

static uint8_t *buffer(const struct corrupt *c, uint64_t size_bytes)
{
	uint8_t *bytes;

	if (size_bytes > MOST_BYTES)
		corrupt_fail(c, "%llu bytes are too many", (unsigned long long)size_bytes);
	bytes = calloc(1, size_bytes + 1);
	if (!bytes)
		corrupt_fail(c, "Out of memory");
	return bytes;
}

static void fill(struct corrupt *c, bool at_random)
{
	uint64_t offset = corrupt_parse_value(c);
	uint64_t size = next_value(c);
	uint8_t *bytes = buffer(c, size);

	if (!at_random)
		memset(bytes, (int)(next_value(c) & 0xff), size);
	for (uint64_t i = 0; at_random && i < size; i++)
		bytes[i] = (uint8_t)corrupt_random(c);
	corrupt_write(c, bytes, size, offset);
	free(bytes);
}

static void swap(struct corrupt *c)
{
	uint64_t first = corrupt_parse_value(c);
	uint64_t second = next_value(c);
	uint64_t size = corrupt_line_is_empty(c) ? SECTOR : next_value(c);
	uint8_t *a = buffer(c, size);
	uint8_t *b = buffer(c, size);

	corrupt_read(c, a, size, first);
	corrupt_read(c, b, size, second);
	corrupt_write(c, b, size, first);
	corrupt_write(c, a, size, second);
	free(a);
	free(b);
}

static void copy(struct corrupt *c)
{
	uint64_t from = corrupt_parse_value(c);
	uint64_t to = next_value(c);
	uint64_t size = next_value(c);
	uint8_t *bytes = buffer(c, size);

	corrupt_read(c, bytes, size, from);
	corrupt_write(c, bytes, size, to);
	free(bytes);
}

static void truncate_image(struct corrupt *c)
{
	uint64_t size = corrupt_parse_value(c);

	if (size > INT64_MAX || ftruncate(c->fd, (off_t)size) < 0)
		corrupt_fail(c, "Could not truncate the image: %s", strerror(errno));
}

/* A deflate block of type 3 and a zstd frame without magic are never right; the rest is random. */
static void garble_stream(struct corrupt *c, uint64_t guest)
{
	struct place p = corrupt_l2_entry(c, corrupt_l1(c, false, 0), guest, false);
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&c->h, corrupt_get(c, p));
	uint64_t size;
	uint8_t *bytes;

	if (e.kind != OX_QCOW2_ENTRY_COMPRESSED)
		corrupt_fail(c, "guest offset 0x%llx is not compressed", (unsigned long long)guest);
	/* The last sectors may hold the beginning of the next stream. */
	size = e.compressed_bytes > SECTOR ? e.compressed_bytes - SECTOR : e.compressed_bytes;
	bytes = buffer(c, size);
	for (uint64_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)corrupt_random(c);
	bytes[0] = 0x07;
	corrupt_write(c, bytes, size, e.host.bytes);
	free(bytes);
}

static void garble(struct corrupt *c)
{
	uint64_t guest = corrupt_parse_value(c);

	if (c->is_qed)
		corrupt_fail(c, "a QED image holds nothing compressed");
	garble_stream(c, guest);
}

static void assign(struct corrupt *c)
{
	struct place p = corrupt_parse_place(c);

	if (corrupt_take(c, "|="))
		corrupt_set(c, p, corrupt_get(c, p) | corrupt_parse_value(c));
	else if (corrupt_take(c, "^="))
		corrupt_set(c, p, corrupt_get(c, p) ^ corrupt_parse_value(c));
	else if (corrupt_take(c, "&="))
		corrupt_set(c, p, corrupt_get(c, p) & corrupt_parse_value(c));
	else if (corrupt_take(c, "+="))
		corrupt_set(c, p, corrupt_get(c, p) + corrupt_parse_value(c));
	else if (corrupt_take(c, "-="))
		corrupt_set(c, p, corrupt_get(c, p) - corrupt_parse_value(c));
	else if (corrupt_take(c, "="))
		corrupt_set(c, p, corrupt_parse_value(c));
	else
		corrupt_fail(c, "'=' is expected before '%.20s'", c->at);
}

void corrupt_run_line(struct corrupt *c)
{
	if (corrupt_line_is_empty(c))
		return;
	if (corrupt_take(c, "fill"))
		fill(c, false);
	else if (corrupt_take(c, "scramble"))
		fill(c, true);
	else if (corrupt_take(c, "swap"))
		swap(c);
	else if (corrupt_take(c, "copy"))
		copy(c);
	else if (corrupt_take(c, "truncate"))
		truncate_image(c);
	else if (corrupt_take(c, "garble"))
		garble(c);
	else if (corrupt_take(c, "seed"))
		c->random = corrupt_parse_value(c);
	else
		assign(c);
	if (!corrupt_line_is_empty(c))
		corrupt_fail(c, "'%.20s' is left over", c->at);
}
