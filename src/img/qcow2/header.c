/* SPDX-License-Identifier: MIT */
/* The header on disk: read at open, changed one sector at a time (H9). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

void ox_header_init(struct ox_header *h)
{
	ox_mutex_init(&h->lock);
}

void ox_header_lock_co(struct ox_qcow2 *q)
{
	ox_mutex_lock_co(&q->header.lock);
}

void ox_header_unlock(struct ox_qcow2 *q)
{
	ox_mutex_unlock(&q->header.lock);
}

int ox_header_write_co(struct ox_qcow2 *q, const struct ox_qcow2_header *fields)
{
	uint8_t *sector;
	int r;

	ox_assert(q->header.lock.owner == ox_co_self());
	sector = ox_io_buffer(sizeof(q->header.sector));
	if (!sector)
		return -ENOMEM;
	memcpy(sector, q->header.sector, sizeof(q->header.sector));
	ox_qcow2_header_encode(fields, sector);
	r = ox_io_pwrite_co(q->m.io, sector, sizeof(q->header.sector), 0, 0);
	if (r == 0)
		r = ox_order_sync_always_co(&q->m.order);
	else if (!ox_io_is_full(r)) /* old or new (M2): nothing may be built on either */
		ox_order_poison(&q->m.order, r);
	if (r == 0) {
		q->header.fields = *fields;
		memcpy(q->header.sector, sector, sizeof(q->header.sector));
	}
	free(sector);
	return r;
}

int ox_header_read_co(struct ox_qcow2 *q, uint8_t **ret_cluster, size_t *ret_count,
		      struct ox_error **err)
{
	struct ox_qcow2_header fields;
	struct ox_qcow2_extensions ext;
	uint8_t *cluster;
	uint8_t sector[sizeof(q->header.sector)] = {0};
	size_t count = ox_min_u64(q->m.io->length, sizeof(sector));
	int r;

	r = ox_io_pread_co(q->m.io, sector, count, 0);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read qcow2 header");
	r = ox_qcow2_header_decode(sector, count, &fields, err);
	if (r < 0)
		return r;
	count = ox_min_u64(q->m.io->length, ox_qcow2_cluster_bytes(&fields));
	cluster = ox_io_buffer(count);
	if (!cluster)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_io_pread_co(q->m.io, cluster, count, 0);
	if (r < 0) {
		free(cluster);
		return ox_error_set_errno(err, r, "Could not read qcow2 header");
	}
	r = ox_qcow2_extensions_decode(&fields, cluster, count, &ext, err);
	if (r < 0) {
		free(cluster);
		return r;
	}
	ox_qcow2_extensions_free(&q->ext);
	q->ext = ext;
	q->header.fields = fields;
	memcpy(q->header.sector, sector, sizeof(sector));
	*ret_cluster = cluster;
	*ret_count = count;
	return 0;
}
