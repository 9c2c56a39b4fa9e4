/* SPDX-License-Identifier: MIT */
#include "check/view/view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/grow.h"

/* Host offsets have 56 bits. */
#define MAX_HOST_BYTES (UINT64_C(1) << 56)
#define SECTOR_BYTES 512u

int ox_view_open_co(struct ox_view *v, struct ox_io *io, struct ox_error **err)
{
	int r;

	v->io = io;
	r = ox_view_read_header_co(v, err);
	if (r < 0)
		return r;
	v->cluster_bytes = ox_qcow2_cluster_bytes(&v->h);
	v->file_bytes = ox_min_u64(io->length, MAX_HOST_BYTES);
	v->file_clusters = ox_div_up(v->file_bytes, v->cluster_bytes);
	v->has_data_file = v->h.incompatible & OX_QCOW2_INCOMPAT_DATA_FILE;
	v->dirty = v->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	ox_journal_begin(v->j, v->cluster_bytes);
	return 0;
}

void ox_view_close(struct ox_view *v)
{
	/* Names of snapshots may be in what is still to be told. */
	ox_journal_tell_run(v->j);
	for (uint64_t t = 0; t < v->tree_count; t++)
		free(v->trees[t].name);
	free(v->trees);
	free(v->patches);
}

/* ---- filling it ---- */

int ox_view_add_tree(struct ox_view *v, struct ox_view_tree tree)
{
	if (ox_grow(v->trees, v->tree_count, v->tree_room, 1) < 0) {
		free(tree.name);
		return -ENOMEM;
	}
	v->trees[v->tree_count++] = tree;
	return 0;
}

void ox_view_cut_tree(struct ox_view *v, uint64_t tree, uint32_t l1_entries)
{
	v->trees[tree].l1_entries = l1_entries;
}

void ox_view_set_snapshot_bytes(struct ox_view *v, uint64_t size_bytes)
{
	v->snapshot_bytes = size_bytes;
}

void ox_view_note_bad_record(struct ox_view *v, bool leads_nowhere, uint64_t past_end)
{
	v->bad_records += leads_nowhere;
	v->past_end_snapshots += past_end;
}

void ox_view_set_list(struct ox_view *v, const struct ox_qcow2_extensions *ext, uint64_t bitmaps_at)
{
	if (v->dirty && ox_is_aligned(ext->fence_bytes, v->cluster_bytes) &&
	    ext->fence_bytes < v->file_bytes)
		v->fence_bytes = ext->fence_bytes;
	v->has_fence = ext->fence_bytes != 0;
	v->list_end_offset = ext->end_offset;
	v->bitmaps_at = bitmaps_at;
}

struct ox_found ox_view_lost_bitmaps_found(void)
{
	return OX_FOUND(.word = "bitmaps are vouched for, and no header extension tells where they "
				"are");
}

void ox_view_lose_bitmaps(struct ox_view *v)
{
	v->lost_bitmaps = true;
	ox_journal_found(v->j, OX_FOUND_HEADER_AUTOCLEAR, ox_view_lost_bitmaps_found());
}

/* ---- places ---- */

bool ox_view_past_end(const struct ox_view *v, uint64_t offset, uint64_t size_bytes)
{
	uint64_t end;

	if (!ox_add_u64(offset, size_bytes, &end))
		return true;
	return end > v->file_bytes && end - v->file_bytes >= v->cluster_bytes;
}

bool ox_view_is_cut(const struct ox_view *v, uint64_t offset, uint64_t size_bytes)
{
	return !ox_range_within(offset, size_bytes, v->file_bytes);
}

uint64_t ox_view_entries_within(const struct ox_view *v, uint64_t offset, uint64_t entries)
{
	return offset < v->file_bytes ? ox_min_u64((v->file_bytes - offset) / 8, entries) : 0;
}

uint64_t ox_view_limit_of(const struct ox_view *v, uint64_t l2_cluster)
{
	return l2_cluster * v->cluster_bytes < v->fence_bytes ? v->fence_bytes : v->file_bytes;
}

bool ox_view_entry_is_stale(const struct ox_view *v, uint64_t l2_cluster, struct ox_cell l2_cell,
			    uint64_t host_offset)
{
	return v->dirty && (l2_cell.state & 3u) != 0 && l2_cell.count == 1 &&
	       host_offset >= ox_view_limit_of(v, l2_cluster);
}

uint64_t ox_view_mapped(const struct ox_view *v, uint64_t l1_entries)
{
	uint64_t bytes;

	return ox_mul_u64(l1_entries, ox_view_l1_span(v), &bytes) ? bytes : UINT64_MAX;
}

void ox_view_set_range(const struct ox_view *v, struct ox_found *what, uint64_t tree,
		       uint64_t offset, uint64_t length)
{
	/* Past the end of a disk lies a snapshot's machine state. */
	if (tree == 0 && offset < v->h.size_bytes)
		length = ox_min_u64(length, v->h.size_bytes - offset);
	what->snapshot = ox_view_name_of(v, tree);
	what->guest_offset = offset;
	what->guest_length = length;
}

/* ---- L1 entries ---- */

static enum ox_finding_id l1_fault(const struct ox_view *v, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	if (raw == OX_QCOW2_COPIED)
		return OX_FOUND_L1_COPIED_EMPTY;
	return ox_is_aligned(offset, v->cluster_bytes) ? OX_FOUND_L1_RESERVED
						       : OX_FOUND_L1_UNALIGNED;
}

struct ox_found ox_view_bad_l1_entry(const struct ox_view *v, uint64_t tree, uint64_t index,
				     uint64_t raw, enum ox_finding_id *ret_id)
{
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&v->h, raw);
	enum ox_finding_id id = e.bad ? l1_fault(v, raw) : OX_FOUND_PAST_END;
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	struct ox_found what = {.a = offset, .b = v->cluster_bytes, .host_offset = offset};

	if (id == OX_FOUND_L1_COPIED_EMPTY)
		what.a = index;
	else if (id == OX_FOUND_L1_RESERVED)
		what.a = raw;
	ox_view_set_range(v, &what, tree, index * ox_view_l1_span(v), ox_view_l1_span(v));
	*ret_id = id;
	return what;
}

/* ---- patches ---- */

/* NULL: there are too many, or there is no memory. */
static struct ox_view_patch *new_patch(struct ox_view *v)
{
	if (v->patch_count == OX_VIEW_MAX_PATCHES ||
	    ox_grow(v->patches, v->patch_count, v->patch_room, 8) < 0)
		return NULL;
	return &v->patches[v->patch_count++];
}

struct ox_found ox_view_patch_found(const struct ox_view_patch *p)
{
	struct ox_found what = p->what;

	what.word = p->word;
	what.is_told = true;
	return what;
}

void ox_view_patch(struct ox_view *v, enum ox_finding_id id, struct ox_found what, uint64_t offset,
		   const void *bytes, size_t size)
{
	struct ox_view_patch *p = new_patch(v);

	if (!p) {
		ox_journal_found(v->j, id, what);
		return;
	}
	ox_assert(size <= sizeof(p->bytes) && offset % SECTOR_BYTES + size <= SECTOR_BYTES);
	p->id = id;
	p->offset = offset;
	p->size = size;
	p->what = what;
	memcpy(p->bytes, bytes, size);
	snprintf(p->word, sizeof(p->word), "%s", what.word ? what.word : "");
	ox_journal_found(v->j, id, ox_view_patch_found(p));
}
