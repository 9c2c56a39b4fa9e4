/* SPDX-License-Identifier: MIT */
/*
 * Writes of compressed clusters (docs/compressed.md). A request goes in batches:
 *
 *   pack    each cluster on a worker thread, many at once; one that does not shrink stays plain
 *   place   in the order in which requests began: its tables, a place for each stream, counted in
 *           the cache; and then its plain clusters, written as any others
 *   store   the counts, where no dirty bit stands for them, and the streams, which are neighbours
 *   link    each entry, behind the ticket that makes streams and counts durable (D1, D3); what was
 *           there before has lost a reference
 *
 * The guest's range is locked exclusively all the while.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "img/qcow2/qcow2.h"
#include "io/arena.h"
#include "rt/reactor.h"

/* Of a request, packed before it is placed; as much memory is taken. */
#define BATCH_BYTES (UINT64_C(4) << 20)
/* Of all batches; what many at once need beyond it is no worse than memory of any other kind. */
#define ARENA_BYTES (UINT64_C(16) << 20)
/* What one call of a worker thread packs. A handover costs some 10 microseconds, and a part of a
 * batch that is packed last keeps the other threads waiting. */
#define CHUNK_MIN_BYTES (UINT64_C(64) << 10)
#define CHUNK_MAX_BYTES (UINT64_C(256) << 10)
#define CHUNKS_A_WORKER 2u
/* A packer more than CPUs, so that none of these waits for the reactor. */
#define PACKERS_BESIDE 1u

struct request {
	const struct iovec *iov;
	int n;
	uint64_t offset;
	uint64_t length;
	uint64_t done; /* bytes that the guest can read */
	uint64_t turn; /* its number in the order of placing */
	bool has_turn; /* that was not passed on yet */
};

struct stream {
	struct ox_host host;
	uint32_t bytes; /* 0: the cluster stays plain */
	bool placed;	/* counted, and not named */
};

/* Clusters of a request, from its byte start on. */
struct batch {
	struct ox_qcow2 *q;
	const struct request *w;
	uint64_t start;
	uint64_t count;
	struct stream *streams;
	uint8_t *packed; /* a cluster's room for each stream */
	uint64_t next;	 /* the first that no task has begun to pack */
	struct ox_latch running;
	int result;
};

/* ---- packing ---- */

struct pack_job {
	struct batch *b;
	struct ox_codec_packer *packer;
	uint64_t first;
	uint64_t count;
	uint8_t *copy; /* of a cluster that does not lie in one piece */
};

static struct ox_codec_packer *take_packer_co(struct ox_qcow2 *q)
{
	struct ox_packing *p = &q->pack;
	unsigned most = ox_aio_workers(q->m.img->reactor) + PACKERS_BESIDE;
	struct ox_codec_packer *packer;
	bool zstd = ox_qcow2_hdr(q)->compression_type == OX_QCOW2_ZSTD;

	while (p->idle_count == 0 && p->packers >= most)
		ox_waitq_wait_co(&p->free_packer);
	if (p->idle_count > 0)
		return p->idle[--p->idle_count];
	packer = ox_codec_packer_new(zstd ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE, p->level);
	if (packer)
		p->packers++;
	return packer;
}

static void give_packer(struct ox_qcow2 *q, struct ox_codec_packer *packer)
{
	ox_assert(q->pack.idle_count < OX_PACKERS_MAX);
	q->pack.idle[q->pack.idle_count++] = packer;
	ox_waitq_wake_one(&q->pack.free_packer);
}

/* The cluster's bytes where they are, if they lie in one piece; the disk's end may cut it short. */
static const uint8_t *find_piece(const struct request *w, uint64_t at, uint64_t bytes)
{
	for (int i = 0; i < w->n; i++) {
		if (at < w->iov[i].iov_len)
			return w->iov[i].iov_len - at >= bytes ? (uint8_t *)w->iov[i].iov_base + at
							       : NULL;
		at -= w->iov[i].iov_len;
	}
	return NULL;
}

