/* SPDX-License-Identifier: MIT */
/*
 * The backing chain. A name inside an image is a path and nothing else: never a URL, options or
 * JSON. It is relative to the image that bears it. What may be followed at all is the caller's
 * policy.
 */
#ifndef OX_IMG_CHAIN_H
#define OX_IMG_CHAIN_H

#include "img/img.h"

/* Opens a file of a chain as opts' policy says, for whoever reads it in another process. */
int ox_chain_open_file(const struct ox_file_wanted *wanted, const struct ox_open_options *opts,
		       struct ox_error **err) OX_CHECKED;

/* Opens the images below img, each as the backing of the one above it, read-only, unless how says
 * not to. After a failure those that were opened are img's. */
int ox_chain_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err);
/*
 * Opens the chain that img would have if it named that file (format NULL: it does not say of which
 * format): *ret is the first of it, and nobody's yet; img and its own chain stay as they are.
 * -ELOOP: img would be a part of it.
 */
int ox_chain_open_other_co(const struct ox_image *img, const char *name, const char *format,
			   const struct ox_img_open *how, struct ox_image **ret,
			   struct ox_error **err);
/* Frees a chain that is nobody's. NULL is allowed. */
void ox_chain_free_co(struct ox_image *first);
/* Frees those below img, which becomes an image without. */
void ox_chain_close_co(struct ox_image *img);

/* Reads from img, which backs another image, and what is not there from those below it; zeroes past
 * its end. Bytes skip and on of the list are filled. */
int ox_chain_read_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
		     uint64_t offset, uint64_t length);

/* One image of a chain, as img.c opens it: neither those below it, nor for writing. */
int ox_chain_open_image_co(struct ox_io *io, const struct ox_img_open *how, struct ox_image **ret,
			   struct ox_error **err);
/* Frees it, with its store. */
void ox_chain_free_image(struct ox_image *img);

#endif
