/* SPDX-License-Identifier: MIT */
#include "check/override.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/qcow2.h"

#define SECTOR_BYTES ((size_t)512)

struct field {
	const char *name; /* of the format's specification */
	size_t offset;	  /* in struct ox_qcow2_header */
	size_t size_bytes;
};

#define FIELD(name_, member)                                                                       \
	{                                                                                          \
		.name = name_, .offset = offsetof(struct ox_qcow2_header, member),                 \
		.size_bytes = sizeof(((struct ox_qcow2_header *)NULL)->member),                    \
	}

static const struct field fields[] = {
	FIELD("version", version),
	FIELD("backing_file_offset", backing_offset),
	FIELD("backing_file_size", backing_size),
	FIELD("cluster_bits", cluster_bits),
	FIELD("size", size_bytes),
	FIELD("crypt_method", crypt_method),
	FIELD("l1_size", l1_entries),
	FIELD("l1_table_offset", l1_offset),
	FIELD("refcount_table_offset", reftable_offset),
	FIELD("refcount_table_clusters", reftable_clusters),
	FIELD("nb_snapshots", snapshot_count),
	FIELD("snapshots_offset", snapshots_offset),
	FIELD("incompatible_features", incompatible),
	FIELD("compatible_features", compatible),
	FIELD("autoclear_features", autoclear),
	FIELD("refcount_order", refcount_order),
	FIELD("header_length", header_length),
	FIELD("compression_type", compression_type),
};

static const struct field *find_field(const char *name, size_t length)
{
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strlen(fields[i].name) == length && memcmp(fields[i].name, name, length) == 0)
			return &fields[i];
	}
	return NULL;
}

static void set_field(struct ox_qcow2_header *h, const struct field *field, uint64_t value)
{
	uint8_t *at = (uint8_t *)h + field->offset;
	uint32_t value32 = (uint32_t)value;
	uint8_t value8 = (uint8_t)value;

	if (field->size_bytes == sizeof(value))
		memcpy(at, &value, sizeof(value));
	else if (field->size_bytes == sizeof(value32))
		memcpy(at, &value32, sizeof(value32));
	else
		memcpy(at, &value8, sizeof(value8));
}

/* One FIELD=NUMBER at text, of so many bytes. */
static int take(struct ox_qcow2_header *h, const char *text, size_t length, struct ox_error **err)
{
	const char *equals = memchr(text, '=', length);
	const struct field *field = equals ? find_field(text, (size_t)(equals - text)) : NULL;
	char *end = NULL;
	uint64_t value;

	if (!field)
		return ox_error_set(err, -EINVAL,
				    "'%.*s' is not FIELD=NUMBER with a field of a qcow2 header",
				    (int)length, text);
	errno = 0;
	value = strtoull(equals + 1, &end, 0);
	if (errno || end == equals + 1 || end != text + length || equals[1] == '-' ||
	    (field->size_bytes < 8 && value >> (8 * field->size_bytes)))
		return ox_error_set(
			err, -EINVAL,
			"'%.*s' is not a number (decimal, or 0x...) that fits the field",
			(int)length, text);
	set_field(h, field, value);
	return 0;
}

static int parse(struct ox_qcow2_header *h, const char *text, struct ox_error **err)
{
	for (;;) {
		size_t length = strcspn(text, ",");
		int r = take(h, text, length, err);

		if (r < 0)
			return r;
		if (text[length] == '\0')
			return 0;
		text += length + 1;
	}
}

static struct ox_qcow2_header new_header(void)
{
	return (struct ox_qcow2_header){
		.version = 3,
		.cluster_bits = 16,
		.refcount_order = 4,
		.header_length = OX_QCOW2_HEADER_V3_BYTES + 8,
	};
}

/* Where no header is left: what is not stated is as in a new image of such a disk. */
static int parse_new(struct ox_qcow2_header *h, const char *text, struct ox_error **err)
{
	int r = parse(h, text, err);

	if (r < 0)
		return r;
	if (h->cluster_bits < OX_QCOW2_MIN_CLUSTER_BITS ||
	    h->cluster_bits > OX_QCOW2_MAX_CLUSTER_BITS || h->refcount_order > 6)
		return 0;
	(void)ox_qcow2_layout_of(h, 0);
	return parse(h, text, err);
}

/* What the walk itself can make nothing of is refused before it is written. */
static int judge(struct ox_qcow2_header h, struct ox_error **err)
{
	struct ox_qcow2_faults faults = {0};

	if (h.version != 2 && h.version != 3)
		return ox_error_set(err, -EINVAL,
				    "The header has version %" PRIu32 ": state 'version'",
				    h.version);
	if (h.version == 3 && h.header_length < OX_QCOW2_HEADER_V3_BYTES)
		return ox_error_set(err, -EINVAL,
				    "The header has a length of %" PRIu32
				    " bytes: state 'header_length'",
				    h.header_length);
	return ox_qcow2_header_judge(&h, SECTOR_BYTES, &faults, err);
}

int ox_header_override_co(struct ox_io *io, const char *text, struct ox_error **err)
{
	uint8_t sector[SECTOR_BYTES];
	struct ox_qcow2_header h = new_header();
	int r = ox_io_pread_co(io, sector, sizeof(sector), 0);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the header of '%s'", io->name);
	if (!ox_qcow2_probe(sector, sizeof(sector))) {
		r = parse_new(&h, text, err);
	} else {
		r = ox_qcow2_header_load(sector, sizeof(sector), &h, err);
		if (r == 0)
			r = parse(&h, text, err);
	}
	if (r == 0)
		r = judge(h, err);
	if (r < 0)
		return r;
	ox_qcow2_header_encode(&h, sector);
	r = ox_io_pwrite_co(io, sector, sizeof(sector), 0, 0);
	if (r == 0)
		r = ox_io_sync_co(io);
	return r < 0 ? ox_error_set_errno(err, r, "Could not write the header of '%s'", io->name)
		     : 0;
}
