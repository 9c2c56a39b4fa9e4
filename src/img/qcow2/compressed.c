/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters, as they are read. Those of one request are decompressed many at once, and
 * into the caller's memory where that has room for a whole one. Of which only a part is asked for
 * is kept: the next request is for the next part, mostly. A guest that reads one cluster after the
 * other, and waits for each, has the next ones decompressed together with the one that it asks for:
 * on as many CPUs that takes as long as one.
 *
 * An L2 entry names the stream, and streams are never written over while they are named: so what is
 * kept is known by its entry, until a new stream is placed where it was.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "codec/codec.h"
#include "img/qcow2/qcow2.h"
#include "io/arena.h"
#include "rt/reactor.h"

/* Of one request, decompressed at once. */
#define STREAMS_AT_ONCE 32u
/* Of these, by one call of a worker thread. */
#define GROUP_BYTES (UINT64_C(256) << 10)
#define GROUPS_A_WORKER 2u
#define ARENA_BYTES (UINT64_C(2) << 20)
#define JOBS_BESIDE 1u /* a job more than CPUs, so that none of these waits for the reactor */
/* Clusters that were read one after the other until the next ones are read ahead. */
#define IN_ORDER_MIN 2u
#define AHEAD_MAX (OX_UNPACKED_KEPT / 2)

struct unpack_job {
	enum ox_codec codec;
	uint8_t *dst;
	size_t dst_bytes;
	const uint8_t *src;
	size_t src_bytes;
};

static int unpack_job(void *arg)
{
	struct unpack_job *j = arg;

	return ox_codec_decompress(j->codec, j->dst, j->dst_bytes, j->src, j->src_bytes);
}

/* The last stream may claim sectors past the file's end; it does not need them. */
static uint64_t stream_bytes_co(struct ox_qcow2 *q, const struct ox_map_run *run)
{
	uint64_t left = q->m.io->length - run->host.bytes;

	if (run->compressed_bytes > left && ox_io_has_grown_co(q->m.io))
		left = q->m.io->length - run->host.bytes;
	return ox_min_u64(run->compressed_bytes, left);
}

static enum ox_codec codec_of(const struct ox_qcow2 *q)
{
	return ox_qcow2_hdr(q)->compression_type == OX_QCOW2_ZSTD ? OX_CODEC_ZSTD
								  : OX_CODEC_DEFLATE;
}

/* asked: somebody waits for it, so that damage is met. */
static int unpack_stream_co(struct ox_qcow2 *q, const struct ox_map_run *run, uint8_t *cluster,
			    bool asked)
{
	struct unpack_job job = {
		.codec = codec_of(q),
		.dst = cluster,
		.dst_bytes = q->m.cluster_bytes,
	};
	uint64_t bytes = stream_bytes_co(q, run);
	uint8_t *src = ox_io_buffer(bytes);
	int r;

	job.src_bytes = bytes;
	if (!src)
		return -ENOMEM;
	job.src = src;
	r = ox_io_pread_co(q->m.io, src, bytes, run->host.bytes);
	if (r == 0) {
		r = ox_aio_work_co(unpack_job, &job);
		if (r == -EIO && asked)
			ox_corrupt_stream(q, run->host, bytes);
	}
	free(src);
	return r;
}

/* No more at once than threads are worth having, whatever number of requests there are. */
static void begin_job_co(struct ox_qcow2 *q)
{
	struct ox_unpacking *u = &q->unpack;

	while (u->jobs > ox_aio_workers(q->m.img->reactor) + JOBS_BESIDE)
		ox_waitq_wait_co(&u->ended);
	u->jobs++;
}

static void end_job(struct ox_qcow2 *q)
{
	q->unpack.jobs--;
	ox_waitq_wake_one(&q->unpack.ended);
}

static int unpack_co(struct ox_qcow2 *q, const struct ox_map_run *run, uint8_t *cluster, bool asked)
{
	int r;

	begin_job_co(q);
	r = unpack_stream_co(q, run, cluster, asked);
	end_job(q);
	return r;
}

/* ---- what is kept ---- */

void ox_unpack_init(struct ox_qcow2 *q)
{
	ox_waitq_init(&q->unpack.ended);
	ox_waitq_init(&q->unpack.loaded);
}

void ox_unpack_forget_all(struct ox_qcow2 *q)
{
	for (unsigned i = 0; i < OX_UNPACKED_KEPT; i++)
		q->unpack.kept[i].entry = 0;
}

