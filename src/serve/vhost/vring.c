/* SPDX-License-Identifier: MIT */
/*
 * Kicks are edges: epoll tells of each write to the descriptor, so that it is never read. Nobody
 * else's kick is eaten, no call is spent, and one that blocks cannot stop the server. Calls are
 * signalled as signal.h says.
 */
#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/vhost/session.h"

/* Chains of one ring before those taken are on their way: the disk begins with the first while the
 * next are taken, and others have their turn too. */
#define TAKES_A_TURN 8u

static void kicked(struct ox_watched *watched, uint32_t events)
{
	struct ox_vhost_vring *vring = (struct ox_vhost_vring *)watched;

	(void)events;
	vring->ready = true;
}

/* It is its turn, by the limits of the disk. */
static void resume(struct ox_limit_waiter *waiter)
{
	char *at = (char *)waiter - offsetof(struct ox_vhost_vring, turn);
	struct ox_vhost_vring *vring = (struct ox_vhost_vring *)(void *)at;

	vring->ready = true;
	ox_vhost_vring_serve(vring);
}

int ox_vhost_vring_init(struct ox_vhost_session *session, unsigned index)
{
	struct ox_vhost_vring *vring = &session->vrings[index];
	int ret;

	*vring = (struct ox_vhost_vring){
		.kick = {-1, kicked},
		.session = session,
		.call = -1,
		.error = -1,
		.kick_slot = OX_PARK_NO_SLOT,
		.call_slot = OX_PARK_NO_SLOT,
		.error_slot = OX_PARK_NO_SLOT,
		.setup.index = (uint16_t)index,
		.turn.resume = resume,
	};
	ret = ox_vhost_ring_new(session->memory, &vring->ring);
	if (ret == 0)
		ret = ox_vhost_blk_ring_new(&session->blk, vring->ring, session->memory,
					    &vring->blk_ring);
	return ret;
}

/* ---- descriptors ---- */

/* What the kernel makes without a file of any kind behind it. A pipe or a socket could be full, or
 * lead back to whoever waits for us. */
static bool is_anonymous(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == 0;
}

static void drop_kick(struct ox_vhost_vring *vring)
{
	int ret;

	if (vring->kick.fd < 0)
		return;
	/* The front end has it too, so that closing alone would not end the watch. */
	ret = ox_serve_watch(vring->session->device->loop, EPOLL_CTL_DEL, &vring->kick, 0);
	assert(ret == 0); /* it is watched */
	(void)ret;
	close(vring->kick.fd);
	vring->kick.fd = -1;
}

int ox_vhost_vring_set_kick(struct ox_vhost_vring *vring, int fd, uint16_t slot)
{
	int ret = 0;

	if (fd >= 0 && !is_anonymous(fd))
		return -EINVAL;
	drop_kick(vring);
	vring->kick.fd = fd;
	vring->kick_slot = fd >= 0 ? slot : OX_PARK_NO_SLOT;
	if (fd >= 0)
		ret = ox_serve_watch(vring->session->device->loop, EPOLL_CTL_ADD, &vring->kick,
				     EPOLLIN | EPOLLET);
	if (ret < 0) {
		vring->kick.fd = -1;
		vring->kick_slot = OX_PARK_NO_SLOT;
	}
	return ret;
}

static int set_event(int *place, uint16_t *slot_place, int fd, uint16_t slot)
{
	if (fd >= 0 && !is_anonymous(fd))
		return -EINVAL;
	if (*place >= 0)
		close(*place);
	*place = fd;
	*slot_place = fd >= 0 ? slot : OX_PARK_NO_SLOT;
	return 0;
}

/* What was answered may have been told to the descriptor before this one, after the front end had
 * looked there for the last time (QEMU, when a guest moves an interrupt). */
int ox_vhost_vring_set_call(struct ox_vhost_vring *vring, int fd, uint16_t slot)
{
	const int ret = set_event(&vring->call, &vring->call_slot, fd, slot);

	if (ret == 0 && vring->running)
		ox_vhost_signal(vring->session->device->signals, vring->call);
	return ret;
}

