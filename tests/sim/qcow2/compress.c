/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "qcow2/edit.h"
#include "trace.h"

#define STREAMS_MOST 32u
#define WINDOW_BITS (-12) /* raw, as the format has it */

struct stream {
	uint64_t entry_at; /* where its L2 entry stands */
	uint8_t *bytes;
	uint64_t count;
};

static void read_guest(const struct sim_qcow2 *i, const struct sim_backing *backing, uint64_t guest,
		       uint8_t *ret)
{
	for (uint64_t at = 0; at < i->cluster_bytes && guest + at < i->size_bytes;
	     at += SIM_SECTOR_BYTES)
		sim_qcow2_read(i, i->l1_offset, i->l1_entries, backing, guest + at, ret + at);
}

/* False where it does not fit into what an entry can tell. */
static bool deflate_cluster(const struct sim_qcow2 *i, uint8_t *cluster, struct stream *ret)
{
	uint64_t room = 2 * i->cluster_bytes;
	z_stream z = {.next_in = cluster, .avail_in = (uInt)i->cluster_bytes};
	int r;

	ret->bytes = sim_alloc(1, room);
	z.next_out = ret->bytes;
	z.avail_out = (uInt)room;
	if (deflateInit2(&z, 6, Z_DEFLATED, WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) != Z_OK)
		sim_fail("sim", "zlib");
	r = deflate(&z, Z_FINISH);
	ret->count = z.total_out;
	deflateEnd(&z);
	if (r != Z_STREAM_END)
		free(ret->bytes);
	return r == Z_STREAM_END;
}

static unsigned gather(const struct sim_qcow2 *i, const struct sim_backing *backing,
		       struct sim_random *random, struct stream *streams)
{
	uint64_t per_table = i->cluster_bytes / 8;
	uint64_t clusters = (i->size_bytes + i->cluster_bytes - 1) >> i->cluster_bits;
	uint64_t start = sim_random_below(random, clusters);
	unsigned n = 0;

	for (uint64_t k = 0; k < clusters && n < STREAMS_MOST; k++) {
		uint64_t c = (start + k) % clusters;
		uint64_t table;
		uint8_t *cluster;

		if (sim_random_percent(random, 50) || c / per_table >= i->l1_entries)
			continue;
		table = sim_bytes_be64(i->bytes, i->l1_offset + c / per_table * 8) &
			SIM_OFFSET_MASK;
		if (table == 0 ||
		    sim_bytes_be64(i->bytes, table + c % per_table * 8) & SIM_COMPRESSED)
			continue;
		cluster = sim_alloc(1, i->cluster_bytes);
		read_guest(i, backing, c << i->cluster_bits, cluster);
		if (deflate_cluster(i, cluster, &streams[n]))
			streams[n++].entry_at = table + c % per_table * 8;
		free(cluster);
	}
	return n;
}

/* Where the stream goes, from at on: at any byte, or at the next cluster where this one is full or
 * the entry could not tell so many sectors. */
static uint64_t choose_place(const struct sim_qcow2 *i, uint64_t at, uint64_t count,
			     struct sim_random *random, unsigned most_names)
{
	uint64_t next = (at + i->cluster_bytes - 1) >> i->cluster_bits << i->cluster_bits;
	bool full = sim_qcow2_refcount(i, at >> i->cluster_bits) >= most_names;

	if (full || (sim_random_percent(random, 15) && next > at) ||
	    at % SIM_SECTOR_BYTES + count > 2 * i->cluster_bytes)
		return full && next == at ? at + i->cluster_bytes : next;
	return at;
}

static uint64_t place(struct sim_bytes *b, const struct sim_qcow2 *i, const struct stream *s,
		      uint64_t at)
{
	uint64_t sectors = (at % SIM_SECTOR_BYTES + s->count - 1) / SIM_SECTOR_BYTES;
	uint64_t old = sim_bytes_be64(b, s->entry_at);
	uint64_t entry = SIM_COMPRESSED | sectors << (62 - (i->cluster_bits - 8)) | at;

	sim_bytes_write(b, at, s->bytes, s->count);
	sim_edit_add_names(b, i, at, (sectors + 1) * SIM_SECTOR_BYTES - at % SIM_SECTOR_BYTES, 1);
	if (old & SIM_OFFSET_MASK)
		sim_edit_add_names(b, i, old & SIM_OFFSET_MASK, i->cluster_bytes, -1);
	sim_bytes_put_be64(b, s->entry_at, entry);
	return at + s->count;
}

unsigned sim_compress_some(struct sim_bytes *b, const struct sim_backing *backing,
			   struct sim_random *random, unsigned most_names, bool fixed)
{
	struct stream streams[STREAMS_MOST];
	struct sim_qcow2 i;
	const char *why;
	uint64_t room = 0;
	uint64_t at;
	unsigned n;
	unsigned placed = 0;

	if (!sim_qcow2_parse(b, &i, &why))
		return 0;
	n = gather(&i, backing, random, streams);
	for (unsigned k = 0; k < n; k++) /* the most that rounding may take, and no more names */
		room += streams[k].count / i.cluster_bytes + 2;
	at = sim_edit_find_free(b, &i, room, fixed);
	for (unsigned k = 0; k < n; k++) {
		if (at != 0) {
			at = choose_place(&i, at, streams[k].count, random, most_names);
			at = place(b, &i, &streams[k], at);
			placed++;
		}
		free(streams[k].bytes);
	}
	return placed;
}
