/* SPDX-License-Identifier: MIT */
#include "image_bytes.h"

#include <setjmp.h>
#include <stdarg.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (256 * 1024)

/* Header fields, by offset. */
#define CLUSTER_BITS_AT 20
#define DISK_BYTES_AT 24
#define L1_ENTRIES_AT 36
#define L1_AT 40
#define REFTABLE_AT 48
#define SNAPSHOT_COUNT_AT 60
#define SNAPSHOTS_AT 64
#define INCOMPATIBLE_AT 72
#define HEADER_LENGTH_AT 100

#define INCOMPATIBLE_DIRTY 1
#define FENCE_LENGTH 24

static void read_exactly(const char *path, void *buf, size_t count, uint64_t at)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, count, (off_t)at), count);
	close(fd);
}

static void write_exactly(const char *path, const void *buf, size_t count, uint64_t at)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, buf, count, (off_t)at), count);
	close(fd);
}

static uint32_t file_half(const char *path, uint64_t at)
{
	uint32_t half;

	read_exactly(path, &half, sizeof(half), at);
	return be32toh(half);
}

static void put_file_half(const char *path, uint64_t at, uint32_t half)
{
	half = htobe32(half);
	write_exactly(path, &half, sizeof(half), at);
}

uint64_t file_word(const char *path, uint64_t at)
{
	uint64_t word;

	read_exactly(path, &word, sizeof(word), at);
	return be64toh(word);
}

void put_file_word(const char *path, uint64_t at, uint64_t word)
{
	word = htobe64(word);
	write_exactly(path, &word, sizeof(word), at);
}

uint64_t file_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

/* Calls each for every stretch that is not a hole, CHUNK bytes at most at a time. */
static void for_each_chunk(int fd, void (*each)(void *arg, const void *buf, size_t count, off_t at),
			   void *arg)
{
	static char buf[CHUNK];

	for (off_t end = 0, at; (at = lseek(fd, end, SEEK_DATA)) >= 0;) {
		end = lseek(fd, at, SEEK_HOLE);
		assert_true(end > at);
		while (at < end) {
			ssize_t n =
				pread(fd, buf, end - at < CHUNK ? (size_t)(end - at) : CHUNK, at);

			assert_true(n > 0);
			each(arg, buf, (size_t)n, at);
			at += n;
		}
	}
}

/* FNV-1a over words, and over the places of those that are not zero: holes count as zeroes. */
static void mix_chunk(void *arg, const void *buf, size_t count, off_t at)
{
	uint64_t *hash = arg;

	for (size_t i = 0; i < count; i += 8) {
		uint64_t word = 0;

		memcpy(&word, (const char *)buf + i, count - i < 8 ? count - i : 8);
		if (word == 0)
			continue;
		*hash = (*hash ^ word) * UINT64_C(0x100000001b3);
		*hash = (*hash ^ ((uint64_t)at + i)) * UINT64_C(0x100000001b3);
	}
}

uint64_t file_fingerprint(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ file_bytes(path);

	assert_true(fd >= 0);
	for_each_chunk(fd, mix_chunk, &hash);
	close(fd);
	return hash;
}

static void write_chunk(void *arg, const void *buf, size_t count, off_t at)
{
	const int *fd = arg;

	assert_int_equal(pwrite(*fd, buf, count, at), count);
}

void copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(in >= 0 && out >= 0);
	for_each_chunk(in, write_chunk, &out);
	assert_int_equal(ftruncate(out, (off_t)file_bytes(from)), 0);
	close(in);
	close(out);
}

bool image_is_dirty(const char *path)
{
	return file_word(path, INCOMPATIBLE_AT) & INCOMPATIBLE_DIRTY;
}

void mark_image_dirty(const char *path)
{
	put_file_word(path, INCOMPATIBLE_AT, file_word(path, INCOMPATIBLE_AT) | INCOMPATIBLE_DIRTY);
}

static uint64_t cluster_bytes(const char *path)
{
	return UINT64_C(1) << file_half(path, CLUSTER_BITS_AT);
}

bool image_has_fence(const char *path)
{
	uint64_t at = file_half(path, HEADER_LENGTH_AT);

	while (at + 8 <= cluster_bytes(path)) {
		uint32_t length = file_half(path, at + 4);

		if (file_half(path, at) == 0)
			return length == FENCE_LENGTH;
		at += 8 + (length + 7) / 8 * 8;
	}
	return false;
}

uint64_t l2_entry_at(const char *path, uint64_t guest)
{
	uint64_t cluster = cluster_bytes(path);
	uint64_t per_table = cluster / 8;
	uint64_t index = guest / cluster;
	uint64_t table = file_word(path, file_word(path, L1_AT) + index / per_table * 8);

	assert_true(table & ENTRY_OFFSET);
	return (table & ENTRY_OFFSET) + index % per_table * 8;
}

