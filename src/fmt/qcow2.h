/* SPDX-License-Identifier: MIT */
/*
 * qcow2 on disk: layout, decoding, encoding, validation. Pure: no I/O, no allocation policy.
 * Source: the qcow2 image format specification (docs/interop/qcow2 of the QEMU project).
 *
 * Decoders take untrusted bytes and answer with -EINVAL (malformed), -ENOTSUP (well-formed, but
 * of a feature that is not implemented) and a message; they never assert on them. Encoders take
 * trusted structs and assert.
 */
#ifndef OX_FMT_QCOW2_H
#define OX_FMT_QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "base/endian.h"
#include "base/error.h"
#include "base/offset.h"

/* ---- limits ---- */

#define OX_QCOW2_MAGIC 0x514649fbu
#define OX_QCOW2_MIN_CLUSTER_BITS 9u
#define OX_QCOW2_MAX_CLUSTER_BITS 21u
#define OX_QCOW2_MAX_L1_BYTES (32u << 20)
#define OX_QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define OX_QCOW2_MAX_SNAPSHOTS 65536u
#define OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES (64u << 20)
#define OX_QCOW2_MAX_SNAPSHOT_EXTRA 1024u
#define OX_QCOW2_MIN_SNAPSHOT_BYTES 40u
#define OX_QCOW2_SNAPSHOT_EXTRA_BYTES                                                              \
	16u /* version 3: the sizes of the machine state and the disk */
#define OX_QCOW2_MAX_BITMAPS 65535u
#define OX_QCOW2_MAX_BACKING_NAME 1023u
#define OX_QCOW2_HEADER_V2_BYTES 72u
#define OX_QCOW2_HEADER_V3_BYTES 104u /* least; what we write is 112 */

enum ox_qcow2_incompatible {
	OX_QCOW2_INCOMPAT_DIRTY = 1 << 0,
	OX_QCOW2_INCOMPAT_CORRUPT = 1 << 1,
	OX_QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
	OX_QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
	OX_QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
};
#define OX_QCOW2_COMPAT_LAZY_REFCOUNTS 1u
#define OX_QCOW2_AUTOCLEAR_BITMAPS 1u
#define OX_QCOW2_AUTOCLEAR_DATA_FILE_RAW 2u

enum ox_qcow2_extension_type {
	OX_QCOW2_EXT_END = 0,
	OX_QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
	OX_QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
	OX_QCOW2_EXT_BITMAPS = 0x23852875,
	OX_QCOW2_EXT_CRYPTO = 0x0537be77,
	OX_QCOW2_EXT_DATA_FILE = 0x44415441,
};

/* The header as it lies on disk. Static assertions in qcow2_header.c hold its size and offsets. */
struct ox_qcow2_disk_header {
	struct ox_be32 magic;
	struct ox_be32 version;
	struct ox_be64 backing_offset;
	struct ox_be32 backing_size;
	struct ox_be32 cluster_bits;
	struct ox_be64 size;
	struct ox_be32 crypt_method;
	struct ox_be32 l1_size;
	struct ox_be64 l1_offset;
	struct ox_be64 reftable_offset;
	struct ox_be32 reftable_clusters;
	struct ox_be32 snapshot_count;
	struct ox_be64 snapshots_offset;
	/* version 3 */
	struct ox_be64 incompatible;
	struct ox_be64 compatible;
	struct ox_be64 autoclear;
	struct ox_be32 refcount_order;
	struct ox_be32 header_length;
	uint8_t compression_type;
	uint8_t padding[7];
} __attribute__((packed));

enum ox_qcow2_crypt { OX_QCOW2_CRYPT_NONE = 0, OX_QCOW2_CRYPT_AES = 1, OX_QCOW2_CRYPT_LUKS = 2 };
enum ox_qcow2_compression { OX_QCOW2_ZLIB = 0, OX_QCOW2_ZSTD = 1 };

/*
 * The header decoded: numbers in host order. Version 2 is filled in with what it implies
 * (refcount_order 4, header_length 72, no features).
 */
struct ox_qcow2_header {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size_bytes;
	uint64_t backing_offset; /* 0: none */
	uint32_t backing_size;
	uint32_t crypt_method;
	uint32_t l1_entries;
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint32_t snapshot_count;
	uint64_t snapshots_offset;
	uint64_t incompatible;
	uint64_t compatible;
	uint64_t autoclear;
	uint32_t refcount_order;
	uint32_t header_length;
	uint8_t compression_type;
};

static inline uint64_t ox_qcow2_cluster_bytes(const struct ox_qcow2_header *h)
{
	return UINT64_C(1) << h->cluster_bits;
}

