/* SPDX-License-Identifier: MIT */
/* zstd. The end of a stream is unknown; a frame tells its own. */
#include "codec/backends.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* A frame's header claims what window it needs, and that is allocated: a cluster is 2 MiB at most,
 * and this is what every ordinary level of zstd stays within. */
#define MAX_WINDOW_BITS 23
/* In the frame's descriptor, its fifth byte. */
#define SINGLE_SEGMENT 0x20

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

/* Whether decompressing it as a stream would not refuse it for its window: the frame's header has
 * that in its sixth byte, unless the content's size stands for it. */
static bool window_fits(const uint8_t *src, size_t src_bytes)
{
	return src_bytes >= 6 && (src[4] & SINGLE_SEGMENT || src[5] >> 3 < MAX_WINDOW_BITS - 10);
}

/* The usual cluster is one frame: it needs no buffer beside the cluster's. What is not like that is
 * judged as a stream. */
static bool decompress_whole(ZSTD_DCtx *ctx, void *dst, size_t dst_bytes, const void *src,
			     size_t src_bytes)
{
	size_t frame = ZSTD_findFrameCompressedSize(src, src_bytes);

	return !ZSTD_isError(frame) && window_fits(src, frame) &&
	       ZSTD_decompressDCtx(ctx, dst, dst_bytes, src, frame) == dst_bytes;
}

int ox_codec_zstd_decompress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	ZSTD_outBuffer out = {.dst = dst, .size = dst_bytes};
	ZSTD_inBuffer in = {.src = src, .size = src_bytes};
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	int r = 0;

	if (!ctx)
		return -ENOMEM;
	if (ZSTD_isError(ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, MAX_WINDOW_BITS)))
		r = -EIO;
	else if (!decompress_whole(ctx, dst, dst_bytes, src, src_bytes))
		r = decompress_frames(ctx, &out, &in);
	ZSTD_freeDCtx(ctx);
	return r;
}

struct zstd_packer {
	struct ox_codec_packer base;
	ZSTD_CCtx *ctx;
	int level;
};

static long zstd_pack(struct ox_codec_packer *base, void *dst, size_t dst_bytes, const void *src,
		      size_t src_bytes)
{
	struct zstd_packer *p = (struct zstd_packer *)base;
	size_t r = ZSTD_compressCCtx(p->ctx, dst, dst_bytes, src, src_bytes, p->level);

	if (!ZSTD_isError(r))
		return (long)r;
	if (ZSTD_getErrorCode(r) == ZSTD_error_dstSize_tooSmall)
		return -ENOSPC;
	return zstd_error(r);
}

static void zstd_free(struct ox_codec_packer *base)
{
	struct zstd_packer *p = (struct zstd_packer *)base;

	ZSTD_freeCCtx(p->ctx);
	free(p);
}

struct ox_codec_packer *ox_codec_zstd_packer(int level)
{
	struct zstd_packer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->base = (struct ox_codec_packer){.pack = zstd_pack, .free = zstd_free};
	p->level = level;
	p->ctx = ZSTD_createCCtx();
	if (!p->ctx) {
		free(p);
		return NULL;
	}
	return &p->base;
}