/* On a worker thread. */
static int pack_job(void *arg)
{
	struct pack_job *j = arg;
	const struct request *w = j->b->w;
	uint64_t cluster_bytes = j->b->q->m.cluster_bytes;

	for (uint64_t i = j->first; i < j->first + j->count; i++) {
		uint64_t at = j->b->start + i * cluster_bytes;
		uint64_t have = ox_min_u64(cluster_bytes, w->length - at);
		const uint8_t *src = find_piece(w, at, cluster_bytes);
		long n;

		if (!src) {
			ox_iov_to_buf(w->iov, w->n, at, j->copy, have);
			memset(j->copy + have, 0, cluster_bytes - have);
			src = j->copy;
		}
		n = ox_codec_pack(j->packer, j->b->packed + i * cluster_bytes, cluster_bytes - 1,
				  src, cluster_bytes);
		if (n < 0 && n != -ENOSPC)
			return (int)n;
		j->b->streams[i].bytes = n < 0 ? 0 : (uint32_t)n;
	}
	return 0;
}

static uint64_t chunk_bytes(const struct batch *b)
{
	unsigned workers = ox_aio_workers(b->q->m.img->reactor);
	uint64_t share = b->count * b->q->m.cluster_bytes / (CHUNKS_A_WORKER * workers);

	return ox_min_u64(ox_max_u64(share, CHUNK_MIN_BYTES), CHUNK_MAX_BYTES);
}

static int pack_chunks_co(struct batch *b)
{
	struct ox_qcow2 *q = b->q;
	uint64_t chunk = ox_max_u64(chunk_bytes(b) / q->m.cluster_bytes, 1);
	struct pack_job job = {.b = b, .copy = malloc(q->m.cluster_bytes)};
	int r = 0;

	if (!job.copy)
		return -ENOMEM;
	while (r == 0 && b->result == 0 && b->next < b->count) {
		job.packer = take_packer_co(q);
		if (!job.packer) {
			r = -ENOMEM;
			break;
		}
		job.first = b->next;
		job.count = ox_min_u64(chunk, b->count - b->next);
		b->next += job.count;
		if (job.count > 0)
			r = ox_aio_work_co(pack_job, &job);
		give_packer(q, job.packer);
	}
	free(job.copy);
	return r;
}

static void pack_task_co(void *arg)
{
	struct batch *b = arg;
	int r = pack_chunks_co(b);

	if (r < 0)
		b->result = r;
	ox_latch_done(&b->running);
}

/* By so many tasks as there are worker threads; what cannot be spawned the others do. */
static int pack_co(struct batch *b)
{
	unsigned workers = ox_aio_workers(b->q->m.img->reactor);
	uint64_t chunks = ox_div_up(b->count * b->q->m.cluster_bytes, chunk_bytes(b));
	int r;

	for (unsigned i = 1; i < workers && i < chunks; i++) {
		ox_latch_add(&b->running);
		if (ox_co_spawn(b->q->m.img->reactor, pack_task_co, b) < 0)
			ox_latch_done(&b->running);
	}
	r = pack_chunks_co(b);
	if (r < 0)
		b->result = r;
	ox_latch_wait_co(&b->running);
	return b->result;
}

/* ---- placing ---- */

static void wait_turn_co(struct ox_qcow2 *q, const struct request *w)
{
	while (w->has_turn && q->pack.placed != w->turn)
		ox_waitq_wait_co(&q->pack.turn);
}

static void pass_turn_co(struct ox_qcow2 *q, struct request *w)
{
	if (!w->has_turn)
		return;
	wait_turn_co(q, w);
	w->has_turn = false;
	q->pack.placed++;
	ox_waitq_wake_all(&q->pack.turn);
}

/* Tables are made here, so that they, too, lie where the order of requests has them. */
static int make_tables_co(struct batch *b)
{
	struct ox_qcow2 *q = b->q;
	uint64_t span = q->m.cluster_bytes / 8 * q->m.cluster_bytes;
	uint64_t at = b->w->offset + b->start;
	uint64_t end = at + b->count * q->m.cluster_bytes;
	struct ox_host table;
	int r = 0;

	for (; r == 0 && at < end; at = ox_align_down(at, span) + span)
		r = ox_map_table_co(q, ox_guest(at), &table);
	return r;
}

