/* SPDX-License-Identifier: MIT */
#include "qed_image.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define ROOM_CLUSTERS 64u

void qed_put32(uint8_t *bytes, uint64_t offset, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		bytes[offset + i] = (uint8_t)(value >> (8 * i));
}

void qed_put64(uint8_t *bytes, uint64_t offset, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		bytes[offset + i] = (uint8_t)(value >> (8 * i));
}

uint64_t qed_get64(const uint8_t *bytes, uint64_t offset)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < 8; i++)
		value |= (uint64_t)bytes[offset + i] << (8 * i);
	return value;
}

void qed_set_l1(struct qed_image *im, uint64_t index, uint64_t value)
{
	qed_put64(im->bytes, im->l1 + 8 * index, value);
}

void qed_set_l2(struct qed_image *im, unsigned table, uint64_t index, uint64_t value)
{
	qed_put64(im->bytes, im->l2[table] + 8 * index, value);
}

uint64_t qed_data(const struct qed_image *im, unsigned number)
{
	return im->data + (uint64_t)number * im->shape.cluster;
}

void qed_mark(struct qed_image *im)
{
	im->bytes[16] |= 2;
}

bool qed_is_marked(const uint8_t *bytes)
{
	return bytes[16] & 2;
}

static void put_header(struct qed_image *im)
{
	static const char name[] = "/dev/null";

	memcpy(im->bytes, "QED", 4);
	qed_put32(im->bytes, 4, im->shape.cluster);
	qed_put32(im->bytes, 8, im->shape.table_clusters);
	qed_put32(im->bytes, 12, 1);
	qed_put64(im->bytes, 40, im->l1);
	qed_put64(im->bytes, 48, 2 * im->entries * im->shape.cluster);
	if (!im->shape.has_backing)
		return;
	im->bytes[16] = 1 | 4;
	qed_put32(im->bytes, 56, 64);
	qed_put32(im->bytes, 60, sizeof(name) - 1);
	memcpy(im->bytes + 64, name, sizeof(name));
}

/* Bytes that are no entries: odd ones. */
static void put_data(struct qed_image *im)
{
	for (unsigned i = 0; i < QED_DATA; i++) {
		unsigned table = i >= QED_FIRST;

		qed_set_l2(im, table, i - table * QED_FIRST, qed_data(im, i));
		memset(im->bytes + qed_data(im, i), 0x31 + 2 * (int)i, im->shape.cluster);
	}
	qed_set_l2(im, 0, QED_ZERO_AT, 1);
}

struct qed_image *qed_image_new(struct qed_shape shape)
{
	struct qed_image *im = calloc(1, sizeof(*im));

	ox_assert(im);
	im->shape = shape;
	im->table_bytes = (uint64_t)shape.cluster * shape.table_clusters;
	im->entries = im->table_bytes / 8;
	im->l1 = shape.cluster;
	im->l2[0] = im->l1 + im->table_bytes;
	im->l2[1] = im->l2[0] + im->table_bytes;
	im->data = im->l2[1] + im->table_bytes;
	im->length = im->data + (uint64_t)QED_DATA * shape.cluster;
	im->room = im->length + (uint64_t)ROOM_CLUSTERS * shape.cluster;
	im->bytes = calloc(1, im->room);
	ox_assert(im->bytes);
	put_header(im);
	qed_set_l1(im, 0, im->l2[0]);
	qed_set_l1(im, 1, im->l2[1]);
	put_data(im);
	return im;
}

void qed_image_free(struct qed_image *im)
{
	free(im->bytes);
	free(im);
}

/* ---- what a guest reads ---- */

static bool is_place(const struct qed_image *im, uint64_t length, uint64_t offset, uint64_t size)
{
	return offset % im->shape.cluster == 0 && offset >= im->shape.cluster && offset < length &&
	       size <= length - offset;
}

enum qed_reads qed_read(const struct qed_image *im, const uint8_t *bytes, uint64_t length,
			uint64_t l1_index, uint64_t l2_index, uint64_t *ret_at)
{
	uint64_t table = qed_get64(bytes, im->l1 + 8 * l1_index);
	uint64_t entry = 0;

	if (table != 0 && !is_place(im, length, table, im->table_bytes))
		return QED_EIO;
	if (table != 0)
		entry = qed_get64(bytes, table + 8 * l2_index);
	if (entry == 0)
		return im->shape.has_backing ? QED_HOLE : QED_ZEROES;
	if (entry == 1)
		return QED_ZEROES;
	if (!is_place(im, length, entry, 1))
		return QED_EIO;
	*ret_at = entry;
	return QED_BYTES;
}

/* ---- what is wrong ---- */

struct judge {
	const struct qed_image *im;
	const uint8_t *bytes;
	uint64_t length;
	uint8_t *named; /* clusters */
	unsigned problems;
};

static void name(struct judge *j, uint64_t offset, uint64_t clusters)
{
	for (uint64_t c = offset / j->im->shape.cluster; clusters > 0; c++, clusters--)
		j->problems += j->named[c]++ > 0;
}

static void judge_table(struct judge *j, uint64_t table)
{
	for (uint64_t i = 0; i < j->im->entries; i++) {
		uint64_t entry = qed_get64(j->bytes, table + 8 * i);

		if (entry <= 1)
			continue;
		if (is_place(j->im, j->length, entry, j->im->shape.cluster))
			name(j, entry, 1);
		else
			j->problems++;
	}
}

unsigned qed_problems(const struct qed_image *im, const uint8_t *bytes, uint64_t length)
{
	struct judge j = {.im = im, .bytes = bytes, .length = length};

	j.named = calloc(1, length / im->shape.cluster + 2);
	ox_assert(j.named);
	name(&j, 0, 1);
	name(&j, im->l1, im->shape.table_clusters);
	for (uint64_t i = 0; i < im->entries; i++) {
		uint64_t table = qed_get64(bytes, im->l1 + 8 * i);

		if (table == 0)
			continue;
		if (!is_place(im, length, table, im->table_bytes)) {
			j.problems++;
			continue;
		}
		name(&j, table, im->shape.table_clusters);
		judge_table(&j, table);
	}
	free(j.named);
	return j.problems;
}
