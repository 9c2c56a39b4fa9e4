/* SPDX-License-Identifier: MIT */
/* Compressed clusters, as they are read. */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "codec/codec.h"
#include "img/qcow2/qcow2.h"

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
	uint64_t left = q->m.io->length - run->host.bytes;

	if (run->compressed_bytes > left && ox_io_has_grown_co(q->m.io))
		left = q->m.io->length - run->host.bytes;
	return ox_min_u64(run->compressed_bytes, left);
}

static int unpack_co(struct ox_qcow2 *q, const struct ox_map_run *run, uint8_t *cluster)
{
	bool zstd = ox_qcow2_hdr(q)->compression_type == OX_QCOW2_ZSTD;
	struct unpack_job job = {
		.codec = zstd ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE,
		.dst = cluster,
		.dst_bytes = q->m.cluster_bytes,
	};
	uint64_t bytes = stream_bytes_co(q, run);
	uint8_t *src = ox_io_buffer(bytes);
	int r;

	job.src_bytes = bytes;
	if (!src)
		return -ENOMEM;
	job.src = src;
	r = ox_io_pread_co(q->m.io, src, bytes, run->host.bytes);
	if (r == 0) {
		r = ox_aio_work_co(unpack_job, &job);
		if (r == -EIO)
			ox_corrupt_stream(q, run->host, bytes);
	}
	free(src);
	return r;
}

/* Through the one-cluster cache of unpacked bytes. The L2 entry is the key: it names the stream,
 * and streams are never written over while they are named. */
int ox_qcow2_read_compressed_co(struct ox_mapped *m, const struct ox_map_run *run,
				const struct iovec *iov, int n, uint64_t skip, uint64_t in_cluster)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r = 0;

	ox_mutex_lock_co(&q->unpack_lock);
	if (!q->unpacked)
		q->unpacked = ox_io_buffer(q->m.cluster_bytes);
	if (!q->unpacked)
		r = -ENOMEM;
	if (r == 0 && q->unpacked_entry != run->entry) {
		q->unpacked_entry = 0;
		r = unpack_co(q, run, q->unpacked);
		if (r == 0)
			q->unpacked_entry = run->entry;
	}
	if (r == 0)
		ox_iov_from_buf(iov, n, skip, q->unpacked + in_cluster, run->length);
	ox_mutex_unlock(&q->unpack_lock);
	return r;
}
