/* SPDX-License-Identifier: MIT */
/*
 * The backing chain. A name inside an image is a path and nothing else: never a URL, options or
 * JSON. It is relative to the image that bears it. What may be followed at all is the caller's
 * policy.
 */
#ifndef OX_IMG_CHAIN_H
#define OX_IMG_CHAIN_H

#include "img/img.h"

/* Opens img->backing_name (read-only) as img->backing, unless how says not to. */
int ox_chain_open_backing_co(struct ox_image *img, const struct ox_img_open *how,
			     struct ox_error **err);

#endif
