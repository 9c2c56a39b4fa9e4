/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 file as its bytes tell it, for tests that damage one behind the library's back or look
 * at what the library left. Written from the specification; asks the library nothing. A call that
 * fails fails the test.
 */
#ifndef OX_TESTS_IMAGE_BYTES_H
#define OX_TESTS_IMAGE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENTRY_COPIED (UINT64_C(1) << 63)
#define ENTRY_OFFSET UINT64_C(0x00fffffffffffe00)

uint64_t file_bytes(const char *path);
uint64_t file_word(const char *path, uint64_t at);
void put_file_word(const char *path, uint64_t at, uint64_t word);
/* Tells whether any byte of the file changed between two calls. */
uint64_t file_fingerprint(const char *path);
/* With its holes: an image of gigabytes that takes megabytes is copied as such. */
void copy_file(const char *from, const char *to);

bool image_is_dirty(const char *path);
void mark_image_dirty(const char *path);
/* Whether the header's last extension bears the old end (docs/recovery.md). */
bool image_has_fence(const char *path);

/* Gives L1 entries [first, end), which must be empty, an empty L2 table each, past the file's end
 * and without a count: the image must be dirty. */
void add_empty_tables(const char *path, uint64_t first, uint64_t end);

/* Where the L2 entry of a guest offset lies; its table must exist. */
uint64_t l2_entry_at(const char *path, uint64_t guest);
uint64_t l2_entry(const char *path, uint64_t guest);
void put_l2_entry(const char *path, uint64_t guest, uint64_t entry);
/* The count of a host offset, 16 bits wide; its block must exist. */
uint64_t refcount(const char *path, uint64_t host);
void put_refcount(const char *path, uint64_t host, uint16_t count);

/* An internal snapshot that shares all L2 tables with the active L1. What it shares is counted;
 * its own clusters are not: the image must be dirty. */
void add_snapshot(const char *path);
/* Gives the first L2 table of the snapshot (as add_snapshot made it) a copy of its own. */
void separate_first_table_of_snapshot(const char *path);

#endif
