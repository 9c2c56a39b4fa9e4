/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes one NBD connection: handshake, requests and replies, over a disk in memory instead of the
 * library. The first input byte says how the world around behaves; the rest is what the client
 * sends.
 *
 *   bit 0     the export is read-only
 *   bit 1     the library completes requests out of order
 *   bit 2     the library completes nothing before the input ends
 *   bit 3     bytes come one at a time, else in pieces as large as is asked for
 *   bit 4     the client reads few bytes at a time
 *   bit 5     the client vanishes at the end, else it ends its stream
 *   bit 6     some requests fail, and writes among them wait for room
 *   bit 7     memory is short: somebody else holds the common part, and more than once somebody
 *             who holds less waits for it; and so are requests: after each the next one is not
 *             due until all else has ended
 *
 * The highest bit of what the client sends says that TLS is required, and is not sent. Of TLS there
 * is nothing here but that it begins.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/nbd/conn.h"

#define DISK_BYTES (256u << 10)
#define EXTENT_BYTES 8192u

enum world {
	READ_ONLY = 1 << 0,
	REORDER = 1 << 1,
	LATE = 1 << 2,
	TRICKLE = 1 << 3,
	SLOW_READER = 1 << 4,
	VANISH = 1 << 5,
	FAIL_SOME = 1 << 6,
	SHORT_MEMORY = 1 << 7,
};

/* The budget's other customers. */
static struct ox_nbd_share hog;
static struct ox_nbd_share rival;

static struct ox_limit limit;
static struct ox_full full;

static uint8_t disk[DISK_BYTES];
static struct ox_request *submitted[NBD_CONN_MAX_REQUESTS];
static size_t submitted_count;
static unsigned completed_count;

int ox_queue_submit(struct ox_queue *queue, struct ox_request *request)
{
	(void)queue;
	assert(submitted_count < NBD_CONN_MAX_REQUESTS);
	submitted[submitted_count++] = request;
	return 0;
}

/* Of what is in its hands: the others may be gone. */
int ox_queue_cancel(struct ox_queue *queue, struct ox_request *request)
{
	(void)queue;
	for (size_t i = 0; i < submitted_count; i++)
		if (submitted[i] == request)
			return 0;
	return -ENOENT;
}

static void look(const struct ox_request *request)
{
	uint64_t left = EXTENT_BYTES - request->offset % EXTENT_BYTES;

	*request->extent = (struct ox_extent){
		.offset = request->offset,
		.length = left < request->length ? left : request->length,
		.flags = request->offset / EXTENT_BYTES % 3 ? OX_EXTENT_DATA : OX_EXTENT_ZERO,
	};
}

/* What the library would do; that the server asks for nothing outside the disk is its promise. */
static void carry_out(const struct ox_request *request, bool read_only)
{
	const bool transfer = request->op == OX_OP_READ || request->op == OX_OP_WRITE;
	const size_t length = transfer ? request->iov[0].iov_len : request->length;

	assert(!read_only || request->op == OX_OP_READ || request->op == OX_OP_EXTENT ||
	       request->op == OX_OP_FLUSH);
	assert(request->offset <= DISK_BYTES && length <= DISK_BYTES - request->offset);
	switch (request->op) {
	case OX_OP_READ:
		memcpy(request->iov[0].iov_base, disk + request->offset, length);
		break;
	case OX_OP_WRITE:
		memcpy(disk + request->offset, request->iov[0].iov_base, length);
		break;
	case OX_OP_WRITE_ZEROES:
	case OX_OP_DISCARD:
		memset(disk + request->offset, 0, length);
		break;
	case OX_OP_FLUSH:
		break;
	case OX_OP_EXTENT:
		look(request);
		break;
	}
}

static void complete_one(uint8_t world)
{
	size_t index = world & REORDER ? completed_count % submitted_count : 0;
	struct ox_request *request = submitted[index];

	submitted_count--;
	memmove(&submitted[index], &submitted[index + 1],
		(submitted_count - index) * sizeof(submitted[0]));
	completed_count++;
	carry_out(request, world & READ_ONLY);
	request->result = 0;
	if ((world & FAIL_SOME) && completed_count % 5 == 0)
		request->result = completed_count % 2 ? -EIO : -ENOSPC;
	ox_nbd_request_completed(request);
}

/* Takes what is to be sent, or little of it: every byte of that must be there. */
static void send_some(struct ox_nbd_conn *conn, uint8_t world)
{
	static uint8_t sink[NBD_PAYLOAD_MAX_BYTES];
	size_t left = world & SLOW_READER ? 100 : sizeof(sink);
	struct iovec iov[8];
	size_t total = 0;
	int count = ox_nbd_conn_send_vectors(conn, iov, 8);

	for (int i = 0; i < count; i++) {
		size_t piece = iov[i].iov_len < left ? iov[i].iov_len : left;

		assert(iov[i].iov_len > 0);
		memcpy(sink, iov[i].iov_base, piece);
		left -= piece;
		total += piece;
	}
	if (total > 0)
		ox_nbd_conn_sent(conn, total);
}

