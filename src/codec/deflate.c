/* SPDX-License-Identifier: MIT */
/* qcow2's "zlib": deflate without a header or checksum, in a window of 4 KiB. */
#include "codec/backends.h"

#include <errno.h>
#include <zlib.h>

/* Negative: raw deflate. What other programs wrote may have used a larger window; the largest
 * reads them all. */
#define READ_WINDOW_BITS (-15)
#define WRITE_WINDOW_BITS (-12)
#define MEMORY_LEVEL 9

int ox_codec_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
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

long ox_codec_deflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	z_stream z = {
		.next_in = (z_const Bytef *)src,
		.avail_in = (uInt)src_bytes,
		.next_out = dst,
		.avail_out = (uInt)dst_bytes,
	};
	int r = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WRITE_WINDOW_BITS, MEMORY_LEVEL,
			     Z_DEFAULT_STRATEGY);

	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EIO;
	r = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	if (r != Z_STREAM_END)
		return -ENOSPC;
	return (long)z.total_out;
}
