/* SPDX-License-Identifier: MIT */
/*
 * Pieces are read at once, and hashed on worker threads. What they come to is added to the one sum
 * in their order: of blkhash the digests of their blocks, of SHA-256 their bytes. Zeroes that the
 * map tells of are not read; of blkhash their digest is known.
 */
#include "job/checksum.h"

#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/endian.h"
#include "job/pump.h"
#include "job/walk.h"
#include "rt/reactor.h"

#define BLOCK_BYTES (UINT64_C(64) << 10)
#define PIECE_BYTES (UINT64_C(1) << 20)
#define PIECE_BLOCKS (PIECE_BYTES / BLOCK_BYTES)
/* So that progress is seen, giving up is noticed, and other work gets at the worker threads. */
#define ZERO_PIECE_BYTES (UINT64_C(1) << 36)
#define FLAT_ZERO_PIECE_BYTES (UINT64_C(64) << 20)

_Static_assert(OX_CHECKSUM_BYTES == SHA256_DIGEST_SIZE, "one size of digests");

enum kind {
	KIND_DATA,
	KIND_ZERO,
};

struct checksum {
	struct ox_pump pump;
	struct ox_walk walk;
	struct ox_image *image;
	struct ox_error **err;
	bool flat;
	uint64_t at;
	struct sha256_ctx sum;
	const uint8_t *zeroes; /* PIECE_BYTES of them */
	uint8_t zero_digest[SHA256_DIGEST_SIZE];
};

/* What a worker thread is given. */
struct hashing {
	struct checksum *c;
	const struct ox_piece *piece;
	uint8_t digests[PIECE_BLOCKS][SHA256_DIGEST_SIZE];
};

static void digest_of(const void *bytes, uint64_t count, uint8_t *ret)
{
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, count, bytes);
	sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret);
}