/* Words that an L2 entry takes: an extended one has a second, of its subclusters. */
static inline unsigned ox_qcow2_l2_words(const struct ox_qcow2_header *h)
{
	return h->incompatible & OX_QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
}

/* Entries in one L2 table. */
static inline uint64_t ox_qcow2_l2_entries(const struct ox_qcow2_header *h)
{
	return ox_qcow2_cluster_bytes(h) / 8 / ox_qcow2_l2_words(h);
}

/* Entries in one refcount block. */
static inline uint64_t ox_qcow2_refblock_entries(const struct ox_qcow2_header *h)
{
	return ox_qcow2_cluster_bytes(h) * 8 >> h->refcount_order;
}

/* L1 entries that a disk of this size needs. */
uint64_t ox_qcow2_l1_needed(const struct ox_qcow2_header *h, uint64_t size_bytes);

/* The clusters of a new image: header, refcount table, refcount blocks, L1 table. */
struct ox_qcow2_layout {
	uint64_t reftable_clusters;
	uint64_t refblocks;
	uint64_t l1_clusters;
	uint64_t clusters; /* all of them, the header's too */
};

/* Sets the places and lengths of a new image's tables, by its disk's, cluster's and counts' sizes.
 * expected_clusters: the refcount table gets room for a file of so many; 0: for what is there. */
struct ox_qcow2_layout ox_qcow2_layout_of(struct ox_qcow2_header *h, uint64_t expected_clusters);
/* The clusters of a file that has so many data clusters and L2 tables, and a refcount table that
 * was laid out for it. Looks at the same of h as the layout does. */
uint64_t ox_qcow2_file_clusters(const struct ox_qcow2_header *h, uint64_t others);

/* "this is qcow2": looks at the magic alone. */
bool ox_qcow2_probe(const uint8_t *bytes, size_t count);

/*
 * Decodes and validates the fields that stand alone: magic, version, cluster_bits, refcount_order,
 * header_length, sizes against the format's limits, table offsets aligned and positive, backing
 * name within the first cluster, compression type, L1 large enough for the size. count is how
 * many bytes of the file were read (up to one cluster). Unknown incompatible bits are not judged
 * here (ox_qcow2_header_check_supported).
 */
int ox_qcow2_header_decode(const uint8_t *bytes, size_t count, struct ox_qcow2_header *ret,
			   struct ox_error **err);

/* The fields as they are, version 2 filled in. -EINVAL where the magic or their length is wrong. */
int ox_qcow2_header_load(const uint8_t *bytes, size_t count, struct ox_qcow2_header *ret,
			 struct ox_error **err);

/* Fields that can be wrong while the rest is of use. */
enum ox_qcow2_fault {
	OX_QCOW2_FAULT_LENGTH,	       /* then: as if the extensions began at the least length */
	OX_QCOW2_FAULT_REFCOUNT_ORDER, /* then: 4 */
	OX_QCOW2_FAULT_COMPRESSION,
	OX_QCOW2_FAULT_EXTENDED_L2,
	OX_QCOW2_FAULT_BACKING,	  /* then: no backing name */
	OX_QCOW2_FAULT_REFTABLE,  /* then: a table of no clusters */
	OX_QCOW2_FAULT_SNAPSHOTS, /* then: none */
	OX_QCOW2_FAULT_L1_SIZE,	  /* then: what the size needs, 0 where that is too much */
	OX_QCOW2_FAULT_L1_OFFSET, /* then: an L1 table of no entries */
	OX_QCOW2_FAULT_SIZE,
	OX_QCOW2_FAULT_L1_SMALL,
	OX_QCOW2_FAULT_COUNT
};

struct ox_qcow2_faults {
	bool found[OX_QCOW2_FAULT_COUNT];
	char text[OX_QCOW2_FAULT_COUNT][104];
	/* The two fields as stated, where one of them is wrong. */
	uint32_t snapshot_count;
	uint64_t snapshots_offset;
};

/*
 * Judges loaded fields. Without faults the first that is wrong is the error, as for
 * ox_qcow2_header_decode. With faults (zeroed by the caller) each is noted there and the field made
 * harmless, so that everything computed from h is in its range; an error (version, cluster_bits, a
 * header cut short) then means that nothing can be made out. A header in which a fault was noted
 * must not be encoded over the one on disk.
 */
int ox_qcow2_header_judge(struct ox_qcow2_header *h, size_t count, struct ox_qcow2_faults *faults,
			  struct ox_error **err);

/*
 * Checks tables against the file's real length: L1, refcount table and snapshot table must begin
 * and end within file_bytes (L1 with zero entries excepted), and not overlap each other or the
 * header cluster. -EINVAL with a message that names both.
 */
