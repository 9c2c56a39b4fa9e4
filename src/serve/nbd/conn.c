/* SPDX-License-Identifier: MIT */
#include "serve/nbd/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* After a large payload most likely comes a header and the next one: what is received beside it is
 * kept short, so that little of that is copied a second time. */
#define LARGE_PAYLOAD_BYTES (32u << 10)
#define BESIDE_LARGE_BYTES 4096u

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Of a connection without any request. */
static size_t idle_bytes(const struct ox_nbd_conn *conn)
{
	return NBD_CONN_BYTES + conn->export->tls_bytes;
}

int ox_nbd_conn_init(struct ox_nbd_conn *conn, struct ox_nbd_export *export)
{
	uint8_t *hello;

	*conn = (struct ox_nbd_conn){.export = export};
	if (!ox_nbd_budget_take(&export->budget, &conn->share, idle_bytes(conn)))
		assert(false && "a share holds a connection");
	conn->receive = ox_nbd_pages(NBD_RECEIVE_BYTES);
	hello = ox_nbd_conn_answer(conn, NBD_HELLO_BYTES);
	if (!conn->receive || !hello) {
		ox_nbd_conn_free(conn);
		return -ENOMEM;
	}
	ox_nbd_put_hello(hello);
	return 0;
}

void ox_nbd_conn_free(struct ox_nbd_conn *conn)
{
	assert(conn->library_count == 0);
	ox_nbd_conn_abort(conn);
	assert(conn->request_count == 0 && conn->share.held_bytes == idle_bytes(conn));
	ox_nbd_budget_give(&conn->export->budget, &conn->share, idle_bytes(conn));
	ox_nbd_pages_free(conn->receive, NBD_RECEIVE_BYTES);
	free(conn->answer);
	conn->receive = NULL;
	conn->answer = NULL;
}

bool ox_nbd_conn_in_handshake(const struct ox_nbd_conn *conn)
{
	return conn->state == NBD_CONN_HELLO || conn->state == NBD_CONN_OPTION ||
	       conn->state == NBD_CONN_STARTTLS;
}

bool ox_nbd_conn_awaits_tls(const struct ox_nbd_conn *conn)
{
	return conn->state == NBD_CONN_STARTTLS && conn->answer_start == conn->answer_end &&
	       !conn->aborted && !conn->input_ended;
}

void ox_nbd_conn_secured(struct ox_nbd_conn *conn)
{
	assert(conn->state == NBD_CONN_STARTTLS && conn->receive_start == conn->receive_end);
	conn->is_secure = true;
	conn->style = NBD_STYLE_SIMPLE;
	conn->contexts = 0;
	conn->state = NBD_CONN_OPTION;
}

bool ox_nbd_conn_finished(const struct ox_nbd_conn *conn)
{
	if (conn->aborted)
		return true;
	return conn->input_ended && conn->request_count == 0 &&
	       conn->answer_start == conn->answer_end;
}

bool ox_nbd_conn_awaits_client(const struct ox_nbd_conn *conn)
{
	return conn->reply_first || conn->incoming;
}

struct ox_nbd_conn *ox_nbd_conn_of(struct ox_nbd_share *share)
{
	char *conn = (char *)share - offsetof(struct ox_nbd_conn, share);

	return (struct ox_nbd_conn *)(void *)conn;
}

static void unstall(struct ox_nbd_conn *conn)
{
	conn->stalled = false;
	ox_nbd_budget_leave(&conn->export->budget, &conn->share);
	ox_limit_leave(conn->export->limit, &conn->turn);
}

/* ---- receiving ---- */

static size_t received_bytes(const struct ox_nbd_conn *conn)
{
	return conn->receive_end - conn->receive_start;
}

static const uint8_t *received(const struct ox_nbd_conn *conn)
{
	return conn->receive + conn->receive_start;
}

static void use_up(struct ox_nbd_conn *conn, size_t count)
{
	assert(count <= received_bytes(conn));
	conn->receive_start += count;
	if (conn->receive_start == conn->receive_end)
		conn->receive_start = conn->receive_end = 0;
}

