/* SPDX-License-Identifier: MIT */
/* Making images on a store that is open: for ox_image_create, and for images under construction. */
#ifndef OX_LIB_CREATE_H
#define OX_LIB_CREATE_H

#include "img/img.h"

/* Whether an image can be made like that. Nothing is written. */
int ox_create_check(const struct ox_create_options *opts, struct ox_error **err) OX_CHECKED;
/* Empties the store and lays out the image. The clusters of a qcow2 image are preallocated through
 * the opened image (ox_qcow2_preallocate_co). */
int ox_create_on_co(struct ox_io *io, const struct ox_create_options *opts,
		    struct ox_error **err) OX_CHECKED;

#endif
