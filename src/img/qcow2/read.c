/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "codec/codec.h"
#include "img/chain.h"
#include "img/clusters.h"
#include "img/qcow2/qcow2.h"

void ox_qcow2_lock_co(struct ox_qcow2 *q, struct ox_range *range, uint64_t offset, uint64_t length,
		      bool exclusive)
{
	uint64_t start = ox_align_down(offset, q->cluster_bytes);
	uint64_t end = ox_align_up(offset + length, q->cluster_bytes);

	ox_rangelock_acquire_co(&q->guest, range, start, end - start, exclusive);
}

bool ox_qcow2_backing_covers(const struct ox_qcow2 *q, uint64_t offset)
{
	return ox_clusters_are_backed(q->img, offset);
}

struct unpack_job {
	enum ox_codec codec;
	uint8_t *dst;
	size_t dst_bytes;
	const uint8_t *src;
	size_t src_bytes;
};

static int unpack_job(void *arg)
{
	struct unpack_job *j = arg;

	return ox_codec_decompress(j->codec, j->dst, j->dst_bytes, j->src, j->src_bytes);
}

/* The last stream may claim sectors past the file's end; it does not need them. */
static uint64_t stream_bytes_co(struct ox_qcow2 *q, const struct ox_map_run *run)
{
	uint64_t left = q->io->length - run->host.bytes;

	if (run->compressed_bytes > left && ox_io_has_grown_co(q->io))
		left = q->io->length - run->host.bytes;
	return ox_min_u64(run->compressed_bytes, left);
}

int ox_qcow2_unpack_co(struct ox_qcow2 *q, const struct ox_map_run *run, uint8_t *cluster)
{
	bool zstd = ox_qcow2_hdr(q)->compression_type == OX_QCOW2_ZSTD;
	struct unpack_job job = {
		.codec = zstd ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE,
		.dst = cluster,
		.dst_bytes = q->cluster_bytes,
	};
	uint64_t bytes = stream_bytes_co(q, run);
	uint8_t *src = ox_io_buffer(bytes);
	int r;

	job.src_bytes = bytes;
	if (!src)
		return -ENOMEM;
	job.src = src;
	r = ox_io_pread_co(q->io, src, bytes, run->host.bytes);
	if (r == 0) {
		r = ox_aio_work_co(unpack_job, &job);
		if (r == -EIO)
			ox_corrupt_stream(q, run->host, bytes);
	}
	free(src);
	return r;
}

/* A part of a compressed cluster, through the one-cluster cache of unpacked bytes. The L2 entry is
 * the key: it names the stream, and streams are never written over while they are named. */
static int read_compressed_co(struct ox_qcow2 *q, const struct ox_map_run *run,
			      const struct iovec *iov, int n, uint64_t skip, uint64_t in_cluster)
{
	int r = 0;

	ox_mutex_lock_co(&q->unpack_lock);
	if (!q->unpacked)
		q->unpacked = ox_io_buffer(q->cluster_bytes);
	if (!q->unpacked)
		r = -ENOMEM;
	if (r == 0 && q->unpacked_entry != run->entry) {
		q->unpacked_entry = 0;
		r = ox_qcow2_unpack_co(q, run, q->unpacked);
		if (r == 0)
			q->unpacked_entry = run->entry;
	}
	if (r == 0)
		ox_iov_from_buf(iov, n, skip, q->unpacked + in_cluster, run->length);
	ox_mutex_unlock(&q->unpack_lock);
	return r;
}

static int read_run_co(struct ox_qcow2 *q, const struct ox_map_run *run, const struct iovec *iov,
		       int n, uint64_t skip, uint64_t offset)
{
	switch (run->kind) {
	case OX_QCOW2_ENTRY_DATA:
		return ox_io_preadv_part_co(q->io, iov, n, skip, run->length, run->host.bytes);
	case OX_QCOW2_ENTRY_UNALLOCATED: /* and no backing file has it */
	case OX_QCOW2_ENTRY_ZERO:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		ox_iov_zero(iov, n, skip, run->length);
		return 0;
	case OX_QCOW2_ENTRY_COMPRESSED:
		return read_compressed_co(q, run, iov, n, skip, offset & (q->cluster_bytes - 1));
	case OX_QCOW2_ENTRY_BAD:
		break;
	}
	return -EIO;
}

/* Whether the backing file has the run, or its beginning. */
static bool is_below(const struct ox_qcow2 *q, const struct ox_map_run *run, uint64_t offset)
{
	return run->kind == OX_QCOW2_ENTRY_UNALLOCATED && ox_qcow2_backing_covers(q, offset);
}

int ox_qcow2_read_unlocked_co(struct ox_qcow2 *q, const struct iovec *iov, int n, uint64_t offset,
			      uint64_t length)
{
	struct ox_image *backing = q->img->backing;
	struct ox_map_run run;
	uint64_t done = 0;
	int r;

	while (done < length) {
		r = ox_map_lookup_co(q, ox_guest(offset + done), length - done, &run);
		if (r < 0)
			return r;
		if (!is_below(q, &run, offset + done))
			r = read_run_co(q, &run, iov, n, done, offset + done);
		else if (backing)
			r = ox_chain_read_co(backing, iov, n, done, offset + done, run.length);
		else
			r = -EIO;
		if (r < 0)
			return r;
		done += run.length;
	}
	return 0;
}

int ox_qcow2_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		       uint64_t length)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_range range;
	int r;

	ox_qcow2_lock_co(q, &range, offset, length, false);
	r = ox_qcow2_read_unlocked_co(q, iov, n, offset, length);
	ox_rangelock_release(&q->guest, &range);
	return r;
}

int ox_qcow2_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			  uint64_t offset, uint64_t *length, bool *ret_below)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_map_run run;
	struct ox_range range;
	int r;

	ox_qcow2_lock_co(q, &range, offset, *length, false);
	r = ox_map_lookup_co(q, ox_guest(offset), *length, &run);
	if (r == 0) {
		*length = run.length;
		*ret_below = is_below(q, &run, offset);
		if (!*ret_below)
			r = read_run_co(q, &run, iov, n, skip, offset);
	}
	ox_rangelock_release(&q->guest, &range);
	return r;
}