void ox_unpack_forget(struct ox_qcow2 *q, struct ox_host host)
{
	for (unsigned i = 0; i < OX_UNPACKED_KEPT; i++) {
		struct ox_unpacked *k = &q->unpack.kept[i];

		if (ox_qcow2_l2_decode(ox_qcow2_hdr(q), k->entry).host.bytes == host.bytes)
			k->entry = 0;
	}
}

void ox_unpack_fini(struct ox_qcow2 *q)
{
	for (unsigned i = 0; i < OX_UNPACKED_KEPT; i++)
		free(q->unpack.kept[i].data);
	ox_arena_free(q->unpack.arena);
}

static struct ox_unpacked *find_kept(struct ox_qcow2 *q, uint64_t entry)
{
	for (unsigned i = 0; i < OX_UNPACKED_KEPT; i++) {
		if (q->unpack.kept[i].entry == entry)
			return &q->unpack.kept[i];
	}
	return NULL;
}

/* The one that was used least lately; NULL: all are being loaded. */
static struct ox_unpacked *find_oldest(struct ox_qcow2 *q)
{
	struct ox_unpacked *oldest = NULL;

	for (unsigned i = 0; i < OX_UNPACKED_KEPT; i++) {
		struct ox_unpacked *k = &q->unpack.kept[i];

		if (!k->loading && (!oldest || k->used < oldest->used))
			oldest = k;
	}
	return oldest;
}

static int load_co(struct ox_qcow2 *q, struct ox_unpacked *k, const struct ox_map_run *run,
		   bool asked)
{
	int r = 0;

	k->entry = run->entry;
	k->loading = true;
	if (!k->data)
		k->data = ox_io_buffer(q->m.cluster_bytes);
	if (!k->data)
		r = -ENOMEM;
	if (r == 0)
		r = unpack_co(q, run, k->data, asked);
	k->loading = false;
	if (r < 0)
		k->entry = 0;
	ox_waitq_wake_all(&q->unpack.loaded);
	return r;
}

/* The cluster's bytes, to be used before the caller suspends again. */
static int keep_co(struct ox_qcow2 *q, const struct ox_map_run *run, bool asked,
		   const uint8_t **ret)
{
	struct ox_unpacked *k;
	int r;

	for (;;) {
		k = find_kept(q, run->entry);
		if (k && !k->loading)
			break;
		if (!k)
			k = find_oldest(q);
		if (k && !k->loading) {
			r = load_co(q, k, run, asked);
			if (r < 0)
				return r;
			break;
		}
		ox_waitq_wait_co(&q->unpack.loaded);
	}
	k->used = ++q->unpack.uses;
	*ret = k->data;
	return 0;
}

/* ---- one cluster ---- */

/* Where byte skip of the list lies, if so many bytes lie there in one piece. */
static uint8_t *find_piece(const struct iovec *iov, int n, uint64_t skip, uint64_t bytes)
{
	for (int i = 0; i < n; i++) {
		if (skip < iov[i].iov_len)
			return iov[i].iov_len - skip >= bytes ? (uint8_t *)iov[i].iov_base + skip
							      : NULL;
		skip -= iov[i].iov_len;
	}
	return NULL;
}

static int read_cluster_co(struct ox_qcow2 *q, const struct ox_map_run *run,
			   const struct iovec *iov, int n, uint64_t skip, uint64_t in_cluster)
{
	uint8_t *piece = NULL;
	const uint8_t *bytes;
	int r;

	if (run->length == q->m.cluster_bytes && !find_kept(q, run->entry))
		piece = find_piece(iov, n, skip, run->length);
	if (piece)
		return unpack_co(q, run, piece, true);
	r = keep_co(q, run, true, &bytes);
	if (r == 0)
		ox_iov_from_buf(iov, n, skip, bytes + in_cluster, run->length);
	return r;
}

/* ---- the clusters behind it ---- */

struct ahead {
	struct ox_qcow2 *q;
	struct ox_map_run runs[AHEAD_MAX];
	unsigned count;
	unsigned next; /* that no task has begun with */
	struct ox_range range;
	bool locked;
	struct ox_latch running;
};

/* Whether the guest reads in order, at this cluster, and nothing else is decompressed meanwhile. */
static bool reads_on(struct ox_unpacking *u, uint64_t cluster)
{
	if (cluster == u->last + 1)
		u->in_order++;
	else if (cluster != u->last)
		u->in_order = 0;
	u->last = cluster;
	return u->in_order >= IN_ORDER_MIN && u->jobs == 0;
}

