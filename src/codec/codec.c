/* SPDX-License-Identifier: MIT */
#include "codec/codec.h"

#include <errno.h>

#include "base/assert.h"
#include "codec/backends.h"

/* Far above any cluster, and within what zlib counts in (unsigned int). */
#define MAX_BYTES (1u << 30)

#define DEFLATE_LEVEL_MAX 9
/* Up to here ISA-L makes the streams, ten times as fast as zlib; above, zlib makes smaller ones. */
#define DEFLATE_LEVEL_FAST 3
#define DEFLATE_LEVEL_DEFAULT 2
#define ZSTD_LEVEL_MAX 19
#define ZSTD_LEVEL_DEFAULT 3

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

int ox_codec_level_max(enum ox_codec codec)
{
	return codec == OX_CODEC_ZSTD ? ZSTD_LEVEL_MAX : DEFLATE_LEVEL_MAX;
}

struct ox_codec_packer *ox_codec_packer_new(enum ox_codec codec, int level)
{
	struct ox_codec_packer *p = NULL;

	ox_assert(level >= 0 && level <= ox_codec_level_max(codec));
	if (codec == OX_CODEC_ZSTD)
		return ox_codec_zstd_packer(level ? level : ZSTD_LEVEL_DEFAULT);
	ox_assert(codec == OX_CODEC_DEFLATE);
	level = level ? level : DEFLATE_LEVEL_DEFAULT;
	if (level <= DEFLATE_LEVEL_FAST)
		p = ox_codec_isal_packer(level);
	return p ? p : ox_codec_zlib_packer(level);
}

void ox_codec_packer_free(struct ox_codec_packer *p)
{
	if (p)
		p->free(p);
}

long ox_codec_pack(struct ox_codec_packer *p, void *dst, size_t dst_bytes, const void *src,
		   size_t src_bytes)
{
	ox_assert(src_bytes > 0 && dst_bytes <= MAX_BYTES && src_bytes <= MAX_BYTES);
	return p->pack(p, dst, dst_bytes, src, src_bytes);
}

long ox_codec_compress(enum ox_codec codec, void *dst, size_t dst_bytes, const void *src,
		       size_t src_bytes)
{
	struct ox_codec_packer *p = ox_codec_packer_new(codec, 0);
	long n;

	if (!p)
		return -ENOMEM;
	n = ox_codec_pack(p, dst, dst_bytes, src, src_bytes);
	ox_codec_packer_free(p);
	return n;
}