/* Gives the connection as much as it wants; returns how much that was. */
static size_t receive_some(struct ox_nbd_conn *conn, const uint8_t *data, size_t size,
			   uint8_t world)
{
	struct iovec iov[2];
	int count = ox_nbd_conn_receive_space(conn, iov);
	size_t taken = 0;

	if (world & TRICKLE)
		size = size ? 1 : 0;
	for (int i = 0; i < count; i++) {
		size_t piece = size - taken < iov[i].iov_len ? size - taken : iov[i].iov_len;

		memcpy(iov[i].iov_base, data + taken, piece);
		taken += piece;
	}
	if (taken > 0)
		ox_nbd_conn_received(conn, taken);
	return taken;
}

/* Another connection takes all there is of the common part. */
static void take_common(struct ox_nbd_budget *budget)
{
	const size_t left = budget->common_bytes - budget->common_used_bytes;
	const size_t beyond = ox_nbd_budget_beyond(budget, &hog);
	const size_t share_left = beyond ? 0 : budget->share_bytes - hog.held_bytes;

	if (left + share_left > 0)
		(void)ox_nbd_budget_take(budget, &hog, left + share_left);
	ox_nbd_budget_leave(budget, &hog);
}

/* The others give back what they have, and the connection gets what it waits for. */
static void ease(struct ox_nbd_conn *conn)
{
	struct ox_nbd_budget *budget = &conn->export->budget;
	struct ox_nbd_share *next;

	ox_nbd_budget_leave(budget, &rival);
	ox_nbd_budget_give(budget, &rival, rival.held_bytes);
	ox_nbd_budget_give(budget, &hog, hog.held_bytes);
	next = ox_nbd_budget_next(budget);
	assert((next == &conn->share) == (conn->share.wanted_bytes > 0));
	if (next)
		ox_nbd_conn_resume(conn);
	assert(conn->share.wanted_bytes == 0);
}

static void resume(struct ox_limit_waiter *waiter)
{
	char *at = (char *)waiter - offsetof(struct ox_nbd_conn, turn);

	ox_nbd_conn_resume((struct ox_nbd_conn *)(void *)at);
}

static void nobody_asks(struct ox_nbd_conn *conn)
{
	(void)conn;
}

/* Nothing is owed any more. */
static void begin_limit(uint8_t world)
{
	const struct ox_serve_limits limits = {.iops = world & SHORT_MEMORY ? 1 : 0};

	ox_limit_set(&limit, &limits, ox_serve_now_ns());
	ox_limit_release(&limit, ox_serve_now_ns());
}

/* What was said before it counts for nothing. */
static void secure(struct ox_nbd_conn *conn)
{
	assert(submitted_count == 0 && conn->request_count == 0);
	ox_nbd_conn_secured(conn);
	assert(conn->style == NBD_STYLE_SIMPLE && !conn->contexts);
}

static void converse(struct ox_nbd_conn *conn, const uint8_t *data, size_t size, uint8_t world)
{
	while (size > 0 && !conn->aborted && !conn->input_ended) {
		size_t taken = receive_some(conn, data, size, world);

		data += taken;
		size -= taken;
		if (submitted_count > 0 && (!(world & LATE) || taken == 0))
			complete_one(world);
		send_some(conn, world);
		if (ox_nbd_conn_awaits_tls(conn))
			secure(conn);
		assert(conn->is_secure || !conn->export->tls_is_required ||
		       ox_nbd_conn_in_handshake(conn));
		if (conn->share.wanted_bytes > 0 && submitted_count == 0)
			ease(conn);
		if (submitted_count == 0) {
			begin_limit(world);
			ox_full_resume(&full);
			ox_full_try(&full, ox_serve_now_ms());
		}
		if ((world & SHORT_MEMORY) && size % 3 == 0)
			take_common(&conn->export->budget);
		if ((world & SHORT_MEMORY) && size % 7 == 0)
			(void)ox_nbd_budget_take(&conn->export->budget, &rival,
						 conn->export->budget.common_bytes);
	}
	ease(conn);
	if (world & VANISH)
		ox_nbd_conn_abort(conn);
	else
		ox_nbd_conn_end_input(conn);
	while (submitted_count > 0)
		complete_one(world);
	while (!ox_nbd_conn_finished(conn))
		send_some(conn, world & ~SLOW_READER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t world = size ? data[0] : 0;
	const bool tls = size > 1 && (data[1] & 0x80);
	uint8_t *sent;
	struct ox_nbd_export export = {
		.name = "disk",
		.description = "a disk",
		.size_bytes = DISK_BYTES,
		.read_only = world & READ_ONLY,
		.multi_conn = true,
		.tells_depth = true,
		.limit = &limit,
		.full = &full,
		.changed = nobody_asks,
		.tls_is_required = tls,
	};
	struct ox_nbd_conn conn;

	completed_count = 0;
	hog = rival = (struct ox_nbd_share){0};
	full = (struct ox_full){.pauses = true};
	limit = (struct ox_limit){0};
	begin_limit(world);
	ox_nbd_budget_init(&export.budget, ox_nbd_budget_min_bytes(3), 3);
	if (size == 0 || ox_nbd_conn_init(&conn, &export) < 0)
		return 0;
	conn.turn.resume = resume;
	sent = malloc(size);
	assert(sent);
	memcpy(sent, data + 1, size - 1);
	if (tls)
		sent[0] &= 0x7f;
	converse(&conn, sent, size - 1, world);
	free(sent);
	ox_nbd_conn_free(&conn);
	assert(export.budget.used_bytes == 0 && !limit.first);
	assert(full.waiting == 0 && full.tried == 0);
	ox_nbd_pool_free(&export.pool);
	return 0;
}
