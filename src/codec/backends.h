/* SPDX-License-Identifier: MIT */
/* What each codec brings; the contract is that of codec.h. */
#ifndef OX_CODEC_BACKENDS_H
#define OX_CODEC_BACKENDS_H

#include <stddef.h>

/* The first member of each codec's own struct. */
struct ox_codec_packer {
	long (*pack)(struct ox_codec_packer *p, void *dst, size_t dst_bytes, const void *src,
		     size_t src_bytes);
	void (*free)(struct ox_codec_packer *p);
};

int ox_codec_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);
int ox_codec_zstd_decompress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);

/* NULL: there is no memory; of ISA-L also where it has not such a level, or is not there. */
struct ox_codec_packer *ox_codec_zlib_packer(int level);
struct ox_codec_packer *ox_codec_isal_packer(int level);
struct ox_codec_packer *ox_codec_zstd_packer(int level);

#endif
