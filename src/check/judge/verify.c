/* SPDX-License-Identifier: MIT */
/*
 * Whether what compressed clusters hold can be decompressed. Table by table, several clusters at
 * once on the worker threads.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/walk/walk.h"
#include "codec/codec.h"
#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/sync.h"

/* Some read while others decompress. Each has buffers of three clusters. */
#define TASKS_MAX 8u

struct table {
	struct ox_walk *w;
	const struct ox_be64 *entries;
	uint8_t *bad; /* of each entry */
	uint64_t next;
	int error;
	struct ox_latch tasks;
};

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

/* The next compressed entry that lies in the file, or false. */
static bool take_entry(struct table *t, uint64_t *ret_index, struct ox_qcow2_entry *ret)
{
	const struct ox_walk *w = t->w;

	while (t->next < ox_qcow2_l2_entries(&w->v.h)) {
		uint64_t i = t->next++;
		struct ox_be64 raw = t->entries[i * ox_qcow2_l2_words(&w->v.h)];
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(raw));

		if (e.kind != OX_QCOW2_ENTRY_COMPRESSED || e.host.bytes >= w->v.file_bytes)
			continue;
		*ret_index = i;
		*ret = e;
		return true;
	}
	return false;
}

static int verify_one_co(struct table *t, struct unpack_job *job, uint64_t index,
			 const struct ox_qcow2_entry *e)
{
	int r;

	/* The last stream may claim sectors past the file's end; it does not need them. */
	job->src_bytes = ox_min_u64(e->compressed_bytes, t->w->v.file_bytes - e->host.bytes);
	r = ox_io_pread_co(t->w->v.io, job->src, job->src_bytes, e->host.bytes);
	if (r == 0)
		r = ox_aio_work_co(unpack_job, job);
	if (r == -ENOMEM)
		return r;
	t->bad[index] = r < 0;
	return 0;
}

static void verifier_co(void *arg)
{
	struct table *t = arg;
	const struct ox_walk *w = t->w;
	struct unpack_job job = {
		.codec =
			w->v.h.compression_type == OX_QCOW2_ZSTD ? OX_CODEC_ZSTD : OX_CODEC_DEFLATE,
		.dst = malloc(w->v.cluster_bytes),
		.dst_bytes = w->v.cluster_bytes,
		.src = malloc(2 * w->v.cluster_bytes),
	};
	struct ox_qcow2_entry e;
	uint64_t index;

	if (!job.dst || !job.src)
		t->error = -ENOMEM;
	while (t->error == 0 && take_entry(t, &index, &e)) {
		int r = verify_one_co(t, &job, index, &e);

		if (r < 0)
			t->error = r;
	}
	free(job.dst);
	free(job.src);
	ox_latch_done(&t->tasks);
}

static bool has_compressed(const struct ox_walk *w, const struct ox_be64 *entries)
{
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		if (ox_be64_get(entries[i * ox_qcow2_l2_words(&w->v.h)]) & OX_QCOW2_COMPRESSED)
			return true;
	}
	return false;
}

static int report_co(struct table *t, uint64_t l2_cluster)
{
	struct ox_walk *w = t->w;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_be64 raw = t->entries[i * ox_qcow2_l2_words(&w->v.h)];
		uint64_t host;
		int r;

		if (!t->bad[i])
			continue;
		host = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(raw)).host.bytes;
		r = ox_walk_found_in_l2_co(w, l2_cluster, i, OX_FOUND_COMPRESSED_DATA,
					   OX_FOUND(.a = host, .host_offset = host));
		if (r < 0)
			return r;
	}
	return 0;
}

static int verify_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			   struct ox_be64 *entries)
{
	unsigned tasks = (unsigned)ox_min_u64(ox_aio_workers(ox_co_reactor()) + 2, TASKS_MAX);
	struct table t = {.w = w, .entries = entries};
	int r = 0;

	(void)cell;
	if (!has_compressed(w, entries))
		return 0;
	t.bad = calloc(ox_qcow2_l2_entries(&w->v.h), 1);
	if (!t.bad)
		return -ENOMEM;
	ox_latch_init(&t.tasks);
	for (unsigned i = 0; i < tasks && r == 0; i++) {
		ox_latch_add(&t.tasks);
		r = ox_co_spawn(ox_co_reactor(), verifier_co, &t);
		if (r < 0)
			ox_latch_done(&t.tasks);
	}
	ox_latch_wait_co(&t.tasks);
	if (r == 0)
		r = t.error;
	if (r == 0)
		r = report_co(&t, cluster);
	free(t.bad);
	return r;
}

int ox_walk_verify_co(struct ox_walk *w)
{
	/* How to decompress is not known. */
	if (w->v.faults.found[OX_QCOW2_FAULT_COMPRESSION])
		return 0;
	return ox_walk_l2_co(w, false, verify_table_co);
}
