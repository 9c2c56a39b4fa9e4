/* SPDX-License-Identifier: MIT */
/* The handshake: what each option asks for (doc/proto.md, "Option types"). */
#include <string.h>

#include "serve/nbd/conn.h"

#define PREFERRED_BLOCK_BYTES 4096u

/* One reply to an option, with room for length bytes of data; NULL: the connection is aborted. */
static uint8_t *reply(struct ox_nbd_conn *conn, uint32_t option, uint32_t type, size_t length)
{
	uint8_t *at = ox_nbd_conn_answer(conn, NBD_OPTION_REPLY_BYTES + length);

	if (!at) {
		ox_nbd_conn_abort(conn);
		return NULL;
	}
	return ox_nbd_put_option_reply(at, option, type, (uint32_t)length);
}

static void reply_ack(struct ox_nbd_conn *conn, uint32_t option)
{
	reply(conn, option, NBD_REP_ACK, 0);
}

static void reply_error(struct ox_nbd_conn *conn, uint32_t option, uint32_t type, const char *text)
{
	uint8_t *at = reply(conn, option, type, strlen(text));

	if (at)
		ox_nbd_put_bytes(at, text, strlen(text));
}

static void reply_malformed(struct ox_nbd_conn *conn, uint32_t option)
{
	reply_error(conn, option, NBD_REP_ERR_INVALID, "the option's data are malformed");
}

static bool is_export_name(const struct ox_nbd_conn *conn, const uint8_t *name, size_t length)
{
	const char *own = conn->export->name;

	return strlen(own) == length && (length == 0 || memcmp(own, name, length) == 0);
}