static bool is_zero(const uint8_t *bytes, uint64_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* ---- what is next ---- */

/* Pieces begin at a block. Zeroes are told of whole blocks, and of the last one. */
static int next_co(void *arg, struct ox_piece *ret)
{
	struct checksum *c = arg;
	uint64_t left = c->image->size_bytes - c->at;
	uint64_t most = c->flat ? FLAT_ZERO_PIECE_BYTES : ZERO_PIECE_BYTES;
	uint64_t length;
	unsigned flags;
	int r;

	if (left == 0)
		return 0;
	r = ox_walk_at_co(&c->walk, c->at, ox_min_u64(left, most), &length, &flags);
	if (r < 0)
		return ox_error_set_errno(c->err, r, "Could not read the map of '%s' at byte %llu",
					  c->image->filename, (unsigned long long)c->at);
	ret->kind = KIND_ZERO;
	if (!(flags & OX_EXTENT_ZERO) || (length < left && length < BLOCK_BYTES)) {
		ret->kind = KIND_DATA;
		length = ox_min_u64(ox_align_up(length, BLOCK_BYTES), PIECE_BYTES);
		length = ox_min_u64(length, left);
		ret->memory_bytes = length;
	} else if (length < left) {
		length = ox_align_down(length, BLOCK_BYTES);
	}
	ret->offset = c->at;
	ret->length = length;
	c->at += length;
	return 1;
}

/* ---- on worker threads ---- */

/* Of the piece's blocks, whatever others do. */
static int hash_blocks(void *arg)
{
	struct hashing *h = arg;
	uint64_t n;

	for (uint64_t at = 0; at < h->piece->length; at += n) {
		const uint8_t *block = h->piece->buffer + at;
		uint8_t *digest = h->digests[at / BLOCK_BYTES];

		n = ox_min_u64(h->piece->length - at, BLOCK_BYTES);
		if (n == BLOCK_BYTES && is_zero(block, n))
			memcpy(digest, h->c->zero_digest, SHA256_DIGEST_SIZE);
		else
			digest_of(block, n, digest);
	}
	return 0;
}

static int add_blocks(void *arg)
{
	struct hashing *h = arg;
	uint64_t blocks = ox_div_up(h->piece->length, BLOCK_BYTES);

	sha256_update(&h->c->sum, blocks * SHA256_DIGEST_SIZE, h->digests[0]);
	return 0;
}

static int add_zero_blocks(void *arg)
{
	struct hashing *h = arg;
	uint64_t blocks = h->piece->length / BLOCK_BYTES;
	uint64_t rest = h->piece->length % BLOCK_BYTES;
	uint64_t n;

	for (unsigned i = 0; i < PIECE_BLOCKS; i++)
		memcpy(h->digests[i], h->c->zero_digest, SHA256_DIGEST_SIZE);
	for (; blocks > 0; blocks -= n) {
		n = ox_min_u64(blocks, PIECE_BLOCKS);
		sha256_update(&h->c->sum, n * SHA256_DIGEST_SIZE, h->digests[0]);
	}
	if (rest > 0) {
		digest_of(h->c->zeroes, rest, h->digests[0]);
		sha256_update(&h->c->sum, SHA256_DIGEST_SIZE, h->digests[0]);
	}
	return 0;
}

static int add_bytes(void *arg)
{
	struct hashing *h = arg;

	sha256_update(&h->c->sum, h->piece->length, h->piece->buffer);
	return 0;
}

static int add_zero_bytes(void *arg)
{
	struct hashing *h = arg;
	uint64_t n;

	for (uint64_t left = h->piece->length; left > 0; left -= n) {
		n = ox_min_u64(left, PIECE_BYTES);
		sha256_update(&h->c->sum, n, h->c->zeroes);
	}
	return 0;
}

/* ---- a piece ---- */

static int read_co(struct checksum *c, const struct ox_piece *piece)
{
	struct iovec v = {piece->buffer, piece->length};
	int r = ox_img_preadv_co(c->image, &v, 1, piece->offset);

	if (r < 0 && !*c->err)
		return ox_error_set_errno(c->err, r, "Could not read '%s' at byte %llu",
					  c->image->filename, (unsigned long long)piece->offset);
	return r;
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct checksum *c = arg;
	bool zero = piece->kind == KIND_ZERO;
	struct hashing *h = malloc(sizeof(*h)); /* of some size for a task's stack */
	int r = 0;

	if (!h)
		return -ENOMEM;
	h->c = c;
	h->piece = piece;
	if (!zero)
		r = read_co(c, piece);
	if (r == 0 && !zero && !c->flat)
		r = ox_aio_work_co(hash_blocks, h);
	if (r == 0)
		r = ox_pump_turn_co(&c->pump, piece);
	if (r == 0 && c->flat)
		r = ox_aio_work_co(zero ? add_zero_bytes : add_bytes, h);
	else if (r == 0)
		r = zero ? ox_aio_work_co(add_zero_blocks, h) : add_blocks(h);
	free(h);
	return r;
}

static const struct ox_pump_ops checksum_ops = {.next_co = next_co, .work_co = work_co};

/* ---- all of it ---- */

static void set_up(struct checksum *c, const struct ox_checksum_options *opts)
{
	c->flat = opts->algorithm == OX_CHECKSUM_SHA256;
	c->walk = ox_walk_over(c->image, OX_EXTENT_ZERO);
	sha256_init(&c->sum);
	digest_of(c->zeroes, BLOCK_BYTES, c->zero_digest);
	ox_pump_init(&c->pump, &checksum_ops, c);
	if (opts->memory_bytes)
		c->pump.memory_bytes = ox_max_u64(opts->memory_bytes, 2 * PIECE_BYTES);
	if (opts->tasks)
		c->pump.tasks = opts->tasks;
	c->pump.total = c->image->size_bytes;
	c->pump.progress = opts->progress;
	c->pump.interrupted = opts->interrupted;
	c->pump.opaque = opts->opaque;
}

static void finish(struct checksum *c, uint8_t *ret_digest)
{
	uint64_t bytes = c->image->size_bytes;
	uint8_t length[8];

	for (unsigned i = 0; i < sizeof(length); i++)
		length[i] = (uint8_t)(bytes >> (8 * i));
	if (!c->flat)
		sha256_update(&c->sum, sizeof(length), length);
	sha256_digest(&c->sum, SHA256_DIGEST_SIZE, ret_digest);
}

int ox_checksum_run_co(struct ox_image *image, const struct ox_checksum_options *opts,
		       uint8_t *ret_digest, struct ox_error **err)
{
	struct ox_error *words = NULL;
	struct checksum c = {.image = image, .err = &words};
	uint8_t *zeroes = calloc(1, PIECE_BYTES);
	int r;

	if (!zeroes)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	c.zeroes = zeroes;
	set_up(&c, opts);
	r = ox_pump_run_co(&c.pump);
	if (r == 0)
		finish(&c, ret_digest);
	free(zeroes);
	if (r < 0 && !words)
		ox_error_set_errno(&words, r, "Could not sum '%s'", image->filename);
	if (err)
		*err = words;
	else
		ox_error_free(words);
	return r;
}
