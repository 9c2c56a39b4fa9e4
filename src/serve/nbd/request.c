/* SPDX-License-Identifier: MIT */
/* The transmission: which requests are taken, and what the library is asked for each. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/clock.h"
#include "serve/nbd/conn.h"

/* From this size on a read first asks where there are zeroes; a smaller one just reads, and looks
 * at the bytes. */
#define SPARSE_READ_MIN_BYTES (64u << 10)
#define SPARSE_READ_MAX_EXTENTS 64u
/* The protocol asks for no more than 2^20 in one reply. */
#define BLOCK_STATUS_MAX_EXTENTS (1u << 15)

/* ---- judging a header ---- */

struct verdict {
	int error; /* 0 or a negative errno */
	const char *text;
};

#define REFUSE(code, words) ((struct verdict){.error = (code), .text = (words)})
#define ACCEPT ((struct verdict){.error = 0})

static bool is_modifying(uint16_t type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

static uint16_t allowed_flags(const struct ox_nbd_conn *conn, uint16_t type)
{
	unsigned flags = NBD_CMD_FLAG_FUA; /* valid, if mostly without meaning, everywhere */

	switch (type) {
	case NBD_CMD_READ:
		if (conn->style != NBD_STYLE_SIMPLE)
			flags |= NBD_CMD_FLAG_DF;
		break;
	case NBD_CMD_WRITE:
		if (conn->style == NBD_STYLE_EXTENDED)
			flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
		break;
	case NBD_CMD_WRITE_ZEROES:
		flags |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
		break;
	case NBD_CMD_BLOCK_STATUS:
		flags |= NBD_CMD_FLAG_REQ_ONE;
		if (conn->style == NBD_STYLE_EXTENDED)
			flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
		break;
	default:
		break;
	}
	return (uint16_t)flags;
}

static bool is_inside(const struct ox_nbd_conn *conn, uint64_t offset, uint64_t length)
{
	const uint64_t size_bytes = conn->export->size_bytes;

	return offset <= size_bytes && length <= size_bytes - offset;
}

/* A length to ask about, and ids of contexts. */
static bool is_filter_length(const struct ox_nbd_conn *conn, uint64_t length)
{
	const uint64_t most = 8 + 4 * (uint64_t)__builtin_popcount(conn->contexts);

	return length >= 12 && length <= most && length % 4 == 0;
}

static struct verdict judge_status(const struct ox_nbd_conn *conn,
				   const struct ox_nbd_request_head *head)
{
	if (!conn->contexts)
		return REFUSE(-EINVAL, "no metadata context is negotiated");
	if (head->flags & NBD_CMD_FLAG_PAYLOAD_LEN) {
		if (!is_filter_length(conn, head->length))
			return REFUSE(-EINVAL, "the filter must name negotiated contexts");
		return ACCEPT; /* its effect length is judged once it is there */
	}
	if (head->length == 0)
		return REFUSE(-EINVAL, "block status needs a length");
	if (!is_inside(conn, head->offset, head->length))
		return REFUSE(-EINVAL, "the request goes past the end of the disk");
	return ACCEPT;
}

static struct verdict judge_data(const struct ox_nbd_conn *conn,
				 const struct ox_nbd_request_head *head)
{
	const bool writes = head->type == NBD_CMD_WRITE || head->type == NBD_CMD_WRITE_ZEROES;
	const bool fragmentable = !(head->flags & NBD_CMD_FLAG_DF);

	if (is_modifying(head->type) && conn->export->read_only)
		return REFUSE(-EPERM, "the export is read-only");
	if (head->type == NBD_CMD_READ && head->length > NBD_PAYLOAD_MAX_BYTES)
		return REFUSE(fragmentable ? -EINVAL : -EOVERFLOW, "more than 32 MiB asked for");
	if (head->type == NBD_CMD_WRITE) {
		if (head->length > NBD_PAYLOAD_MAX_BYTES)
			return REFUSE(-EINVAL, "more than 32 MiB sent");
		if (conn->style == NBD_STYLE_EXTENDED && head->length > 0 &&
		    !(head->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
			return REFUSE(-EINVAL, "a write without a payload");
	}
	if (!is_inside(conn, head->offset, head->length))
		return REFUSE(writes ? -ENOSPC : -EINVAL,
			      "the request goes past the end of the disk");
	return ACCEPT;
}

static struct verdict judge(const struct ox_nbd_conn *conn, const struct ox_nbd_request_head *head)
{
	if (head->flags & ~allowed_flags(conn, head->type))
		return REFUSE(-EINVAL, "a flag that this command does not take");
	switch (head->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
	case NBD_CMD_TRIM:
	case NBD_CMD_CACHE:
	case NBD_CMD_WRITE_ZEROES:
		return judge_data(conn, head);
	case NBD_CMD_FLUSH:
		return ACCEPT;
	case NBD_CMD_BLOCK_STATUS:
		return judge_status(conn, head);
	default:
		return REFUSE(-EINVAL, "unknown command");
	}
}

static uint64_t payload_bytes(const struct ox_nbd_conn *conn,
			      const struct ox_nbd_request_head *head)
{
	if (conn->style == NBD_STYLE_EXTENDED)
		return head->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? head->length : 0;
	return head->type == NBD_CMD_WRITE ? head->length : 0;
}

/* ---- taking it on ---- */

/* The payload buffer that a valid request needs, be it for what comes or what goes. */
static size_t buffer_bytes(const struct ox_nbd_request_head *head)
{
	switch (head->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
		return head->length;
	case NBD_CMD_CACHE:
		return head->length <= NBD_PAYLOAD_MAX_BYTES ? head->length : 0;
	case NBD_CMD_BLOCK_STATUS:
		return head->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? head->length : 0;
	default:
		return 0;
	}
}

/* What a valid block status is asked about. With a filter that is known only later. */
static uint64_t status_bytes(const struct ox_nbd_conn *conn, const struct ox_nbd_request_head *head)
{
	return head->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? conn->export->size_bytes : head->length;
}

static size_t status_max(const struct ox_nbd_request_head *head)
{
	return head->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : BLOCK_STATUS_MAX_EXTENTS;
}

/* A read that looks for zeroes first. */
static bool is_sparse_read(const struct ox_nbd_conn *conn, const struct ox_nbd_request_head *head)
{
	return conn->style != NBD_STYLE_SIMPLE && !(head->flags & NBD_CMD_FLAG_DF) &&
	       head->type == NBD_CMD_READ && head->length >= SPARSE_READ_MIN_BYTES;
}

/* All memory that a valid request can come to need. */
static size_t request_bytes(const struct ox_nbd_conn *conn, const struct ox_nbd_request_head *head)
{
	const size_t payload = buffer_bytes(head);
	size_t total = NBD_REQUEST_COST_BYTES + (payload ? ox_nbd_buffer_bytes(payload) : 0);

	if (head->type == NBD_CMD_BLOCK_STATUS)
		total += ox_nbd_extents_bytes(status_bytes(conn, head), status_max(head));
	else if (is_sparse_read(conn, head))
		total += ox_nbd_extents_bytes(head->length, SPARSE_READ_MAX_EXTENTS + 1);
	return total;
}

/* What may be kept of freed buffers: they count as well. */
static size_t pool_room(const struct ox_nbd_export *export)
{
	return export->budget.limit_bytes - export->budget.used_bytes;
}

/* False: a limit is reached. That of the connection itself is lifted when it has been sent a
 * reply, which resumes it; the budget's when the owner says so. */
static bool charge(struct ox_nbd_conn *conn, size_t count)
{
	struct ox_nbd_export *export = conn->export;

	if (conn->request_count >= NBD_CONN_MAX_REQUESTS ||
	    (conn->request_count > 0 && conn->share.held_bytes + count > NBD_CONN_MAX_BYTES)) {
		ox_nbd_budget_leave(&export->budget, &conn->share);
		return false;
	}
	if (!ox_nbd_budget_take(&export->budget, &conn->share, count))
		return false;
	ox_nbd_pool_shrink(&export->pool, pool_room(export));
	return true;
}

void ox_nbd_request_settle(struct ox_nbd_request *request, size_t more_bytes)
{
	struct ox_nbd_export *export = request->conn->export;
	size_t left_bytes = NBD_REQUEST_COST_BYTES + more_bytes;

	if (request->data)
		left_bytes += ox_nbd_buffer_bytes(request->data_bytes);
	assert(left_bytes <= request->charged_bytes);
	ox_nbd_budget_give(&export->budget, &request->conn->share,
			   request->charged_bytes - left_bytes);
	request->charged_bytes = left_bytes;
}

void ox_nbd_request_drop_data(struct ox_nbd_request *request)
{
	struct ox_nbd_export *export = request->conn->export;
	uint8_t *data = request->data;
	const size_t data_bytes = request->data_bytes;

	request->data = NULL;
	request->data_bytes = 0;
	free(request->extents.list);
	request->extents = (struct ox_nbd_extents){0};
	ox_nbd_request_settle(request, 0);
	ox_nbd_buffer_put(&export->pool, data, data_bytes, pool_room(export));
}

void ox_nbd_request_free(struct ox_nbd_request *request)
{
	struct ox_nbd_conn *conn = request->conn;

	ox_flight_end(conn->export->flight, &request->note);
	if (conn->export->full)
		ox_full_forget(conn->export->full, &request->full);
	ox_stats_end(conn->export->stats, &request->count, 0, true); /* without an answer */
	ox_nbd_request_drop_data(request);
	ox_nbd_budget_give(&conn->export->budget, &conn->share, request->charged_bytes);
	conn->request_count--;
	free(request->reply_more);
	if (request->iov != request->inline_iov)
		free(request->iov);
	free(request);
}

/* data for length bytes; false: the request has been answered with an error. */
static bool allocate_data(struct ox_nbd_request *request, size_t length)
{
	request->data = ox_nbd_buffer_get(&request->conn->export->pool, length);
	if (!request->data) {
		ox_nbd_reply_error(request, -ENOMEM, NULL);
		return false;
	}
	request->data_bytes = length;
	return true;
}

/* What is shorter is done soon, on a disk of the smallest clusters too. */
#define RANGE_LONG_BYTES (UINT64_C(1) << 20)

static void join_ranges(struct ox_nbd_request *request)
{
	struct ox_nbd_conn *conn = request->conn;

	request->next_range = conn->ranges;
	request->this_range = &conn->ranges;
	if (conn->ranges)
		conn->ranges->this_range = &request->next_range;
	conn->ranges = request;
}

static void leave_ranges(struct ox_nbd_request *request)
{
	if (!request->this_range)
		return;
	*request->this_range = request->next_range;
	if (request->next_range)
		request->next_range->this_range = request->this_range;
	request->this_range = NULL;
}

void ox_nbd_cancel_ranges(struct ox_nbd_conn *conn)
{
	for (struct ox_nbd_request *r = conn->ranges; r; r = r->next_range) {
		int ret = ox_queue_cancel(conn->export->queue, &r->op);

		assert(ret == 0); /* it is the library's */
		(void)ret;
	}
}

void ox_nbd_request_submit(struct ox_nbd_request *request, enum ox_nbd_stage stage)
{
	struct ox_nbd_conn *conn = request->conn;
	int ret;

	request->stage = stage;
	request->op.user = request;
	request->op.offset += conn->export->base;
	ret = ox_queue_submit(conn->export->queue, &request->op);
	if (ret < 0) {
		ox_nbd_reply_error(request, ret, NULL);
		return;
	}
	conn->library_count++;
	conn->export->submitted = true;
	if (request->op.length > RANGE_LONG_BYTES &&
	    (request->op.op == OX_OP_DISCARD || request->op.op == OX_OP_WRITE_ZEROES))
		join_ranges(request);
}

static void submit_transfer(struct ox_nbd_request *request, enum ox_op op, uint64_t offset,
			    unsigned flags)
{
	request->data_iov = (struct iovec){request->data, request->data_bytes};
	request->op = (struct ox_request){
		.op = op,
		.flags = flags,
		.offset = offset,
		.length = request->data_bytes,
		.iov = &request->data_iov,
		.iov_count = 1,
	};
	ox_nbd_request_submit(request, NBD_STAGE_DATA);
}

static void submit_range(struct ox_nbd_request *request, enum ox_op op, unsigned flags)
{
	request->op = (struct ox_request){
		.op = op,
		.flags = flags,
		.offset = request->head.offset,
		.length = request->head.length,
	};
	ox_nbd_request_submit(request, NBD_STAGE_DATA);
}

static void submit_flush(struct ox_nbd_request *request, enum ox_nbd_stage stage)
{
	request->op = (struct ox_request){.op = OX_OP_FLUSH};
	ox_nbd_request_submit(request, stage);
}

static void start_read(struct ox_nbd_request *request)
{
	const struct ox_nbd_request_head *head = &request->head;

	if (is_sparse_read(request->conn, head)) {
		ox_nbd_extents_start(request, head->offset, head->length, SPARSE_READ_MAX_EXTENTS,
				     NBD_STATE_ZERO, false);
		return;
	}
	if (allocate_data(request, head->length))
		submit_transfer(request, OX_OP_READ, head->offset, 0);
}

static void start_status(struct ox_nbd_request *request, uint64_t length, unsigned contexts)
{
	const struct ox_nbd_request_head *head = &request->head;
	const bool by_state = contexts & NBD_CONTEXT_BIT(NBD_CONTEXT_ALLOCATION);

	request->contexts = contexts;
	ox_nbd_extents_start(request, head->offset, length, status_max(head),
			     by_state ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0,
			     contexts & NBD_CONTEXT_BIT(NBD_CONTEXT_DEPTH));
}

/* The contexts that a filter names; 0: one that is not negotiated, or one twice. */
static unsigned filtered_contexts(const struct ox_nbd_request *request)
{
	unsigned contexts = 0;

	for (size_t at = 8; at < request->data_bytes; at += 4) {
		const uint32_t id = ox_nbd_get32(request->data + at);
		const unsigned bit = id <= NBD_CONTEXT_LAST ? NBD_CONTEXT_BIT(id) : 0;

		if (!(request->conn->contexts & bit) || (contexts & bit))
			return 0;
		contexts |= bit;
	}
	return contexts;
}

/* A filter: which contexts, and for how much of the disk. */
static void start_filtered_status(struct ox_nbd_request *request)
{
	const uint64_t length = ox_nbd_get64(request->data);
	const unsigned contexts = filtered_contexts(request);

	if (!contexts)
		ox_nbd_reply_error(request, -EINVAL, "the filter names an unknown context");
	else if (length == 0 || !is_inside(request->conn, request->head.offset, length))
		ox_nbd_reply_error(request, -EINVAL, "the request goes past the end of the disk");
	else
		start_status(request, length, contexts);
}

static bool is_zero(const struct ox_nbd_request *request)
{
	const uint8_t *data = request->data;
	const size_t length = request->data_bytes;

	return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

/* Zeroes that are detected are made by an operation that guarantees them (a discard would not). */
static void start_write(struct ox_nbd_request *request, unsigned flags)
{
	const enum ox_serve_detect_zeroes mode = request->conn->export->detect_zeroes;

	if (mode == OX_SERVE_ZEROES_WRITE || !is_zero(request)) {
		submit_transfer(request, OX_OP_WRITE, request->head.offset, flags);
		return;
	}
	if (mode == OX_SERVE_ZEROES_UNMAP)
		flags |= OX_REQ_MAY_UNMAP;
	submit_range(request, OX_OP_WRITE_ZEROES, flags);
}

static void carry_out(struct ox_nbd_request *request)
{
	const struct ox_nbd_request_head *head = &request->head;
	const unsigned fua = head->flags & NBD_CMD_FLAG_FUA ? OX_REQ_FUA : 0;
	unsigned zero_flags = fua;

	if (head->length == 0 && head->type != NBD_CMD_FLUSH) {
		ox_nbd_reply_done(request);
		return;
	}
	switch (head->type) {
	case NBD_CMD_CACHE:
		if (buffer_bytes(head) == 0) { /* only a hint: too much of it is passed over */
			ox_nbd_reply_done(request);
			return;
		}
		start_read(request);
		return;
	case NBD_CMD_READ:
		start_read(request);
		return;
	case NBD_CMD_WRITE:
		start_write(request, fua);
		return;
	case NBD_CMD_FLUSH:
		submit_flush(request, NBD_STAGE_DATA);
		return;
	case NBD_CMD_TRIM:
		submit_range(request, OX_OP_DISCARD, 0);
		return;
	case NBD_CMD_WRITE_ZEROES:
		if (!(head->flags & NBD_CMD_FLAG_NO_HOLE))
			zero_flags |= OX_REQ_MAY_UNMAP;
		if (head->flags & NBD_CMD_FLAG_FAST_ZERO)
			zero_flags |= OX_REQ_FAST_ZERO;
		submit_range(request, OX_OP_WRITE_ZEROES, zero_flags);
		return;
	default:
		if (head->flags & NBD_CMD_FLAG_PAYLOAD_LEN)
			start_filtered_status(request);
		else
			start_status(request, head->length, request->conn->contexts);
		return;
	}
}

/* ---- what is in flight ---- */

static enum ox_op op_of(uint16_t type)
{
	switch (type) {
	case NBD_CMD_WRITE:
		return OX_OP_WRITE;
	case NBD_CMD_TRIM:
		return OX_OP_DISCARD;
	case NBD_CMD_WRITE_ZEROES:
		return OX_OP_WRITE_ZEROES;
	case NBD_CMD_FLUSH:
		return OX_OP_FLUSH;
	case NBD_CMD_BLOCK_STATUS:
		return OX_OP_EXTENT;
	default:
		return OX_OP_READ;
	}
}

/* A connection that waits for the library waits for this one too. */
static void hold_back(struct ox_nbd_request *request)
{
	struct ox_nbd_export *export = request->conn->export;

	request->next = NULL;
	if (export->held_first)
		export->held_last->next = request;
	else
		export->held_first = request;
	export->held_last = request;
	request->conn->library_count++;
}

/* The request is valid and has its payload. */
static void start(struct ox_nbd_request *request)
{
	const struct ox_nbd_request_head *head = &request->head;
	const struct ox_flight_request noted = {op_of(head->type), head->offset, head->length};
	struct ox_flight *flight = request->conn->export->flight;

	switch (flight ? ox_flight_begin(flight, &noted, &request->note) : OX_FLIGHT_GO) {
	case OX_FLIGHT_GO:
		carry_out(request);
		break;
	case OX_FLIGHT_WAIT:
		hold_back(request);
		break;
	case OX_FLIGHT_REFUSE:
		ox_nbd_reply_error(request, -EIO, "the server died of such a request before");
		break;
	}
}

struct ox_nbd_conn *ox_nbd_request_release(struct ox_nbd_export *export)
{
	struct ox_nbd_request *request = export->held_first;
	struct ox_nbd_conn *conn;

	if (!request || ox_flight_tries(export->flight))
		return NULL;
	export->held_first = request->next;
	conn = request->conn;
	conn->library_count--;
	if (conn->aborted)
		ox_nbd_request_free(request);
	else
		start(request);
	return conn;
}

static enum ox_stats_kind kind_of(uint16_t type)
{
	switch (type) {
	case NBD_CMD_READ:
		return OX_STATS_READ;
	case NBD_CMD_WRITE:
		return OX_STATS_WRITE;
	case NBD_CMD_FLUSH:
		return OX_STATS_FLUSH;
	case NBD_CMD_WRITE_ZEROES:
		return OX_STATS_ZERO;
	case NBD_CMD_TRIM:
		return OX_STATS_DISCARD;
	default:
		return OX_STATS_OTHER;
	}
}

enum ox_nbd_accept ox_nbd_request_accept(struct ox_nbd_conn *conn,
					 const struct ox_nbd_request_head *head)
{
	const uint64_t payload = payload_bytes(conn, head);
	struct ox_nbd_request *request;
	struct verdict verdict;
	size_t needed_bytes;

	if (head->type == NBD_CMD_DISC)
		return NBD_ACCEPT_END;
	if (payload > NBD_SKIP_MAX_BYTES)
		return NBD_ACCEPT_FATAL;
	verdict = judge(conn, head);
	needed_bytes = verdict.error ? NBD_REQUEST_COST_BYTES : request_bytes(conn, head);
	if (!charge(conn, needed_bytes))
		return NBD_ACCEPT_STALL;
	request = calloc(1, sizeof(*request));
	if (!request) {
		ox_nbd_budget_give(&conn->export->budget, &conn->share, needed_bytes);
		return NBD_ACCEPT_FATAL;
	}
	request->conn = conn;
	request->charged_bytes = needed_bytes;
	request->head = *head;
	request->iov = request->inline_iov;
	conn->request_count++;
	ox_stats_begin(conn->export->stats, &request->count, OX_STATS_NBD, kind_of(head->type));
	if (payload == 0) {
		if (verdict.error)
			ox_nbd_reply_error(request, verdict.error, verdict.text);
		else
			start(request);
		return NBD_ACCEPT_DONE;
	}
	if (!verdict.error) {
		request->data = ox_nbd_buffer_get(&conn->export->pool, payload);
		if (request->data)
			request->data_bytes = payload;
		else
			verdict = REFUSE(-ENOMEM, NULL);
	}
	request->error = verdict.error;
	request->error_text = verdict.text;
	if (verdict.error)
		conn->skip_bytes = payload;
	conn->incoming = request;
	conn->incoming_bytes = 0;
	return NBD_ACCEPT_PAYLOAD;
}

void ox_nbd_request_payload_done(struct ox_nbd_conn *conn)
{
	struct ox_nbd_request *request = conn->incoming;

	conn->incoming = NULL;
	if (request->error)
		ox_nbd_reply_error(request, request->error, request->error_text);
	else
		start(request);
}

/* ---- what finds no room ---- */

static struct ox_nbd_request *request_of(struct ox_full_waiter *waiter)
{
	char *at = (char *)waiter - offsetof(struct ox_nbd_request, full);

	return (struct ox_nbd_request *)(void *)at;
}

static void retry(struct ox_full_waiter *waiter)
{
	struct ox_nbd_request *request = request_of(waiter);
	struct ox_nbd_conn *conn = request->conn;

	start(request);
	conn->export->changed(conn); /* it may be answered already */
}

static void answer_full(struct ox_full_waiter *waiter)
{
	struct ox_nbd_request *request = request_of(waiter);

	ox_nbd_reply_error(request, request->op.result, NULL);
}

void ox_nbd_request_give_up(struct ox_nbd_conn *conn)
{
	if (conn->export->full)
		ox_full_give_up(conn->export->full, conn, answer_full);
}

/* True: it is not to be answered, until there is room. */
static bool waits_for_room(struct ox_nbd_request *request)
{
	struct ox_nbd_conn *conn = request->conn;
	struct ox_full *full = conn->export->full;

	if (!full || !is_modifying(request->head.type) || request->stage != NBD_STAGE_DATA ||
	    !ox_full_concerns(&request->full, request->op.result))
		return false;
	request->full.retry = retry;
	if (!ox_full_completed(full, &request->full, conn, request->op.result,
			       !conn->leaving && !conn->aborted, ox_serve_now_ms()))
		return false;
	ox_flight_end(conn->export->flight, &request->note); /* a death is not its fault */
	return true;
}

/* ---- what the library says ---- */

/* What lies where is known: the part that must be read is from the first to the last piece that is
 * not zeroes; what the walk did not reach counts as such. */
static void read_between_holes(struct ox_nbd_request *request)
{
	const struct ox_nbd_extents *extents = &request->extents;
	uint64_t position = request->head.offset;
	uint64_t first = UINT64_MAX;
	uint64_t end = 0;

	for (size_t i = 0; i < extents->count; i++) {
		if (!(extents->list[i].status & NBD_STATE_ZERO)) {
			if (first == UINT64_MAX)
				first = position;
			end = position + extents->list[i].length;
		}
		position += extents->list[i].length;
	}
	if (position < extents->end) {
		if (first == UINT64_MAX)
			first = position;
		end = extents->end;
	}
	if (first == UINT64_MAX) {
		ox_nbd_reply_read_sparse(request, 0);
		return;
	}
	if (allocate_data(request, end - first))
		submit_transfer(request, OX_OP_READ, first, 0);
}

static void extents_found(struct ox_nbd_request *request)
{
	int error = 0;

	if (!ox_nbd_extents_step(request, &error))
		return;
	if (error)
		ox_nbd_reply_error(request, error, NULL);
	else if (request->head.type == NBD_CMD_BLOCK_STATUS)
		ox_nbd_reply_block_status(request);
	else
		read_between_holes(request);
}

static uint64_t conn_base(const struct ox_nbd_request *request)
{
	return request->conn->export->base;
}

static void data_done(struct ox_nbd_request *request)
{
	const struct ox_nbd_request_head *head = &request->head;

	if (head->type == NBD_CMD_READ) {
		if (request->extents.count > 0)
			ox_nbd_reply_read_sparse(request, request->op.offset - conn_base(request));
		else
			ox_nbd_reply_read(request);
		return;
	}
	if (head->type == NBD_CMD_TRIM && (head->flags & NBD_CMD_FLAG_FUA)) {
		submit_flush(request, NBD_STAGE_FLUSH);
		return;
	}
	ox_nbd_request_drop_data(request);
	ox_nbd_reply_done(request);
}

struct ox_nbd_conn *ox_nbd_request_completed(struct ox_request *op)
{
	struct ox_nbd_request *request = op->user;
	struct ox_nbd_conn *conn = request->conn;

	assert(op == &request->op && conn->library_count > 0);
	conn->library_count--;
	leave_ranges(request);
	if (waits_for_room(request))
		return conn;
	if (conn->aborted)
		ox_nbd_request_free(request);
	else if (op->result < 0)
		ox_nbd_reply_error(request, op->result, NULL);
	else if (request->stage == NBD_STAGE_EXTENTS)
		extents_found(request);
	else if (request->stage == NBD_STAGE_DATA)
		data_done(request);
	else
		ox_nbd_reply_done(request);
	return conn;
}
