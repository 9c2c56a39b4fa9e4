/* SPDX-License-Identifier: MIT */
/*
 * What the simulator must know of a format, behind one table of functions. Everything else, the
 * disk, the guest, the model, the cuts and the faults, is the same for all formats.
 */
#ifndef SIM_FORMAT_H
#define SIM_FORMAT_H

#include "config.h"
#include "image.h"
#include "oracle.h"

struct sim_case;
struct ox_check_options;
struct ox_check_result;
struct ox_create_options;
struct ox_error;
struct ox_io;

struct sim_format {
	const char *name; /* as the library has it */
	const char *magic;

	/* ---- the shape of a case (config.h) ---- */

	/* The image: its clusters, tables and features, and the disk's size. */
	void (*draw_image)(struct sim_config *c, struct sim_random *random);
	/* What depends on the disk below, and on whether the image will grow. */
	void (*draw_rest)(struct sim_config *c, struct sim_random *random);
	/* Returns how many characters that takes, as snprintf does. */
	int (*describe)(const struct sim_config *c, char *ret, size_t room);

	/* ---- the image ---- */

	void (*fill_create)(const struct sim_config *c, struct ox_create_options *ret);
	int (*create_co)(struct ox_io *io, const struct ox_create_options *opts,
			 struct ox_error **err);
	int (*check_co)(struct ox_io *io, const struct ox_check_options *opts,
			struct ox_check_result *ret, struct ox_error **err);
	/* What only other programs make, in the image that was just created. */
	void (*make)(struct sim_case *c);
	/* What they leave at a crash, in what a cut has left. */
	void (*plant)(struct sim_case *c, struct sim_bytes *bytes);
	/* Looks at a disk for what the case has to know of it. NULL: there is nothing. */
	void (*notice)(struct sim_case *c, const struct sim_image *i);

	/* ---- its bytes ---- */

	/* What the header says; format and bytes are filled in. */
	bool (*parse)(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why);
	void (*read)(const struct sim_image *i, const struct sim_backing *backing, uint64_t guest,
		     uint8_t *ret);
	void (*name_place)(const struct sim_image *i, uint64_t offset, char *ret, size_t room);
	/* The format's own rules, and the content (sim_oracle_content). */
	void (*audit)(const struct sim_image *i, const struct sim_expect *expect);
	/* Of the stale entries those that the disk durably has no more, or means now, are no longer
	 * looked at. */
	void (*forget_stale)(const struct sim_image *durable);
	/* Whether the header names another table than it did. NULL: it cannot. */
	bool (*tables_moved)(const struct sim_image *before, const struct sim_image *now);
	/* Clusters of the file that nothing names; NULL: refcounts tell. */
	uint64_t (*count_lost)(const struct sim_image *i);
	/* The clusters that a file needs for a disk of so many bytes, all of it written; NULL: no
	 * bound is known. */
	uint64_t (*count_needed)(const struct sim_image *i, uint64_t size_bytes);
};

extern const struct sim_format sim_qcow2_format;
extern const struct sim_format sim_qed_format;

#define SIM_FORMATS 2u
extern const struct sim_format *const sim_formats[SIM_FORMATS];

/* NULL: no such format. */
const struct sim_format *sim_format_find(const char *name);

#endif