static uint16_t transmission_flags(const struct ox_nbd_conn *conn)
{
	unsigned flags =
		NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

	if (conn->export->multi_conn)
		flags |= NBD_FLAG_CAN_MULTI_CONN;
	if (conn->export->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	if (conn->style != NBD_STYLE_SIMPLE)
		flags |= NBD_FLAG_SEND_DF;
	if (conn->style == NBD_STYLE_EXTENDED && conn->contexts)
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	return (uint16_t)flags;
}

/* ---- choosing the export ---- */

static void choose(struct ox_nbd_conn *conn)
{
	conn->state = NBD_CONN_REQUEST;
	conn->chose = true;
}

static void run_export_name(struct ox_nbd_conn *conn, const uint8_t *name, size_t length)
{
	const size_t zeroes_bytes = conn->no_zeroes ? 0 : 124;
	uint8_t *at;

	/* This option knows no error reply, and is forbidden with extended headers. */
	if (!is_export_name(conn, name, length) || conn->style == NBD_STYLE_EXTENDED) {
		ox_nbd_conn_abort(conn);
		return;
	}
	at = ox_nbd_conn_answer(conn, 8 + 2 + zeroes_bytes);
	if (!at) {
		ox_nbd_conn_abort(conn);
		return;
	}
	at = ox_nbd_put64(at, conn->export->size_bytes);
	at = ox_nbd_put16(at, transmission_flags(conn));
	memset(at, 0, zeroes_bytes);
	choose(conn);
}

static void info_text(struct ox_nbd_conn *conn, uint32_t option, uint16_t info, const char *text)
{
	uint8_t *at = reply(conn, option, NBD_REP_INFO, 2 + strlen(text));

	if (!at)
		return;
	at = ox_nbd_put16(at, info);
	ox_nbd_put_bytes(at, text, strlen(text));
}

static void info_export(struct ox_nbd_conn *conn, uint32_t option)
{
	uint8_t *at = reply(conn, option, NBD_REP_INFO, 12);

	if (!at)
		return;
	at = ox_nbd_put16(at, NBD_INFO_EXPORT);
	at = ox_nbd_put64(at, conn->export->size_bytes);
	ox_nbd_put16(at, transmission_flags(conn));
}

static void info_block_size(struct ox_nbd_conn *conn, uint32_t option)
{
	uint8_t *at = reply(conn, option, NBD_REP_INFO, 14);

	if (!at)
		return;
	at = ox_nbd_put16(at, NBD_INFO_BLOCK_SIZE);
	at = ox_nbd_put32(at, 1);
	at = ox_nbd_put32(at, PREFERRED_BLOCK_BYTES);
	ox_nbd_put32(at, NBD_PAYLOAD_MAX_BYTES);
}

static void run_info(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head,
		     struct ox_nbd_cursor *cursor)
{
	uint32_t name_length = ox_nbd_take32(cursor);
	const uint8_t *name = ox_nbd_take(cursor, name_length);
	uint16_t info_count = ox_nbd_take16(cursor);
	bool name_wanted = false;
	bool description_wanted = false;

	for (unsigned i = 0; i < info_count && !cursor->failed; i++) {
		uint16_t info = ox_nbd_take16(cursor);

		name_wanted |= info == NBD_INFO_NAME;
		description_wanted |= info == NBD_INFO_DESCRIPTION;
	}
	if (!ox_nbd_cursor_done(cursor) || name_length > NBD_STRING_MAX_BYTES) {
		reply_malformed(conn, head->type);
		return;
	}
	if (!is_export_name(conn, name, name_length)) {
		reply_error(conn, head->type, NBD_REP_ERR_UNKNOWN, "no such export");
		return;
	}
	info_export(conn, head->type);
	info_block_size(conn, head->type);
	if (name_wanted)
		info_text(conn, head->type, NBD_INFO_NAME, conn->export->name);
	if (description_wanted && conn->export->description)
		info_text(conn, head->type, NBD_INFO_DESCRIPTION, conn->export->description);
	reply_ack(conn, head->type);
	if (head->type == NBD_OPT_GO)
		choose(conn);
}

static void run_list(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head)
{
	const char *name = conn->export->name;
	const char *description = conn->export->description ? conn->export->description : "";
	uint8_t *at;

	if (head->length > 0) {
		reply_malformed(conn, head->type);
		return;
	}
	at = reply(conn, head->type, NBD_REP_SERVER, 4 + strlen(name) + strlen(description));
	if (!at)
		return;
	at = ox_nbd_put32(at, (uint32_t)strlen(name));
	at = ox_nbd_put_bytes(at, name, strlen(name));
	ox_nbd_put_bytes(at, description, strlen(description));
	reply_ack(conn, head->type);
}

/* ---- metadata contexts ---- */

/* By their ids. */
static const struct context {
	const char *space;
	const char *name;
} contexts[NBD_CONTEXT_LAST + 1] = {
	[NBD_CONTEXT_ALLOCATION] = {"base:", "base:allocation"},
	[NBD_CONTEXT_DEPTH] = {"qemu:", "qemu:allocation-depth"},
};

static unsigned known_contexts(const struct ox_nbd_export *export)
{
	return NBD_CONTEXT_BIT(NBD_CONTEXT_ALLOCATION) |
	       (export->tells_depth ? NBD_CONTEXT_BIT(NBD_CONTEXT_DEPTH) : 0);
}

static bool is_text(const char *text, const uint8_t *query, size_t length)
{
	return length == strlen(text) && memcmp(query, text, length) == 0;
}

/* A namespace alone stands for all in it where it is asked what there is. */
static unsigned query_matches(unsigned known, const uint8_t *query, size_t length, bool wildcards)
{
	unsigned found = 0;

	for (unsigned id = 1; id <= NBD_CONTEXT_LAST; id++) {
		if (is_text(contexts[id].name, query, length) ||
		    (wildcards && is_text(contexts[id].space, query, length)))
			found |= NBD_CONTEXT_BIT(id);
	}
	return found & known;
}

/* Those among the known that are asked for. Sets cursor->failed where malformed. */
static unsigned take_queries(struct ox_nbd_cursor *cursor, unsigned known, bool list)
{
	uint32_t count = ox_nbd_take32(cursor);
	unsigned found = list && count == 0 ? known : 0; /* no query: all there are */

	for (uint32_t i = 0; i < count && !cursor->failed; i++) {
		uint32_t length = ox_nbd_take32(cursor);
		const uint8_t *query = ox_nbd_take(cursor, length);

		if (length > NBD_STRING_MAX_BYTES)
			cursor->failed = true;
		if (!cursor->failed)
			found |= query_matches(known, query, length, list);
	}
	return found;
}

/* False: the connection is aborted. */
static bool tell_context(struct ox_nbd_conn *conn, uint32_t option, unsigned id, bool list)
{
	const char *name = contexts[id].name;
	uint8_t *at = reply(conn, option, NBD_REP_META_CONTEXT, 4 + strlen(name));

	if (!at)
		return false;
	at = ox_nbd_put32(at, list ? 0 : id);
	ox_nbd_put_bytes(at, name, strlen(name));
	return true;
}

static void run_meta_context(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head,
			     struct ox_nbd_cursor *cursor)
{
	const bool list = head->type == NBD_OPT_LIST_META_CONTEXT;
	uint32_t name_length;
	const uint8_t *name;
	unsigned found;

	/* Whatever comes of it, an earlier choice is forgotten. */
	if (!list)
		conn->contexts = 0;
	if (conn->style == NBD_STYLE_SIMPLE) {
		reply_error(conn, head->type, NBD_REP_ERR_INVALID,
			    "metadata contexts need structured replies");
		return;
	}
	name_length = ox_nbd_take32(cursor);
	name = ox_nbd_take(cursor, name_length);
	found = take_queries(cursor, known_contexts(conn->export), list);
	if (!ox_nbd_cursor_done(cursor) || name_length > NBD_STRING_MAX_BYTES) {
		reply_malformed(conn, head->type);
		return;
	}
	if (!is_export_name(conn, name, name_length)) {
		reply_error(conn, head->type, NBD_REP_ERR_UNKNOWN, "no such export");
		return;
	}
	for (unsigned id = 1; id <= NBD_CONTEXT_LAST; id++) {
		if ((found & NBD_CONTEXT_BIT(id)) && !tell_context(conn, head->type, id, list))
			return;
	}
	if (!list)
		conn->contexts = found;
	reply_ack(conn, head->type);
}

/* ---- styles of reply ---- */

static void run_style(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head,
		      enum ox_nbd_style style)
{
	if (head->length > 0) {
		reply_malformed(conn, head->type);
		return;
	}
	if (style < conn->style) {
		reply_error(conn, head->type, NBD_REP_ERR_EXT_HEADER_REQD,
			    "extended headers are negotiated already");
		return;
	}
	conn->style = style;
	reply_ack(conn, head->type);
}

/* ---- TLS ---- */

static void run_starttls(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head)
{
	if (!conn->export->tls_is_required) {
		reply_error(conn, head->type, NBD_REP_ERR_UNSUP, "TLS is not supported");
	} else if (conn->is_secure) {
		reply_error(conn, head->type, NBD_REP_ERR_INVALID, "TLS is negotiated already");
	} else if (head->length > 0) {
		reply_malformed(conn, head->type);
	} else {
		reply_ack(conn, head->type);
		if (!conn->aborted)
			conn->state = NBD_CONN_STARTTLS;
	}
}

/* Whatever is asked for, or malformed, before it. */
static bool lacks_tls(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head)
{
	if (!conn->export->tls_is_required || conn->is_secure || head->type == NBD_OPT_STARTTLS ||
	    head->type == NBD_OPT_ABORT)
		return false;
	if (head->type == NBD_OPT_EXPORT_NAME) /* which knows no error reply */
		ox_nbd_conn_abort(conn);
	else
		reply_error(conn, head->type, NBD_REP_ERR_TLS_REQD,
			    "TLS is required: begin with NBD_OPT_STARTTLS");
	return true;
}

void ox_nbd_option_run(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head,
		       const uint8_t *data)
{
	struct ox_nbd_cursor cursor = {.at = data, .left_bytes = head->length};

	/* A client that knows only the old handshake does not understand replies to options. */
	if (!conn->fixed_newstyle && head->type != NBD_OPT_EXPORT_NAME) {
		ox_nbd_conn_abort(conn);
		return;
	}
	if (lacks_tls(conn, head))
		return;
	switch (head->type) {
	case NBD_OPT_EXPORT_NAME:
		run_export_name(conn, data, head->length);
		break;
	case NBD_OPT_ABORT:
		reply_ack(conn, head->type);
		ox_nbd_conn_end_input(conn);
		break;
	case NBD_OPT_LIST:
		run_list(conn, head);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		run_info(conn, head, &cursor);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		run_style(conn, head, NBD_STYLE_STRUCTURED);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		run_style(conn, head, NBD_STYLE_EXTENDED);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		run_meta_context(conn, head, &cursor);
		break;
	case NBD_OPT_STARTTLS:
		run_starttls(conn, head);
		break;
	default:
		reply_error(conn, head->type, NBD_REP_ERR_UNSUP, "unknown option");
		break;
	}
}

void ox_nbd_option_refuse_length(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head)
{
	reply_error(conn, head->type, NBD_REP_ERR_TOO_BIG, "the option's data are too long");
}