/* What cannot be read ahead is read, and told of, when it is asked for. */
static void ahead_task_co(void *arg)
{
	struct ahead *a = arg;
	const uint8_t *bytes;

	(void)keep_co(a->q, &a->runs[a->next++], false, &bytes);
	ox_latch_done(&a->running);
}

/* Those from offset on, as long as they are compressed, and one CPU is left for each. */
static void gather_ahead_co(struct ahead *a, uint64_t offset, uint64_t end)
{
	while (offset < end) {
		struct ox_map_run *run = &a->runs[a->count];

		if (ox_mapped_lookup_co(&a->q->m, ox_guest(offset), end - offset, run) < 0 ||
		    run->kind != OX_MAP_COMPRESSED)
			return;
		offset += run->length;
		if (!find_kept(a->q, run->entry))
			a->count++;
	}
}

/* Their range is locked as that of a request is (H4): in use by a writer, it is not waited for. */
static void begin_ahead_co(struct ahead *a, uint64_t offset)
{
	struct ox_mapped *m = &a->q->m;
	uint64_t most = ox_min_u64(ox_aio_workers(m->img->reactor) - 1, AHEAD_MAX);
	uint64_t end = ox_min_u64(offset + most * m->cluster_bytes, m->img->size_bytes);

	a->locked = offset < end &&
		    ox_rangelock_try_acquire(&m->guest, &a->range, offset, end - offset, false);
	if (a->locked)
		gather_ahead_co(a, offset, end);
	for (unsigned i = 0; i < a->count; i++) {
		ox_latch_add(&a->running);
		if (ox_co_spawn(m->img->reactor, ahead_task_co, a) < 0)
			ox_latch_done(&a->running);
	}
}

static void end_ahead_co(struct ahead *a)
{
	ox_latch_wait_co(&a->running);
	if (a->locked)
		ox_rangelock_release(&a->q->m.guest, &a->range);
}

int ox_qcow2_read_compressed_co(struct ox_mapped *m, const struct ox_map_run *run,
				const struct iovec *iov, int n, uint64_t skip, uint64_t offset)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t cluster = offset >> m->cluster_bits;
	struct ahead a = {.q = q};
	int r;

	ox_latch_init(&a.running);
	if (reads_on(&q->unpack, cluster) && !find_kept(q, run->entry))
		begin_ahead_co(&a, (cluster + 1) << m->cluster_bits);
	r = read_cluster_co(q, run, iov, n, skip, offset & (m->cluster_bytes - 1));
	end_ahead_co(&a);
	return r;
}

/* ---- many of one request ---- */

struct crew {
	struct ox_mapped *m;
	const struct iovec *iov;
	int n;
	struct ox_map_run runs[STREAMS_AT_ONCE];
	uint64_t skips[STREAMS_AT_ONCE];
	uint64_t in_cluster; /* of the first */
	unsigned count;
	unsigned next; /* that no task has begun with */
	struct ox_latch running;
	int result;
};

/* Streams that are neighbours in the file, read at once and decompressed by one call of a worker
 * thread: a handover of each would take as long as a fourth of the work. */
struct neighbours {
	const struct crew *c;
	unsigned first;
	unsigned count;
	uint8_t *src;
	uint64_t src_bytes;
};

static uint64_t stream_start(const struct neighbours *g, unsigned i)
{
	return g->c->runs[i].host.bytes - g->c->runs[g->first].host.bytes;
}

static int unpack_neighbours(void *arg)
{
	const struct neighbours *g = arg;
	const struct crew *c = g->c;
	struct ox_qcow2 *q = ox_qcow2_of_mapped(c->m);
	int r = 0;

	for (unsigned i = g->first; r == 0 && i < g->first + g->count; i++) {
		uint64_t start = stream_start(g, i);
		uint8_t *dst = find_piece(c->iov, c->n, c->skips[i], c->runs[i].length);

		r = ox_codec_decompress(
			codec_of(q), dst, c->runs[i].length, g->src + start,
			ox_min_u64(c->runs[i].compressed_bytes, g->src_bytes - start));
	}
	return r;
}

static bool is_whole(const struct crew *c, unsigned i)
{
	const struct ox_map_run *run = &c->runs[i];

	return run->length == c->m->cluster_bytes &&
	       find_piece(c->iov, c->n, c->skips[i], run->length) &&
	       !find_kept(ox_qcow2_of_mapped(c->m), run->entry);
}