uint64_t l2_entry(const char *path, uint64_t guest)
{
	return file_word(path, l2_entry_at(path, guest));
}

void put_l2_entry(const char *path, uint64_t guest, uint64_t entry)
{
	put_file_word(path, l2_entry_at(path, guest), entry);
}

static uint64_t refcount_at(const char *path, uint64_t host)
{
	uint64_t cluster = cluster_bytes(path);
	uint64_t per_block = cluster / 2;
	uint64_t index = host / cluster;
	uint64_t block = file_word(path, file_word(path, REFTABLE_AT) + index / per_block * 8);

	assert_true(block != 0);
	return block + index % per_block * 2;
}

uint64_t refcount(const char *path, uint64_t host)
{
	uint16_t count;

	read_exactly(path, &count, sizeof(count), refcount_at(path, host));
	return be16toh(count);
}

void put_refcount(const char *path, uint64_t host, uint16_t count)
{
	count = htobe16(count);
	write_exactly(path, &count, sizeof(count), refcount_at(path, host));
}

/* Appends whole clusters; returns where they begin. */
static uint64_t append(const char *path, const void *buf, uint64_t count)
{
	uint64_t cluster = cluster_bytes(path);
	uint64_t at = (file_bytes(path) + cluster - 1) / cluster * cluster;

	write_exactly(path, buf, count, at);
	assert_int_equal(truncate(path, (off_t)((at + count + cluster - 1) / cluster * cluster)),
			 0);
	return at;
}

void add_empty_tables(const char *path, uint64_t first, uint64_t end)
{
	static uint64_t words[4096];
	uint64_t cluster = cluster_bytes(path);
	uint64_t l1 = file_word(path, L1_AT);
	uint64_t at = (file_bytes(path) + cluster - 1) / cluster * cluster;

	while (first < end) {
		uint64_t n = end - first < 4096 ? end - first : 4096;

		for (uint64_t i = 0; i < n; i++, at += cluster)
			words[i] = htobe64(at | ENTRY_COPIED);
		write_exactly(path, words, n * 8, l1 + first * 8);
		first += n;
	}
	assert_int_equal(truncate(path, (off_t)at), 0);
}

/* As tables that a snapshot shares have them: COPIED clear, and all they name counted twice. */
static void share_entries(const char *path, uint64_t *words, uint64_t count, uint64_t at)
{
	read_exactly(path, words, count * 8, at);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t entry = be64toh(words[i]);

		if ((entry & ENTRY_OFFSET) == 0)
			continue;
		words[i] = htobe64(entry & ~ENTRY_COPIED);
		put_refcount(path, entry & ENTRY_OFFSET, 2);
	}
	write_exactly(path, words, count * 8, at);
}

/* The record of one snapshot, named "1s" by id and name. */
static void put_snapshot_record(const char *path, uint64_t at, uint64_t l1, uint32_t l1_entries)
{
	put_file_word(path, at, l1);
	put_file_half(path, at + 8, l1_entries);
	put_file_half(path, at + 12, 1 << 16 | 1); /* one byte of id, one of name */
	put_file_half(path, at + 36, 16);	   /* extra data */
	put_file_word(path, at + 48, file_word(path, DISK_BYTES_AT));
	write_exactly(path, "1s", 2, at + 56);
}

void add_snapshot(const char *path)
{
	static uint64_t words[1 << 16];
	static uint64_t table[1 << 13];
	uint64_t cluster = cluster_bytes(path);
	uint32_t entries = file_half(path, L1_ENTRIES_AT);
	uint64_t l1 = file_word(path, L1_AT);
	uint64_t record;

	assert_true(entries <= 1 << 16 && cluster >= 512 && cluster <= sizeof(table));
	share_entries(path, words, entries, l1);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t at = be64toh(words[i]) & ENTRY_OFFSET;

		if (at)
			share_entries(path, table, cluster / 8, at);
	}
	l1 = append(path, words, entries * 8);
	memset(table, 0, cluster);
	record = append(path, table, cluster);
	put_snapshot_record(path, record, l1, entries);
	put_file_half(path, SNAPSHOT_COUNT_AT, 1);
	put_file_word(path, SNAPSHOTS_AT, record);
}

void separate_first_table_of_snapshot(const char *path)
{
	static char table[1 << 16];
	uint64_t cluster = cluster_bytes(path);
	uint64_t l1 = file_word(path, file_word(path, SNAPSHOTS_AT));

	assert_true(cluster <= sizeof(table));
	read_exactly(path, table, cluster, file_word(path, l1) & ENTRY_OFFSET);
	put_file_word(path, l1, append(path, table, cluster));
}
