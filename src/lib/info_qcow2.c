/* SPDX-License-Identifier: MIT */
/*
 * What a qcow2 image says of itself. Every size is held against the file's length before memory is
 * taken for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/path.h"
#include "lib/info.h"

#define FIRST_READ_BYTES 4096u
#define FIRST_SNAPSHOT_READ_BYTES 65536u
#define MIN_SNAPSHOT_RECORD_BYTES 40u

/* A fresh buffer with the store's bytes. */
static int read_range_co(struct ox_io *io, uint64_t offset, size_t bytes, uint8_t **ret,
			 struct ox_error **err)
{
	uint8_t *buf = ox_io_buffer(bytes);
	int r;

	if (!buf)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_io_pread_co(io, buf, bytes, offset);
	if (r < 0) {
		free(buf);
		return ox_error_set_errno(err, r, "Could not read metadata");
	}
	*ret = buf;
	return 0;
}

/* The header says how long the first cluster is; the first read is enough for the header. */
static int read_first_cluster_co(struct ox_io *io, struct ox_qcow2_header *ret_header,
				 uint8_t **ret_cluster, size_t *ret_bytes, struct ox_error **err)
{
	struct ox_qcow2_header h;
	size_t bytes = ox_min_u64(io->length, FIRST_READ_BYTES);
	uint8_t *buf;
	int r;

	if (bytes == 0)
		return ox_error_set(err, -EINVAL, "Image is not in qcow2 format");
	r = read_range_co(io, 0, bytes, &buf, err);
	if (r < 0)
		return r;
	r = ox_qcow2_header_decode(buf, bytes, &h, err);
	if (r == 0 && ox_qcow2_cluster_bytes(&h) > bytes && io->length > bytes) {
		free(buf);
		bytes = ox_min_u64(io->length, ox_qcow2_cluster_bytes(&h));
		r = read_range_co(io, 0, bytes, &buf, err);
		if (r < 0)
			return r;
	}
	if (r < 0) {
		free(buf);
		return r;
	}
	*ret_header = h;
	*ret_cluster = buf;
	*ret_bytes = ox_min_u64(bytes, ox_qcow2_cluster_bytes(&h));
	return 0;
}

static int read_names_co(struct ox_io *io, const char *filename, struct ox_info_facts *facts,
			 struct ox_error **err)
{
	uint8_t *cluster = NULL;
	size_t bytes = 0;
	int r = read_first_cluster_co(io, &facts->header, &cluster, &bytes, err);

	if (r < 0)
		return r;
	r = ox_qcow2_extensions_decode(&facts->header, cluster, bytes, &facts->ext, err);
	if (r == 0)
		r = ox_qcow2_backing_name(&facts->header, cluster, bytes, &facts->backing_name,
					  err);
	free(cluster);
	if (r == 0 && facts->backing_name) {
		facts->backing_path = io->is_remote ? strdup(facts->backing_name)
						    : ox_path_beside(filename, facts->backing_name);
		if (!facts->backing_path)
			r = ox_error_set(err, -ENOMEM, "Out of memory");
	}
	return r;
}

static void free_snapshots(struct ox_info_facts *facts)
{
	for (size_t i = 0; i < facts->snapshot_count; i++)
		ox_qcow2_snapshot_free(&facts->snapshots[i]);
	facts->snapshot_count = 0;
}

static int decode_snapshots(struct ox_info_facts *facts, const uint8_t *table, size_t bytes,
			    struct ox_error **err)
{
	size_t pos = 0;

	while (facts->snapshot_count < facts->header.snapshot_count) {
		int r = ox_qcow2_snapshot_decode(&facts->header, table, bytes, &pos,
						 &facts->snapshots[facts->snapshot_count], err);

		if (r < 0)
			return r;
		facts->snapshot_count++;
	}
	return 0;
}

/* How long the table is, the header does not say: more is read until its records end. */
static int read_snapshots_co(struct ox_io *io, struct ox_info_facts *facts, struct ox_error **err)
{
	const struct ox_qcow2_header *h = &facts->header;
	uint64_t offset = h->snapshots_offset;
	uint64_t limit;
	int r;

	if (h->snapshot_count == 0)
		return 0;
	limit = offset < io->length ? io->length - offset : 0;
	limit = ox_min_u64(limit, OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES);
	if ((uint64_t)h->snapshot_count * MIN_SNAPSHOT_RECORD_BYTES > limit)
		return ox_error_set(err, -EINVAL, "Snapshot table lies beyond the end of the file");
	facts->snapshots = calloc(h->snapshot_count, sizeof(*facts->snapshots));
	if (!facts->snapshots)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	for (size_t bytes = ox_min_u64(limit, FIRST_SNAPSHOT_READ_BYTES);;) {
		uint8_t *table;

		r = read_range_co(io, offset, bytes, &table, err);
		if (r < 0)
			return r;
		free_snapshots(facts);
		/* Whether a record is broken or merely cut is known once all was read. */
		r = decode_snapshots(facts, table, bytes, bytes == limit ? err : NULL);
		free(table);
		if (r == -ENOMEM)
			return ox_error_set(err, r, "Out of memory");
		if (r != -EINVAL || bytes == limit)
			return r;
		bytes = ox_min_u64(limit, 4 * bytes);
	}
}

static int read_bitmaps_co(struct ox_io *io, struct ox_info_facts *facts, struct ox_error **err)
{
	const struct ox_qcow2_bitmaps_ext *ext = &facts->ext.bitmaps;
	uint8_t *directory;
	size_t pos = 0;
	int r;

	if (!facts->ext.has_bitmaps)
		return 0;
	if (ext->directory_bytes == 0 ||
	    !ox_range_within(ext->directory_offset, ext->directory_bytes, io->length))
		return ox_error_set(err, -EINVAL,
				    "Bitmap directory lies beyond the end of the file");
	facts->bitmaps = calloc(ext->count, sizeof(*facts->bitmaps));
	if (!facts->bitmaps)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = read_range_co(io, ext->directory_offset, ext->directory_bytes, &directory, err);
	if (r < 0)
		return r;
	while (r == 0 && facts->bitmap_count < ext->count) {
		r = ox_qcow2_bitmap_decode(&facts->header, directory, ext->directory_bytes, &pos,
					   &facts->bitmaps[facts->bitmap_count], err);
		if (r == 0)
			facts->bitmap_count++;
	}
	free(directory);
	return r;
}

int ox_info_read_qcow2_co(struct ox_io *io, const char *filename, struct ox_info_facts *facts,
			  struct ox_error **err)
{
	int r = read_names_co(io, filename, facts, err);

	if (r < 0)
		return r;
	r = read_snapshots_co(io, facts, err);
	if (r < 0) {
		ox_error_prefix(err, "Could not read snapshots: ");
		return r;
	}
	r = read_bitmaps_co(io, facts, err);
	if (r < 0)
		ox_error_prefix(err, "Could not read bitmaps: ");
	return r;
}

void ox_info_facts_free(struct ox_info_facts *facts)
{
	free_snapshots(facts);
	free(facts->snapshots);
	for (size_t i = 0; i < facts->bitmap_count; i++)
		ox_qcow2_bitmap_free(&facts->bitmaps[i]);
	free(facts->bitmaps);
	ox_qcow2_extensions_free(&facts->ext);
	free(facts->backing_name);
	free(facts->backing_path);
}
