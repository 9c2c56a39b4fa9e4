/* SPDX-License-Identifier: MIT */
/* What the library counts, in a file of its own: whoever only counts requests needs no library. */
#include "serve/stats.h"

void ox_stats_publish(struct ox_stats *stats, const struct ox_image *image)
{
	const struct ox_stats_values *before = &stats->before;
	struct ox_stats_values *m = stats->memory;
	struct ox_recovery_status recovery;
	struct ox_image_stats s;

	ox_image_stats(image, &s);
	ox_stats_set(&m->host_reads, before->host_reads + s.host_reads);
	ox_stats_set(&m->host_writes, before->host_writes + s.host_writes);
	ox_stats_set(&m->host_syncs, before->host_syncs + s.host_syncs);
	ox_stats_set(&m->l2_hits, before->l2_hits + s.l2_hits);
	ox_stats_set(&m->l2_misses, before->l2_misses + s.l2_misses);
	ox_stats_set(&m->refcount_hits, before->refcount_hits + s.refcount_hits);
	ox_stats_set(&m->refcount_misses, before->refcount_misses + s.refcount_misses);
	ox_stats_set(&m->notices, before->notices + ox_image_notices(image, NULL));
	ox_stats_set(&m->dirty, s.dirty);
	ox_stats_set(&m->size_bytes, ox_image_size(image));
	ox_image_recovery(image, &recovery);
	ox_stats_set(&m->recovery, (uint64_t)recovery.state);
	ox_stats_set(&m->recovery_done, recovery.tables_done);
	ox_stats_set(&m->recovery_total, recovery.tables_total);
}