static int place_streams_co(struct batch *b)
{
	struct ox_qcow2 *q = b->q;
	int r = 0;

	ox_mutex_lock_co(&q->m.alloc.lock);
	for (uint64_t i = 0; r == 0 && i < b->count; i++) {
		struct stream *s = &b->streams[i];

		/* While it is not known what is counted, nothing is counted twice (R2). */
		if (ox_recover_active(&q->m))
			s->bytes = 0;
		if (s->bytes == 0)
			continue;
		r = ox_pack_place_locked_co(q, s->bytes, &s->host);
		if (r == -EFBIG) { /* a plain cluster may lie there */
			s->bytes = 0;
			r = 0;
		} else if (r == 0) {
			ox_unpack_forget(q, s->host);
			s->placed = true;
		}
	}
	ox_mutex_unlock(&q->m.alloc.lock);
	return r;
}

/* What the clusters from byte from of the request to byte to have is stored as it is. */
static int write_plain_co(struct batch *b, uint64_t from, uint64_t to)
{
	const struct request *w = b->w;
	uint64_t done = from;

	return ox_mapped_write_locked_co(&b->q->m, w->iov, w->n, w->offset,
					 ox_min_u64(to, w->length), false, &done);
}

static int write_plain_ones_co(struct batch *b)
{
	uint64_t cluster_bytes = b->q->m.cluster_bytes;
	int r = 0;

	for (uint64_t i = 0, n; r == 0 && i < b->count; i += ox_max_u64(n, 1)) {
		for (n = 0; i + n < b->count && b->streams[i + n].bytes == 0;)
			n++;
		if (n > 0)
			r = write_plain_co(b, b->start + i * cluster_bytes,
					   b->start + (i + n) * cluster_bytes);
	}
	return r;
}

/* ---- storing and linking ---- */

/* Streams from number first on that are neighbours in the file, as one write. */
static int store_run_co(struct batch *b, uint64_t first, uint64_t *ret_next)
{
	uint64_t cluster_bytes = b->q->m.cluster_bytes;
	uint64_t end = b->streams[first].host.bytes;
	struct iovec v[64];
	int n = 0;

	for (; first < b->count && n < (int)OX_ARRAY_SIZE(v); first++) {
		const struct stream *s = &b->streams[first];

		if (s->bytes == 0)
			continue;
		if (s->host.bytes != end)
			break;
		v[n++] = (struct iovec){b->packed + first * cluster_bytes, s->bytes};
		end += s->bytes;
	}
	*ret_next = first;
	return ox_io_pwritev_co(b->q->m.io, v, n, end - ox_iov_bytes(v, n), 0);
}

static int store_streams_co(struct batch *b)
{
	uint64_t i = 0;
	int r = 0;

	/* On its way to the disk before the ticket is drawn that the entries wait for (D3). */
	if (!ox_qcow2_is_lazy(b->q))
		r = ox_cache_flush_co(&b->q->counts);
	while (r == 0 && i < b->count) {
		if (b->streams[i].bytes == 0)
			i++;
		else
			r = store_run_co(b, i, &i);
	}
	return r;
}

static void free_old(struct ox_mapped *m, const struct ox_map_run *run)
{
	if (run->kind == OX_MAP_COMPRESSED)
		ox_alloc_free_later(m, run->host, run->compressed_bytes);
	else if (run->kind == OX_MAP_DATA || run->kind == OX_MAP_ZERO_ALLOC)
		ox_alloc_free_later(m, run->host, m->cluster_bytes);
}

static int link_one_co(struct batch *b, struct stream *s, struct ox_guest guest, uint64_t after)
{
	struct ox_mapped *m = &b->q->m;
	struct ox_map_run old;
	int r = ox_mapped_lookup_co(m, guest, m->cluster_bytes, &old);

	if (r == 0)
		r = ox_map_set_compressed_co(b->q, guest, s->host, s->bytes, after);
	if (r < 0)
		return r;
	s->placed = false;
	free_old(m, &old);
	return 0;
}

static int link_streams_co(struct batch *b)
{
	uint64_t after = ox_order_ticket(&b->q->m.order); /* D1, D3 */
	uint64_t guest = b->w->offset + b->start;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < b->count; i++) {
		if (b->streams[i].bytes > 0)
			r = link_one_co(b, &b->streams[i],
					ox_guest(guest + i * b->q->m.cluster_bytes), after);
	}
	return r;
}

/* What has a place and no entry (H8). */
static void free_unlinked(struct batch *b)
{
	for (uint64_t i = 0; i < b->count; i++) {
		if (b->streams[i].placed)
			ox_alloc_free_later(&b->q->m, b->streams[i].host, b->streams[i].bytes);
	}
}

