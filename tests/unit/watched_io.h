/* SPDX-License-Identifier: MIT */
/*
 * A byte store for tests of what lies on a store. It lies in memory, notes every write with the
 * number of syncs before it, and fails or holds back what it is told to.
 */
#ifndef OX_TESTS_WATCHED_IO_H
#define OX_TESTS_WATCHED_IO_H

#include "io/io.h"

struct watched_write {
	uint64_t offset;
	uint64_t length;
	unsigned syncs; /* that had succeeded when it was asked for */
};

struct watched_io {
	unsigned reads;
	unsigned syncs_asked;
	unsigned syncs; /* that succeeded */
	unsigned witness_asked;
	unsigned write_count;
	struct watched_write writes[256];
	bool hold_writes; /* they wait, with their bytes not looked at yet */
	bool hold_syncs;  /* the witness's as well */
	bool hold_read;	  /* the next read at hold_read_at waits for let_go, and clears this */
	uint64_t hold_read_at;
	bool hold_write; /* the same for the next write at hold_write_at */
	uint64_t hold_write_at;
	uint64_t hold_extent_at; /* the same for each question what space lies there; 0: none */
	bool extent_held;
	bool let_go;
	bool is_sparse; /* 4 KiB of zeroes are a hole */
	int read_error; /* negative: what such calls return */
	int write_error;
	uint64_t write_error_at; /* such calls that write there alone; 0: all */
	int sync_error;
	int witness_error;
	unsigned overlaps; /* writes asked for while one to the same bytes was under way */
};

/* What the one watched store of this program saw; opening one clears it. */
extern struct watched_io watched;

struct ox_io *watched_io_open(struct ox_reactor *r, uint64_t length);

/* The store's bytes, as ox_io_memory_bytes. */
uint8_t *watched_bytes(struct ox_io *io);

/* In the place of ox_io_close, which leaves it open. */
void watched_io_close(struct ox_io *io);

#endif
