/* SPDX-License-Identifier: MIT */
/* Another backing file in the header: its name at an unused place, durable, and then the first
 * sector, which names it (D1, H9; docs/chain.md). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

#define SECTOR_BYTES 512u

/* What the new header names behind the first sector. The old one names nothing there. */
static int write_rest_co(struct ox_qcow2 *q, const uint8_t *old, const uint8_t *cluster,
			 size_t count)
{
	size_t from = count;
	size_t to = 0;
	int r;

	for (size_t at = SECTOR_BYTES; at < count; at += SECTOR_BYTES) {
		size_t n = ox_min_u64(SECTOR_BYTES, count - at);

		if (memcmp(old + at, cluster + at, n) == 0)
			continue;
		from = ox_min_u64(from, at);
		to = at + n;
	}
	if (from >= to)
		return 0;
	r = ox_io_pwrite_co(q->m.io, cluster + from, to - from, from, 0);
	return r < 0 ? r : ox_order_sync_always_co(&q->m.order);
}

static int write_first_sector_co(struct ox_qcow2 *q, const struct ox_qcow2_header *fields,
				 const uint8_t *sector)
{
	uint8_t before[SECTOR_BYTES];
	int r;

	_Static_assert(sizeof(before) == sizeof(q->header.sector), "H9");
	memcpy(before, q->header.sector, sizeof(before));
	memcpy(q->header.sector, sector, sizeof(before));
	r = ox_header_write_co(q, fields);
	if (r < 0) { /* for want of room too: nobody knows which file it names */
		memcpy(q->header.sector, before, sizeof(before));
		ox_order_poison(&q->m.order, r);
	}
	return r;
}

static int change_co(struct ox_qcow2 *q, uint8_t *old, uint8_t *cluster, size_t count,
		     const char *name, const char *format, struct ox_error **err)
{
	struct ox_qcow2_extensions ext;
	struct ox_qcow2_header fields;
	int r = ox_io_pread_co(q->m.io, old, count, 0);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the header");
	memcpy(old, q->header.sector, SECTOR_BYTES);
	r = ox_qcow2_first_cluster_rename(ox_qcow2_hdr(q), old, count, name, format, cluster,
					  &fields, err);
	if (r == 0)
		r = ox_qcow2_extensions_decode(&fields, cluster, count, &ext, err);
	if (r < 0)
		return r;
	r = write_rest_co(q, old, cluster, count);
	if (r == 0)
		r = write_first_sector_co(q, &fields, cluster);
	if (r < 0) {
		ox_qcow2_extensions_free(&ext);
		return ox_error_set_errno(err, r, "Could not write the header");
	}
	ox_qcow2_extensions_free(&q->ext);
	q->ext = ext;
	return 0;
}

int ox_qcow2_write_backing_co(struct ox_mapped *m, const char *name, const char *format,
			      struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	size_t count = m->cluster_bytes;
	uint8_t *old = ox_io_buffer(count);
	uint8_t *cluster = ox_io_buffer(count);
	int r = -ENOMEM;

	if (old && cluster) {
		ox_header_lock_co(q);
		r = change_co(q, old, cluster, count, name, format, err);
		ox_header_unlock(q);
	} else {
		ox_error_set(err, r, "Out of memory");
	}
	free(old);
	free(cluster);
	return r;
}
