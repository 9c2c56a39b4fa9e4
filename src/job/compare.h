/* SPDX-License-Identifier: MIT */
/*
 * Comparing two images: both maps first, so that what reads as zeroes in both costs nothing, then
 * the bytes, many pieces at once. Pieces end in any order; the first difference on the disk is the
 * one that counts.
 */
#ifndef OX_JOB_COMPARE_H
#define OX_JOB_COMPARE_H

#include "img/img.h"

int ox_compare_run_co(struct ox_image *first, struct ox_image *second,
		      const struct ox_compare_options *opts, struct ox_compare_result *ret,
		      struct ox_error **err) OX_CHECKED;

#endif
