/* SPDX-License-Identifier: MIT */
/*
 * An image's bytes, understood. Each format has a reader of its own (qcow2/reader.h, qed/reader.h),
 * which shares nothing with the one it judges; here is what the simulator asks of any image.
 */
#ifndef SIM_IMAGE_H
#define SIM_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "qcow2/reader.h"
#include "qed/reader.h"

struct sim_format;

struct sim_backing {
	struct sim_bytes bytes; /* a raw backing file */
	bool there;
};

struct sim_image {
	const struct sim_format *format;
	const struct sim_bytes *bytes;
	uint64_t cluster_bytes;
	uint64_t size_bytes; /* of the disk */
	bool marked;	     /* the dirty bit, or NEED_CHECK */
	union {
		struct sim_qcow2 qcow2;
		struct sim_qed qed;
	};
};

/* The bytes tell the format. False, and why, where the header is not one. */
bool sim_image_parse(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why);
/* The guest's sector, as it reads through the tables and the backing file. */
void sim_image_read(const struct sim_image *i, const struct sim_backing *backing, uint64_t guest,
		    uint8_t *ret);
/* What an offset of the file is, in words. */
void sim_image_name(const struct sim_image *i, uint64_t offset, char *ret, size_t room);

#endif
