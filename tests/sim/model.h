/* SPDX-License-Identifier: MIT */
/*
 * What the guest may read, sector by sector.
 *
 * Each write bears a number that its bytes show, so that a sector tells which write it came from.
 * A sector has a set of acceptable values. A value leaves it when a write that began after the
 * value's own request had ended is *acknowledged*: then it is no longer acceptable to a reader. And
 * when such a write is *promised*, by FUA or by a flush that began after its acknowledgment: then
 * it is not acceptable after a power cut either (D7).
 *
 * A value that a reader found is there from then on, whether its request has ended or not: what is
 * written after that drives it out, and what it had driven out itself is not read again. So a write
 * that is carried out twice is found out.
 *
 * Requests that failed, and discards, may have done their work or not: they add a value and drive
 * out none.
 */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

#define SIM_ID_ZERO 0u
#define SIM_ID_BACKING 1u
#define SIM_ID_GARBAGE UINT32_MAX

struct sim_model;

enum sim_change_kind {
	SIM_MODEL_WRITE,
	SIM_MODEL_ZERO,
	SIM_MODEL_DISCARD,
};

struct sim_write {
	uint32_t id;
	uint32_t serial; /* one for each request, of zeroes too */
	enum sim_change_kind kind;
	uint64_t first; /* sector */
	uint64_t count;
	uint64_t began;
};

/* Sectors before backed read as the backing file's, the rest as zeroes. The disk may grow up to
 * room. */
struct sim_model *sim_model_new(uint64_t sectors, uint64_t room, uint64_t backed);
void sim_model_free(struct sim_model *m);
/* Sectors that the guest sees. */
uint64_t sim_model_sectors(const struct sim_model *m);

/* Not one of two. */
bool sim_model_has_one_size(const struct sim_model *m);
/* A change of the size. Until it ends well the disk may have either; what is new reads as zeroes.
 */
void sim_model_resize_begin(struct sim_model *m, uint64_t sectors);
void sim_model_resize_end(struct sim_model *m, bool ok);
/* The size that a disk was found with: one of those it may have. Until that is durable the other
 * may come back. */
void sim_model_found_size(struct sim_model *m, uint64_t sectors, bool durable);

/* The bytes that write id leaves in a sector, and back. */
void sim_model_pattern(uint32_t id, uint64_t sector, uint8_t *ret);
uint32_t sim_model_id_of(const uint8_t *bytes, uint64_t sector);

void sim_model_begin(struct sim_model *m, struct sim_write *w, enum sim_change_kind kind,
		     uint64_t first, uint64_t count);
void sim_model_end(struct sim_model *m, const struct sim_write *w, bool ok, bool promised);

/* Nothing is known of what these sectors read as, and nothing is asked of them: damage that other
 * programs left lies under them. Until they are tame. */
void sim_model_make_wild(struct sim_model *m, uint64_t first, uint64_t count);
void sim_model_tame_all(struct sim_model *m);
bool sim_model_is_wild(const struct sim_model *m, uint64_t first, uint64_t count);

/* A flush covers what was acknowledged before it began. */
uint64_t sim_model_flush_begin(struct sim_model *m);
void sim_model_flush_end(struct sim_model *m, uint64_t began);

uint64_t sim_model_read_begin(struct sim_model *m);
/* Ends the program where a sector is none of those it could be. */
void sim_model_read_end(struct sim_model *m, uint64_t began, uint64_t first, uint64_t count,
			const uint8_t *bytes);

/* After a power cut: whether the sector may read so. where is for the message. */
void sim_model_check(const struct sim_model *m, uint64_t sector, const uint8_t *bytes,
		     const char *where);
/* What was read after a power cut is what there is. */
void sim_model_settle(struct sim_model *m, uint64_t sector, const uint8_t *bytes);
/* The same after a death of the process: it is seen, and not yet durable. */
void sim_model_observe(struct sim_model *m, uint64_t sector, const uint8_t *bytes);
/* Requests in flight are gone with the process. */
void sim_model_abandon(struct sim_model *m);

#endif