/* Each of these does one step of parsing; false: it needs more bytes, or must wait. */

static bool skip_step(struct ox_nbd_conn *conn)
{
	size_t count = MIN(conn->skip_bytes, received_bytes(conn));

	use_up(conn, count);
	conn->skip_bytes -= count;
	if (conn->skip_bytes > 0)
		return false;
	if (conn->incoming)
		ox_nbd_request_payload_done(conn);
	else
		ox_nbd_option_refuse_length(conn, &conn->skipped_option);
	return true;
}

static bool hello_step(struct ox_nbd_conn *conn)
{
	uint32_t flags;

	if (received_bytes(conn) < sizeof(flags))
		return false;
	flags = ox_nbd_get32(received(conn));
	use_up(conn, sizeof(flags));
	if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
		ox_nbd_conn_abort(conn);
		return false;
	}
	conn->fixed_newstyle = flags & NBD_FLAG_FIXED_NEWSTYLE;
	conn->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	conn->state = NBD_CONN_OPTION;
	return true;
}

static bool option_step(struct ox_nbd_conn *conn)
{
	struct ox_nbd_option_head head;

	/* A client waits for the answer to an option; one that does not cannot make us store
	 * answers without end. */
	if (conn->answer_start != conn->answer_end)
		return false;
	if (received_bytes(conn) < NBD_OPTION_BYTES)
		return false;
	if (!ox_nbd_get_option_head(received(conn), &head)) {
		ox_nbd_conn_abort(conn);
		return false;
	}
	if (head.length > NBD_RECEIVE_BYTES - NBD_OPTION_BYTES) {
		/* The old handshake has no way to answer with an error. */
		if (head.length > NBD_SKIP_MAX_BYTES || head.type == NBD_OPT_EXPORT_NAME ||
		    !conn->fixed_newstyle) {
			ox_nbd_conn_abort(conn);
			return false;
		}
		use_up(conn, NBD_OPTION_BYTES);
		conn->skipped_option = head;
		conn->skip_bytes = head.length;
		return true;
	}
	if (received_bytes(conn) < NBD_OPTION_BYTES + head.length)
		return false;
	ox_nbd_option_run(conn, &head, received(conn) + NBD_OPTION_BYTES);
	use_up(conn, NBD_OPTION_BYTES + head.length);
	/* A client has to wait for the answer. What is there already may be somebody else's, who
	 * wants it to be taken for what the client says once it is secure. */
	if (conn->state == NBD_CONN_STARTTLS && received_bytes(conn) > 0)
		ox_nbd_conn_abort(conn);
	return true;
}

/* What the request moves, if it is a valid one. */
static uint64_t moved_bytes(const struct ox_nbd_request_head *head)
{
	const bool moves = head->type == NBD_CMD_READ || head->type == NBD_CMD_WRITE ||
			   head->type == NBD_CMD_CACHE;

	return moves && head->length <= NBD_PAYLOAD_MAX_BYTES ? head->length : 0;
}

/* False: it is not its turn. */
static bool admit(struct ox_nbd_conn *conn, const struct ox_nbd_request_head *head)
{
	if (!conn->admitted && head->type != NBD_CMD_DISC) {
		if (!ox_limit_ask(conn->export->limit, &conn->turn))
			return false;
		ox_limit_charge(conn->export->limit, 1, moved_bytes(head));
	}
	conn->admitted = true;
	return true;
}

static bool request_step(struct ox_nbd_conn *conn)
{
	const size_t head_bytes = ox_nbd_request_head_bytes(conn->style);
	struct ox_nbd_request_head head;

	if (received_bytes(conn) < head_bytes)
		return false;
	if (!ox_nbd_get_request_head(received(conn), conn->style, &head)) {
		ox_nbd_conn_abort(conn);
		return false;
	}
	if (!admit(conn, &head)) {
		conn->stalled = true;
		return false;
	}
	switch (ox_nbd_request_accept(conn, &head)) {
	case NBD_ACCEPT_STALL:
		conn->stalled = true;
		return false;
	case NBD_ACCEPT_FATAL:
		ox_nbd_conn_abort(conn);
		return false;
	case NBD_ACCEPT_END:
		ox_nbd_conn_end_input(conn);
		return false;
	case NBD_ACCEPT_PAYLOAD:
		if (conn->skip_bytes == 0)
			conn->state = NBD_CONN_PAYLOAD;
		break;
	case NBD_ACCEPT_DONE:
		break;
	}
	conn->admitted = false;
	use_up(conn, head_bytes);
	return true;
}