int ox_qcow2_header_check_layout(const struct ox_qcow2_header *h, uint64_t file_bytes,
				 struct ox_error **err);

struct ox_qcow2_extensions;

/*
 * Refuses what the engine cannot use, naming it: encryption, extended L2, data file, unknown
 * incompatible bits (by name from the feature name table where it has one), and, for_write only,
 * the corrupt bit.
 */
int ox_qcow2_header_check_supported(const struct ox_qcow2_header *h,
				    const struct ox_qcow2_extensions *ext, bool for_write,
				    struct ox_error **err);

/*
 * Writes the fields over the first bytes of sector (512 bytes), which holds what the header's
 * first sector on disk holds now: unknown bytes, and fields beyond header_length, stay.
 */
void ox_qcow2_header_encode(const struct ox_qcow2_header *h, uint8_t sector[512]);

/* ---- header extensions ---- */

struct ox_qcow2_bitmaps_ext {
	uint32_t count;
	uint64_t directory_bytes;
	uint64_t directory_offset;
};

struct ox_qcow2_extensions {
	char *backing_format; /* NULL: none. Owned. */
	char *data_file;
	bool has_bitmaps; /* only where the autoclear bit vouches for them */
	struct ox_qcow2_bitmaps_ext bitmaps;
	bool has_crypto;
	uint64_t crypto_offset;
	uint64_t crypto_bytes;
	uint8_t *feature_names; /* raw 48-byte records, owned */
	size_t feature_name_count;
	uint64_t end_offset;  /* of the extension that ends the list; 0: none does */
	uint64_t fence_bytes; /* the old end that an unfinished recovery left there; 0: none */
};

/*
 * Decodes the extensions between the header and the backing name. cluster holds the first
 * cluster's count bytes. Strings with NUL bytes inside, lengths past the area, and doubled known
 * extensions are -EINVAL.
 */
int ox_qcow2_extensions_decode(const struct ox_qcow2_header *h, const uint8_t *cluster,
			       size_t count, struct ox_qcow2_extensions *ret,
			       struct ox_error **err);
void ox_qcow2_extensions_free(struct ox_qcow2_extensions *ext);

/*
 * The fence of a recovery under way (docs/recovery.md): the old end of the file, in the data of the
 * extension that ends the list, which other programs neither read nor keep.
 */
#define OX_QCOW2_FENCE_BYTES 32u /* the extension's header included */

/* old_end_bytes 0: no fence. The bytes go to ext.end_offset, where that many must be free. */
void ox_qcow2_fence_encode(uint64_t old_end_bytes, uint8_t ret[OX_QCOW2_FENCE_BYTES]);

/* The backing name as a fresh string (no NUL inside, else -EINVAL); *ret = NULL where there is
 * none. */
int ox_qcow2_backing_name(const struct ox_qcow2_header *h, const uint8_t *cluster, size_t count,
			  char **ret, struct ox_error **err);

/*
 * Lays out a new image's first cluster: header, backing format, feature names, backing name.
 * cluster is zeroed first; cluster_bytes of it are available. Sets header_length, backing_offset
 * and backing_size in h. -EINVAL where names do not fit.
 */
int ox_qcow2_first_cluster_encode(struct ox_qcow2_header *h, const char *backing_name,
				  const char *backing_format, uint8_t *cluster,
				  size_t cluster_bytes, struct ox_error **err);

/*
 * The first cluster, of count bytes, with another backing file (name NULL: none), into ret_cluster.
 * It differs from bytes in the first sector, and where a reader of the old header h does not look:
 * written there first, it takes effect with the first sector. -ENOSPC: there is no such way;
 * -EINVAL: the name is too long.
 */
int ox_qcow2_first_cluster_rename(const struct ox_qcow2_header *h, const uint8_t *bytes,
				  size_t count, const char *name, const char *format,
				  uint8_t *ret_cluster, struct ox_qcow2_header *ret_header,
				  struct ox_error **err);

/* ---- mapping entries ---- */

#define OX_QCOW2_COPIED (UINT64_C(1) << 63)
#define OX_QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define OX_QCOW2_ZERO UINT64_C(1)
#define OX_QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

enum ox_qcow2_entry_kind {
	OX_QCOW2_ENTRY_UNALLOCATED,
	OX_QCOW2_ENTRY_DATA,
	OX_QCOW2_ENTRY_ZERO,	   /* zero, no host cluster */
	OX_QCOW2_ENTRY_ZERO_ALLOC, /* zero, with a host cluster kept */
	OX_QCOW2_ENTRY_COMPRESSED,
	OX_QCOW2_ENTRY_BAD, /* reserved bits, unaligned, a zero bit in version 2, COPIED at offset 0
			       of the image itself: see findings.def */
};

