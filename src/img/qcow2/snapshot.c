/* SPDX-License-Identifier: MIT */
/*
 * An image as one of its internal snapshots has it, read-only: another L1 table, and perhaps
 * another size. What a snapshot's record says is judged as the header is, whose place it takes in
 * memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

/* Nearly every table is shorter; how long it is, the header does not say. */
#define FIRST_READ_BYTES (UINT64_C(64) << 10)

static bool is_wanted(const struct ox_open_options *opts)
{
	return opts->snapshot || opts->snapshot_id || opts->snapshot_name;
}

/* How well the snapshot is what is wanted: 0, not at all; an ID is better than a name. */
static int match(const struct ox_open_options *opts, const struct ox_qcow2_snapshot *s)
{
	if (opts->snapshot_id && strcmp(opts->snapshot_id, s->id) != 0)
		return 0;
	if (opts->snapshot_name && strcmp(opts->snapshot_name, s->name) != 0)
		return 0;
	if (opts->snapshot && strcmp(opts->snapshot, s->id) == 0)
		return 2;
	return !opts->snapshot || strcmp(opts->snapshot, s->name) == 0 ? 1 : 0;
}

/* The first of the best in the table's bytes; *ret_found false: there is none. */
static int search(struct ox_qcow2 *q, const struct ox_open_options *opts, const uint8_t *table,
		  size_t bytes, struct ox_qcow2_snapshot *ret, bool *ret_found,
		  struct ox_error **err)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	struct ox_qcow2_snapshot best = {0};
	int best_match = 0;
	size_t pos = 0;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < h->snapshot_count; i++) {
		struct ox_qcow2_snapshot s;
		int m;

		r = ox_qcow2_snapshot_decode(h, table, bytes, &pos, &s, err);
		if (r < 0)
			break;
		m = match(opts, &s);
		if (m > best_match) {
			ox_qcow2_snapshot_free(&best);
			best = s;
			best_match = m;
		} else {
			ox_qcow2_snapshot_free(&s);
		}
	}
	if (r < 0) {
		ox_qcow2_snapshot_free(&best);
		return r;
	}
	*ret_found = best_match > 0;
	*ret = best;
	return 0;
}

/* More is read until the records end. */
static int find_co(struct ox_qcow2 *q, const struct ox_open_options *opts,
		   struct ox_qcow2_snapshot *ret, bool *ret_found, struct ox_error **err)
{
	uint64_t offset = ox_qcow2_hdr(q)->snapshots_offset;
	uint64_t limit = offset < q->m.io->length ? q->m.io->length - offset : 0;
	uint64_t bytes;
	int r = -EINVAL;

	limit = ox_min_u64(limit, OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES);
	for (bytes = ox_min_u64(limit, FIRST_READ_BYTES);; bytes = ox_min_u64(limit, 4 * bytes)) {
		uint8_t *table = ox_io_buffer(ox_max_u64(bytes, 1));

		if (!table)
			return ox_error_set(err, -ENOMEM, "Out of memory");
		r = ox_io_pread_co(q->m.io, table, bytes, offset);
		if (r < 0)
			r = ox_error_set_errno(err, r, "Could not read the snapshot table");
		else
			r = search(q, opts, table, bytes, ret, ret_found,
				   bytes == limit ? err : NULL);
		free(table);
		if (r != -EINVAL || bytes == limit)
			return r;
	}
}

static int take_over(struct ox_qcow2 *q, const struct ox_qcow2_snapshot *s, struct ox_error **err)
{
	struct ox_qcow2_header fields = *ox_qcow2_hdr(q);
	int r;

	fields.l1_offset = s->l1_offset;
	fields.l1_entries = s->l1_entries;
	fields.size_bytes = s->disk_bytes;
	r = ox_qcow2_header_judge(&fields, ox_qcow2_cluster_bytes(&fields), NULL, err);
	if (r == 0)
		r = ox_qcow2_header_check_layout(&fields, q->m.io->length, err);
	if (r == 0)
		q->header.fields = fields;
	return r;
}

int ox_snapshot_enter_co(struct ox_qcow2 *q, const struct ox_open_options *opts,
			 struct ox_error **err)
{
	struct ox_qcow2_snapshot s = {0};
	bool found = false;
	int r = 0;

	if (!is_wanted(opts))
		return 0;
	if (!q->m.img->read_only)
		return ox_error_set(err, -EINVAL, "A snapshot is opened read-only");
	if (ox_qcow2_hdr(q)->snapshot_count > 0)
		r = find_co(q, opts, &s, &found, err);
	if (r == 0 && !found)
		r = ox_error_set(err, -ENOENT, "Can't find snapshot");
	if (r == 0)
		r = take_over(q, &s, err);
	ox_qcow2_snapshot_free(&s);
	if (r < 0)
		ox_error_prefix(err, "Failed to load snapshot: ");
	return r;
}
