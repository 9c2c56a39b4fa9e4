/* SPDX-License-Identifier: MIT */
/*
 * zstd. The end of a stream is unknown, so it is decompressed as a stream, into a buffer that holds
 * the whole cluster.
 */
#include "codec/backends.h"

#include <errno.h>
#include <zstd.h>
#include <zstd_errors.h>

/* A frame's header claims what window it needs, and that is allocated: a cluster is 2 MiB at most,
 * and this is what every ordinary level of zstd stays within. */
#define MAX_WINDOW_BITS 23

static int zstd_error(size_t r)
{
	return ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO;
}

/* A cluster may lie in several frames; each call decodes as much of one as there is. */
static int decompress_frames(ZSTD_DCtx *ctx, ZSTD_outBuffer *out, ZSTD_inBuffer *in)
{
	while (out->pos < out->size) {
		size_t out_before = out->pos;
		size_t in_before = in->pos;
		size_t r = ZSTD_decompressStream(ctx, out, in);

		if (ZSTD_isError(r))
			return zstd_error(r);
		/* Nothing came of it: the input has ended early. */
		if (out->pos == out_before && in->pos == in_before)
			return -EIO;
	}
	return 0;
}

int ox_codec_zstd_decompress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	ZSTD_outBuffer out = {.dst = dst, .size = dst_bytes};
	ZSTD_inBuffer in = {.src = src, .size = src_bytes};
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	int r;

	if (!ctx)
		return -ENOMEM;
	if (ZSTD_isError(ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, MAX_WINDOW_BITS)))
		r = -EIO;
	else
		r = decompress_frames(ctx, &out, &in);
	ZSTD_freeDCtx(ctx);
	return r;
}

long ox_codec_zstd_compress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	size_t r = ZSTD_compress(dst, dst_bytes, src, src_bytes, ZSTD_CLEVEL_DEFAULT);

	if (!ZSTD_isError(r))
		return (long)r;
	if (ZSTD_getErrorCode(r) == ZSTD_error_dstSize_tooSmall)
		return -ENOSPC;
	return zstd_error(r);
}
