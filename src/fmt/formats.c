/* SPDX-License-Identifier: MIT */
/* Signatures and sizes, from the formats' published descriptions. */
#include "fmt/formats.h"

#include <string.h>
#include <strings.h>

#include "base/arith.h"
#include "base/endian.h"
#include "fmt/qed.h"

#define SECTOR_BYTES UINT64_C(512)

static uint64_t be64_at(const uint8_t *bytes)
{
	return ox_be64_get(*(const struct ox_be64 *)bytes);
}

static uint32_t be32_at(const uint8_t *bytes)
{
	return ox_be32_get(*(const struct ox_be32 *)bytes);
}

static uint64_t le64_at(const uint8_t *bytes)
{
	return ox_le64_get(*(const struct ox_le64 *)bytes);
}

static uint32_t le32_at(const uint8_t *bytes)
{
	return ox_le32_get(*(const struct ox_le32 *)bytes);
}

/* ---- sizes ---- */

static bool qcow_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = be64_at(s->head + 24);
	return true;
}

static bool qed_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	struct ox_qed_header h;

	if (ox_qed_header_decode(s->head, &h))
		return false;
	*ret = h.size_bytes;
	return true;
}

static bool vmdk_sparse_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	return ox_mul_u64(le64_at(s->head + 12), SECTOR_BYTES, ret);
}

static bool vmdk_cowd_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = le32_at(s->head + 12) * SECTOR_BYTES;
	return true;
}

static bool vdi_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = le64_at(s->head + 368);
	return true;
}

/* The older magic leaves the upper half of the count undefined. */
static bool parallels_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = le32_at(s->head + 36) * SECTOR_BYTES;
	return true;
}

static bool parallels_ext_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	return ox_mul_u64(le64_at(s->head + 36), SECTOR_BYTES, ret);
}

/* Of version 1, whose payload is all that follows the header. */
static bool luks_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	uint64_t payload = be32_at(s->head + 104) * SECTOR_BYTES;

	if (s->head[6] != 0 || s->head[7] != 1 || payload > s->file_bytes)
		return false;
	*ret = s->file_bytes - payload;
	return true;
}

static bool bochs_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	bool is_first = le32_at(s->head + 64) == 0x10000;

	*ret = le64_at(s->head + (is_first ? 84 : 88));
	return true;
}

static bool cloop_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	return ox_mul_u64(be32_at(s->head + 128), be32_at(s->head + 132), ret);
}

static bool vpc_head_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = be64_at(s->head + 48);
	return true;
}

static bool vpc_tail_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = be64_at(s->tail + 48);
	return true;
}

static bool vpc_short_tail_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	*ret = be64_at(s->tail + 49);
	return true;
}

static bool dmg_bytes(const struct ox_formats_sample *s, uint64_t *ret)
{
	return ox_mul_u64(be64_at(s->tail + 492), SECTOR_BYTES, ret);
}

/* ---- the table ---- */

enum place {
	HEAD,
	TAIL,
};

struct row {
	const char *name;
	enum place place;
	unsigned offset;
	const char *magic;
	unsigned magic_bytes;
	bool (*disk_bytes)(const struct ox_formats_sample *s, uint64_t *ret); /* NULL: unknown */
};

/* A string's bytes without the zero that ends it, and how many. */
#define MAGIC(text) .magic = (text), .magic_bytes = sizeof(text) - 1

