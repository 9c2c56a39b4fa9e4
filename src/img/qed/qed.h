/* SPDX-License-Identifier: MIT */
/* QED images under a guest that reads: docs/qed.md. */
#ifndef OX_IMG_QED_QED_H
#define OX_IMG_QED_QED_H

#include "fmt/qed.h"
#include "img/img.h"
#include "meta/cache.h"
#include "meta/order.h"

/* Slices of tables are what the cache holds. A table begins at a cluster, so that they fit. */
#define OX_QED_SLICE_BYTES 4096u

struct ox_qed_image {
	struct ox_image *img;
	struct ox_qed_header h;
	uint64_t cluster_bytes;
	uint64_t table_entries;
	struct ox_order order;
	struct ox_cache map; /* slices of the L1 table and of L2 tables */
};

/* ---- open.c ---- */

/* The name of the backing file, as the header places it; NULL: there is none. To be freed. */
int ox_qed_backing_name_co(struct ox_io *io, const struct ox_qed_header *h, char **ret,
			   struct ox_error **err) __attribute__((warn_unused_result));

/* ---- read.c ---- */

int ox_qed_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		     uint64_t length);
int ox_qed_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			uint64_t offset, uint64_t *length, bool *ret_below);
int ox_qed_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret);

#endif