static bool payload_step(struct ox_nbd_conn *conn)
{
	struct ox_nbd_request *request = conn->incoming;
	size_t count = MIN(request->data_bytes - conn->incoming_bytes, received_bytes(conn));

	if (count > 0)
		memcpy(request->data + conn->incoming_bytes, received(conn), count);
	use_up(conn, count);
	conn->incoming_bytes += count;
	if (conn->incoming_bytes < request->data_bytes)
		return false;
	conn->last_payload_bytes = request->data_bytes;
	conn->state = NBD_CONN_REQUEST;
	ox_nbd_request_payload_done(conn);
	return true;
}

static bool parse_step(struct ox_nbd_conn *conn)
{
	if (conn->input_ended || conn->aborted)
		return false;
	if (conn->skip_bytes > 0)
		return skip_step(conn);
	switch (conn->state) {
	case NBD_CONN_HELLO:
		return hello_step(conn);
	case NBD_CONN_OPTION:
		return option_step(conn);
	case NBD_CONN_STARTTLS:
		return false;
	case NBD_CONN_REQUEST:
		return request_step(conn);
	case NBD_CONN_PAYLOAD:
		return payload_step(conn);
	}
	return false;
}

void ox_nbd_conn_resume(struct ox_nbd_conn *conn)
{
	conn->stalled = false;
	while (parse_step(conn))
		;
}

int ox_nbd_conn_receive_space(struct ox_nbd_conn *conn, struct iovec *ret_iov)
{
	size_t room_bytes;
	int count = 0;

	if (conn->input_ended || conn->aborted || conn->state == NBD_CONN_STARTTLS)
		return 0;
	if (conn->receive_start > 0) {
		memmove(conn->receive, received(conn), received_bytes(conn));
		conn->receive_end -= conn->receive_start;
		conn->receive_start = 0;
	}
	room_bytes = NBD_RECEIVE_BYTES - conn->receive_end;
	if (conn->state == NBD_CONN_PAYLOAD) {
		struct ox_nbd_request *request = conn->incoming;

		/* payload_step has taken all there was into the buffer. */
		assert(conn->receive_end == 0);
		ret_iov[count++] = (struct iovec){
			.iov_base = request->data + conn->incoming_bytes,
			.iov_len = request->data_bytes - conn->incoming_bytes,
		};
		if (request->data_bytes >= LARGE_PAYLOAD_BYTES)
			room_bytes = MIN(room_bytes, BESIDE_LARGE_BYTES);
	} else if (conn->stalled || (conn->state == NBD_CONN_OPTION && conn->answer_end > 0)) {
		return 0;
	} else if (conn->last_payload_bytes >= LARGE_PAYLOAD_BYTES && conn->skip_bytes == 0) {
		room_bytes = MIN(room_bytes, BESIDE_LARGE_BYTES);
	}
	if (room_bytes > 0)
		ret_iov[count++] = (struct iovec){
			.iov_base = conn->receive + conn->receive_end,
			.iov_len = room_bytes,
		};
	return count;
}

void ox_nbd_conn_received(struct ox_nbd_conn *conn, size_t count)
{
	if (conn->state == NBD_CONN_PAYLOAD) {
		size_t direct_bytes = MIN(count, conn->incoming->data_bytes - conn->incoming_bytes);

		conn->incoming_bytes += direct_bytes;
		count -= direct_bytes;
	}
	conn->receive_end += count;
	assert(conn->receive_end <= NBD_RECEIVE_BYTES);
	ox_nbd_conn_resume(conn);
}

/* ---- sending ---- */

