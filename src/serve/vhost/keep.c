/* SPDX-License-Identifier: MIT */
#include "serve/vhost/keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/vhost/handler.h"

/* ---- slots ---- */

static bool is_held(const struct ox_vhost_session *session, unsigned slot)
{
	return session->held[slot / 64] >> slot % 64 & 1;
}

static void set_held(uint64_t *held, unsigned slot)
{
	if (slot < OX_PARK_SLOTS)
		held[slot / 64] |= UINT64_C(1) << slot % 64;
}

/* OX_PARK_NO_SLOT: all are full. */
static uint16_t free_slot(const struct ox_vhost_session *session)
{
	for (unsigned slot = 0; slot < OX_PARK_SLOTS; slot++)
		if (!is_held(session, slot))
			return (uint16_t)slot;
	return OX_PARK_NO_SLOT;
}

/* Once this returns 0, they outlive the process. They stay open here. */
static int put(struct ox_vhost_session *session, const int *fds, unsigned count,
	       uint16_t *ret_slots)
{
	struct ox_park_packet packet = {
		.kind = OX_PARK_PUT,
		.front = session->front,
		.slot_count = count,
		.fd_count = count,
	};

	for (unsigned i = 0; i < count; i++) {
		const uint16_t slot = free_slot(session);

		if (slot == OX_PARK_NO_SLOT)
			return -ENOSPC;
		set_held(session->held, slot);
		ret_slots[i] = packet.slots[i] = slot;
		packet.fds[i] = fds[i];
	}
	return count > 0 ? ox_park_send(session->keep->socket, &packet, true) : 0;
}

/* Slots that a state names. */
static void collect_slots(const struct ox_vhost_state *state, uint64_t *held)
{
	set_held(held, state->channel);
	set_held(held, state->own_inflight);
	set_held(held, state->inflight.slot);
	set_held(held, state->log.slot);
	set_held(held, state->reply.slot);
	for (unsigned i = 0; i < state->ring_count; i++) {
		set_held(held, state->rings[i].kick);
		set_held(held, state->rings[i].call);
		set_held(held, state->rings[i].error);
	}
	for (unsigned i = 0; i < state->region_count; i++)
		set_held(held, state->regions[i].slot);
}

static int drop(struct ox_vhost_session *session, struct ox_park_packet *packet)
{
	int ret = packet->slot_count > 0 ? ox_park_send(session->keep->socket, packet, true) : 0;

	packet->slot_count = 0;
	return ret;
}

/* Those that neither the state names nor the message in hand. */
static int drop_rest(struct ox_vhost_session *session, const struct ox_vhost_message *in_hand)
{
	struct ox_park_packet packet = {.kind = OX_PARK_DROP, .front = session->front};
	uint64_t named[OX_PARK_SLOTS / 64] = {0};
	int ret = 0;

	collect_slots(&session->keep->state, named);
	for (unsigned i = 0; in_hand && i < in_hand->fd_count; i++)
		set_held(named, in_hand->slots[i]);
	for (unsigned slot = 0; slot < OX_PARK_SLOTS && ret == 0; slot++) {
		if (!is_held(session, slot) || (named[slot / 64] >> slot % 64 & 1))
			continue;
		packet.slots[packet.slot_count++] = (uint16_t)slot;
		if (packet.slot_count == OX_PARK_FDS)
			ret = drop(session, &packet);
	}
	if (ret == 0)
		ret = drop(session, &packet);
	memcpy(session->held, named, sizeof(named));
	return ret;
}

/* ---- a session as a state ---- */

static void collect_ring(const struct ox_vhost_vring *vring, struct ox_vhost_state_ring *ret)
{
	*ret = (struct ox_vhost_state_ring){
		.descriptors = vring->setup.descriptors,
		.available = vring->setup.available,
		.used = vring->setup.used,
		.log_address = vring->log_address,
		.size = vring->setup.size,
		.base = ox_vhost_ring_next(vring->ring),
		.kick = vring->kick_slot,
		.call = vring->call_slot,
		.error = vring->error_slot,
	};
	if (vring->has_addresses)
		ret->flags |= OX_VHOST_RING_HAS_ADDRESSES;
	if (vring->logs_used)
		ret->flags |= OX_VHOST_RING_LOGS_USED;
	if (vring->started)
		ret->flags |= OX_VHOST_RING_IS_STARTED;
	if (vring->enabled)
		ret->flags |= OX_VHOST_RING_IS_ENABLED;
	if (vring->running || vring->goes_on)
		ret->flags |= OX_VHOST_RING_RUNS;
}

