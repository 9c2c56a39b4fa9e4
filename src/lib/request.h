/* SPDX-License-Identifier: MIT */
/* One request of the public API, whether it comes by a queue or by a synchronous call. */
#ifndef OX_LIB_REQUEST_H
#define OX_LIB_REQUEST_H

#include "oxbow.h"

/* 0, or -EINVAL for one that is nonsense whatever image it is for. */
int ox_request_check(const struct ox_request *req) OX_CHECKED;

/* Carries out a request that was checked, and returns its result. */
int ox_request_run_co(struct ox_image *image, const struct ox_request *req) OX_CHECKED;

#endif
