/* SPDX-License-Identifier: MIT */
/* Deflating by ISA-L, whose window can be held to 4 KiB. Without it zlib does all. */
#include "codec/backends.h"

#ifdef OX_HAVE_ISAL
#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <stdint.h>
#include <stdlib.h>

#define WINDOW_BITS 12

/* What each level needs, at the size that packs best. */
static const uint32_t level_bytes[] = {
	0,
	ISAL_DEF_LVL1_SMALL,
	ISAL_DEF_LVL2_SMALL,
	ISAL_DEF_LVL3_SMALL,
};

struct isal_packer {
	struct ox_codec_packer base;
	int level;
	struct isal_zstream z;
	uint8_t *level_buf;
};

static long isal_pack(struct ox_codec_packer *base, void *dst, size_t dst_bytes, const void *src,
		      size_t src_bytes)
{
	struct isal_packer *p = (struct isal_packer *)base;
	struct isal_zstream *z = &p->z;

	isal_deflate_stateless_init(z);
	z->level = (uint32_t)p->level;
	z->level_buf = p->level_buf;
	z->level_buf_size = level_bytes[p->level];
	z->gzip_flag = IGZIP_DEFLATE;
	z->hist_bits = WINDOW_BITS;
	z->flush = NO_FLUSH;
	z->end_of_stream = 1;
	z->next_in = (uint8_t *)(uintptr_t)src; /* which it does not change */
	z->avail_in = (uint32_t)src_bytes;
	z->next_out = dst;
	z->avail_out = (uint32_t)dst_bytes;
	return isal_deflate_stateless(z) == COMP_OK && z->avail_in == 0 ? (long)z->total_out
									: -ENOSPC;
}

static void isal_free(struct ox_codec_packer *base)
{
	struct isal_packer *p = (struct isal_packer *)base;

	free(p->level_buf);
	free(p);
}

struct ox_codec_packer *ox_codec_isal_packer(int level)
{
	struct isal_packer *p;

	if ((size_t)level >= sizeof(level_bytes) / sizeof(level_bytes[0]))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->base = (struct ox_codec_packer){.pack = isal_pack, .free = isal_free};
	p->level = level;
	p->level_buf = calloc(1, level_bytes[level]);
	if (!p->level_buf) {
		free(p);
		return NULL;
	}
	return &p->base;
}
#else
struct ox_codec_packer *ox_codec_isal_packer(int level)
{
	(void)level;
	return NULL;
}
#endif
