/* SPDX-License-Identifier: MIT */
/*
 * Dirty images on files for the tests of recovery, and what they expect of one. Calls that fail
 * fail the test.
 *
 * Whether a recovery is still running is never a matter of time: the large image has so many
 * tables that a few requests cannot see their end.
 */
#ifndef OX_TESTS_RECOVERY_FIXTURE_H
#define OX_TESTS_RECOVERY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define CLUSTER (4 * KIB)
#define TABLE_SPAN (2 * MIB) /* what one L2 table maps */
#define TABLES 32768u	     /* of the large image */
#define LARGE_DISK (TABLES * TABLE_SPAN)
#define FILLED 128u /* tables of the large image that name data: their first FILLED_CLUSTERS */
#define FILLED_CLUSTERS 4u
#define SMALL_DISK (16 * MIB)

extern struct ox_context *ctx;
extern char told[8192]; /* what warn was called with since the last opening, a line each */

/* For the group, and for each test: a context, and a directory of its own. */
int make_templates(void **state);
int remove_templates(void **state);
int setup(void **state);
int teardown(void **state);

/* "disk.qcow2" becomes a dirty image: of 64 GiB, or of SMALL_DISK with FILLED_CLUSTERS in each
 * table. Every filled cluster is full of its byte_of. */
void use_large(void);
void use_large_with_snapshot(void); /* of the filled tables, by add_snapshot */
void use_small(void);
char byte_of(uint64_t guest);

struct ox_open_options options(enum ox_recover_mode mode);
struct ox_image *open_with(const char *path, const struct ox_open_options *opts);
struct ox_image *open_dirty(const char *path);
void close_image(struct ox_image *image);

/* A cluster of one byte. */
int write_block(struct ox_image *image, uint64_t offset, char byte, unsigned flags);
void assert_reads(struct ox_image *image, uint64_t offset, char byte);
/* All filled clusters of these tables, and the first one behind them. */
void assert_filled(struct ox_image *image, uint64_t first_table, uint64_t end_table);

struct ox_recovery_status status_of(struct ox_image *image);
void assert_running(struct ox_image *image);
struct ox_recovery_status end_of_recovery(struct ox_image *image);
void assert_recovers(struct ox_image *image);
/* The recovery ends with a message that has part in it; it was told of as well. */
void assert_fails_with(struct ox_image *image, const char *part);

/* Says what it finds. */
struct ox_check_result check(const char *path);
/* Returns how many guest clusters are allocated. */
uint64_t assert_clean(const char *path);

#endif
