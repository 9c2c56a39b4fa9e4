/* SPDX-License-Identifier: MIT */
/* The writing side of an undo file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/undo/undo.h"

#define BUFFER_BYTES ((size_t)1 << 20)

struct ox_undo_log {
	struct ox_io *io;
	struct ox_io *image;
	struct ox_undo_header header;
	struct ox_blocks saved; /* blocks whose old bytes are in the file */
	size_t block_bytes;
	uint8_t *buffer; /* records that are still to be written, from end_bytes on */
	size_t buffered;
	uint64_t end_bytes;
	uint64_t number;
	uint64_t length_before;
};

uint32_t ox_undo_checksum(uint32_t start, const void *bytes, size_t count)
{
	return (uint32_t)crc32_z(start, bytes, count);
}

int ox_undo_log_open(struct ox_io *io, struct ox_io *image, size_t block_bytes,
		     struct ox_undo_log **ret)
{
	struct ox_undo_log *log = calloc(1, sizeof(*log));
	uint8_t *buffer = malloc(BUFFER_BYTES);

	ox_assert(block_bytes <= OX_UNDO_BLOCK_BYTES && block_bytes % OX_UNDO_SECTOR_BYTES == 0);
	if (!log || !buffer) {
		free(log);
		free(buffer);
		return -ENOMEM;
	}
	*log = (struct ox_undo_log){
		.io = io,
		.image = image,
		.block_bytes = block_bytes,
		.buffer = buffer,
		.end_bytes = OX_UNDO_HEADER_BYTES,
		.length_before = image->length,
	};
	*ret = log;
	return 0;
}

void ox_undo_log_close(struct ox_undo_log *log)
{
	if (!log)
		return;
	ox_blocks_clear(&log->saved);
	free(log->buffer);
	free(log);
}

/* ---- header ---- */

static int write_header_co(struct ox_undo_log *log)
{
	uint8_t bytes[OX_UNDO_HEADER_BYTES] = {0};

	log->header.checksum = ox_be32(0);
	log->header.checksum = ox_be32(ox_undo_checksum(0, &log->header, sizeof(log->header)));
	memcpy(bytes, &log->header, sizeof(log->header));
	return ox_io_pwrite_co(log->io, bytes, sizeof(bytes), 0, 0);
}

static int flush_co(struct ox_undo_log *log)
{
	int r = 0;

	if (log->buffered > 0)
		r = ox_io_pwrite_co(log->io, log->buffer, log->buffered, log->end_bytes, 0);
	if (r < 0)
		return r;
	log->end_bytes += log->buffered;
	log->buffered = 0;
	return 0;
}

/* ---- records ---- */

static int append_co(struct ox_undo_log *log, const struct ox_undo_record *record,
		     const uint8_t *saved)
{
	size_t count = ox_be32_get(record->saved);
	int r = 0;

	if (log->buffered + sizeof(*record) + count > BUFFER_BYTES)
		r = flush_co(log);
	if (r < 0)
		return r;
	memcpy(log->buffer + log->buffered, record, sizeof(*record));
	memcpy(log->buffer + log->buffered + sizeof(*record), saved, count);
	log->buffered += sizeof(*record) + count;
	return 0;
}

/* bytes: what is written; NULL where the block stays as it is. */
static int record_block_co(struct ox_undo_log *log, uint64_t number, const uint8_t *bytes,
			   uint64_t image_length)
{
	uint64_t offset = number * log->block_bytes;
	uint8_t old[OX_UNDO_BLOCK_BYTES];
	bool save = ox_blocks_find(&log->saved, number) == OX_BLOCKS_NONE;
	struct ox_undo_record record = {
		.magic = ox_be32(OX_UNDO_RECORD_MAGIC),
		.number = ox_be64(log->number++),
		.offset = ox_be64(offset),
		.length_after = ox_be64(image_length),
		.size = ox_be32((uint32_t)log->block_bytes),
	};
	uint32_t checksum;
	int r = 0;

	/* What lies past the old end is put back by the length alone. */
	if (save && offset < log->length_before)
		record.saved = ox_be32(
			(uint32_t)ox_min_u64(log->block_bytes, log->length_before - offset));
	if (ox_be32_get(record.saved) > 0 || !bytes)
		r = ox_io_pread_co(log->image, old, log->block_bytes, offset);
	if (r == 0 && save)
		r = ox_blocks_add(&log->saved, number, NULL);
	if (r < 0)
		return r;
	if (!bytes)
		bytes = old;
	for (size_t at = 0; at < log->block_bytes; at += OX_UNDO_SECTOR_BYTES)
		record.sectors[at / OX_UNDO_SECTOR_BYTES] =
			ox_be32(ox_undo_checksum(0, bytes + at, OX_UNDO_SECTOR_BYTES));
	checksum = ox_undo_checksum(0, &record, sizeof(record));
	checksum = ox_undo_checksum(checksum, old, ox_be32_get(record.saved));
	record.checksum = ox_be32(checksum);
	return append_co(log, &record, old);
}

/* The header and, first of all records, the header's block: it tells images apart. */
static int begin_co(struct ox_undo_log *log, uint64_t image_length)
{
	uint8_t sector[OX_UNDO_SECTOR_BYTES];
	int r = ox_io_pread_co(log->image, sector, sizeof(sector), 0);

	if (r < 0)
		return r;
	log->header = (struct ox_undo_header){
		.magic = ox_be64(OX_UNDO_MAGIC),
		.version = ox_be32(OX_UNDO_VERSION),
		.state = ox_be32(OX_UNDO_OPEN),
		.length_before = ox_be64(log->length_before),
		.first_sector = ox_be32(ox_undo_checksum(0, sector, sizeof(sector))),
	};
	r = write_header_co(log);
	return r < 0 ? r : record_block_co(log, 0, NULL, image_length);
}

int ox_undo_log_block_co(struct ox_undo_log *log, uint64_t number, const uint8_t *bytes,
			 uint64_t image_length)
{
	int r = log->number == 0 ? begin_co(log, image_length) : 0;

	return r < 0 ? r : record_block_co(log, number, bytes, image_length);
}

int ox_undo_log_length_co(struct ox_undo_log *log, uint64_t image_length)
{
	return log->number == 0 ? begin_co(log, image_length)
				: record_block_co(log, 0, NULL, image_length);
}

int ox_undo_log_sync_co(struct ox_undo_log *log)
{
	int r = flush_co(log);

	return r < 0 ? r : ox_io_sync_co(log->io);
}

int ox_undo_log_complete_co(struct ox_undo_log *log)
{
	int r = log->number == 0 ? begin_co(log, log->image->length) : 0;

	if (r == 0)
		r = ox_undo_log_sync_co(log);
	if (r < 0)
		return r;
	log->header.state = ox_be32(OX_UNDO_COMPLETE);
	log->header.length_after = ox_be64(log->image->length);
	log->header.record_bytes = ox_be64(log->end_bytes - OX_UNDO_HEADER_BYTES);
	r = write_header_co(log);
	return r < 0 ? r : ox_io_sync_co(log->io);
}
