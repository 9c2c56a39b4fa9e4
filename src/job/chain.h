/* SPDX-License-Identifier: MIT */
/*
 * Work on the chain of an open image (docs/chain.md): its data goes down into a backing file, or
 * the image gets another one. At each moment the chain reads the same (J4). No request is under
 * way, and none begins.
 */
#ifndef OX_JOB_CHAIN_H
#define OX_JOB_CHAIN_H

#include "img/img.h"

/* What ret says of names lives as long as the image. */
int ox_job_commit_co(struct ox_image *top, const struct ox_commit_options *opts,
		     struct ox_commit_result *ret, struct ox_error **err);
int ox_job_rebase_co(struct ox_image *img, const struct ox_rebase_options *opts,
		     struct ox_rebase_result *ret, struct ox_error **err);

#endif
