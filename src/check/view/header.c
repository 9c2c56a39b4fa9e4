/* SPDX-License-Identifier: MIT */
/*
 * Reading the header of an image that may be damaged: what is wrong with a field is a finding, and
 * the walk goes on without it.
 */
#include <errno.h>

#include "base/arith.h"
#include "check/view/view.h"

#define SECTOR_BYTES 512
#define SNAPSHOTS_OFFSET_AT 64
#define AUTOCLEAR_AT 88
#define COMPRESSION_AT 104
#define KNOWN_INCOMPATIBLE                                                                         \
	((uint64_t)(OX_QCOW2_INCOMPAT_DIRTY | OX_QCOW2_INCOMPAT_CORRUPT |                          \
		    OX_QCOW2_INCOMPAT_DATA_FILE | OX_QCOW2_INCOMPAT_COMPRESSION |                  \
		    OX_QCOW2_INCOMPAT_EXTENDED_L2))

static const enum ox_finding_id finding_of_fault[OX_QCOW2_FAULT_COUNT] = {
	[OX_QCOW2_FAULT_LENGTH] = OX_FOUND_HEADER_LENGTH,
	[OX_QCOW2_FAULT_REFCOUNT_ORDER] = OX_FOUND_HEADER_REFCOUNT_ORDER,
	[OX_QCOW2_FAULT_COMPRESSION] = OX_FOUND_HEADER_COMPRESSION,
	[OX_QCOW2_FAULT_EXTENDED_L2] = OX_FOUND_HEADER_EXTENDED_L2,
	[OX_QCOW2_FAULT_BACKING] = OX_FOUND_HEADER_BACKING,
	[OX_QCOW2_FAULT_REFTABLE] = OX_FOUND_REFCOUNT_TABLE,
	[OX_QCOW2_FAULT_SNAPSHOTS] = OX_FOUND_HEADER_SNAPSHOTS,
	[OX_QCOW2_FAULT_L1_SIZE] = OX_FOUND_HEADER_L1_SIZE,
	[OX_QCOW2_FAULT_L1_OFFSET] = OX_FOUND_HEADER_L1_OFFSET,
	[OX_QCOW2_FAULT_SIZE] = OX_FOUND_HEADER_SIZE,
	[OX_QCOW2_FAULT_L1_SMALL] = OX_FOUND_L1_TOO_SMALL,
};

int ox_view_read_header_co(struct ox_view *v, struct ox_error **err)
{
	uint8_t bytes[SECTOR_BYTES];
	size_t count = ox_min_u64(v->io->length, sizeof(bytes));
	int r = ox_io_pread_co(v->io, bytes, count, 0);

	if (r < 0)
		r = ox_error_set_errno(err, r, "Could not read the header of '%s'", v->io->name);
	else
		r = ox_qcow2_header_load(bytes, count, &v->h, err);
	if (r == 0)
		r = ox_qcow2_header_judge(&v->h, count, &v->faults, err);
	/* What the table leads to is of no known width: a new one is made, of the usual one. */
	if (r == 0 && v->faults.found[OX_QCOW2_FAULT_REFCOUNT_ORDER]) {
		v->h.reftable_offset = 0;
		v->h.reftable_clusters = 0;
	}
	/* -ENOTSUP says "this format has no check". */
	return r == -ENOTSUP ? -EINVAL : r;
}

/* The guest bytes that a fault costs. */
static struct ox_found range_of(const struct ox_view *v, enum ox_qcow2_fault fault)
{
	struct ox_found what = {.word = v->faults.text[fault]};
	uint64_t mapped = v->h.l1_entries * ox_view_l1_span(v);

	if (fault == OX_QCOW2_FAULT_L1_OFFSET || fault == OX_QCOW2_FAULT_BACKING) {
		what.guest_length = v->h.size_bytes;
	} else if (fault == OX_QCOW2_FAULT_L1_SMALL && mapped < v->h.size_bytes) {
		what.guest_offset = mapped;
		what.guest_length = v->h.size_bytes - mapped;
	}
	return what;
}

