/* SPDX-License-Identifier: MIT */
/* Building an image that is none before it is whole: a part of oxbow.h, which is what programs
 * include. */
#ifndef OXBOW_BUILD_H
#define OXBOW_BUILD_H

/* ---- building ---- */

/*
 * An image under construction (docs/jobs.md). What it has on disk does not open as a good image
 * until ox_build_publish: of qcow2 and QED the first bytes are held back, a new raw file has a name
 * of its own. A file that was there keeps its inode, owner and links; a raw one, and one with
 * EXISTING, has nothing to hold back.
 */
struct ox_build;

enum ox_build_flags {
	OX_BUILD_EXISTING = 1 << 0, /* the image is there: it is opened, not made */
	OX_BUILD_RESUME = 1 << 1,   /* a state file beside it makes that work which was killed can
				       be gone on with, and is gone on with */
	OX_BUILD_UNSAFE = 1 << 2,   /* nothing is synced, not even at the end */
};

struct ox_build_options {
	size_t struct_size;
	unsigned flags; /* enum ox_build_flags */
	/* How it is made; its format is the image's. NULL with EXISTING. */
	const struct ox_create_options *create;
	/* How it is opened: format (with EXISTING), cache, backing files, callbacks. May be NULL.
	 */
	const struct ox_open_options *open;
	/* RESUME: what the image is made of, in words of the program's. Work on another one is not
	 * gone on with: -ESTALE. */
	const char *identity;
};

#define OX_BUILD_OPTIONS_INIT                                                                      \
	{                                                                                          \
		.struct_size = sizeof(struct ox_build_options)                                     \
	}

/* Makes or opens the image. A cache mode past the page cache gives way where the file system does
 * not have that. On failure a new file is removed again. */
int ox_build_begin(struct ox_context *ctx, const char *path, const struct ox_build_options *opts,
		   struct ox_build **ret_build, struct ox_error **err) OX_CHECKED;
/* The image: to be filled, not to be closed or reopened (-EBUSY). */
struct ox_image *ox_build_image(const struct ox_build *build);
/* Whether it read as zeroes before it was filled: all of it. */
bool ox_build_is_new(const struct ox_build *build);
/* RESUME: all below was filled, and durable, before the earlier work was killed. */
uint64_t ox_build_start(const struct ox_build *build);
/* RESUME: all below is filled, and durable after a flush of the image. For the mark of a copy. */
int ox_build_mark(struct ox_build *build, uint64_t offset) OX_CHECKED;
/* Closes the image and makes it one, durably, under its name. Frees build, whatever happens; on
 * failure as ox_build_abandon does. -EBUSY: requests or jobs of it have not ended; then nothing has
 * happened. */
int ox_build_publish(struct ox_build *build, struct ox_error **err) OX_CHECKED;
/* Closes it. A new file is removed, one that was there is left empty; one with RESUME stays, to be
 * gone on with, and so does an image with EXISTING. NULL is allowed. */
void ox_build_abandon(struct ox_build *build);

/* A number that changes where what the guest of an image that is open read-only reads could have
 * changed: of the files of its chain length and time of change, and where its extents lie. */
int ox_image_identity(struct ox_image *image, uint64_t *ret_identity,
		      struct ox_error **err) OX_CHECKED;

#endif
