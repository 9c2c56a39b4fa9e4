/* SPDX-License-Identifier: MIT */
/*
 * The NBD protocol's numbers and messages (NetworkBlockDevice/nbd, doc/proto.md): pure decoders and
 * encoders. All integers are big-endian. No I/O, no allocation.
 */
#ifndef OX_SERVE_NBD_PROTO_H
#define OX_SERVE_NBD_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_HELLO_MAGIC 0x4e42444d41474943ull  /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC 0x3e889045565a9ull
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC 0x6e8a278cu

/* The server's handshake flags, and the client's in answer to them. */
#define NBD_FLAG_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_NO_ZEROES (1u << 1)

enum ox_nbd_option_type {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ACK 1u
#define NBD_REP_SERVER 2u
#define NBD_REP_INFO 3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR(number) (UINT32_C(0x80000000) | (number))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum ox_nbd_info_type {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Transmission flags: what the export can do. */
#define NBD_FLAG_HAS_FLAGS (1u << 0)
#define NBD_FLAG_READ_ONLY (1u << 1)
#define NBD_FLAG_SEND_FLUSH (1u << 2)
#define NBD_FLAG_SEND_FUA (1u << 3)
#define NBD_FLAG_SEND_TRIM (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_SEND_DF (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN (1u << 8)
#define NBD_FLAG_SEND_CACHE (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

enum ox_nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)
#define NBD_CMD_FLAG_DF (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

#define NBD_REPLY_FLAG_DONE (1u << 0)

enum ox_nbd_reply_type {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
};

/* Status flags of the metadata context base:allocation. */
#define NBD_STATE_HOLE (1u << 0)
#define NBD_STATE_ZERO (1u << 1)

/* A string is at most this long (doc/proto.md, "Conventions"). */
#define NBD_STRING_MAX_BYTES 4096u

#define NBD_HELLO_BYTES 18u
#define NBD_OPTION_BYTES 16u
#define NBD_OPTION_REPLY_BYTES 20u
#define NBD_REQUEST_BYTES 28u
#define NBD_EXTENDED_REQUEST_BYTES 32u
#define NBD_SIMPLE_REPLY_BYTES 16u
#define NBD_STRUCTURED_REPLY_BYTES 20u
#define NBD_EXTENDED_REPLY_BYTES 32u

/* How messages of the transmission phase look, in the order of their power. */
enum ox_nbd_style {
	NBD_STYLE_SIMPLE,
	NBD_STYLE_STRUCTURED,
	NBD_STYLE_EXTENDED,
};

struct ox_nbd_option_head {
	uint32_t type;
	uint32_t length;
};

struct ox_nbd_request_head {
	uint16_t flags; /* NBD_CMD_FLAG_ */
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint64_t length;
};

/* Big-endian integers at any alignment. */
uint16_t ox_nbd_get16(const uint8_t *at);
uint32_t ox_nbd_get32(const uint8_t *at);
uint64_t ox_nbd_get64(const uint8_t *at);
/* These return the place after what they wrote. */
uint8_t *ox_nbd_put16(uint8_t *at, uint16_t value);
uint8_t *ox_nbd_put32(uint8_t *at, uint32_t value);
uint8_t *ox_nbd_put64(uint8_t *at, uint64_t value);
uint8_t *ox_nbd_put_bytes(uint8_t *at, const void *bytes, size_t count);

/* What the server says first: NBD_HELLO_BYTES. */
uint8_t *ox_nbd_put_hello(uint8_t *at);
/* False: the magic is wrong, and the stream cannot be followed any more. */
bool ox_nbd_get_option_head(const uint8_t *at, struct ox_nbd_option_head *ret_head);
uint8_t *ox_nbd_put_option_reply(uint8_t *at, uint32_t option, uint32_t reply, uint32_t length);

size_t ox_nbd_request_head_bytes(enum ox_nbd_style style);
/* at holds ox_nbd_request_head_bytes(style). False as above. */
bool ox_nbd_get_request_head(const uint8_t *at, enum ox_nbd_style style,
			     struct ox_nbd_request_head *ret_head);

uint8_t *ox_nbd_put_simple_reply(uint8_t *at, uint32_t error, uint64_t cookie);
/* The header of one chunk (styles structured and extended). request: what is answered. */
size_t ox_nbd_chunk_head_bytes(enum ox_nbd_style style);
uint8_t *ox_nbd_put_chunk_head(uint8_t *at, enum ox_nbd_style style,
			       const struct ox_nbd_request_head *request, uint16_t flags,
			       uint16_t type, uint32_t length);

/* A negative errno (or 0) as the protocol knows it. */
uint32_t ox_nbd_error(int result);

/*
 * A cursor over the bytes of an option. A read past the end marks it as failed and gives zeroes, so
 * that a decoder can read on and look once.
 */
struct ox_nbd_cursor {
	const uint8_t *at;
	size_t left_bytes;
	bool failed;
};

uint16_t ox_nbd_take16(struct ox_nbd_cursor *cursor);
uint32_t ox_nbd_take32(struct ox_nbd_cursor *cursor);
/* length bytes, valid as long as what the cursor runs over; NULL when failed. */
const uint8_t *ox_nbd_take(struct ox_nbd_cursor *cursor, size_t length);
/* All was read, and nothing more than there was. */
bool ox_nbd_cursor_done(const struct ox_nbd_cursor *cursor);

#endif