static const struct row rows[] = {
	{"qcow", HEAD, 0, MAGIC("QFI\xfb\0\0\0\1"), qcow_bytes},
	{"qcow2", HEAD, 0, MAGIC("QFI\xfb"), NULL},
	{"qed", HEAD, 0, MAGIC("QED\0"), qed_bytes},
	{"vmdk", HEAD, 0, MAGIC("KDMV"), vmdk_sparse_bytes},
	{"vmdk", HEAD, 0, MAGIC("COWD"), vmdk_cowd_bytes},
	{"vdi", HEAD, 64, MAGIC("\x7f\x10\xda\xbe"), vdi_bytes},
	{"vhdx", HEAD, 0, MAGIC("vhdxfile"), NULL},
	{"parallels", HEAD, 0, MAGIC("WithoutFreeSpace"), parallels_bytes},
	{"parallels", HEAD, 0, MAGIC("WithouFreSpacExt"), parallels_ext_bytes},
	{"luks", HEAD, 0, MAGIC("LUKS\xba\xbe"), luks_bytes},
	{"bochs", HEAD, 0, MAGIC("Bochs Virtual HD Image"), bochs_bytes},
	{"cloop", HEAD, 0, MAGIC("#!/bin/sh\n#V2.0 Format\nmodprobe cloop"), cloop_bytes},
	{"vpc", HEAD, 0, MAGIC("conectix"), vpc_head_bytes},
	{"vpc", TAIL, 0, MAGIC("conectix"), vpc_tail_bytes},
	{"vpc", TAIL, 1, MAGIC("conectix"), vpc_short_tail_bytes},
	{"dmg", TAIL, 0, MAGIC("koly"), dmg_bytes},
};

static bool meets(const struct ox_formats_sample *s, const struct row *row)
{
	const uint8_t *from = row->place == HEAD ? s->head : s->tail;

	/* A short file's tail is no trailer. */
	if (row->place == TAIL && s->file_bytes < OX_FORMATS_TAIL_BYTES)
		return false;
	return memcmp(from + row->offset, row->magic, row->magic_bytes) == 0;
}

static bool begins_with(const char *text, const char *end, const char *word)
{
	size_t n = strlen(word);

	return (size_t)(end - text) >= n && strncasecmp(text, word, n) == 0;
}

/* The first line that is neither blank nor a comment is "version=1", 2 or 3. */
static bool has_vmdk_version(const char *text, const char *end)
{
	while (text < end) {
		const char *line = memchr(text, '\n', (size_t)(end - text));
		bool is_blank = *text == '\n' || (*text == '\r' && text + 1 == line);

		if (!line)
			return false;
		if (*text != '#' && !is_blank)
			return begins_with(text, line, "version=") && line - text >= 9 &&
			       text[8] >= '1' && text[8] <= '3' &&
			       (text + 9 == line || (text[9] == '\r' && text + 10 == line));
		text = line + 1;
	}
	return false;
}

/* A VMDK that describes its parts in a text file. */
static bool is_vmdk_descriptor(const struct ox_formats_sample *s)
{
	const char *text = (const char *)s->head;
	const char *end = text + sizeof(s->head);

	return begins_with(text, end, "# Disk DescriptorFile") || has_vmdk_version(text, end);
}

static const struct row *find_row(const struct ox_formats_sample *s)
{
	for (size_t i = 0; i < OX_ARRAY_SIZE(rows); i++) {
		if (meets(s, &rows[i]))
			return &rows[i];
	}
	return NULL;
}

const char *ox_formats_probe(const struct ox_formats_sample *s)
{
	const struct row *row = find_row(s);

	if (row)
		return row->name;
	return is_vmdk_descriptor(s) ? "vmdk" : "raw";
}

const char *ox_formats_find(const char *name)
{
	static const char *const raw[] = {"raw", "file", "host_device"};

	for (size_t i = 0; i < OX_ARRAY_SIZE(rows); i++) {
		if (strcmp(rows[i].name, name) == 0)
			return rows[i].name;
	}
	for (size_t i = 0; i < OX_ARRAY_SIZE(raw); i++) {
		if (strcmp(raw[i], name) == 0)
			return "raw";
	}
	return NULL;
}

bool ox_formats_is_raw(const char *name)
{
	const char *found = ox_formats_find(name);

	return found && strcmp(found, "raw") == 0;
}

bool ox_formats_disk_bytes(const struct ox_formats_sample *s, uint64_t *ret_bytes)
{
	const struct row *row = find_row(s);
	uint64_t bytes;

	if (!row || !row->disk_bytes || !row->disk_bytes(s, &bytes) || bytes > INT64_MAX)
		return false;
	*ret_bytes = bytes;
	return true;
}
