/* SPDX-License-Identifier: MIT */
/*
 * The walker over a qcow2 image's metadata: check, repair and recovery are the same walk.
 *
 * It reads the store directly and needs no open image, so that images which the engine refuses can
 * be checked. Memory is bounded by the file's real length, never by what a header claims.
 */
#ifndef OX_CHECK_CHECK_H
#define OX_CHECK_CHECK_H

#include "base/error.h"
#include "img/img.h"
#include "io/io.h"
#include "oxbow.h"

/* Runs on an unlocked-by-us or locked store that the caller opened (writable for a repair). After a
 * repair a second pass decides what the result says; dirty is cleared only under D6. */
int ox_check_qcow2_co(struct ox_io *io, const struct ox_check_options *opts,
		      struct ox_check_result *ret, struct ox_error **err);

/* The same of a QED image. What is of qcow2 alone in opts must not be asked for. */
int ox_check_qed_co(struct ox_io *io, const struct ox_check_options *opts,
		    struct ox_check_result *ret, struct ox_error **err);

/* What the public call of that name says. opts->bins and guest_bins are at least 1. */
int ox_check_layout_co(struct ox_io *io, const struct ox_layout_options *opts,
		       struct ox_image_layout **ret, struct ox_error **err);
void ox_check_layout_free(struct ox_image_layout *layout);

/* The part of it that works on an image at rest. */
int ox_check_rebuild_co(struct ox_io *io, struct ox_error **err,
			void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
			uint64_t *ret_kept);

/* The recovery of img.h, over the same walk. */
extern const struct ox_recovery ox_check_recovery;

#endif
