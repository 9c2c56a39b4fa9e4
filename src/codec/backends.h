/* SPDX-License-Identifier: MIT */
/* One pair a codec; the contract is that of codec.h. */
#ifndef OX_CODEC_BACKENDS_H
#define OX_CODEC_BACKENDS_H

#include <stddef.h>

int ox_codec_inflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);
long ox_codec_deflate(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);

int ox_codec_zstd_decompress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);
long ox_codec_zstd_compress(void *dst, size_t dst_bytes, const void *src, size_t src_bytes);

#endif
