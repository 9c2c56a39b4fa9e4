/* SPDX-License-Identifier: MIT */
/* The header: from disk and back. What its fields may be is judged in qcow2_judge.c. */
#include "fmt/qcow2.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"

#define SECTOR_BYTES 512u

#define AT(field, offset)                                                                          \
	_Static_assert(offsetof(struct ox_qcow2_disk_header, field) == (offset),                   \
		       "as the specification has it")
AT(magic, 0);
AT(version, 4);
AT(backing_offset, 8);
AT(backing_size, 16);
AT(cluster_bits, 20);
AT(size, 24);
AT(crypt_method, 32);
AT(l1_size, 36);
AT(l1_offset, 40);
AT(reftable_offset, 48);
AT(reftable_clusters, 56);
AT(snapshot_count, 60);
AT(snapshots_offset, 64);
AT(incompatible, OX_QCOW2_HEADER_V2_BYTES);
AT(compatible, 80);
AT(autoclear, 88);
AT(refcount_order, 96);
AT(header_length, 100);
AT(compression_type, OX_QCOW2_HEADER_V3_BYTES);
AT(padding, 105);
#undef AT
_Static_assert(sizeof(struct ox_qcow2_disk_header) == 112, "as the specification has it");

uint64_t ox_qcow2_l1_needed(const struct ox_qcow2_header *h, uint64_t size_bytes)
{
	return ox_div_up(size_bytes, ox_qcow2_l2_entries(h) << h->cluster_bits);
}

bool ox_qcow2_probe(const uint8_t *bytes, size_t count)
{
	struct ox_be32 magic;

	if (count < sizeof(magic))
		return false;
	memcpy(&magic, bytes, sizeof(magic));
	return ox_be32_get(magic) == OX_QCOW2_MAGIC;
}

/* Version 2 has no fields past snapshots_offset; what it implies is filled in. */
static struct ox_qcow2_header header_from_disk(const struct ox_qcow2_disk_header *d)
{
	struct ox_qcow2_header h = {
		.version = ox_be32_get(d->version),
		.cluster_bits = ox_be32_get(d->cluster_bits),
		.size_bytes = ox_be64_get(d->size),
		.backing_offset = ox_be64_get(d->backing_offset),
		.backing_size = ox_be32_get(d->backing_size),
		.crypt_method = ox_be32_get(d->crypt_method),
		.l1_entries = ox_be32_get(d->l1_size),
		.l1_offset = ox_be64_get(d->l1_offset),
		.reftable_offset = ox_be64_get(d->reftable_offset),
		.reftable_clusters = ox_be32_get(d->reftable_clusters),
		.snapshot_count = ox_be32_get(d->snapshot_count),
		.snapshots_offset = ox_be64_get(d->snapshots_offset),
		.refcount_order = 4,
		.header_length = OX_QCOW2_HEADER_V2_BYTES,
	};

	/* The size is undefined where there is no name. */
	if (h.backing_offset == 0)
		h.backing_size = 0;
	if (h.version < 3)
		return h;
	h.incompatible = ox_be64_get(d->incompatible);
	h.compatible = ox_be64_get(d->compatible);
	h.autoclear = ox_be64_get(d->autoclear);
	h.refcount_order = ox_be32_get(d->refcount_order);
	h.header_length = ox_be32_get(d->header_length);
	/* A field counts as present only where header_length reaches past its offset. */
	if (h.header_length > offsetof(struct ox_qcow2_disk_header, compression_type))
		h.compression_type = d->compression_type;
	return h;
}

int ox_qcow2_header_load(const uint8_t *bytes, size_t count, struct ox_qcow2_header *ret,
			 struct ox_error **err)
{
	struct ox_qcow2_disk_header disk = {0};

	if (!ox_qcow2_probe(bytes, count))
		return ox_error_set(err, -EINVAL, "Image is not in qcow2 format");
	if (count < OX_QCOW2_HEADER_V2_BYTES)
		return ox_error_set(err, -EINVAL, "qcow2 header too short");
	memcpy(&disk, bytes, ox_min_u64(count, sizeof(disk)));
	*ret = header_from_disk(&disk);
	return 0;
}