int ox_vhost_vring_set_error(struct ox_vhost_vring *vring, int fd, uint16_t slot)
{
	return set_event(&vring->error, &vring->error_slot, fd, slot);
}

static void leave_turn(struct ox_vhost_vring *vring)
{
	ox_limit_leave(&vring->session->device->loop->limit, &vring->turn);
}

void ox_vhost_vring_free(struct ox_vhost_vring *vring)
{
	leave_turn(vring);
	drop_kick(vring);
	if (vring->call >= 0)
		close(vring->call);
	if (vring->error >= 0)
		close(vring->error);
	ox_vhost_blk_ring_free(vring->blk_ring);
	ox_vhost_ring_free(vring->ring);
}

/* ---- starting and stopping ---- */

/* Whoever connects anew has the memory that requests of the connection before still point into, and
 * would carry them out again. */
static bool any_lingers(const struct ox_vhost_device *device)
{
	for (const struct ox_vhost_session *s = device->sessions; s; s = s->next)
		if (s->ended)
			return true;
	return false;
}

static bool may_own(const struct ox_vhost_session *session)
{
	const struct ox_vhost_device *device = session->device;

	if (any_lingers(device))
		return false;
	return session->blk.read_only || !device->owner || device->owner == session;
}

static bool is_described(const struct ox_vhost_vring *vring)
{
	const struct ox_vhost_session *session = vring->session;

	return vring->has_addresses && vring->setup.size > 0 && session->has_features &&
	       ox_vhost_memory_count(session->memory) > 0;
}

int ox_vhost_vring_start(struct ox_vhost_vring *vring)
{
	struct ox_vhost_session *session = vring->session;
	int ret;

	if (vring->running || !vring->started || !vring->enabled || !is_described(vring) ||
	    session->ended || !may_own(session))
		return 0;
	vring->setup.event_idx = session->blk.acked & OX_VIRTIO_F_RING_EVENT_IDX;
	vring->setup.indirect = session->blk.acked & OX_VIRTIO_F_RING_INDIRECT_DESC;
	vring->setup.inflight = session->inflight ? session->inflight : session->own_inflight;
	vring->setup.goes_on = vring->goes_on;
	/* What a ring of this session had recorded before it stopped says nothing of this start. */
	if (!session->inflight && session->own_inflight && !vring->goes_on)
		ox_vhost_inflight_renew(session->own_inflight, vring->setup.index);
	ret = ox_vhost_ring_start(vring->ring, &vring->setup);
	if (ret < 0)
		return ret;
	vring->goes_on = false;
	/* QEMU passes over what comes while nothing runs, and reads a size once. */
	if (!ox_vhost_session_runs(session))
		ox_vhost_session_tell_size(session);
	vring->running = true;
	vring->stopping = false;
	if (!session->device->knows_cache)
		ox_vhost_device_note_cache(session->device, session->blk.wce);
	else if (session->blk.wce != OX_VHOST_WCE_UNKNOWN)
		/* Set since it has connected, by whoever had the disk: a guest that moves. */
		session->blk.wce = session->device->blk.wce;
	vring->ready = true; /* no kick is waited for: one may have come to whoever died */
	vring->quiet = false;
	if (!session->blk.read_only)
		session->device->owner = session;
	/* What was answered before may not have been told. */
	ox_vhost_signal(session->device->signals, vring->call);
	return 0;
}

/* Once none of the owner's rings runs the device is anybody's. */
static void disown(struct ox_vhost_session *session)
{
	if (!ox_vhost_session_runs(session) && session->device->owner == session)
		session->device->owner = NULL;
}

bool ox_vhost_vring_stop(struct ox_vhost_vring *vring)
{
	if (!vring->running)
		return true;
	ox_vhost_ring_set_draining(vring->ring, true);
	vring->stopping = true;
	ox_vhost_room_give_up(vring);
	if (ox_vhost_ring_in_flight(vring->ring) > 0 ||
	    (ox_vhost_ring_state(vring->ring) == OX_VHOST_RING_STARTED &&
	     ox_vhost_ring_to_recover(vring->ring) > 0)) {
		vring->ready = true;
		return false;
	}
	ox_vhost_vring_publish(vring);
	(void)ox_vhost_ring_stop(vring->ring); /* it keeps the index */
	vring->running = false;
	vring->ready = false;
	leave_turn(vring);
	disown(vring->session);
	return true;
}

