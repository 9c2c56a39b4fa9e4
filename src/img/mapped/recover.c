/* SPDX-License-Identifier: MIT */
/*
 * An image that was not closed, served while it is looked through: the task that does it, and those
 * who wait for it. docs/recovery.md has the states; what is looked for is the format's.
 */
#include <errno.h>
#include <stdio.h>

#include "img/mapped/mapped.h"

/* Between two attempts that find no room. */
#define ROOM_NS UINT64_C(1000000000)

void ox_recover_init(struct ox_mapped *m, enum ox_recover_mode mode)
{
	m->recover = (struct ox_recover){.mode = mode};
	ox_timer_init(&m->recover.room);
	ox_waitq_init(&m->recover.changed);
}

void ox_mapped_tell(const struct ox_mapped *m, const char *message)
{
	if (m->img->warn)
		m->img->warn(m->img->opaque, message);
}

/* ---- those who wait ---- */

bool ox_recover_restart_co(struct ox_mapped *m, int *r)
{
	bool tried = false;

	if (*r != -ERESTART)
		return false;
	while (m->recover.state == OX_RECOVERY_RUNNING) {
		if (m->recover.lacks_room && tried) {
			*r = -ENOSPC;
			return false;
		}
		if (m->recover.lacks_room) { /* there may be some by now */
			tried = true;
			ox_timer_end(&m->recover.room);
		}
		ox_waitq_wait_co(&m->recover.changed);
	}
	return true;
}

void ox_recover_wait_co(struct ox_mapped *m)
{
	bool tried = false;

	while (m->recover.task && !(m->recover.lacks_room && tried)) {
		if (m->recover.lacks_room) {
			tried = true;
			ox_timer_end(&m->recover.room);
		}
		ox_waitq_wait_co(&m->recover.changed);
	}
}

void ox_recover_end_co(struct ox_mapped *m)
{
	m->recover.closing = true;
	ox_timer_end(&m->recover.room);
	while (m->recover.task)
		ox_waitq_wait_co(&m->recover.changed);
}

void ox_recover_leave(struct ox_image *img)
{
	struct ox_recover *rec = &ox_mapped_of(img)->recover;

	rec->leaves = true;
	rec->closing = true;
	ox_timer_end(&rec->room);
}

bool ox_recover_await_room_co(struct ox_mapped *m)
{
	struct ox_recover *rec = &m->recover;

	/* Room does not heal a poisoned order (M3). */
	if (rec->closing || ox_order_error(&m->order))
		return false;
	if (!rec->told_room)
		ox_mapped_tell(m, "the recovery waits for room on the host");
	rec->told_room = true;
	rec->lacks_room = true;
	ox_waitq_wake_all(&rec->changed);
	(void)ox_timer_sleep_co(&rec->room, ROOM_NS);
	rec->lacks_room = false;
	return !rec->closing;
}

/* ---- the task ---- */

void ox_recover_on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_mapped *m = opaque;

	m->recover.tables_done = done;
	m->recover.tables_total = total;
	if (m->img->progress)
		m->img->progress(m->img->opaque, done, total);
}

void ox_recover_done(struct ox_mapped *m)
{
	m->recover.state = OX_RECOVERY_DONE;
	if (m->state)
		ox_state_set_recovery(m->state, OX_STATE_KNOWS);
	ox_waitq_wake_all(&m->recover.changed);
}

/* What is freed from now on is forgotten: whoever went on between the old lines would count it as
 * used. Once nothing can be written any more (M3) that is no matter. */
static void begin_anew_after_death(struct ox_mapped *m)
{
	if (ox_order_error(&m->order))
		return;
	m->recover.resumable = false;
	if (m->state)
		ox_state_set_recovery(m->state, OX_STATE_ANEW);
}

void ox_recover_fail(struct ox_mapped *m, const char *why)
{
	char text[512];

	snprintf(m->recover.obstacle, sizeof(m->recover.obstacle), "%s", why);
	m->recover.state = OX_RECOVERY_FAILED;
	begin_anew_after_death(m);
	ox_waitq_wake_all(&m->recover.changed);
	m->ops->recovery_failed(m);
	ox_alloc_start_release(m);
	if (m->recover.leaves)
		snprintf(text, sizeof(text),
			 "the image stays dirty: its recovery is left to the next opening");
	else
		snprintf(text, sizeof(text), "%s: %s", m->ops->recovery_failed_for,
			 m->recover.obstacle);
	ox_mapped_tell(m, text);
}

static void recover_task_co(void *arg)
{
	struct ox_mapped *m = arg;
	struct ox_error *err = NULL;

	if (m->ops->recover_co(m, &err) < 0) {
		ox_recover_fail(m, m->recover.leaves ? "it was left to the next opening"
						     : ox_error_message(err));
	} else {
		ox_recover_done(m);
		ox_mapped_tell(m, m->ops->recovery_done);
		ox_alloc_start_release(m);
	}
	ox_error_free(err);
	m->recover.task = false;
	ox_waitq_wake_all(&m->recover.changed);
}

int ox_recover_spawn_co(struct ox_mapped *m)
{
	struct ox_recover *rec = &m->recover;
	int r;

	rec->state = OX_RECOVERY_RUNNING;
	rec->closing = false;
	rec->leaves = false;
	rec->told_room = false;
	rec->task = true;
	m->dirty.state = OX_DIRTY_SET;
	ox_mapped_tell(m, m->ops->recovery_begun);
	r = ox_co_spawn(m->img->reactor, recover_task_co, m);
	if (r < 0) {
		rec->task = false;
		rec->state = OX_RECOVERY_NONE;
	}
	return r;
}
