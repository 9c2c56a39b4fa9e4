/* SPDX-License-Identifier: MIT */
/* Finding the structures of an image, and the numbers in it. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "corrupt.h"

/* ---- bytes ---- */

/* Past the end of the file: zeroes. */
void corrupt_read(const struct corrupt *c, void *to, size_t size_bytes, uint64_t offset)
{
	size_t done = 0;

	if (offset > INT64_MAX - size_bytes)
		corrupt_fail(c, "offset 0x%llx is none of a file", (unsigned long long)offset);
	while (done < size_bytes) {
		ssize_t got =
			pread(c->fd, (char *)to + done, size_bytes - done, (off_t)(offset + done));

		if (got < 0)
			corrupt_fail(c, "Could not read the image: %s", strerror(errno));
		if (got == 0)
			break;
		done += (size_t)got;
	}
	memset((char *)to + done, 0, size_bytes - done);
}

void corrupt_write(const struct corrupt *c, const void *from, size_t size_bytes, uint64_t offset)
{
	size_t done = 0;

	if (offset > INT64_MAX - size_bytes)
		corrupt_fail(c, "offset 0x%llx is none of a file", (unsigned long long)offset);
	while (done < size_bytes) {
		ssize_t put = pwrite(c->fd, (const char *)from + done, size_bytes - done,
				     (off_t)(offset + done));

		if (put < 0)
			corrupt_fail(c, "Could not write the image: %s", strerror(errno));
		done += (size_t)put;
	}
}

uint64_t corrupt_length(const struct corrupt *c)
{
	struct stat st;

	if (fstat(c->fd, &st) < 0)
		corrupt_fail(c, "Could not look at the image: %s", strerror(errno));
	return (uint64_t)st.st_size;
}

/* splitmix64: any seed is a good one. */
uint64_t corrupt_random(struct corrupt *c)
{
	uint64_t z = c->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* ---- numbers ---- */

static unsigned byte_shift(struct place p, unsigned byte)
{
	return p.is_little ? 8 * byte : p.bits - 8 * (byte + 1);
}

uint64_t corrupt_get(const struct corrupt *c, struct place p)
{
	uint8_t bytes[8];
	uint64_t value = 0;

	corrupt_read(c, bytes, p.bits < 8 ? 1 : p.bits / 8, p.offset);
	if (p.bits < 8)
		return bytes[0] >> p.shift & ((1u << p.bits) - 1);
	for (unsigned i = 0; i < p.bits / 8; i++)
		value |= (uint64_t)bytes[i] << byte_shift(p, i);
	return value;
}

void corrupt_set(const struct corrupt *c, struct place p, uint64_t value)
{
	uint8_t bytes[8];

	if (p.bits < 64 && value >> p.bits)
		corrupt_fail(c, "0x%llx does not fit into %u bits", (unsigned long long)value,
			     p.bits);
	if (p.bits < 8) {
		unsigned mask = ((1u << p.bits) - 1) << p.shift;

		corrupt_read(c, bytes, 1, p.offset);
		bytes[0] = (uint8_t)((bytes[0] & ~mask) | (unsigned)value << p.shift);
		corrupt_write(c, bytes, 1, p.offset);
		return;
	}
	for (unsigned i = 0; i < p.bits / 8; i++)
		bytes[i] = (uint8_t)(value >> byte_shift(p, i));
	corrupt_write(c, bytes, p.bits / 8, p.offset);
}

static uint64_t get_at(const struct corrupt *c, uint64_t offset, unsigned bits)
{
	return corrupt_get(c, (struct place){.offset = offset, .bits = bits});
}

struct place corrupt_find_field(const struct corrupt *c, const struct corrupt_field *fields,
				size_t count, const char *name, uint64_t base)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(fields[i].name, name) == 0)
			return (struct place){.offset = base + fields[i].offset,
					      .bits = fields[i].bits};
	}
	corrupt_fail(c, "there is no field '%s'", name);
}

struct place corrupt_header_field(const struct corrupt *c, const char *name)
{
	static const struct corrupt_field fields[] = {
		{"magic", 0, 32},
		{"version", 4, 32},
		{"backing_file_offset", 8, 64},
		{"backing_file_size", 16, 32},
		{"cluster_bits", 20, 32},
		{"size", 24, 64},
		{"crypt_method", 32, 32},
		{"l1_size", 36, 32},
		{"l1_table_offset", 40, 64},
		{"refcount_table_offset", 48, 64},
		{"refcount_table_clusters", 56, 32},
		{"nb_snapshots", 60, 32},
		{"snapshots_offset", 64, 64},
		{"incompatible_features", 72, 64},
		{"compatible_features", 80, 64},
		{"autoclear_features", 88, 64},
		{"refcount_order", 96, 32},
		{"header_length", 100, 32},
		{"compression_type", 104, 8},
	};

	return corrupt_find_field(c, fields, OX_ARRAY_SIZE(fields), name, 0);
}

