/* SPDX-License-Identifier: MIT */
#include "codec/codec.h"

#include "base/assert.h"
#include "codec/backends.h"

/* Far above any cluster, and within what zlib counts in (unsigned int). */
#define MAX_BYTES (1u << 30)

int ox_codec_decompress(enum ox_codec codec, void *dst, size_t dst_bytes, const void *src,
			size_t src_bytes)
{
	ox_assert(dst_bytes > 0 && dst_bytes <= MAX_BYTES && src_bytes <= MAX_BYTES);
	switch (codec) {
	case OX_CODEC_DEFLATE:
		return ox_codec_inflate(dst, dst_bytes, src, src_bytes);
	default:
		ox_assert(codec == OX_CODEC_ZSTD);
		return ox_codec_zstd_decompress(dst, dst_bytes, src, src_bytes);
	}
}

long ox_codec_compress(enum ox_codec codec, void *dst, size_t dst_bytes, const void *src,
		       size_t src_bytes)
{
	ox_assert(src_bytes > 0 && dst_bytes <= MAX_BYTES && src_bytes <= MAX_BYTES);
	switch (codec) {
	case OX_CODEC_DEFLATE:
		return ox_codec_deflate(dst, dst_bytes, src, src_bytes);
	default:
		ox_assert(codec == OX_CODEC_ZSTD);
		return ox_codec_zstd_compress(dst, dst_bytes, src, src_bytes);
	}
}