bool ox_view_has_fault_but(const struct ox_view *v, enum ox_qcow2_fault but)
{
	for (unsigned i = 0; i < OX_QCOW2_FAULT_COUNT; i++) {
		if (v->faults.found[i] && i != but)
			return true;
	}
	return false;
}

void ox_view_mended_fault(const struct ox_view *v, enum ox_qcow2_fault fault)
{
	if (v->faults.found[fault])
		ox_journal_mended(v->j, finding_of_fault[fault], range_of(v, fault));
}

/* Without the feature bit there is one type alone. */
static bool is_untyped(const struct ox_view *v)
{
	return v->h.compression_type > OX_QCOW2_ZSTD &&
	       !(v->h.incompatible & OX_QCOW2_INCOMPAT_COMPRESSION);
}

/* Why programs refuse a place of the snapshot table even where there are no snapshots; or NULL. */
static const char *why_no_place(const struct ox_view *v, uint64_t offset)
{
	if (!ox_is_aligned(offset, v->cluster_bytes))
		return "the place of the snapshot table is not cluster aligned, and there are no "
		       "snapshots";
	if (offset > INT64_MAX)
		return "the place of the snapshot table is in no file, and there are no snapshots";
	return NULL;
}

/* What programs refuse in fields that mean nothing. */
static void judge_details(struct ox_view *v)
{
	struct ox_be64 autoclear =
		ox_be64(v->h.autoclear & ~(uint64_t)OX_QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	struct ox_found what = {.is_apart = true};
	struct ox_be64 none = ox_be64(0);
	uint8_t type = OX_QCOW2_ZLIB;

	if ((v->h.autoclear & OX_QCOW2_AUTOCLEAR_DATA_FILE_RAW) && !v->has_data_file)
		ox_view_patch(v, OX_FOUND_HEADER_AUTOCLEAR,
			      OX_FOUND(.word = "the data file is said to be raw, and there is none",
				       .is_apart = true),
			      AUTOCLEAR_AT, &autoclear, sizeof(autoclear));
	if (v->faults.found[OX_QCOW2_FAULT_COMPRESSION] && is_untyped(v))
		ox_view_patch(v, OX_FOUND_HEADER_COMPRESSION,
			      OX_FOUND(.word = v->faults.text[OX_QCOW2_FAULT_COMPRESSION]),
			      COMPRESSION_AT, &type, sizeof(type));
	if (v->h.snapshot_count == 0 && !v->faults.found[OX_QCOW2_FAULT_SNAPSHOTS])
		what.word = why_no_place(v, v->h.snapshots_offset);
	if (what.word)
		ox_view_patch(v, OX_FOUND_HEADER_SNAPSHOTS, what, SNAPSHOTS_OFFSET_AT, &none,
			      sizeof(none));
}

/* Whether a fault is for later: how long the header is, and where the backing file's name, the
 * extensions tell; how many snapshots, and where, their table; a type that there is not, the
 * feature bit. */
static bool is_told_elsewhere(const struct ox_view *v, enum ox_qcow2_fault fault)
{
	return fault == OX_QCOW2_FAULT_LENGTH || fault == OX_QCOW2_FAULT_BACKING ||
	       fault == OX_QCOW2_FAULT_SNAPSHOTS ||
	       (fault == OX_QCOW2_FAULT_COMPRESSION && is_untyped(v));
}

void ox_view_judge_header(struct ox_view *v)
{
	uint64_t unknown = v->h.incompatible & ~KNOWN_INCOMPATIBLE;

	for (unsigned i = 0; i < OX_QCOW2_FAULT_COUNT; i++) {
		if (v->faults.found[i] && !is_told_elsewhere(v, i))
			ox_journal_found(v->j, finding_of_fault[i], range_of(v, i));
	}
	judge_details(v);
	if (v->h.crypt_method > OX_QCOW2_CRYPT_LUKS)
		ox_journal_found(v->j, OX_FOUND_HEADER_CRYPT,
				 OX_FOUND(.word = "unknown encryption method",
					  .guest_length = v->h.size_bytes));
	v->is_foreign = unknown != 0;
	if (unknown)
		ox_journal_found(v->j, OX_FOUND_UNKNOWN_FEATURE, OX_FOUND(.a = unknown));
}
