/* SPDX-License-Identifier: MIT */
/* Replies, in each of the three styles. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/nbd/conn.h"

static uint64_t counted_bytes(const struct ox_nbd_request_head *head)
{
	switch (head->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
	case NBD_CMD_WRITE_ZEROES:
	case NBD_CMD_TRIM:
		return head->length;
	default:
		return 0;
	}
}

static void enqueue(struct ox_nbd_request *request)
{
	struct ox_nbd_conn *conn = request->conn;

	ox_flight_end(conn->export->flight, &request->note); /* its reply is made */
	if (conn->export->full)
		ox_full_forget(conn->export->full, &request->full);
	ox_stats_end(conn->export->stats, &request->count, counted_bytes(&request->head), false);
	if (conn->aborted) {
		ox_nbd_request_free(request);
		return;
	}
	request->next = NULL;
	if (conn->reply_last)
		conn->reply_last->next = request;
	else
		conn->reply_first = request;
	conn->reply_last = request;
}

/* Sends reply_head up to end, then length bytes of data. */
static void send_head(struct ox_nbd_request *request, const uint8_t *end, size_t length)
{
	const size_t head_bytes = (size_t)(end - request->reply_head);

	assert(head_bytes <= sizeof(request->reply_head));
	request->iov[0] = (struct iovec){request->reply_head, head_bytes};
	request->iov[1] = (struct iovec){request->data, length};
	request->iov_count = length > 0 ? 2 : 1;
	enqueue(request);
}

/* The reply must come in chunks, because it may have data. */
static bool needs_chunks(const struct ox_nbd_request *request)
{
	const enum ox_nbd_style style = request->conn->style;

	if (style == NBD_STYLE_STRUCTURED)
		return request->head.type == NBD_CMD_READ ||
		       request->head.type == NBD_CMD_BLOCK_STATUS;
	return style == NBD_STYLE_EXTENDED;
}