/* How many of the streams from one on lie one behind the other, up to what one call is to do. */
static unsigned count_neighbours(const struct crew *c, unsigned first)
{
	uint64_t workers = ox_aio_workers(c->m->img->reactor);
	uint64_t most = ox_min_u64(c->count / (GROUPS_A_WORKER * workers),
				   GROUP_BYTES >> c->m->cluster_bits);
	unsigned count = 0;

	while (first + count < c->count && count < most && is_whole(c, first + count)) {
		const struct ox_map_run *last = &c->runs[first + count - (count > 0)];
		const struct ox_map_run *run = &c->runs[first + count];

		if (run->host.bytes < last->host.bytes ||
		    run->host.bytes - last->host.bytes > last->compressed_bytes)
			break;
		count++;
	}
	return count;
}

/* -EIO: one of them is damaged, and it is not known which. -ENOMEM: each alone takes less. */
static int read_neighbours_co(struct crew *c, unsigned first, unsigned count)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(c->m);
	struct neighbours g = {.c = c, .first = first, .count = count};
	const struct ox_map_run *last = &c->runs[first + count - 1];
	int r;

	begin_job_co(q);
	g.src_bytes = stream_start(&g, first + count - 1) + stream_bytes_co(q, last);
	if (!q->unpack.arena)
		q->unpack.arena = ox_arena_new(ARENA_BYTES);
	if (q->unpack.arena)
		g.src = ox_arena_take(q->unpack.arena, g.src_bytes);
	r = g.src ? ox_io_pread_co(q->m.io, g.src, g.src_bytes, c->runs[first].host.bytes)
		  : -ENOMEM;
	if (r == 0)
		r = ox_aio_work_co(unpack_neighbours, &g);
	ox_arena_give(q->unpack.arena, g.src);
	end_job(q);
	return r;
}

/* Alone, so that the damaged one is known, and with the least memory. */
static int read_each_co(struct crew *c, unsigned first, unsigned count)
{
	int r = 0;

	for (unsigned i = first; r == 0 && i < first + count; i++)
		r = read_cluster_co(ox_qcow2_of_mapped(c->m), &c->runs[i], c->iov, c->n,
				    c->skips[i], i == 0 ? c->in_cluster : 0);
	return r;
}

static void read_runs_co(struct crew *c)
{
	while (c->next < c->count && c->result == 0) {
		unsigned first = c->next;
		unsigned count = (unsigned)ox_max_u64(count_neighbours(c, first), 1);
		int r = -EIO;

		c->next += count;
		if (count > 1)
			r = read_neighbours_co(c, first, count);
		if (r == -EIO || r == -ENOMEM)
			r = read_each_co(c, first, count);
		if (r < 0)
			c->result = r;
	}
}

static void crew_task_co(void *arg)
{
	struct crew *c = arg;

	read_runs_co(c);
	ox_latch_done(&c->running);
}

/* Which follow the first one, as far as the request goes. */
static int gather_co(struct crew *c, uint64_t skip, uint64_t offset, uint64_t length,
		     uint64_t *ret_done)
{
	uint64_t done = c->runs[0].length;
	int r;

	c->skips[0] = skip;
	for (c->count = 1; c->count < STREAMS_AT_ONCE && done < length; c->count++) {
		struct ox_map_run *run = &c->runs[c->count];

		r = ox_mapped_lookup_co(c->m, ox_guest(offset + done), length - done, run);
		if (r < 0)
			return r;
		if (run->kind != OX_MAP_COMPRESSED)
			break;
		c->skips[c->count] = skip + done;
		done += run->length;
	}
	*ret_done = done;
	return 0;
}

int ox_qcow2_read_streams_co(struct ox_mapped *m, const struct ox_map_run *run,
			     const struct iovec *iov, int n, uint64_t skip, uint64_t offset,
			     uint64_t length, uint64_t *ret_done)
{
	struct crew c = {
		.m = m,
		.iov = iov,
		.n = n,
		.runs = {*run},
		.in_cluster = offset & (m->cluster_bytes - 1),
	};
	uint64_t done;
	int r = gather_co(&c, skip, offset, length, &done);

	if (r < 0)
		return r;
	ox_latch_init(&c.running);
	for (unsigned i = 1; i < c.count && i < ox_aio_workers(m->img->reactor); i++) {
		ox_latch_add(&c.running);
		if (ox_co_spawn(m->img->reactor, crew_task_co, &c) < 0)
			ox_latch_done(&c.running); /* the others do it */
	}
	read_runs_co(&c);
	ox_latch_wait_co(&c.running);
	if (c.result == 0)
		*ret_done = done;
	return c.result;
}
