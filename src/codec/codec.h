/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters. Pure functions on memory, safe to run on a worker thread.
 *
 * qcow2 states no exact length for a stream: src may run on past the stream's end (into another
 * stream), and may lie. Output is exactly dst_bytes (one cluster) or an error.
 */
#ifndef OX_CODEC_CODEC_H
#define OX_CODEC_CODEC_H

#include <stddef.h>

enum ox_codec {
	OX_CODEC_DEFLATE, /* raw deflate, qcow2's "zlib" */
	OX_CODEC_ZSTD,
};

/* 0; -EIO where the stream is broken or yields fewer bytes; -ENOMEM. Never reads past src_bytes or
 * writes past dst_bytes; bytes that the stream would yield beyond dst_bytes are not asked for. */
int ox_codec_decompress(enum ox_codec codec, void *dst, size_t dst_bytes, const void *src,
			size_t src_bytes) __attribute__((warn_unused_result));

/* The highest level; the lowest is 1, and 0 stands for the usual one. */
int ox_codec_level_max(enum ox_codec codec);

/* Memory in which streams are made, one after the other: of one thread at a time. */
struct ox_codec_packer;

/* NULL: there is no memory. */
struct ox_codec_packer *ox_codec_packer_new(enum ox_codec codec, int level);
/* NULL is allowed. */
void ox_codec_packer_free(struct ox_codec_packer *p);
/* The stream's length, or -ENOSPC where it would not fit into dst_bytes (then the cluster is stored
 * as it is). A deflated stream refers back by 4 KiB at the most, as qcow2 demands. */
long ox_codec_pack(struct ox_codec_packer *p, void *dst, size_t dst_bytes, const void *src,
		   size_t src_bytes) __attribute__((warn_unused_result));

/* One stream, at the usual level; -ENOMEM as well. */
long ox_codec_compress(enum ox_codec codec, void *dst, size_t dst_bytes, const void *src,
		       size_t src_bytes) __attribute__((warn_unused_result));

#endif
