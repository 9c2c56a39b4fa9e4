/* SPDX-License-Identifier: MIT */
/*
 * Whether what compressed clusters hold can be decompressed. A stream is read and decompressed
 * once, however many entries name it: the entries of all tables are listed in rounds of bounded
 * size, then several streams at once are decompressed on the worker threads.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/judge/judge.h"
#include "check/judge/streams.h"
#include "codec/codec.h"
#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/sync.h"

/* Some read while others decompress. Each has buffers of three clusters. */
#define TASKS_MAX 8u
/* Of a round: 32 MiB at most while it is listed. */
#define STREAMS_MAX ((size_t)1 << 20)

struct pass {
	struct ox_walk *w;
	struct ox_streams streams;
	size_t next; /* to be decompressed */
	bool any_bad;
	int error;
	struct ox_latch tasks;
	int (*entry_co)(struct pass *p, uint64_t l2_cluster, uint64_t index,
			const struct ox_qcow2_entry *e);
};

/* ---- decompressing ---- */

struct unpack_job {
	enum ox_codec codec;
	uint8_t *dst;
	size_t dst_bytes;
	uint8_t *src;
	size_t src_bytes;
};

static int unpack_job(void *arg)
{
	struct unpack_job *j = arg;

	return ox_codec_decompress(j->codec, j->dst, j->dst_bytes, j->src, j->src_bytes);
}

/* 1: it can be decompressed; 0: it cannot; or -ENOMEM. */
static int try_stream_co(const struct ox_walk *w, struct unpack_job *job,
			 const struct ox_stream *stream)
{
	int r;

	/* The last stream may claim sectors past the file's end; it does not need them. */
	job->src_bytes = ox_min_u64(stream->bytes, w->v.file_bytes - stream->start);
	r = ox_io_pread_co(w->v.io, job->src, job->src_bytes, stream->start);
	if (r == 0)
		r = ox_aio_work_co(unpack_job, job);
	if (r == -ENOMEM)
		return r;
	return r == 0;
}

/*
 * Streams with one start differ in the length that is claimed; what is long enough for the cluster
 * stays so when it is longer. So a few tries find the shortest that is.
 */
static int verify_group_co(struct pass *p, struct unpack_job *job, struct ox_stream *group,
			   size_t count)
{
	size_t bad = 0; /* the first so many */
	size_t try = count - 1;
	size_t good = count;

	while (bad < good) {
		int r = try_stream_co(p->w, job, &group[try]);

		if (r < 0)
			return r;
		if (r == 1)
			good = try;
		else
			bad = try + 1;
		try = bad + (good - bad) / 2;
	}
	for (size_t i = 0; i < bad; i++)
		group[i].is_bad = true;
	p->any_bad |= bad > 0;
	return 0;
}

/* The next streams that start at one place; 0: there are none left. */
static size_t take_group(struct pass *p, struct ox_stream **ret)
{
	struct ox_stream *first = p->streams.list + p->next;
	size_t count = 0;

	while (p->next < p->streams.count && p->streams.list[p->next].start == first->start) {
		p->next++;
		count++;
	}
	*ret = first;
	return count;
}

static void verifier_co(void *arg)
{
	struct pass *p = arg;
	const struct ox_walk *w = p->w;
	struct unpack_job job = {
		.codec =
			w->v.h.compression_type == OX_QCOW2_ZSTD ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE,
		.dst = malloc(w->v.cluster_bytes),
		.dst_bytes = w->v.cluster_bytes,
		.src = malloc(2 * w->v.cluster_bytes),
	};
	struct ox_stream *group;
	size_t count;

	if (!job.dst || !job.src)
		p->error = -ENOMEM;
	while (p->error == 0 && (count = take_group(p, &group)) > 0) {
		int r = verify_group_co(p, &job, group, count);

		if (r < 0)
			p->error = r;
	}
	free(job.dst);
	free(job.src);
	ox_latch_done(&p->tasks);
}

static int verify_streams_co(struct pass *p)
{
	unsigned tasks = (unsigned)ox_min_u64(ox_aio_workers(ox_co_reactor()) + 2, TASKS_MAX);
	int r = 0;

	p->next = 0;
	p->any_bad = false;
	tasks = (unsigned)ox_min_u64(tasks, p->streams.count);
	ox_latch_init(&p->tasks);
	for (unsigned i = 0; i < tasks && r == 0; i++) {
		ox_latch_add(&p->tasks);
		r = ox_co_spawn(ox_co_reactor(), verifier_co, p);
		if (r < 0)
			ox_latch_done(&p->tasks);
	}
	ox_latch_wait_co(&p->tasks);
	return r < 0 ? r : p->error;
}

/* ---- the entries ---- */

static int list_entry_co(struct pass *p, uint64_t l2_cluster, uint64_t index,
			 const struct ox_qcow2_entry *e)
{
	(void)l2_cluster;
	(void)index;
	return ox_streams_add(&p->streams, e->host.bytes, (uint32_t)e->compressed_bytes);
}

static int report_entry_co(struct pass *p, uint64_t l2_cluster, uint64_t index,
			   const struct ox_qcow2_entry *e)
{
	uint64_t host = e->host.bytes;
	const struct ox_stream *stream =
		ox_streams_find(&p->streams, host, (uint32_t)e->compressed_bytes);

	if (!stream || !stream->is_bad)
		return 0;
	return ox_walk_found_in_l2_co(p->w, l2_cluster, index, OX_FOUND_COMPRESSED_DATA,
				      OX_FOUND(.a = host, .host_offset = host));
}

/* Visits the compressed entries that lie in the file. */
static int table_entries_co(void *arg, uint64_t cluster, struct ox_cell cell,
			    struct ox_be64 *entries)
{
	struct pass *p = arg;
	const struct ox_view *v = &p->w->v;

	(void)cell;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&v->h); i++) {
		struct ox_be64 raw = entries[i * ox_qcow2_l2_words(&v->h)];
		struct ox_qcow2_entry e;
		int r;

		if (!(ox_be64_get(raw) & OX_QCOW2_COMPRESSED))
			continue;
		e = ox_qcow2_l2_decode(&v->h, ox_be64_get(raw));
		if (e.kind != OX_QCOW2_ENTRY_COMPRESSED || e.host.bytes >= v->file_bytes)
			continue;
		r = p->entry_co(p, cluster, i, &e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int each_entry_co(struct pass *p,
			 int (*entry_co)(struct pass *p, uint64_t l2_cluster, uint64_t index,
					 const struct ox_qcow2_entry *e))
{
	p->entry_co = entry_co;
	return ox_walk_l2_co(p->w, OX_WAYS_ALL, table_entries_co, p);
}

static int round_co(struct pass *p)
{
	int r = each_entry_co(p, list_entry_co);

	if (r < 0)
		return r;
	ox_streams_settle(&p->streams);
	r = verify_streams_co(p);
	if (r == 0 && p->any_bad)
		r = each_entry_co(p, report_entry_co);
	return r;
}

int ox_judge_verify_co(struct ox_walk *w)
{
	struct pass p = {.w = w};
	int r;

	/* How to decompress is not known. */
	if (w->v.faults.found[OX_QCOW2_FAULT_COMPRESSION])
		return 0;
	ox_streams_init(&p.streams, STREAMS_MAX);
	do {
		r = round_co(&p);
	} while (r == 0 && ox_streams_next(&p.streams));
	ox_streams_free(&p.streams);
	return r;
}