uint8_t *ox_nbd_conn_answer(struct ox_nbd_conn *conn, size_t count)
{
	const size_t needed_bytes = conn->answer_end + count;
	uint8_t *at;

	if (needed_bytes > conn->answer_capacity) {
		size_t capacity = needed_bytes + 512;
		uint8_t *bigger = realloc(conn->answer, capacity);

		if (!bigger)
			return NULL;
		conn->answer = bigger;
		conn->answer_capacity = capacity;
	}
	at = conn->answer + conn->answer_end;
	conn->answer_end = needed_bytes;
	return at;
}

int ox_nbd_conn_send_vectors(const struct ox_nbd_conn *conn, struct iovec *ret_iov, int max)
{
	const struct ox_nbd_request *request = conn->reply_first;
	int from = conn->sent_iovs;
	size_t skip_bytes = conn->sent_iov_bytes;
	int count = 0;

	if (conn->aborted)
		return 0;
	if (conn->answer_start < conn->answer_end && max > 0)
		ret_iov[count++] = (struct iovec){
			.iov_base = conn->answer + conn->answer_start,
			.iov_len = conn->answer_end - conn->answer_start,
		};
	for (; request; request = request->next) {
		for (int i = from; i < request->iov_count; i++) {
			if (count == max)
				return count;
			ret_iov[count++] = (struct iovec){
				.iov_base = (uint8_t *)request->iov[i].iov_base + skip_bytes,
				.iov_len = request->iov[i].iov_len - skip_bytes,
			};
			skip_bytes = 0;
		}
		from = 0;
	}
	return count;
}

static size_t answer_sent(struct ox_nbd_conn *conn, size_t count)
{
	size_t of_answer_bytes = MIN(count, conn->answer_end - conn->answer_start);

	conn->answer_start += of_answer_bytes;
	if (conn->answer_start == conn->answer_end) {
		free(conn->answer);
		conn->answer = NULL;
		conn->answer_start = conn->answer_end = conn->answer_capacity = 0;
	}
	return count - of_answer_bytes;
}

static void first_reply_sent(struct ox_nbd_conn *conn)
{
	struct ox_nbd_request *request = conn->reply_first;

	conn->reply_first = request->next;
	if (!conn->reply_first)
		conn->reply_last = NULL;
	conn->sent_iovs = 0;
	ox_nbd_request_free(request);
}

void ox_nbd_conn_sent(struct ox_nbd_conn *conn, size_t count)
{
	count = answer_sent(conn, count);
	while (count > 0) {
		const struct ox_nbd_request *request = conn->reply_first;
		size_t left_bytes = request->iov[conn->sent_iovs].iov_len - conn->sent_iov_bytes;

		if (count < left_bytes) {
			conn->sent_iov_bytes += count;
			break;
		}
		count -= left_bytes;
		conn->sent_iov_bytes = 0;
		conn->sent_iovs++;
		if (conn->sent_iovs == request->iov_count)
			first_reply_sent(conn);
	}
	ox_nbd_conn_resume(conn);
}

/* ---- ending ---- */

static void drop_incoming(struct ox_nbd_conn *conn)
{
	struct ox_nbd_request *request = conn->incoming;

	conn->incoming = NULL;
	if (request)
		ox_nbd_request_free(request);
}

void ox_nbd_conn_leave(struct ox_nbd_conn *conn)
{
	conn->leaving = true;
	ox_nbd_request_give_up(conn);
}

void ox_nbd_conn_end_input(struct ox_nbd_conn *conn)
{
	conn->input_ended = true;
	ox_nbd_conn_leave(conn);
	unstall(conn);
	drop_incoming(conn);
}

void ox_nbd_conn_abort(struct ox_nbd_conn *conn)
{
	conn->aborted = true;
	ox_nbd_conn_leave(conn);
	ox_nbd_cancel_ranges(conn); /* nobody waits for them */
	unstall(conn);
	drop_incoming(conn);
	while (conn->reply_first)
		first_reply_sent(conn);
	conn->answer_start = conn->answer_end = 0;
}