/* But the reply. */
static void collect(const struct ox_vhost_session *session, struct ox_vhost_state *state)
{
	state->features = session->blk.acked;
	state->protocol_features = session->protocol_features;
	state->read_size_bytes = session->read_size_bytes;
	state->status = session->status;
	state->flags = (session->has_features ? OX_VHOST_STATE_HAS_FEATURES : 0) |
		       (session->logs_all ? OX_VHOST_STATE_LOGS_ALL : 0) |
		       (session->blk.failing ? OX_VHOST_STATE_FAILS : 0);
	state->wce = session->blk.wce;
	state->channel = session->channel >= 0 ? session->channel_slot : OX_PARK_NO_SLOT;
	state->own_inflight = session->own_slot;
	state->inflight = session->inflight_is;
	state->log = session->log_is;
	state->ring_count = session->vring_count;
	for (unsigned i = 0; i < session->vring_count; i++)
		collect_ring(&session->vrings[i], &state->rings[i]);
	state->region_count = (uint32_t)ox_vhost_memory_count(session->memory);
	for (unsigned i = 0; i < state->region_count; i++)
		state->regions[i].is =
			*ox_vhost_memory_region(session->memory, i, &state->regions[i].slot);
}

/* No reply is due. */
static void clear_reply(const struct ox_vhost_session *session, struct ox_vhost_state *state)
{
	state->reply.number = session->reply_number;
	state->reply.bytes = 0;
	state->reply.slot = OX_PARK_NO_SLOT;
}

/* ---- replies ---- */

int ox_vhost_keep_reply(struct ox_vhost_session *session, uint32_t request, const void *payload,
			size_t bytes, int fd)
{
	struct ox_vhost_state_reply *reply = &session->keep->state.reply;
	const struct ox_vhost_header header = {request, OX_VHOST_VERSION | OX_VHOST_REPLY,
					       (uint32_t)bytes};

	if (bytes > OX_VHOST_PAYLOAD_MAX)
		return -EINVAL;
	reply->number = ++session->reply_number;
	reply->bytes = (uint32_t)(sizeof(header) + bytes);
	memcpy(reply->data, &header, sizeof(header));
	if (bytes > 0)
		memcpy(reply->data + sizeof(header), payload, bytes);
	reply->slot = OX_PARK_NO_SLOT;
	session->has_reply = true;
	return fd >= 0 ? put(session, &fd, 1, &reply->slot) : 0;
}

/* The keeper knows whether it has sent it. */
static int hand_over_reply(const struct ox_vhost_session *session)
{
	const struct ox_vhost_state_reply *reply = &session->keep->state.reply;
	struct ox_park_packet packet = {
		.kind = OX_PARK_REPLY,
		.front = session->front,
		.number = reply->number,
		.byte_count = reply->bytes,
	};

	if (reply->bytes == 0)
		return 0;
	memcpy(packet.bytes, reply->data, reply->bytes);
	if (reply->slot != OX_PARK_NO_SLOT)
		packet.slots[packet.slot_count++] = reply->slot;
	return ox_park_send(session->keep->socket, &packet, true);
}

/* ---- a session that lives ---- */

int ox_vhost_keep_commit(struct ox_vhost_session *session, bool done)
{
	struct ox_vhost_keep *keep = session->keep;
	const bool in_hand = !done && session->waits;
	int ret = 0;

	collect(session, &keep->state);
	if (!session->has_reply)
		clear_reply(session, &keep->state);
	ox_vhost_record_commit(keep->record, session->front, &keep->state, done);
	if (session->has_reply)
		ret = hand_over_reply(session);
	session->has_reply = false;
	return ret < 0 ? ret : drop_rest(session, in_hand ? &session->incoming.message : NULL);
}

/* Whoever closes some other kinds last waits for whom the front end chooses (a connection over TCP
 * that lingers), and the keeper waits for nobody. No message has a use for them. */
