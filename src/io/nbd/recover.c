/* SPDX-License-Identifier: MIT */
/*
 * A server that is lost, and comes back. It may be the same one, or one that was started anew and
 * has nothing of what it answered since the last flush: nobody can tell, so that is sent again.
 *
 * The first task that meets the loss does all of it, on behalf of the others. A request that was
 * not answered is sent again by its own task, after that (N1).
 */
#include <errno.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/nbd/nbd.h"

#define MS UINT64_C(1000000)
#define DRAIN_STEP_MS 10u
#define DRAIN_MS 500u
#define PAUSE_MIN_MS 50u
#define PAUSE_MAX_MS 1000u
#define RESENDERS 16u

static bool is_gone(int result)
{
	/* A server that is ending says so to each request. */
	return result == -ENOTCONN || result == -ESHUTDOWN;
}

int ox_nbd_try_co(struct ox_nbd_store *s, struct ox_nbd_request *req)
{
	struct ox_nbd_links *links = &s->links;
	unsigned at = 0;
	int r;

	ox_assert(links->count > 0);
	for (unsigned i = 1; i < links->count; i++)
		if (links->calls[i] < links->calls[at])
			at = i;
	s->calls++;
	links->calls[at]++;
	r = ox_nbd_link_call_co(links->link[at], req);
	links->calls[at]--;
	s->calls--;
	ox_waitq_wake_all(&s->room);
	if (is_gone(r)) {
		if (s->state == OX_NBD_RUNNING)
			s->state = OX_NBD_LOST;
		return -ENOTCONN;
	}
	if (s->state == OX_NBD_RUNNING)
		s->outage_ns = 0;
	return r;
}

/* ---- sending again ---- */

struct resending {
	struct ox_nbd_store *s;
	struct ox_list *next;
	struct ox_rangelock order;
	struct ox_latch latch;
	int result;
};

static int resend_one_co(struct resending *re, const struct ox_nbd_kept *entry)
{
	struct ox_nbd_request req = {
		.kind = entry->kind,
		.flags = entry->flags,
		.offset = entry->offset,
		.length = entry->length,
		.buf = entry->bytes,
	};
	struct ox_range range;
	int r;

	/* Ranges are had in the order in which they are asked for, which is that of the entries. */
	ox_rangelock_acquire_co(&re->order, &range, entry->offset, entry->length, true);
	r = re->result < 0 ? re->result : ox_nbd_try_co(re->s, &req);
	ox_rangelock_release(&re->order, &range);
	return r;
}

static void resend_co(void *arg)
{
	struct resending *re = arg;

	while (re->next != &re->s->keep.entries && re->result == 0) {
		const struct ox_nbd_kept *entry = ox_list_entry(re->next, struct ox_nbd_kept, link);
		int r = 0;

		re->next = re->next->next;
		if (entry->answered_at > 0)
			r = resend_one_co(re, entry);
		if (r < 0 && re->result == 0)
			re->result = r;
	}
	ox_latch_done(&re->latch);
}

/* 0, -ENOTCONN, or an error of the server's, at which what it had answered is lost. */
static int resend_all_co(struct ox_nbd_store *s)
{
	struct resending re = {.s = s, .next = s->keep.entries.next};

	if (s->keep.forgot)
		return -EIO;
	ox_rangelock_init(&re.order);
	ox_latch_init(&re.latch);
	for (unsigned i = 1; i < RESENDERS && !ox_list_empty(&s->keep.entries); i++) {
		ox_latch_add(&re.latch);
		if (ox_co_spawn(s->io.reactor, resend_co, &re) < 0) {
			ox_latch_done(&re.latch);
			break;
		}
	}
	ox_latch_add(&re.latch);
	resend_co(&re);
	ox_latch_wait_co(&re.latch);
	return re.result;
}

/* ---- looking for the server ---- */

static int close_links_work(void *arg)
{
	ox_nbd_links_close(arg);
	return 0;
}

static void close_links_co(struct ox_nbd_store *s)
{
	int r = ox_aio_work_co(close_links_work, s);

	ox_assert(r == 0);
}

/* What other links still answer is taken, for a while. */
static void drain_co(struct ox_nbd_store *s)
{
	for (unsigned ms = 0; s->calls > 0 && ms < DRAIN_MS; ms += DRAIN_STEP_MS)
		ox_reactor_sleep_co(DRAIN_STEP_MS * MS);
	close_links_co(s);
	/* Their requests are all answered by now, and so will their tasks be. */
	while (s->calls > 0)
		ox_waitq_wait_co(&s->room);
}

struct opening {
	struct ox_nbd_store *s;
	uint64_t limit_ms;
	struct ox_nbd_facts facts;
	bool known;
};

static int open_links_work(void *arg)
{
	struct opening *o = arg;

	return ox_nbd_links_open(o->s, o->limit_ms, &o->facts, &o->known, NULL);
}

/* Whether what the server offers now is what was opened. */
static bool is_same(const struct ox_nbd_store *s, const struct ox_nbd_facts *now)
{
	const struct ox_nbd_facts *was = &s->facts;

	if (now->length != was->length)
		return false;
	if (!s->io.read_only && (now->read_only || now->can_flush != was->can_flush))
		return false;
	/* What is kept, and each whole block, is to fit into a request as it did. */
	return now->block_min <= s->io.align_bytes && now->block_max >= was->block_max;
}

static uint64_t ms_left(const struct ox_nbd_store *s)
{
	uint64_t gone = (ox_reactor_now_ns(s->io.reactor) - s->outage_ns) / MS;

	return gone >= s->address.reconnect_ms ? 0 : s->address.reconnect_ms - gone;
}

/* One attempt. 0, -ENOTCONN, or what cannot be helped. */
static int attempt_co(struct ox_nbd_store *s)
{
	struct opening o = {.s = s, .limit_ms = ms_left(s)};
	int r = ox_aio_work_co(open_links_work, &o);

	if (r < 0)
		return o.known ? -EIO : -ENOTCONN;
	if (!is_same(s, &o.facts)) {
		r = -EIO;
	} else {
		s->facts = o.facts;
		r = resend_all_co(s);
	}
	if (r < 0)
		close_links_co(s);
	return r;
}

static int look_for_server_co(struct ox_nbd_store *s)
{
	bool again = s->outage_ns != 0; /* it came back, and answered nothing */
	uint64_t pause_ms = PAUSE_MIN_MS;
	int r = -ENOTCONN;

	if (!again)
		s->outage_ns = ox_reactor_now_ns(s->io.reactor);
	drain_co(s);
	while (r == -ENOTCONN && ms_left(s) > 0) {
		if (again) {
			ox_reactor_sleep_co(ox_min_u64(pause_ms, ms_left(s)) * MS);
			pause_ms = ox_min_u64(pause_ms * 2, PAUSE_MAX_MS);
		}
		again = true;
		r = attempt_co(s);
	}
	return r;
}

int ox_nbd_recover_co(struct ox_nbd_store *s)
{
	while (s->state != OX_NBD_RUNNING) {
		if (s->state == OX_NBD_DEAD)
			return -EIO;
		if (s->state == OX_NBD_RECOVERING) {
			ox_waitq_wait_co(&s->recovered);
			continue;
		}
		s->state = OX_NBD_RECOVERING;
		s->state = look_for_server_co(s) == 0 ? OX_NBD_RUNNING : OX_NBD_DEAD;
		ox_waitq_wake_all(&s->recovered);
	}
	return 0;
}
