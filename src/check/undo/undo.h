/* SPDX-License-Identifier: MIT */
/*
 * Undo files: what a repair overwrote, and how to tell whether it is still as the repair left it
 * (docs/check.md has the format). log.c writes them, undo.c puts them back.
 */
#ifndef OX_CHECK_UNDO_H
#define OX_CHECK_UNDO_H

#include <stddef.h>
#include <stdint.h>

#include "base/endian.h"
#include "base/error.h"
#include "check/undo/blocks.h"
#include "io/io.h"

#define OX_UNDO_MAGIC UINT64_C(0x6f78756e646f0d0a)
#define OX_UNDO_RECORD_MAGIC UINT32_C(0x6f78756e)
#define OX_UNDO_VERSION 1u
#define OX_UNDO_HEADER_BYTES ((size_t)512)
#define OX_UNDO_SECTOR_BYTES ((size_t)512)
#define OX_UNDO_BLOCK_BYTES ((size_t)4096)
#define OX_UNDO_SECTORS (OX_UNDO_BLOCK_BYTES / OX_UNDO_SECTOR_BYTES)

enum ox_undo_state {
	OX_UNDO_OPEN = 1,     /* the repair has not ended, or was cut short */
	OX_UNDO_COMPLETE = 2, /* it ended: the image is as the last records say */
};

struct ox_undo_header {
	struct ox_be64 magic;
	struct ox_be32 version;
	struct ox_be32 state;
	struct ox_be64 length_before; /* of the image */
	struct ox_be64 length_after;  /* COMPLETE */
	struct ox_be64 record_bytes;  /* COMPLETE */
	struct ox_be32 first_sector;  /* checksum of the image's before */
	struct ox_be32 checksum;      /* of all this with 0 here */
} __attribute__((packed));

struct ox_undo_record {
	struct ox_be32 magic;
	struct ox_be32 checksum; /* of all this with 0 here, and of the bytes that follow */
	struct ox_be64 number;
	struct ox_be64 offset;
	struct ox_be64 length_after;
	struct ox_be32 size;  /* bytes of the block, at most OX_UNDO_BLOCK_BYTES */
	struct ox_be32 saved; /* bytes that follow */
	struct ox_be32 sectors[OX_UNDO_SECTORS]; /* checksums of what is written there */
} __attribute__((packed));

_Static_assert(sizeof(struct ox_undo_header) == 48, "as docs/check.md has it");
_Static_assert(sizeof(struct ox_undo_record) == 72, "as docs/check.md has it");

uint32_t ox_undo_checksum(uint32_t start, const void *bytes, size_t count);

/* ---- writing ---- */

struct ox_undo_log;

/* Over an empty store, which stays the caller's, for an image of such a length. 0 or -ENOMEM. */
int ox_undo_log_open(struct ox_io *io, struct ox_io *image, size_t block_bytes,
		     struct ox_undo_log **ret) __attribute__((warn_unused_result));
void ox_undo_log_close(struct ox_undo_log *log);
/* Appends a block that is about to be written. */
int ox_undo_log_block_co(struct ox_undo_log *log, uint64_t number, const uint8_t *bytes,
			 uint64_t image_length);
/* Appends the length alone, where the image is about to grow and no block of it to be written. */
int ox_undo_log_length_co(struct ox_undo_log *log, uint64_t image_length);
/* Makes durable what was appended. */
int ox_undo_log_sync_co(struct ox_undo_log *log);
/* The repair has ended: all that it wrote is durable. */
int ox_undo_log_complete_co(struct ox_undo_log *log);

/* ---- putting back ---- */

struct ox_undo_outcome {
	bool complete;	 /* the repair had ended */
	uint64_t blocks; /* that differed and were put back */
	uint64_t bytes;
	uint64_t changed;	/* sectors that somebody else changed since; with force alone */
	uint64_t length_before; /* of the image, before the undo */
	uint64_t length_after;
};

/* Puts back what an undo file holds. -EINVAL where it is none, is damaged, or the image is not as
 * the repair left it (unless force). Everything is synced. */
int ox_undo_apply_co(struct ox_io *undo, struct ox_io *image, bool force,
		     struct ox_undo_outcome *ret, struct ox_error **err);

#endif
