/* SPDX-License-Identifier: MIT */
/* Comparing what two images' guests read: a part of oxbow.h, which is what programs include. */
#ifndef OXBOW_COMPARE_H
#define OXBOW_COMPARE_H

/* ---- comparing ---- */

enum ox_compare_flags {
	OX_COMPARE_STRICT = 1 << 0, /* sizes count, and what is allocated where */
};

enum ox_compare_outcome {
	OX_COMPARE_SAME,
	OX_COMPARE_BYTES,    /* they differ */
	OX_COMPARE_SIZES,    /* STRICT: one disk is larger */
	OX_COMPARE_EXTENTS,  /* STRICT: one has allocated what the other has not */
	OX_COMPARE_UNMAPPED, /* it could not be told what is allocated there */
	OX_COMPARE_UNREAD,   /* it could not be read */
};

struct ox_compare_options {
	size_t struct_size;
	unsigned flags;	       /* enum ox_compare_flags */
	uint64_t memory_bytes; /* of all buffers; 0: 64 MiB */
	unsigned tasks;	       /* pieces at once; 0: 16 */
	void (*progress)(void *opaque, uint64_t done, uint64_t total); /* bytes. NULL: not told */
	/* Not 0: give up, with -ECANCELED. NULL: never. */
	int (*interrupted)(void *opaque);
	void *opaque;
};

#define OX_COMPARE_OPTIONS_INIT                                                                    \
	{                                                                                          \
		.struct_size = sizeof(struct ox_compare_options)                                   \
	}

struct ox_compare_result {
	enum ox_compare_outcome outcome;
	/* Where: the first such place on the disk. Of bytes that both have allocated, the sector of
	 * 512 that differs; else the byte that is not zero. */
	uint64_t offset;
	bool sizes_differ; /* what the larger disk has more than the other is compared with zeroes
			    */
	unsigned image;	   /* UNMAPPED, UNREAD: 0 the first, 1 the second, */
	int error;	   /* and its negative errno */
};

/*
 * Compares all that the guests of two images read. 0 with an answer, also where that is UNMAPPED or
 * UNREAD; a negative errno without. Both images are of one context, and may be one image.
 */
int ox_compare(struct ox_image *first, struct ox_image *second,
	       const struct ox_compare_options *opts, struct ox_compare_result *ret_result,
	       struct ox_error **err) OX_CHECKED;
/* As a job: what is given stays valid until it is done. */
int ox_compare_start(struct ox_image *first, struct ox_image *second,
		     const struct ox_compare_options *opts, struct ox_compare_result *ret_result,
		     struct ox_job **ret_job, struct ox_error **err) OX_CHECKED;

#endif
