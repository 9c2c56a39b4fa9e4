/* SPDX-License-Identifier: MIT */
/*
 * Another backing file in the first cluster of an image that is in use (docs/chain.md). What a
 * reader of the old header looks at stays as it is, but for the first sector: that one write is the
 * change. So whatever the new header names behind that sector lies where the old one names nothing,
 * or is there already.
 */
#include "fmt/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define SECTOR_BYTES 512u
#define HEAD_BYTES 8u

struct part {
	uint32_t type;
	size_t at;    /* of its head */
	size_t bytes; /* with head and padding */
};

struct parts {
	struct part *items;
	size_t count;
	size_t room;
	size_t end; /* one past the head that ends the list, or past the last part */
};

/* The first cluster as it is, and what its header names in it. */
struct old {
	const uint8_t *bytes;
	size_t count;
	const struct ox_qcow2_header *h;
	struct parts parts;
};

static int add_part(struct parts *parts, const struct part *part)
{
	if (parts->count == parts->room) {
		size_t room = parts->room ? parts->room * 2 : 8;
		struct part *items = reallocarray(parts->items, room, sizeof(*items));

		if (!items)
			return -ENOMEM;
		parts->items = items;
		parts->room = room;
	}
	parts->items[parts->count++] = *part;
	return 0;
}

/* The list was decoded before: no length reaches past its area. */
static int list_parts(struct old *old)
{
	size_t area = old->h->backing_offset ? old->h->backing_offset : old->count;
	size_t end = ox_min_u64(area, old->count);
	size_t at = old->h->header_length;
	struct ox_be32 head[2];
	int r = 0;

	while (r == 0 && at < end && end - at >= HEAD_BYTES) {
		struct part part = {.at = at};

		memcpy(head, old->bytes + at, sizeof(head));
		part.type = ox_be32_get(head[0]);
		if (part.type == OX_QCOW2_EXT_END) {
			at += HEAD_BYTES;
			break;
		}
		part.bytes = ox_align_up(HEAD_BYTES + (uint64_t)ox_be32_get(head[1]), 8);
		if (part.bytes > end - at) /* padding that is not all there */
			part.bytes = end - at;
		r = add_part(&old->parts, &part);
		at += part.bytes;
	}
	old->parts.end = at;
	return r;
}

/* Whether a reader of the old header looks at that byte. */
static bool is_named(const struct old *old, size_t at)
{
	if (at < old->parts.end)
		return true;
	return old->h->backing_offset && at >= old->h->backing_offset &&
	       at - old->h->backing_offset < old->h->backing_size;
}

/* Whether the bytes can be there before the header changes. */
static bool may_lie(const struct old *old, const uint8_t *bytes, size_t at, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (at + i >= SECTOR_BYTES && is_named(old, at + i) &&
		    bytes[i] != old->bytes[at + i])
			return false;
	}
	return true;
}

static size_t put(uint8_t *to, size_t at, uint32_t type, const void *data, size_t bytes)
{
	struct ox_be32 head[2] = {ox_be32(type), ox_be32((uint32_t)bytes)};
	size_t whole = ox_align_up(HEAD_BYTES + bytes, 8);

	memset(to + at, 0, whole);
	memcpy(to + at, head, sizeof(head));
	if (bytes > 0)
		memcpy(to + at + HEAD_BYTES, data, bytes);
	return at + whole;
}

/* The list with another format, into list, which has room for all of the old one and that. Where
 * the format's part keeps its length it keeps its place. Returns the list's end. */
static size_t build_list(const struct old *old, const char *format, bool with_names, uint8_t *list)
{
	size_t format_bytes = format ? strlen(format) : 0;
	size_t whole = format ? ox_align_up(HEAD_BYTES + format_bytes, 8) : 0;
	size_t at = old->h->header_length;
	bool placed = !format;

	for (size_t i = 0; !placed && i < old->parts.count; i++) {
		if (old->parts.items[i].type == OX_QCOW2_EXT_BACKING_FORMAT &&
		    old->parts.items[i].bytes == whole)
			placed = true; /* below */
	}
	if (!placed)
		at = put(list, at, OX_QCOW2_EXT_BACKING_FORMAT, format, format_bytes);
	for (size_t i = 0; i < old->parts.count; i++) {
		const struct part *part = &old->parts.items[i];

		if (part->type == OX_QCOW2_EXT_BACKING_FORMAT) {
			if (placed && format)
				at = put(list, at, part->type, format, format_bytes);
			continue;
		}
		if (part->type == OX_QCOW2_EXT_FEATURE_NAMES && !with_names)
			continue;
		memcpy(list + at, old->bytes + part->at, part->bytes);
		at += part->bytes;
	}
	return put(list, at, OX_QCOW2_EXT_END, NULL, 0);
}

/* Where the name goes: behind the list, and behind a fence's place if that can be. 0: nowhere. */
static size_t place_for_name(const struct old *old, const char *name, size_t list_end)
{
	size_t bytes = strlen(name);
	size_t room = OX_QCOW2_FENCE_BYTES - HEAD_BYTES;

	for (size_t from = list_end + room;; from = list_end) {
		for (size_t at = from; at + bytes <= old->count; at += 8) {
			if (may_lie(old, (const uint8_t *)name, at, bytes))
				return at;
		}
		if (from == list_end)
			return 0;
	}
}

static bool try_layout(const struct old *old, const char *name, const char *format, bool with_names,
		       uint8_t *list, uint8_t *cluster, struct ox_qcow2_header *ret)
{
	size_t start = old->h->header_length;
	size_t end = build_list(old, format, with_names, list);
	size_t at = 0;

	if (end > old->count || !may_lie(old, list + start, start, end - start))
		return false;
	if (name)
		at = place_for_name(old, name, end);
	if (name && at == 0)
		return false;
	memcpy(cluster, old->bytes, old->count);
	/* Behind the list nothing of the first sector is left over. */
	if (end < SECTOR_BYTES)
		memset(cluster + end, 0, ox_min_u64(SECTOR_BYTES, old->count) - end);
	memcpy(cluster + start, list + start, end - start);
	if (name)
		memcpy(cluster + at, name, strlen(name));
	*ret = *old->h;
	ret->backing_offset = at;
	ret->backing_size = name ? (uint32_t)strlen(name) : 0;
	ox_qcow2_header_encode(ret, cluster);
	return true;
}

int ox_qcow2_first_cluster_rename(const struct ox_qcow2_header *h, const uint8_t *bytes,
				  size_t count, const char *name, const char *format,
				  uint8_t *ret_cluster, struct ox_qcow2_header *ret_header,
				  struct ox_error **err)
{
	struct old old = {.bytes = bytes, .count = count, .h = h};
	uint8_t *list = NULL;
	bool fits = false;
	int r;

	ox_assert(count >= SECTOR_BYTES && (name || !format));
	if (name && strlen(name) > OX_QCOW2_MAX_BACKING_NAME)
		return ox_error_set(err, -EINVAL, "Backing file name too long");
	r = list_parts(&old);
	if (r == 0)
		list = malloc(count + HEAD_BYTES * 8 + (format ? strlen(format) : 0));
	if (!list) {
		free(old.parts.items);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	/* The names of features are a courtesy to other programs, and give way. */
	fits = try_layout(&old, name, format, true, list, ret_cluster, ret_header) ||
	       try_layout(&old, name, format, false, list, ret_cluster, ret_header);
	free(list);
	free(old.parts.items);
	return fits ? 0 : ox_error_set(err, -ENOSPC, "No space left in the file header");
}