static bool may_be_parked(int fd)
{
	struct stat st;
	int domain = 0;
	socklen_t length = sizeof(domain);

	if (fstat(fd, &st) < 0)
		return false;
	if (!S_ISSOCK(st.st_mode))
		return S_ISREG(st.st_mode) || (st.st_mode & S_IFMT) == 0;
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

/* Without its descriptors it is refused. */
static void cut_what_is_not_parked(struct ox_vhost_message *message)
{
	const struct linger at_once = {0};
	bool all = true;

	for (unsigned i = 0; i < message->fd_count; i++) {
		if (may_be_parked(message->fds[i]))
			continue;
		all = false;
		(void)setsockopt(message->fds[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	}
	if (!all)
		ox_vhost_message_cut_fds(message, 0);
}

int ox_vhost_keep_take(struct ox_vhost_session *session)
{
	struct ox_vhost_message *message = &session->incoming.message;
	const unsigned wanted = ox_vhost_handler_fds(message);
	int ret;

	ox_vhost_message_cut_fds(message, wanted);
	cut_what_is_not_parked(message);
	ret = put(session, message->fds, message->fd_count, message->slots);
	if (ret < 0)
		return ret;
	ox_vhost_record_take(session->keep->record, session->front, message);
	ret = ox_vhost_consume(session->watched.fd);
	/* Too few came along, and those of the next message stood in for them; or too many. */
	if (wanted > 0 && ret != (int)wanted)
		ox_vhost_message_cut_fds(message, 0);
	return ret < 0 ? ret : 0;
}

/* A region of ours, for front ends that have none. */
static int make_own_inflight(struct ox_vhost_session *session)
{
	const uint16_t queues = (uint16_t)session->vring_count;
	const uint16_t size = session->blk.queue_size;
	int fd = ox_vhost_inflight_make(queues, size);
	int ret;

	if (fd < 0)
		return fd;
	ret = ox_vhost_inflight_open(fd, 0, ox_vhost_inflight_bytes(queues, size), queues, size,
				     &session->own_inflight);
	if (ret == 0)
		ret = put(session, &fd, 1, &session->own_slot);
	close(fd);
	return ret;
}

int ox_vhost_keep_begin(struct ox_vhost_session *session)
{
	struct ox_vhost_keep *keep = session->keep;
	int ret = make_own_inflight(session);

	if (ret < 0)
		return ret;
	collect(session, &keep->state);
	clear_reply(session, &keep->state);
	ox_vhost_record_begin(keep->record, session->front, session->number, &keep->state);
	return 0;
}

void ox_vhost_keep_end(struct ox_vhost_session *session)
{
	ox_vhost_record_end(session->keep->record, session->front);
}

void ox_vhost_keep_let_go(struct ox_vhost_keep *keep, unsigned front)
{
	const struct ox_park_packet packet = {.kind = OX_PARK_GONE, .front = front};

	/* Who cannot be told is about to end, and the process with it. */
	(void)!ox_park_send(keep->socket, &packet, true);
}

/* ---- a session that comes from a dead server ---- */

static int fd_in(const struct ox_vhost_kept_front *front, uint16_t slot)
{
	return slot == OX_PARK_NO_SLOT ? -1 : front->fds[slot];
}

static int take_fd(struct ox_vhost_kept_front *front, uint16_t slot)
{
	int fd = fd_in(front, slot);

	if (fd >= 0)
		front->fds[slot] = -1;
	return fd;
}

static int restore_regions(struct ox_vhost_session *session, const struct ox_vhost_state *state,
			   const struct ox_vhost_kept_front *front)
{
	int ret = 0;

	for (unsigned i = 0; i < state->region_count && ret == 0; i++) {
		const struct ox_vhost_state_region *region = &state->regions[i];

		ret = ox_vhost_memory_add(session->memory, &region->is, fd_in(front, region->slot));
		if (ret == 0)
			ox_vhost_memory_set_slot(session->memory, &region->is, region->slot);
	}
	return ret;
}

static int restore_shared(struct ox_vhost_session *session, const struct ox_vhost_state *state,
			  const struct ox_vhost_kept_front *front)
{
	const uint16_t queues = (uint16_t)session->vring_count;
	const uint16_t size = session->blk.queue_size;
	const struct ox_vhost_shared *theirs = &state->inflight;
	int ret = ox_vhost_inflight_open(fd_in(front, state->own_inflight), 0,
					 ox_vhost_inflight_bytes(queues, size), queues, size,
					 &session->own_inflight);

	if (ret == 0 && theirs->slot != OX_PARK_NO_SLOT)
		ret = ox_vhost_inflight_open(fd_in(front, theirs->slot), theirs->offset,
					     theirs->bytes, theirs->queues, theirs->queue_size,
					     &session->inflight);
	if (ret == 0 && state->log.slot != OX_PARK_NO_SLOT)
		ret = ox_vhost_log_open(fd_in(front, state->log.slot), state->log.offset,
					state->log.bytes, &session->log);
	session->own_slot = state->own_inflight;
	session->inflight_is = state->inflight;
	session->log_is = state->log;
	return ret;
}

/* A descriptor that is to be there, or one that there is not. */
static int restore_fd(struct ox_vhost_vring *vring, struct ox_vhost_kept_front *front,
		      uint16_t slot,
		      int (*set)(struct ox_vhost_vring *vring, int fd, uint16_t slot))
{
	int fd = take_fd(front, slot);
	int ret;

	if (slot == OX_PARK_NO_SLOT)
		return 0;
	if (fd < 0)
		return -EBADF;
	ret = set(vring, fd, slot);
	if (ret < 0)
		close(fd);
	return ret;
}

static int restore_ring(struct ox_vhost_vring *vring, const struct ox_vhost_state_ring *ring,
			struct ox_vhost_kept_front *front)
{
	int ret;

	if (ring->size > vring->session->blk.queue_size)
		return -EBADMSG;
	vring->setup.size = ring->size;
	vring->setup.descriptors = ring->descriptors;
	vring->setup.available = ring->available;
	vring->setup.used = ring->used;
	vring->has_addresses = ring->flags & OX_VHOST_RING_HAS_ADDRESSES;
	vring->logs_used = ring->flags & OX_VHOST_RING_LOGS_USED;
	vring->log_address = ring->log_address;
	vring->started = ring->flags & OX_VHOST_RING_IS_STARTED;
	vring->enabled = ring->flags & OX_VHOST_RING_IS_ENABLED;
	vring->goes_on = ring->flags & OX_VHOST_RING_RUNS;
	ox_vhost_ring_set_base(vring->ring, ring->base);
	ret = restore_fd(vring, front, ring->kick, ox_vhost_vring_set_kick);
	if (ret == 0)
		ret = restore_fd(vring, front, ring->call, ox_vhost_vring_set_call);
	if (ret == 0)
		ret = restore_fd(vring, front, ring->error, ox_vhost_vring_set_error);
	return ret;
}

static int restore_state(struct ox_vhost_session *session, const struct ox_vhost_state *state,
			 struct ox_vhost_kept_front *front)
{
	int ret;

	if (state->ring_count != session->vring_count || state->wce > OX_VHOST_WCE_ON)
		return -EBADMSG;
	session->blk.acked = state->features & ox_vhost_blk_features(&session->blk);
	session->blk.wce = (enum ox_vhost_wce)state->wce;
	session->blk.failing = state->flags & OX_VHOST_STATE_FAILS;
	session->has_features = state->flags & OX_VHOST_STATE_HAS_FEATURES;
	session->logs_all = state->flags & OX_VHOST_STATE_LOGS_ALL;
	session->protocol_features = state->protocol_features & OX_VHOST_PROTOCOL_OFFERED;
	session->read_size_bytes = state->read_size_bytes;
	session->status = state->status;
	session->reply_number = state->reply.number;
	session->channel_slot = state->channel;
	session->channel = take_fd(front, state->channel);
	ret = restore_regions(session, state, front);
	if (ret == 0)
		ret = restore_shared(session, state, front);
	for (unsigned i = 0; i < session->vring_count && ret == 0; i++)
		ret = restore_ring(&session->vrings[i], &state->rings[i], front);
	ox_vhost_session_set_log(session);
	return ret;
}

/* It is carried out again, from the state before it. */
static int restore_message(struct ox_vhost_session *session, struct ox_vhost_kept_front *front)
{
	struct ox_vhost_message *message = &session->incoming.message;
	bool whole = true;
	int ret;

	for (unsigned i = 0; i < message->fd_count; i++) {
		message->fds[i] = take_fd(front, message->slots[i]);
		whole = whole && message->fds[i] >= 0;
	}
	session->waits = true;
	ret = ox_vhost_consume(session->watched.fd);
	return whole || ret < 0 ? ret : -EBADF;
}

int ox_vhost_keep_restore(struct ox_vhost_session *session, struct ox_vhost_kept_front *front,
			  bool is_blamed)
{
	struct ox_vhost_keep *keep = session->keep;
	struct ox_vhost_state *state = &keep->state;
	int ret = 0;

	for (unsigned slot = 0; slot < OX_PARK_SLOTS; slot++)
		if (front->fds[slot] >= 0)
			set_held(session->held, slot);
	switch (ox_vhost_record_find(keep->record, session->front, front->number, is_blamed, state,
				     &session->incoming.message)) {
	case OX_VHOST_FOUND_NOTHING:
		return 0;
	case OX_VHOST_FOUND_ENDED:
		return -EPIPE;
	case OX_VHOST_FOUND_NONSENSE:
		return -EBADMSG;
	case OX_VHOST_FOUND_BLAMED:
		return -ENOTRECOVERABLE;
	case OX_VHOST_FOUND_MESSAGE:
		ret = restore_message(session, front);
		break;
	case OX_VHOST_FOUND_STATE:
		break;
	}
	if (ret >= 0)
		ret = restore_state(session, state, front);
	if (ret == 0)
		ret = hand_over_reply(session);
	if (ret == 0)
		ret = drop_rest(session, session->waits ? &session->incoming.message : NULL);
	return ret < 0 ? ret : 1;
}

/* ---- from the keeper ---- */

static int take_slots(struct ox_vhost_kept_front *front, struct ox_park_packet *packet)
{
	if (packet->slot_count != packet->fd_count)
		return -EBADMSG;
	for (unsigned i = 0; i < packet->slot_count; i++)
		front->fds[packet->slots[i]] = packet->fds[i];
	packet->fd_count = 0;
	return 0;
}

/* 1: that was all. */
static int take_over(struct ox_vhost_keep *keep, struct ox_park_packet *packet,
		     struct ox_vhost_kept_front *fronts)
{
	struct ox_vhost_kept_front *front = &fronts[packet->front];

	switch (packet->kind) {
	case OX_PARK_RECORD:
		if (packet->fd_count != 1 || keep->record)
			return -EBADMSG;
		keep->is_marked = packet->number & OX_PARK_IS_MARKED;
		keep->may_be_lost = packet->number & OX_PARK_MAY_BE_LOST;
		return ox_vhost_record_open(packet->fds[0], &keep->record);
	case OX_PARK_CAME:
		if (packet->fd_count != 1 || front->number != 0)
			return -EBADMSG;
		front->number = packet->number;
		front->connection = packet->fds[0];
		packet->fd_count = 0;
		return 0;
	case OX_PARK_SLOTS_ARE:
		return take_slots(front, packet);
	case OX_PARK_ALL:
		return keep->record ? 1 : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

int ox_vhost_keep_new(int socket, struct ox_vhost_kept_front *fronts, struct ox_vhost_keep **ret)
{
	struct ox_vhost_keep *keep = calloc(1, sizeof(*keep));
	struct ox_park_packet packet;
	int code = 0;

	if (!keep) {
		close(socket);
		return -ENOMEM;
	}
	keep->socket = socket;
	while (code == 0) {
		code = ox_park_receive(socket, true, &packet);
		if (code == 1)
			code = take_over(keep, &packet, fronts);
		else if (code == 0)
			code = -ESRCH;
		ox_park_close_fds(&packet);
	}
	if (code < 0) {
		ox_vhost_keep_free(keep);
		return code;
	}
	*ret = keep;
	return 0;
}

void ox_vhost_keep_free(struct ox_vhost_keep *keep)
{
	if (!keep)
		return;
	while (keep->came_count > 0)
		ox_park_close_fds(&keep->came[--keep->came_count]);
	ox_vhost_record_close(keep->record);
	close(keep->socket);
	free(keep);
}

int ox_vhost_keep_mark(struct ox_vhost_keep *keep)
{
	const struct ox_park_packet mark = {.kind = OX_PARK_MARK};
	int ret;

	if (keep->is_marked)
		return 0;
	ret = ox_park_send(keep->socket, &mark, true);
	while (ret == 0 && keep->came_count < OX_PARK_FRONTS) {
		struct ox_park_packet *packet = &keep->came[keep->came_count];

		ret = ox_park_receive(keep->socket, true, packet);
		if (ret != 1)
			return ret < 0 ? ret : -ESRCH;
		if (packet->kind == OX_PARK_MARKED) {
			keep->is_marked = packet->number == 0;
			return -(int)packet->number;
		}
		keep->came_count++;
		ret = 0;
	}
	return ret < 0 ? ret : -EBADMSG;
}

int ox_vhost_keep_hear(struct ox_vhost_keep *keep, struct ox_park_packet *ret)
{
	if (keep->came_count > 0) {
		*ret = keep->came[--keep->came_count];
		return 1;
	}
	return ox_park_receive(keep->socket, false, ret);
}
