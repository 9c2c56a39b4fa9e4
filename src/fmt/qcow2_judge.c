/* SPDX-License-Identifier: MIT */
/*
 * What the header's fields may be. The engine refuses the first that is wrong; the check goes on
 * without it.
 */
#include "fmt/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define MIN_EXTENDED_L2_CLUSTER_BITS 14u

struct judge {
	struct ox_qcow2_faults *faults; /* NULL: the first fault is the error */
	struct ox_error **err;
};

/* The error, or 0 where the fault was noted and the caller makes the field harmless. */
__attribute__((format(printf, 4, 5))) static int
fault(const struct judge *j, enum ox_qcow2_fault id, int code, const char *format, ...)
{
	char text[sizeof(j->faults->text[0])];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (!j->faults)
		return ox_error_set(j->err, code, "%s", text);
	/* The first of a kind says most: what follows may be its consequence. */
	if (!j->faults->found[id])
		snprintf(j->faults->text[id], sizeof(j->faults->text[id]), "%s", text);
	j->faults->found[id] = true;
	return 0;
}

/* ---- version 3 ---- */

static int judge_length(const struct judge *j, struct ox_qcow2_header *h, size_t count)
{
	size_t known = sizeof(struct ox_qcow2_disk_header);
	int r;

	if (count < OX_QCOW2_HEADER_V3_BYTES)
		return ox_error_set(j->err, -EINVAL, "qcow2 header too short");
	if (h->header_length < OX_QCOW2_HEADER_V3_BYTES ||
	    count < ox_min_u64(h->header_length, known))
		r = fault(j, OX_QCOW2_FAULT_LENGTH, -EINVAL, "qcow2 header too short");
	else if (h->header_length > ox_qcow2_cluster_bytes(h))
		r = fault(j, OX_QCOW2_FAULT_LENGTH, -EINVAL, "qcow2 header exceeds cluster size");
	else if (!ox_is_aligned(h->header_length, 8))
		r = fault(j, OX_QCOW2_FAULT_LENGTH, -EINVAL,
			  "qcow2 header length is not a multiple of 8: %u", h->header_length);
	else
		return 0;
	h->header_length = OX_QCOW2_HEADER_V3_BYTES;
	return r;
}

static int judge_compression(const struct judge *j, const struct ox_qcow2_header *h)
{
	bool typed = h->compression_type != OX_QCOW2_ZLIB;

	if (h->compression_type > OX_QCOW2_ZSTD)
		return fault(j, OX_QCOW2_FAULT_COMPRESSION, -ENOTSUP,
			     "qcow2: unknown compression type: %u", h->compression_type);
	if (typed != !!(h->incompatible & OX_QCOW2_INCOMPAT_COMPRESSION))
		return fault(j, OX_QCOW2_FAULT_COMPRESSION, -EINVAL,
			     "qcow2: Compression type incompatible feature bit must%s be set",
			     typed ? "" : " not");
	return 0;
}

static int judge_version3(const struct judge *j, struct ox_qcow2_header *h, size_t count)
{
	int r = judge_length(j, h, count);

	if (r == 0 && h->refcount_order > 6) {
		r = fault(j, OX_QCOW2_FAULT_REFCOUNT_ORDER, -EINVAL,
			  "Reference count entry width too large; may not exceed 64 bits");
		h->refcount_order = 4;
	}
	if (r == 0)
		r = judge_compression(j, h);
	if (r == 0 && (h->incompatible & OX_QCOW2_INCOMPAT_EXTENDED_L2) &&
	    h->cluster_bits < MIN_EXTENDED_L2_CLUSTER_BITS)
		r = fault(j, OX_QCOW2_FAULT_EXTENDED_L2, -EINVAL,
			  "Extended L2 entries are only supported with cluster sizes of at "
			  "least %u bytes",
			  1u << MIN_EXTENDED_L2_CLUSTER_BITS);
	return r;
}

/* ---- backing name ---- */

static int judge_backing(const struct judge *j, struct ox_qcow2_header *h)
{
	uint64_t cluster_bytes = ox_qcow2_cluster_bytes(h);
	int r;

	if (h->backing_offset == 0)
		return 0;
	if (h->backing_offset < h->header_length || h->backing_offset > cluster_bytes)
		r = fault(j, OX_QCOW2_FAULT_BACKING, -EINVAL, "Invalid backing file offset");
	else if (h->backing_size > OX_QCOW2_MAX_BACKING_NAME ||
		 h->backing_size > cluster_bytes - h->backing_offset)
		r = fault(j, OX_QCOW2_FAULT_BACKING, -EINVAL, "Backing file name too long");
	else
		return 0;
	h->backing_offset = 0;
	h->backing_size = 0;
	return r;
}