/* ---- tables ---- */

struct place corrupt_l2_entry(const struct corrupt *c, uint64_t l1_offset, uint64_t guest,
			      bool second_word)
{
	uint64_t entries = ox_qcow2_l2_entries(&c->h);
	uint64_t cluster = guest / c->cluster_bytes;
	uint64_t l2 = get_at(c, l1_offset + cluster / entries * 8, 64) & OX_QCOW2_OFFSET_MASK;
	unsigned words = ox_qcow2_l2_words(&c->h);

	if (l2 == 0)
		corrupt_fail(c, "no L2 table maps guest offset 0x%llx", (unsigned long long)guest);
	if (second_word && words < 2)
		corrupt_fail(c, "the image has no extended L2 entries");
	return (struct place){
		.offset = l2 + cluster % entries * 8 * words + (second_word ? 8 : 0),
		.bits = 64,
	};
}

uint64_t corrupt_reftable(const struct corrupt *c)
{
	if (c->h.reftable_offset == 0)
		corrupt_fail(c, "the header tells of no refcount table");
	return c->h.reftable_offset;
}

struct place corrupt_refcount(const struct corrupt *c, uint64_t cluster)
{
	uint64_t entries = ox_qcow2_refblock_entries(&c->h);
	uint64_t block = get_at(c, corrupt_reftable(c) + cluster / entries * 8, 64);
	uint64_t bit = cluster % entries << c->h.refcount_order;

	if (block == 0)
		corrupt_fail(c, "no refcount block counts cluster %llu",
			     (unsigned long long)cluster);
	return (struct place){
		.offset = block + bit / 8,
		.bits = 1u << c->h.refcount_order,
		.shift = c->h.refcount_order < 3 ? (unsigned)bit % 8 : 0,
	};
}

static uint64_t snapshot_record(const struct corrupt *c, uint64_t number)
{
	uint64_t at = c->h.snapshots_offset;

	if (number >= c->h.snapshot_count)
		corrupt_fail(c, "there is no snapshot %llu", (unsigned long long)number);
	for (uint64_t i = 0; i < number; i++)
		at = ox_align_up(at + 40 + get_at(c, at + 36, 32) + get_at(c, at + 12, 16) +
					 get_at(c, at + 14, 16),
				 8);
	return at;
}

struct place corrupt_snapshot_field(const struct corrupt *c, uint64_t number, const char *name)
{
	static const struct corrupt_field fields[] = {
		{"l1_table_offset", 0, 64}, {"l1_size", 8, 32},	       {"id_size", 12, 16},
		{"name_size", 14, 16},	    {"date_sec", 16, 32},      {"date_nsec", 20, 32},
		{"vm_clock", 24, 64},	    {"vm_state_size", 32, 32}, {"extra_size", 36, 32},
		{"disk_size", 48, 64},
	};

	return corrupt_find_field(c, fields, OX_ARRAY_SIZE(fields), name,
				  snapshot_record(c, number));
}

uint64_t corrupt_l1(const struct corrupt *c, bool of_snapshot, uint64_t snapshot)
{
	if (!of_snapshot && c->h.l1_offset == 0)
		corrupt_fail(c, "the header tells of no L1 table");
	if (!of_snapshot)
		return c->h.l1_offset;
	return corrupt_get(c, corrupt_snapshot_field(c, snapshot, "l1_table_offset"));
}

/* ---- extensions and bitmaps ---- */

uint64_t corrupt_extension(const struct corrupt *c, uint64_t type)
{
	uint64_t at = c->h.header_length;

	while (at + 8 <= c->cluster_bytes) {
		if (get_at(c, at, 32) == type)
			return at;
		if (get_at(c, at, 32) == OX_QCOW2_EXT_END)
			break;
		at = ox_align_up(at + 8 + get_at(c, at + 4, 32), 8);
	}
	corrupt_fail(c, "there is no extension 0x%llx", (unsigned long long)type);
}

struct place corrupt_bitmap_field(const struct corrupt *c, uint64_t number, const char *name)
{
	static const struct corrupt_field fields[] = {
		{"table_offset", 0, 64},     {"table_size", 8, 32},
		{"flags", 12, 32},	     {"type", 16, 8},
		{"granularity_bits", 17, 8}, {"name_size", 18, 16},
		{"extra_size", 20, 32},	     {"name", 24, 8},
	};
	uint64_t extension = corrupt_extension(c, OX_QCOW2_EXT_BITMAPS);
	uint64_t at = get_at(c, extension + 24, 64);

	if (number >= get_at(c, extension + 8, 32))
		corrupt_fail(c, "there is no bitmap %llu", (unsigned long long)number);
	for (uint64_t i = 0; i < number; i++)
		at = ox_align_up(at + 24 + get_at(c, at + 20, 32) + get_at(c, at + 18, 16), 8);
	return corrupt_find_field(c, fields, OX_ARRAY_SIZE(fields), name, at);
}
