/* SPDX-License-Identifier: MIT */
/* What ox_image_info_read gathers, before it becomes the caller's struct ox_image_info. */
#ifndef OX_LIB_INFO_H
#define OX_LIB_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "fmt/qcow2.h"
#include "io/io.h"

struct ox_info_facts {
	const char *format;  /* a name of fmt/formats.h. Of raw only the lengths are filled in */
	uint64_t disk_bytes; /* neither raw nor qcow2; UINT64_MAX: not known */
	uint32_t qed_cluster_bytes;
	bool qed_needs_check;
	const char *qed_backing_format; /* NULL: not stated */
	char *backing_name;		/* qcow2 and QED */
	char *backing_path;
	uint64_t file_bytes;
	uint64_t actual_bytes;
	struct ox_qcow2_header header; /* qcow2 only from here on */
	struct ox_qcow2_extensions ext;
	struct ox_qcow2_snapshot *snapshots;
	size_t snapshot_count;
	struct ox_qcow2_bitmap *bitmaps;
	size_t bitmap_count;
};

/* Fills in what the image says of itself. facts is to be freed in either case. */
int ox_info_read_qcow2_co(struct ox_io *io, const char *filename, struct ox_info_facts *facts,
			  struct ox_error **err);
/* The same of a format that is neither raw nor qcow2; facts->format is set. */
int ox_info_read_recognised_co(struct ox_io *io, struct ox_info_facts *facts,
			       struct ox_error **err);
void ox_info_facts_free(struct ox_info_facts *facts);

/* The public struct with all that it points at, in one allocation; NULL without memory. */
struct ox_image_info *ox_info_pack(const struct ox_info_facts *facts, const char *filename);

#endif
