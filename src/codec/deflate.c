/* SPDX-License-Identifier: MIT */
/*
 * qcow2's "zlib": deflate without a header or checksum, in a window of 4 KiB.
 *
 * Reading: libdeflate is twice as fast as zlib and knows whole streams alone, which end within the
 * cluster. Whatever it does not take as that zlib judges, so that what is refused does not depend
 * on the library.
 */
#include "codec/backends.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#ifdef OX_HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

/* Negative: raw deflate. What other programs wrote may have used a larger window; the largest
 * reads them all. */
#define READ_WINDOW_BITS (-15)
#define WRITE_WINDOW_BITS (-12)
#define MEMORY_LEVEL 9

static int zlib_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	z_stream z = {
		.next_in = (z_const Bytef *)src,
		.avail_in = (uInt)src_bytes,
		.next_out = dst,
		.avail_out = (uInt)dst_bytes,
	};
	int r = inflateInit2(&z, READ_WINDOW_BITS);

	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EIO;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (r == Z_MEM_ERROR)
		return -ENOMEM;
	/* Z_BUF_ERROR with a full cluster: the stream would go on, which is not asked for. */
	if (r != Z_STREAM_END && r != Z_BUF_ERROR && r != Z_OK)
		return -EIO;
	return z.avail_out == 0 ? 0 : -EIO;
}

#ifdef OX_HAVE_LIBDEFLATE
int ox_codec_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
	enum libdeflate_result result;
	size_t in;
	size_t out = 0;

	if (!d)
		return -ENOMEM;
	result = libdeflate_deflate_decompress_ex(d, src, src_bytes, dst, dst_bytes, &in, &out);
	libdeflate_free_decompressor(d);
	if (result == LIBDEFLATE_SUCCESS && out == dst_bytes)
		return 0;
	return zlib_inflate(dst, dst_bytes, src, src_bytes);
}
#else
int ox_codec_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	return zlib_inflate(dst, dst_bytes, src, src_bytes);
}
#endif

struct zlib_packer {
	struct ox_codec_packer base;
	z_stream z;
};

static long zlib_pack(struct ox_codec_packer *base, void *dst, size_t dst_bytes, const void *src,
		      size_t src_bytes)
{
	z_stream *z = &((struct zlib_packer *)base)->z;

	if (deflateReset(z) != Z_OK)
		return -EIO;
	z->next_in = (z_const Bytef *)src;
	z->avail_in = (uInt)src_bytes;
	z->next_out = dst;
	z->avail_out = (uInt)dst_bytes;
	return deflate(z, Z_FINISH) == Z_STREAM_END ? (long)z->total_out : -ENOSPC;
}

static void zlib_free(struct ox_codec_packer *base)
{
	struct zlib_packer *p = (struct zlib_packer *)base;

	deflateEnd(&p->z);
	free(p);
}

struct ox_codec_packer *ox_codec_zlib_packer(int level)
{
	struct zlib_packer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->base = (struct ox_codec_packer){.pack = zlib_pack, .free = zlib_free};
	if (deflateInit2(&p->z, level, Z_DEFLATED, WRITE_WINDOW_BITS, MEMORY_LEVEL,
			 Z_DEFAULT_STRATEGY) != Z_OK) {
		free(p);
		return NULL;
	}
	return &p->base;
}