void ox_nbd_reply_done(struct ox_nbd_request *request)
{
	uint8_t *at = request->reply_head;

	if (needs_chunks(request))
		at = ox_nbd_put_chunk_head(at, request->conn->style, &request->head,
					   NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
	else
		at = ox_nbd_put_simple_reply(at, 0, request->head.cookie);
	send_head(request, at, 0);
}

void ox_nbd_reply_error(struct ox_nbd_request *request, int error, const char *text)
{
	const uint32_t code = ox_nbd_error(error);
	uint8_t *at = request->reply_head;
	size_t text_bytes;

	ox_stats_end(request->conn->export->stats, &request->count, 0, true);
	ox_nbd_request_drop_data(request);
	if (request->conn->style == NBD_STYLE_SIMPLE) {
		at = ox_nbd_put_simple_reply(at, code, request->head.cookie);
		send_head(request, at, 0);
		return;
	}
	if (!text)
		text = strerror(-error);
	text_bytes = strnlen(text, sizeof(request->reply_head) - NBD_EXTENDED_REPLY_BYTES - 6);
	at = ox_nbd_put_chunk_head(at, request->conn->style, &request->head, NBD_REPLY_FLAG_DONE,
				   (uint16_t)NBD_REPLY_TYPE_ERROR, (uint32_t)(6 + text_bytes));
	at = ox_nbd_put32(at, code);
	at = ox_nbd_put16(at, (uint16_t)text_bytes);
	at = ox_nbd_put_bytes(at, text, text_bytes);
	send_head(request, at, 0);
}

/* ---- reads ---- */

static bool is_zero(const uint8_t *bytes, size_t length)
{
	static const uint8_t zeroes[16];
	const size_t probe_bytes = length < sizeof(zeroes) ? length : sizeof(zeroes);

	if (memcmp(bytes, zeroes, probe_bytes) != 0)
		return false;
	return memcmp(bytes, bytes + probe_bytes, length - probe_bytes) == 0;
}

static uint8_t *put_hole(uint8_t *at, const struct ox_nbd_request *request, uint16_t flags,
			 uint64_t offset, uint64_t length)
{
	at = ox_nbd_put_chunk_head(at, request->conn->style, &request->head, flags,
				   NBD_REPLY_TYPE_OFFSET_HOLE, 12);
	at = ox_nbd_put64(at, offset);
	return ox_nbd_put32(at, (uint32_t)length);
}

static uint8_t *put_data(uint8_t *at, const struct ox_nbd_request *request, uint16_t flags,
			 uint64_t offset, uint64_t length)
{
	at = ox_nbd_put_chunk_head(at, request->conn->style, &request->head, flags,
				   NBD_REPLY_TYPE_OFFSET_DATA, (uint32_t)(8 + length));
	return ox_nbd_put64(at, offset);
}

void ox_nbd_reply_read(struct ox_nbd_request *request)
{
	const struct ox_nbd_request_head *head = &request->head;
	size_t length = head->length;
	uint8_t *at = request->reply_head;

	if (request->conn->style == NBD_STYLE_SIMPLE) {
		at = ox_nbd_put_simple_reply(at, 0, head->cookie);
	} else if (is_zero(request->data, length)) {
		at = put_hole(at, request, NBD_REPLY_FLAG_DONE, head->offset, length);
		length = 0;
	} else {
		at = put_data(at, request, NBD_REPLY_FLAG_DONE, head->offset, length);
	}
	send_head(request, at, length);
}

/* What the walk over the extents did not reach is one more piece, of data. */
static size_t piece_count(const struct ox_nbd_extents *extents)
{
	return extents->count + (extents->position < extents->end ? 1 : 0);
}

static struct ox_nbd_extent piece_at(const struct ox_nbd_extents *extents, size_t index)
{
	if (index < extents->count)
		return extents->list[index];
	return (struct ox_nbd_extent){.length = extents->end - extents->position};
}

void ox_nbd_reply_read_sparse(struct ox_nbd_request *request, uint64_t data_offset)
{
	const size_t count = piece_count(&request->extents);
	const size_t head_bytes = ox_nbd_chunk_head_bytes(request->conn->style) + 12;
	struct iovec *iov = reallocarray(NULL, count, 2 * sizeof(*iov));
	uint8_t *at = reallocarray(NULL, count, head_bytes);
	uint64_t offset = request->head.offset;

	if (!iov || !at) {
		free(iov);
		free(at);
		ox_nbd_reply_error(request, -ENOMEM, NULL);
		return;
	}
	request->iov = iov;
	request->reply_more = at;
	for (size_t i = 0; i < count; i++) {
		const struct ox_nbd_extent piece = piece_at(&request->extents, i);
		const uint16_t flags = i + 1 == count ? NBD_REPLY_FLAG_DONE : 0;
		uint8_t *head = at;

		if (piece.status & NBD_STATE_ZERO) {
			at = put_hole(at, request, flags, offset, piece.length);
			*iov++ = (struct iovec){head, (size_t)(at - head)};
		} else {
			at = put_data(at, request, flags, offset, piece.length);
			*iov++ = (struct iovec){head, (size_t)(at - head)};
			*iov++ = (struct iovec){request->data + (offset - data_offset),
						piece.length};
		}
		offset += piece.length;
	}
	request->iov_count = (int)(iov - request->iov);
	ox_nbd_request_settle(request, ox_nbd_extents_bytes(request->head.length, count));
	enqueue(request);
}

/* ---- block status ---- */

static uint8_t *put_extent(uint8_t *at, bool extended, uint64_t length, uint32_t value)
{
	if (extended) {
		at = ox_nbd_put64(at, length);
		return ox_nbd_put64(at, value);
	}
	/* No more was asked for than 32 bits can say. */
	at = ox_nbd_put32(at, (uint32_t)length);
	return ox_nbd_put32(at, value);
}

static uint32_t value_in(unsigned context, const struct ox_nbd_extent *extent)
{
	return context == NBD_CONTEXT_DEPTH ? extent->depth : extent->status;
}

/* What one context says, with neighbours of one value as one. */
static uint8_t *put_extents(uint8_t *at, bool extended, const struct ox_nbd_extents *extents,
			    unsigned context, uint32_t *ret_count)
{
	uint64_t length = 0;

	*ret_count = 0;
	for (size_t i = 0; i < extents->count; i++) {
		const struct ox_nbd_extent *extent = &extents->list[i];
		const uint32_t value = value_in(context, extent);

		length += extent->length;
		if (i + 1 < extents->count && value_in(context, extent + 1) == value)
			continue;
		at = put_extent(at, extended, length, value);
		length = 0;
		(*ret_count)++;
	}
	return at;
}

/* A chunk: its head at *head, its list at at. Both are moved on. */
static uint8_t *put_status_chunk(struct ox_nbd_request *request, unsigned context, uint8_t **head,
				 uint8_t *at)
{
	const bool extended = request->conn->style == NBD_STYLE_EXTENDED;
	const bool last = request->contexts >> (context + 1) == 0;
	struct iovec *iov = &request->iov[request->iov_count];
	uint8_t *const begin = *head, *const list = at;
	uint32_t count;

	at = put_extents(at, extended, &request->extents, context, &count);
	*head = ox_nbd_put_chunk_head(
		*head, request->conn->style, &request->head, last ? NBD_REPLY_FLAG_DONE : 0,
		extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
		(uint32_t)((size_t)(at - list) + (extended ? 8 : 4)));
	*head = ox_nbd_put32(*head, context);
	if (extended)
		*head = ox_nbd_put32(*head, count);
	iov[0] = (struct iovec){begin, (size_t)(*head - begin)};
	iov[1] = (struct iovec){list, (size_t)(at - list)};
	request->iov_count += 2;
	return at;
}

void ox_nbd_reply_block_status(struct ox_nbd_request *request)
{
	const bool extended = request->conn->style == NBD_STYLE_EXTENDED;
	const size_t most_bytes = request->extents.count * (extended ? 16 : 8) *
				  (size_t)__builtin_popcount(request->contexts);
	uint8_t *at = malloc(most_bytes);
	uint8_t *head = request->reply_head;

	if (!at) {
		ox_nbd_reply_error(request, -ENOMEM, NULL);
		return;
	}
	request->reply_more = at;
	request->iov_count = 0;
	for (unsigned context = 1; context <= NBD_CONTEXT_LAST; context++) {
		if (request->contexts & NBD_CONTEXT_BIT(context))
			at = put_status_chunk(request, context, &head, at);
	}
	assert(head <= request->reply_head + sizeof(request->reply_head));
	free(request->extents.list);
	request->extents = (struct ox_nbd_extents){0};
	ox_nbd_request_settle(request, most_bytes);
	enqueue(request);
}
