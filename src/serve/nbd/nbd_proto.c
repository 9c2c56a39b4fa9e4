/* SPDX-License-Identifier: MIT */
#include "nbd_proto.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

uint16_t ox_nbd_get16(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return be16toh(value);
}

uint32_t ox_nbd_get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

uint64_t ox_nbd_get64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return be64toh(value);
}

uint8_t *ox_nbd_put_bytes(uint8_t *at, const void *bytes, size_t count)
{
	if (count > 0)
		memcpy(at, bytes, count);
	return at + count;
}

uint8_t *ox_nbd_put16(uint8_t *at, uint16_t value)
{
	value = htobe16(value);
	return ox_nbd_put_bytes(at, &value, sizeof(value));
}

uint8_t *ox_nbd_put32(uint8_t *at, uint32_t value)
{
	value = htobe32(value);
	return ox_nbd_put_bytes(at, &value, sizeof(value));
}

uint8_t *ox_nbd_put64(uint8_t *at, uint64_t value)
{
	value = htobe64(value);
	return ox_nbd_put_bytes(at, &value, sizeof(value));
}

uint8_t *ox_nbd_put_hello(uint8_t *at)
{
	at = ox_nbd_put64(at, NBD_HELLO_MAGIC);
	at = ox_nbd_put64(at, NBD_OPTION_MAGIC);
	return ox_nbd_put16(at, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

bool ox_nbd_get_option_head(const uint8_t *at, struct ox_nbd_option_head *ret_head)
{
	if (ox_nbd_get64(at) != NBD_OPTION_MAGIC)
		return false;
	ret_head->type = ox_nbd_get32(at + 8);
	ret_head->length = ox_nbd_get32(at + 12);
	return true;
}

uint8_t *ox_nbd_put_option_reply(uint8_t *at, uint32_t option, uint32_t reply, uint32_t length)
{
	at = ox_nbd_put64(at, NBD_OPTION_REPLY_MAGIC);
	at = ox_nbd_put32(at, option);
	at = ox_nbd_put32(at, reply);
	return ox_nbd_put32(at, length);
}

size_t ox_nbd_request_head_bytes(enum ox_nbd_style style)
{
	return style == NBD_STYLE_EXTENDED ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
}

bool ox_nbd_get_request_head(const uint8_t *at, enum ox_nbd_style style,
			     struct ox_nbd_request_head *ret_head)
{
	const bool extended = style == NBD_STYLE_EXTENDED;

	if (ox_nbd_get32(at) != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
		return false;
	ret_head->flags = ox_nbd_get16(at + 4);
	ret_head->type = ox_nbd_get16(at + 6);
	ret_head->cookie = ox_nbd_get64(at + 8);
	ret_head->offset = ox_nbd_get64(at + 16);
	ret_head->length = extended ? ox_nbd_get64(at + 24) : ox_nbd_get32(at + 24);
	return true;
}

uint8_t *ox_nbd_put_simple_reply(uint8_t *at, uint32_t error, uint64_t cookie)
{
	at = ox_nbd_put32(at, NBD_SIMPLE_REPLY_MAGIC);
	at = ox_nbd_put32(at, error);
	return ox_nbd_put64(at, cookie);
}

size_t ox_nbd_chunk_head_bytes(enum ox_nbd_style style)
{
	return style == NBD_STYLE_EXTENDED ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;
}

uint8_t *ox_nbd_put_chunk_head(uint8_t *at, enum ox_nbd_style style,
			       const struct ox_nbd_request_head *request, uint16_t flags,
			       uint16_t type, uint32_t length)
{
	const bool extended = style == NBD_STYLE_EXTENDED;

	at = ox_nbd_put32(at, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
	at = ox_nbd_put16(at, flags);
	at = ox_nbd_put16(at, type);
	at = ox_nbd_put64(at, request->cookie);
	if (!extended)
		return ox_nbd_put32(at, length);
	at = ox_nbd_put64(at, request->offset);
	return ox_nbd_put64(at, length);
}

/* The numbers are the protocol's own ("Error values"), whatever the host's errno are. */
uint32_t ox_nbd_error(int result)
{
	switch (-result) {
	case 0:
		return 0;
	case EPERM:
	case EACCES:
	case EROFS:
		return 1;
	case ENOMEM:
		return 12;
	case EINVAL:
		return 22;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return 28;
	case EOVERFLOW:
		return 75;
	case EOPNOTSUPP:
		return 95;
	case ECANCELED: /* what the server gives up when it ends */
	case ESHUTDOWN:
		return 108;
	default:
		return 5; /* EIO */
	}
}

const uint8_t *ox_nbd_take(struct ox_nbd_cursor *cursor, size_t length)
{
	const uint8_t *at = cursor->at;

	if (cursor->failed || length > cursor->left_bytes) {
		cursor->failed = true;
		return NULL;
	}
	cursor->at += length;
	cursor->left_bytes -= length;
	return at;
}

uint16_t ox_nbd_take16(struct ox_nbd_cursor *cursor)
{
	const uint8_t *at = ox_nbd_take(cursor, 2);

	return at ? ox_nbd_get16(at) : 0;
}

uint32_t ox_nbd_take32(struct ox_nbd_cursor *cursor)
{
	const uint8_t *at = ox_nbd_take(cursor, 4);

	return at ? ox_nbd_get32(at) : 0;
}

bool ox_nbd_cursor_done(const struct ox_nbd_cursor *cursor)
{
	return !cursor->failed && cursor->left_bytes == 0;
}
