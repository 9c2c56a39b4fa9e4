/* SPDX-License-Identifier: MIT */
#include "serve/vhost/blk.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/vhost/blk_internal.h"

/* Pieces that a request keeps room for when it is done; more is for the odd one. */
#define ROOM_KEPT 130
#define CHUNK 16

struct chunk {
	struct chunk *next;
	struct ox_vhost_blk_request requests[CHUNK];
};

struct ox_vhost_blk_ring {
	struct ox_vhost_blk *blk;
	struct ox_vhost_ring *ring;
	struct ox_vhost_memory *memory;
	struct chunk *chunks;
	struct ox_vhost_blk_request *free;
	unsigned busy;
};

/* ---- the pool ---- */

static void drop_pieces(struct ox_vhost_blk_request *r)
{
	if (r->pieces != r->few)
		free(r->pieces);
	r->pieces = r->few;
	r->room = (int)(sizeof(r->few) / sizeof(r->few[0]));
}

static void put_free(struct ox_vhost_blk_ring *b, struct ox_vhost_blk_request *r)
{
	if (r->room > ROOM_KEPT)
		drop_pieces(r);
	r->next_free = b->free;
	b->free = r;
}

static int add_chunk(struct ox_vhost_blk_ring *b)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return -ENOMEM;
	chunk->next = b->chunks;
	b->chunks = chunk;
	for (unsigned i = 0; i < CHUNK; i++) {
		chunk->requests[i].ring = b;
		chunk->requests[i].pieces = chunk->requests[i].few;
		drop_pieces(&chunk->requests[i]);
		put_free(b, &chunk->requests[i]);
	}
	return 0;
}