/* ---- requests ---- */

static int write_batch_co(struct batch *b, struct request *w)
{
	bool last = b->start + b->count * b->q->m.cluster_bytes >= w->length;
	int r = pack_co(b);

	wait_turn_co(b->q, w);
	if (r == 0)
		r = make_tables_co(b);
	if (r == 0)
		r = place_streams_co(b);
	if (r == 0)
		r = write_plain_ones_co(b);
	if (r == 0 && last)
		pass_turn_co(b->q, w);
	if (r == 0)
		r = store_streams_co(b);
	if (r == 0)
		r = link_streams_co(b);
	if (r < 0)
		free_unlinked(b);
	return r;
}

static int write_next_co(struct ox_qcow2 *q, struct request *w)
{
	uint64_t most = ox_max_u64(BATCH_BYTES / q->m.cluster_bytes, 1);
	struct batch b = {
		.q = q,
		.w = w,
		.start = w->done,
		.count = ox_min_u64(ox_div_up(w->length - w->done, q->m.cluster_bytes), most),
	};
	int r = -ENOMEM;

	ox_latch_init(&b.running);
	b.streams = calloc(b.count, sizeof(*b.streams));
	if (!q->pack.arena)
		q->pack.arena = ox_arena_new(ARENA_BYTES);
	if (q->pack.arena)
		b.packed = ox_arena_take(q->pack.arena, b.count * q->m.cluster_bytes);
	if (b.streams && b.packed)
		r = write_batch_co(&b, w);
	if (r == 0)
		w->done = ox_min_u64(w->done + b.count * q->m.cluster_bytes, w->length);
	free(b.streams);
	ox_arena_give(q->pack.arena, b.packed);
	return r;
}

static int write_rest_co(struct ox_qcow2 *q, struct request *w)
{
	int r = 0;

	if (!ox_range_within(w->offset, w->length, q->m.img->size_bytes))
		return -EINVAL; /* the disk was shrunk while this request waited */
	q->m.allocating++;
	while (r == 0 && w->done < w->length)
		r = write_next_co(q, w);
	q->m.allocating--;
	return r;
}

/* The order of turns is that of locks, so that nobody waits for the turn of one that waits for the
 * lock. */
static int write_exclusive_co(struct ox_qcow2 *q, struct request *w)
{
	struct ox_range range;
	int r;

	w->turn = q->pack.begun++;
	w->has_turn = true;
	ox_mapped_lock_co(&q->m, &range, w->offset + w->done, w->length - w->done, true);
	r = write_rest_co(q, w);
	if (ox_io_is_full(r) && ox_alloc_reclaim_co(&q->m))
		r = write_rest_co(q, w);
	pass_turn_co(q, w);
	ox_rangelock_release(&q->m.guest, &range);
	return r;
}

int ox_qcow2_pwritev_compressed_co(struct ox_image *img, const struct iovec *iov, int n,
				   uint64_t offset, uint64_t length, unsigned flags)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct request w = {.iov = iov, .n = n, .offset = offset, .length = length};
	int r = q->m.ops->prepare_write_co(&q->m);

	if (r < 0)
		return r;
	do {
		r = write_exclusive_co(q, &w);
	} while (ox_recover_restart_co(&q->m, &r));
	if (r == 0 && (flags & OX_REQ_FUA))
		r = ox_commit_co(&q->m);
	return r;
}

/* ---- an image's ---- */

int ox_pack_init(struct ox_qcow2 *q, int level, struct ox_error **err)
{
	bool zstd = ox_qcow2_hdr(q)->compression_type == OX_QCOW2_ZSTD;
	int most = ox_codec_level_max(zstd ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE);

	ox_waitq_init(&q->pack.turn);
	ox_waitq_init(&q->pack.free_packer);
	if (level < 0 || level > most)
		return ox_error_set(err, -EINVAL, "%s has no compression level %d: 1 to %d",
				    zstd ? "zstd" : "zlib", level, most);
	q->pack.level = level;
	return 0;
}

void ox_pack_fini(struct ox_qcow2 *q)
{
	for (unsigned i = 0; i < q->pack.idle_count; i++)
		ox_codec_packer_free(q->pack.idle[i]);
	ox_arena_free(q->pack.arena);
}
