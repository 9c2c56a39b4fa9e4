/* SPDX-License-Identifier: MIT */
/*
 * What an open image tells its program beside the results of requests (struct ox_notice). Whoever
 * meets something wrong tells it at once, in the image whose file it is in; img.c tells of requests
 * that failed for another reason, once it has a result. A notice changes nothing of that result.
 */
#ifndef OX_IMG_NOTICE_H
#define OX_IMG_NOTICE_H

#include <stdbool.h>
#include <stdint.h>

#include "oxbow.h"

struct ox_notices {
	void (*tell)(void *opaque, const struct ox_notice *notice); /* NULL: nobody listens */
	void *opaque;
	/* What the image at the top of a chain says of all: chains are long, and each request asks.
	 * NULL in that image itself. */
	struct ox_notices *top;
	uint64_t count;
	bool poison_told;
	struct ox_notice last; /* its message is in the text of the image that it is about */
	char text[256];
};

/* Of the image's own file; filename is filled in, and message from the rest. */
void ox_notice_tell(struct ox_image *img, const struct ox_notice *notice);
/* A request on the range failed with error (negative), and nothing was told meanwhile: told_before
 * is what ox_notice_count said before it. changing: it was to change the disk. */
void ox_notice_failed(struct ox_image *img, int error, uint64_t told_before, uint64_t offset,
		      uint64_t length, bool changing);
/* The chain is open: from now on the image's count and last notice are its backing files' as well.
 */
void ox_notice_join(struct ox_image *img);
/* Of an image and its whole chain. */
uint64_t ox_notice_count(const struct ox_image *img);
/* The last one; false: there was none. */
bool ox_notice_last(const struct ox_image *img, struct ox_notice *ret);
/* For the image and its backing files. */
void ox_notice_listen(struct ox_image *img,
		      void (*tell)(void *opaque, const struct ox_notice *notice), void *opaque);

#endif
