/* SPDX-License-Identifier: MIT */
#ifndef OX_CHECK_CENSUS_H
#define OX_CHECK_CENSUS_H

#include "img/img.h"

/* The census of img.h over QED images. */
extern const struct ox_census_ops ox_qed_census;

#endif