/* ---- running ---- */

static bool is_broken(const struct ox_vhost_session *session)
{
	return ox_vhost_memory_is_broken(session->memory) ||
	       (session->inflight && ox_vhost_inflight_is_broken(session->inflight)) ||
	       (session->log && ox_vhost_mapping_is_broken(session->log->mapping));
}

static void tell_broken(struct ox_vhost_vring *vring)
{
	ox_serve_warn(vring->session->device->loop,
		      "front end %u: ring %u is not served any more: %s", vring->session->number,
		      (unsigned)vring->setup.index, ox_vhost_ring_why_broken(vring->ring));
	ox_vhost_signal(vring->session->device->signals, vring->error);
}

/* As ox_vhost_blk_take, a chain at a time: each is charged before the next. What a predecessor had
 * taken waits for nothing, because a ring that is to stop waits for it. */
static int take_by_turns(struct ox_vhost_vring *vring, struct ox_limit *limit)
{
	int count = 0;
	int taken = 1;

	while (taken == 1 && count < (int)TAKES_A_TURN) {
		if (ox_vhost_ring_state(vring->ring) != OX_VHOST_RING_STARTED)
			break;
		if (!ox_vhost_ring_has_more(vring->ring))
			return ox_vhost_ring_state(vring->ring) == OX_VHOST_RING_BROKEN ? -EPROTO
											: count;
		if (ox_vhost_ring_to_recover(vring->ring) == 0 &&
		    !ox_limit_ask(limit, &vring->turn))
			break;
		ox_limit_charge(limit, 1, 0); /* its bytes, when it is known what it is */
		taken = ox_vhost_blk_take(vring->blk_ring, 1);
		count += taken == 1;
	}
	return taken < 0 ? taken : count;
}

static int take(struct ox_vhost_vring *vring)
{
	struct ox_limit *limit = &vring->session->device->loop->limit;

	return limit->is_on ? take_by_turns(vring, limit)
			    : ox_vhost_blk_take(vring->blk_ring, TAKES_A_TURN);
}

void ox_vhost_vring_serve(struct ox_vhost_vring *vring)
{
	struct ox_vhost_session *session = vring->session;
	int taken;

	if (!vring->ready || !vring->running || session->ended || session->paused)
		return;
	if (!vring->quiet) {
		ox_vhost_ring_quiet(vring->ring);
		vring->quiet = true;
	}
	taken = take(vring);
	vring->answers = true; /* what needed no I/O */
	vring->ready = taken == (int)TAKES_A_TURN;
	session->device->loop->more = session->device->loop->more || vring->ready;
	if (is_broken(session)) {
		ox_vhost_session_end(session, "its memory is gone: a file became shorter");
		return;
	}
	if (taken == -EPROTO)
		tell_broken(vring);
	else if (taken < 0)
		vring->ready = true; /* memory is short: again */
}

void ox_vhost_vring_publish(struct ox_vhost_vring *vring)
{
	if (!vring->answers || !vring->running)
		return;
	vring->answers = false;
	if (is_broken(vring->session)) {
		ox_vhost_session_end(vring->session, "its memory is gone: a file became shorter");
		return;
	}
	if (ox_vhost_ring_publish(vring->ring))
		ox_vhost_signal(vring->session->device->signals, vring->call);
}

bool ox_vhost_vring_listen(struct ox_vhost_vring *vring)
{
	if (!vring->running || vring->session->ended || vring->session->paused || vring->turn.waits)
		return false;
	if (!vring->ready && vring->quiet) {
		vring->ready = ox_vhost_ring_listen(vring->ring);
		vring->quiet = vring->ready;
	}
	return vring->ready;
}