int ox_qcow2_header_decode(const uint8_t *bytes, size_t count, struct ox_qcow2_header *ret,
			   struct ox_error **err)
{
	struct ox_qcow2_header h;
	int r = ox_qcow2_header_load(bytes, count, &h, err);

	if (r == 0)
		r = ox_qcow2_header_judge(&h, count, NULL, err);
	if (r == 0)
		*ret = h;
	return r;
}

struct table {
	const char *name;
	uint64_t offset;
	uint64_t bytes;
};

static bool tables_overlap(const struct ox_qcow2_header *h, const struct table *a,
			   const struct table *b)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);

	return a->bytes != 0 && b->bytes != 0 &&
	       a->offset < b->offset + ox_align_up(b->bytes, cluster) &&
	       b->offset < a->offset + ox_align_up(a->bytes, cluster);
}

int ox_qcow2_header_check_layout(const struct ox_qcow2_header *h, uint64_t file_bytes,
				 struct ox_error **err)
{
	const struct table tables[] = {
		{"Image header", 0, h->header_length},
		{"Active L1 table", h->l1_offset, UINT64_C(8) * h->l1_entries},
		{"Reference count table", h->reftable_offset,
		 (uint64_t)h->reftable_clusters << h->cluster_bits},
		/* Its end is known only once it was read; this much it has at the least. */
		{"Snapshot table", h->snapshots_offset,
		 (uint64_t)h->snapshot_count * OX_QCOW2_MIN_SNAPSHOT_BYTES},
	};

	for (size_t i = 0; i < OX_ARRAY_SIZE(tables); i++) {
		const struct table *t = &tables[i];

		if (t->bytes != 0 && !ox_range_within(t->offset, t->bytes, file_bytes))
			return ox_error_set(err, -EINVAL,
					    "%s lies beyond the end of the image file", t->name);
		for (size_t j = 0; j < i; j++) {
			if (tables_overlap(h, t, &tables[j]))
				return ox_error_set(err, -EINVAL, "%s overlaps with %s", t->name,
						    tables[j].name);
		}
	}
	return 0;
}

void ox_qcow2_header_encode(const struct ox_qcow2_header *h, uint8_t sector[512])
{
	struct ox_qcow2_disk_header d;

	_Static_assert(sizeof(d) <= SECTOR_BYTES, "H9: a header update is one sector");
	ox_assert(h->version == 2 || h->version == 3);
	memcpy(&d, sector, sizeof(d));
	d.magic = ox_be32(OX_QCOW2_MAGIC);
	d.version = ox_be32(h->version);
	d.backing_offset = ox_be64(h->backing_offset);
	d.backing_size = ox_be32(h->backing_size);
	d.cluster_bits = ox_be32(h->cluster_bits);
	d.size = ox_be64(h->size_bytes);
	d.crypt_method = ox_be32(h->crypt_method);
	d.l1_size = ox_be32(h->l1_entries);
	d.l1_offset = ox_be64(h->l1_offset);
	d.reftable_offset = ox_be64(h->reftable_offset);
	d.reftable_clusters = ox_be32(h->reftable_clusters);
	d.snapshot_count = ox_be32(h->snapshot_count);
	d.snapshots_offset = ox_be64(h->snapshots_offset);
	if (h->version >= 3) {
		ox_assert(h->header_length >= OX_QCOW2_HEADER_V3_BYTES);
		d.incompatible = ox_be64(h->incompatible);
		d.compatible = ox_be64(h->compatible);
		d.autoclear = ox_be64(h->autoclear);
		d.refcount_order = ox_be32(h->refcount_order);
		d.header_length = ox_be32(h->header_length);
		/* A shorter header ends here; an extension's bytes follow. */
		if (h->header_length > offsetof(struct ox_qcow2_disk_header, compression_type))
			d.compression_type = h->compression_type;
	}
	memcpy(sector, &d, sizeof(d));
}