static int make_room(struct ox_vhost_blk_request *r, int pieces)
{
	int room = r->room;
	struct iovec *more;

	if (pieces <= room)
		return 0;
	while (room < pieces)
		room *= 2;
	if (pieces <= ROOM_KEPT && room > ROOM_KEPT)
		room = ROOM_KEPT;
	more = malloc((size_t)room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	drop_pieces(r);
	r->pieces = more;
	r->room = room;
	return 0;
}

int ox_vhost_blk_ring_new(struct ox_vhost_blk *blk, struct ox_vhost_ring *ring,
			  struct ox_vhost_memory *memory, struct ox_vhost_blk_ring **ret)
{
	struct ox_vhost_blk_ring *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	*b = (struct ox_vhost_blk_ring){.blk = blk, .ring = ring, .memory = memory};
	*ret = b;
	return 0;
}

void ox_vhost_blk_ring_free(struct ox_vhost_blk_ring *blk_ring)
{
	struct chunk *next;

	if (!blk_ring)
		return;
	if (blk_ring->busy > 0)
		abort();
	for (struct chunk *c = blk_ring->chunks; c; c = next) {
		next = c->next;
		for (unsigned i = 0; i < CHUNK; i++)
			drop_pieces(&c->requests[i]);
		free(c);
	}
	free(blk_ring);
}

/* ---- bytes of a chain ---- */

/* Bytes [skip, skip + bytes) of the pieces, in to, which has room for count. Returns how many. */
static int cut(const struct iovec *from, int count, uint64_t skip, uint64_t bytes, struct iovec *to)
{
	int done = 0;

	for (int i = 0; i < count && bytes > 0; i++) {
		uint64_t length = from[i].iov_len;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		length -= skip;
		if (length > bytes)
			length = bytes;
		to[done++] = (struct iovec){(uint8_t *)from[i].iov_base + skip, length};
		bytes -= length;
		skip = 0;
	}
	return done;
}

void ox_vhost_blk_copy_in(const struct ox_vhost_chain *chain, uint64_t skip, void *to, size_t bytes)
{
	uint8_t *at = to;

	for (int i = 0; i < chain->readable_count && bytes > 0; i++) {
		const uint64_t length = chain->pieces[i].iov_len;
		size_t piece;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		piece = length - skip < bytes ? length - skip : bytes;
		memcpy(at, (const uint8_t *)chain->pieces[i].iov_base + skip, piece);
		at += piece;
		bytes -= piece;
		skip = 0;
	}
	/* From here on only the copy is looked at, whatever the compiler knows of its origin. */
	__asm__ volatile("" ::: "memory");
}

static void mark_dirty(const struct ox_vhost_blk_ring *b, const void *place, uint64_t bytes)
{
	const struct ox_vhost_dirty *dirty = b->blk->dirty;
	uint64_t address;

	if (dirty && ox_vhost_memory_guest_address(b->memory, place, &address))
		dirty->mark(dirty->opaque, address, bytes);
}

/* ---- answers ---- */

static void release(struct ox_vhost_blk_request *r)
{
	struct ox_vhost_blk_ring *b = r->ring;

	ox_vhost_memory_release(b->memory);
	b->busy--;
	put_free(b, r);
}

void ox_vhost_blk_leave(struct ox_vhost_blk_request *request)
{
	ox_vhost_blk_ranges_end(request);
	ox_vhost_ring_leave(request->ring->ring, request->head);
	ox_stats_end(request->ring->blk->stats, &request->count, 0, true); /* without an answer */
	release(request);
}

static void finish(struct ox_vhost_blk_request *r, enum ox_vhost_blk_status status)
{
	struct ox_vhost_blk_ring *b = r->ring;
	uint32_t data_bytes = status == OX_VHOST_BLK_OK ? r->data_bytes : 0;

	for (int i = 0; b->blk->dirty && r->data_bytes > 0 && i < r->request.iov_count; i++)
		mark_dirty(b, r->pieces[i].iov_base, r->pieces[i].iov_len);
	__atomic_store_n(r->status, (uint8_t)status, __ATOMIC_RELAXED);
	mark_dirty(b, r->status, 1);
	ox_vhost_blk_ranges_end(r);
	ox_vhost_ring_answer(b->ring, r->head, data_bytes + 1);
	ox_stats_end(b->blk->stats, &r->count, r->done_bytes + r->bytes, status != OX_VHOST_BLK_OK);
	release(r);
}

static void submit(struct ox_vhost_blk_request *r)
{
	const struct ox_vhost_blk *blk = r->ring->blk;

	if (blk->submit(blk->opaque, r) < 0)
		finish(r, OX_VHOST_BLK_IOERR);
}

void ox_vhost_blk_completed(struct ox_vhost_blk_request *request)
{
	const int result = request->request.result;

	if (result == 0 && ox_vhost_blk_ranges_go_on(request, request->ring->blk))
		submit(request);
	else
		finish(request, result == 0	     ? OX_VHOST_BLK_OK
				: result == -ENOTSUP ? OX_VHOST_BLK_UNSUPP
						     : OX_VHOST_BLK_IOERR);
}

/* ---- requests: each function returns what is wrong, or OK: it is to be submitted ---- */

bool ox_vhost_blk_is_on_disk(const struct ox_vhost_blk *blk, uint64_t sector, uint64_t bytes)
{
	const uint64_t capacity_bytes = ox_vhost_blk_capacity_bytes(blk);
	/* Who does not know of blocks goes by sectors. */
	const uint32_t unit_bytes =
		blk->acked & OX_VIRTIO_BLK_F_BLK_SIZE ? blk->block_bytes : OX_VHOST_SECTOR;

	return sector <= capacity_bytes / OX_VHOST_SECTOR &&
	       bytes <= capacity_bytes - sector * OX_VHOST_SECTOR &&
	       sector * OX_VHOST_SECTOR % unit_bytes == 0 && bytes % unit_bytes == 0;
}

/* A read, or a write, whose data are bytes of these pieces behind skip. */
static enum ox_vhost_blk_status transfer(struct ox_vhost_blk_request *r, uint64_t sector,
					 const struct iovec *pieces, int count, uint64_t skip,
					 uint64_t bytes)
{
	if (bytes > OX_VHOST_DATA_MAX_BYTES ||
	    !ox_vhost_blk_is_on_disk(r->ring->blk, sector, bytes) || make_room(r, count) < 0)
		return OX_VHOST_BLK_IOERR;
	r->request.iov_count = cut(pieces, count, skip, bytes, r->pieces);
	r->request.iov = r->pieces;
	r->request.offset = sector * OX_VHOST_SECTOR;
	r->bytes = bytes;
	return OX_VHOST_BLK_OK;
}

static enum ox_vhost_blk_status read_data(struct ox_vhost_blk_request *r, uint64_t sector,
					  const struct ox_vhost_chain *chain)
{
	const enum ox_vhost_blk_status status =
		transfer(r, sector, chain->pieces + chain->readable_count, chain->writable_count, 0,
			 chain->writable_bytes - 1);

	r->request.op = OX_OP_READ;
	if (status == OX_VHOST_BLK_OK)
		r->data_bytes = (uint32_t)r->bytes;
	return status;
}

static enum ox_vhost_blk_status write_data(struct ox_vhost_blk_request *r, uint64_t sector,
					   const struct ox_vhost_chain *chain)
{
	const struct ox_vhost_blk *blk = r->ring->blk;

	if (blk->read_only)
		return OX_VHOST_BLK_IOERR;
	r->request.op = OX_OP_WRITE;
	r->request.flags = ox_vhost_blk_writes_through(blk) ? OX_REQ_FUA : 0;
	return transfer(r, sector, chain->pieces, chain->readable_count,
			sizeof(struct ox_vhost_blk_header),
			chain->readable_bytes - sizeof(struct ox_vhost_blk_header));
}

/* Answered at once: nothing is to be submitted. */
static enum ox_vhost_blk_status tell_id(struct ox_vhost_blk_request *r,
					const struct ox_vhost_chain *chain)
{
	const uint64_t room = chain->writable_bytes - 1;
	const uint64_t bytes = room < OX_VHOST_BLK_ID_BYTES ? room : OX_VHOST_BLK_ID_BYTES;
	const char *from = r->ring->blk->serial;

	if (make_room(r, chain->writable_count) < 0)
		return OX_VHOST_BLK_IOERR;
	r->request.iov_count = cut(chain->pieces + chain->readable_count, chain->writable_count, 0,
				   bytes, r->pieces);
	for (int i = 0; i < r->request.iov_count; i++) {
		memcpy(r->pieces[i].iov_base, from, r->pieces[i].iov_len);
		from += r->pieces[i].iov_len;
	}
	r->data_bytes = (uint32_t)bytes;
	return OX_VHOST_BLK_OK;
}

static enum ox_stats_kind kind_of(uint32_t type)
{
	switch (type) {
	case OX_VHOST_BLK_IN:
		return OX_STATS_READ;
	case OX_VHOST_BLK_OUT:
		return OX_STATS_WRITE;
	case OX_VHOST_BLK_FLUSH:
		return OX_STATS_FLUSH;
	case OX_VHOST_BLK_WRITE_ZEROES:
		return OX_STATS_ZERO;
	case OX_VHOST_BLK_DISCARD:
		return OX_STATS_DISCARD;
	}
	return OX_STATS_OTHER;
}

/* *ret_done: there is nothing to submit, also where all is well. */
static enum ox_vhost_blk_status judge(struct ox_vhost_blk_request *r,
				      const struct ox_vhost_chain *chain, bool *ret_done)
{
	struct ox_vhost_blk_header header;

	*ret_done = false;
	if (r->ring->blk->failing || chain->readable_bytes < sizeof(header))
		return OX_VHOST_BLK_IOERR;
	ox_vhost_blk_copy_in(chain, 0, &header, sizeof(header));
	ox_stats_begin(r->ring->blk->stats, &r->count, OX_STATS_VHOST,
		       kind_of(le32toh(header.type)));
	switch (le32toh(header.type)) {
	case OX_VHOST_BLK_IN:
		return read_data(r, le64toh(header.sector), chain);
	case OX_VHOST_BLK_OUT:
		return write_data(r, le64toh(header.sector), chain);
	case OX_VHOST_BLK_DISCARD:
		return ox_vhost_blk_ranges_begin(r, r->ring->blk, OX_VHOST_BLK_DISCARD, chain);
	case OX_VHOST_BLK_WRITE_ZEROES:
		return ox_vhost_blk_ranges_begin(r, r->ring->blk, OX_VHOST_BLK_WRITE_ZEROES, chain);
	case OX_VHOST_BLK_FLUSH:
		r->request.op = OX_OP_FLUSH;
		return OX_VHOST_BLK_OK;
	case OX_VHOST_BLK_GET_ID:
		*ret_done = true;
		return tell_id(r, chain);
	}
	return OX_VHOST_BLK_UNSUPP;
}

/* ---- the ring ---- */

static void carry_out(struct ox_vhost_blk_ring *b, struct ox_vhost_blk_request *r,
		      const struct ox_vhost_chain *chain)
{
	const struct iovec *last =
		&chain->pieces[chain->readable_count + chain->writable_count - 1];
	bool done;
	enum ox_vhost_blk_status status;

	r->head = chain->head;
	r->request = (struct ox_request){.user = r};
	r->note = (struct ox_flight_note){0};
	r->owner = NULL;
	r->full = (struct ox_full_waiter){0};
	r->count = (struct ox_stats_note){0};
	r->bytes = 0;
	r->done_bytes = 0;
	r->data_bytes = 0;
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	ox_vhost_memory_hold(b->memory);
	b->busy++;
	status = judge(r, chain, &done);
	if (status != OX_VHOST_BLK_OK || done)
		finish(r, status);
	else
		submit(r);
}

/* 1: a chain was taken; 0: none is there. */
static int take_one(struct ox_vhost_blk_ring *b)
{
	struct ox_vhost_blk_request *r;
	struct ox_vhost_chain chain;
	int taken = b->free ? 0 : add_chunk(b);

	if (taken == 0)
		taken = ox_vhost_ring_take(b->ring, &chain);
	if (taken <= 0)
		return taken;
	if (chain.writable_bytes == 0) {
		ox_vhost_ring_break(b->ring, "a request has no place for its status");
		ox_vhost_ring_answer(b->ring, chain.head, 0);
		return -EPROTO;
	}
	r = b->free;
	b->free = r->next_free;
	carry_out(b, r, &chain);
	return 1;
}

int ox_vhost_blk_take(struct ox_vhost_blk_ring *blk_ring, unsigned max)
{
	unsigned count = 0;
	int taken = 1;

	while (count < max && taken > 0) {
		taken = take_one(blk_ring);
		if (taken > 0)
			count++;
	}
	return taken < 0 ? taken : (int)count;
}
