/* SPDX-License-Identifier: MIT */
/* Checksums of a disk, as docs/checksum.md defines them. */
#ifndef OX_JOB_CHECKSUM_H
#define OX_JOB_CHECKSUM_H

#include "img/img.h"

int ox_checksum_run_co(struct ox_image *image, const struct ox_checksum_options *opts,
		       uint8_t *ret_digest, struct ox_error **err) OX_CHECKED;

#endif