struct ox_qcow2_entry {
	enum ox_qcow2_entry_kind kind;
	bool copied;
	struct ox_host host;	   /* DATA, ZERO_ALLOC: the cluster. COMPRESSED: first byte */
	uint64_t compressed_bytes; /* COMPRESSED: the stream takes at most these, from host on */
};

/* Decodes an L2 entry, of an extended one the first word. Nothing is checked against the file's
 * length. */
struct ox_qcow2_entry ox_qcow2_l2_decode(const struct ox_qcow2_header *h, uint64_t raw);
/* Whether the second word of an extended entry of this kind can be. */
bool ox_qcow2_subclusters_valid(enum ox_qcow2_entry_kind kind, uint64_t subclusters);
uint64_t ox_qcow2_l2_encode(const struct ox_qcow2_header *h, const struct ox_qcow2_entry *e);
/* The host offset at which no stream may begin any more: an entry has not the bits for it. */
uint64_t ox_qcow2_compressed_limit(const struct ox_qcow2_header *h);

struct ox_qcow2_l1_entry {
	bool bad; /* reserved bits, unaligned, or COPIED without a table */
	bool copied;
	struct ox_host l2; /* bytes == 0: no table */
};

struct ox_qcow2_l1_entry ox_qcow2_l1_decode(const struct ox_qcow2_header *h, uint64_t raw);
uint64_t ox_qcow2_l1_encode(const struct ox_qcow2_l1_entry *e);

/* Refcount table entry: false where reserved bits are set or it is not cluster-aligned. */
bool ox_qcow2_reftable_decode(const struct ox_qcow2_header *h, uint64_t raw,
			      struct ox_host *ret_block);

/* ---- refcounts: block is a refcount block or a slice of one; index counts entries in it ---- */

uint64_t ox_qcow2_refcount_max(unsigned refcount_order);
uint64_t ox_qcow2_refcount_get(const void *block, unsigned refcount_order, uint64_t index);
void ox_qcow2_refcount_set(void *block, unsigned refcount_order, uint64_t index, uint64_t value);

/* ---- snapshots ---- */

struct ox_qcow2_snapshot {
	uint64_t l1_offset;
	uint32_t l1_entries;
	char *id;
	char *name;
	uint32_t date_seconds;
	uint32_t date_nanoseconds;
	uint64_t vm_clock_ns;
	uint64_t vm_state_bytes;
	uint64_t disk_bytes; /* the image's size where the entry has none */
	uint64_t icount;     /* UINT64_MAX: none */
	uint32_t extra_bytes;
};

/*
 * Decodes the snapshot at bytes[*pos] and advances *pos past its padding. -EINVAL on a record
 * that does not fit into count, or beyond the limits. Its L1 table is for the caller to judge.
 */
int ox_qcow2_snapshot_decode(const struct ox_qcow2_header *h, const uint8_t *bytes, size_t count,
			     size_t *pos, struct ox_qcow2_snapshot *ret, struct ox_error **err);
void ox_qcow2_snapshot_free(struct ox_qcow2_snapshot *s);
/* How many bytes a record takes, padding included. */
size_t ox_qcow2_snapshot_bytes(const struct ox_qcow2_header *h, const struct ox_qcow2_snapshot *s);
/* Writes a record to zeroed bytes, with as much extra data as is known, and returns that number. Id
 * and name have at most 65535 bytes each. */
size_t ox_qcow2_snapshot_encode(const struct ox_qcow2_header *h, const struct ox_qcow2_snapshot *s,
				uint8_t *bytes);

/* ---- bitmap directory ---- */

enum ox_qcow2_bitmap_flags {
	OX_QCOW2_BITMAP_IN_USE = 1 << 0,
	OX_QCOW2_BITMAP_AUTO = 1 << 1,
	OX_QCOW2_BITMAP_EXTRA_COMPATIBLE = 1 << 2,
};

struct ox_qcow2_bitmap {
	uint64_t table_offset;
	uint32_t table_entries;
	uint32_t flags; /* enum ox_qcow2_bitmap_flags */
	uint8_t granularity_bits;
	char *name;
};

/* The same for bitmaps. The bitmap's table is for the caller to judge. */
int ox_qcow2_bitmap_decode(const struct ox_qcow2_header *h, const uint8_t *bytes, size_t count,
			   size_t *pos, struct ox_qcow2_bitmap *ret, struct ox_error **err);
void ox_qcow2_bitmap_free(struct ox_qcow2_bitmap *b);

#endif