/* ---- tables ---- */

/* A table that the format lets begin at any cluster past the header's. */
static bool table_offset_valid(const struct ox_qcow2_header *h, uint64_t offset, uint64_t bytes)
{
	uint64_t end;

	return offset != 0 && ox_is_aligned(offset, ox_qcow2_cluster_bytes(h)) &&
	       ox_add_u64(offset, bytes, &end) && end <= INT64_MAX;
}

static int judge_reftable(const struct judge *j, struct ox_qcow2_header *h)
{
	uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
	int r;

	if (h->reftable_clusters == 0)
		r = fault(j, OX_QCOW2_FAULT_REFTABLE, -EINVAL,
			  "Image does not contain a reference count table");
	else if (bytes > OX_QCOW2_MAX_REFTABLE_BYTES)
		r = fault(j, OX_QCOW2_FAULT_REFTABLE, -EINVAL, "Reference count table too large");
	else if (!table_offset_valid(h, h->reftable_offset, bytes))
		r = fault(j, OX_QCOW2_FAULT_REFTABLE, -EINVAL,
			  "Reference count table offset invalid");
	else
		return 0;
	h->reftable_offset = 0;
	h->reftable_clusters = 0;
	return r;
}

static int judge_snapshots(const struct judge *j, struct ox_qcow2_header *h)
{
	uint64_t bytes = (uint64_t)h->snapshot_count * OX_QCOW2_MIN_SNAPSHOT_BYTES;
	int r;

	if (h->snapshot_count > OX_QCOW2_MAX_SNAPSHOTS)
		r = fault(j, OX_QCOW2_FAULT_SNAPSHOTS, -EINVAL, "Snapshot table too large");
	else if (h->snapshot_count != 0 && !table_offset_valid(h, h->snapshots_offset, bytes))
		r = fault(j, OX_QCOW2_FAULT_SNAPSHOTS, -EINVAL, "Snapshot table offset invalid");
	else
		return 0;
	if (j->faults) {
		j->faults->snapshot_count = h->snapshot_count;
		j->faults->snapshots_offset = h->snapshots_offset;
	}
	h->snapshot_count = 0;
	h->snapshots_offset = 0;
	return r;
}

static int judge_l1(const struct judge *j, struct ox_qcow2_header *h)
{
	uint64_t most = OX_QCOW2_MAX_L1_BYTES / 8;
	uint64_t needed = ox_qcow2_l1_needed(h, h->size_bytes);
	bool small = needed > h->l1_entries;
	int r = 0;

	if (h->l1_entries > most) {
		r = fault(j, OX_QCOW2_FAULT_L1_SIZE, -EINVAL, "Active L1 table too large");
		h->l1_entries = needed > most ? 0 : (uint32_t)needed;
	}
	if (r == 0 && h->l1_entries != 0 &&
	    !table_offset_valid(h, h->l1_offset, UINT64_C(8) * h->l1_entries)) {
		r = fault(j, OX_QCOW2_FAULT_L1_OFFSET, -EINVAL, "Active L1 table offset invalid");
		h->l1_offset = 0;
		h->l1_entries = 0;
	}
	if (r == 0 && needed > most)
		return fault(j, OX_QCOW2_FAULT_SIZE, -EINVAL, "Image is too big");
	if (r == 0 && small)
		return fault(j, OX_QCOW2_FAULT_L1_SMALL, -EINVAL, "L1 table is too small");
	return r;
}

int ox_qcow2_header_judge(struct ox_qcow2_header *h, size_t count, struct ox_qcow2_faults *faults,
			  struct ox_error **err)
{
	struct judge j = {.faults = faults, .err = err};
	int r;

	if (h->version < 2 || h->version > 3)
		return ox_error_set(err, -ENOTSUP, "Unsupported qcow2 version %u", h->version);
	if (h->cluster_bits < OX_QCOW2_MIN_CLUSTER_BITS ||
	    h->cluster_bits > OX_QCOW2_MAX_CLUSTER_BITS)
		return ox_error_set(err, -EINVAL, "Unsupported cluster size: 2^%u",
				    h->cluster_bits);
	r = h->version >= 3 ? judge_version3(&j, h, count) : 0;
	if (r == 0)
		r = judge_backing(&j, h);
	if (r == 0)
		r = judge_reftable(&j, h);
	if (r == 0)
		r = judge_snapshots(&j, h);
	if (r == 0)
		r = judge_l1(&j, h);
	return r;
}
