/* SPDX-License-Identifier: MIT */
/*
 * How old a changed table may get in memory. With the guest's write cache on, entries wait for the
 * guest's flush. The death of the process would take them with it, and with them writes that were
 * answered long ago, of which a raw file would have lost none: their data has reached the host.
 * So tables are also written once they have been changed for so long, idle or not. Each goes behind
 * its barrier (C1), as in any flush; what order a write owes does not change.
 *
 * Nothing is synced for it but what a barrier owes. So a power cut finds what the last flush left,
 * or more.
 */
#include "img/mapped/mapped.h"

void ox_age_init(struct ox_mapped *m, uint32_t table_age_ms)
{
	uint32_t ms = table_age_ms ? table_age_ms : OX_TABLE_AGE_DEFAULT_MS;

	m->age = (struct ox_age){0};
	ox_timer_init(&m->age.timer);
	m->age.after_ns = ms == UINT32_MAX ? 0 : (uint64_t)ms * 1000000;
}

static void age_task_co(void *arg)
{
	struct ox_mapped *m = arg;
	int r;

	do {
		if (m->age.stopping || !ox_timer_sleep_co(&m->age.timer, m->age.after_ns))
			break;
		/* What fails stays changed: the guest's flush reports it, and the next change
		 * begins another watch, which may find room. */
		r = ox_cache_flush_co(&m->map);
	} while (r == 0 && ox_cache_is_busy(&m->map));
	m->age.running = false;
	ox_latch_done(&m->background);
}

void ox_age_start(struct ox_mapped *m)
{
	if (m->age.running || m->age.stopping || m->age.after_ns == 0)
		return;
	ox_latch_add(&m->background);
	m->age.running = true;
	if (ox_co_spawn(m->img->reactor, age_task_co, m) < 0) {
		m->age.running = false; /* until the next change */
		ox_latch_done(&m->background);
	}
}

void ox_age_stop(struct ox_mapped *m)
{
	m->age.stopping = true;
	ox_timer_end(&m->age.timer);
}

void ox_age_allow(struct ox_mapped *m)
{
	m->age.stopping = false;
}
