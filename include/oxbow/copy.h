/* SPDX-License-Identifier: MIT */
/* Copying from image to image: a part of oxbow.h, which is what programs include. */
#ifndef OXBOW_COPY_H
#define OXBOW_COPY_H

/* ---- copying ---- */

enum ox_copy_flags {
	OX_COPY_TARGET_IS_NEW = 1 << 0,	 /* made for this copy: all of it reads as zeroes */
	OX_COPY_TARGET_IS_ZERO = 1 << 1, /* so somebody says: believed where nothing contradicts it;
					    of what only a look at the bytes would tell, a sample
					    is looked at */
	OX_COPY_ALLOCATE = 1 << 2,	 /* zeroes are written as bytes, and take their space */
	OX_COPY_ANY_ORDER = 1 << 3,  /* of writes: else the target is laid out as the guest is */
	OX_COPY_ONE_BY_ONE = 1 << 4, /* each write begins after the one before: for pipes */
	OX_COPY_TOP_ONLY = 1 << 5,   /* what the source has from its backing file is passed over:
					the target has the same one */
	OX_COPY_COMPRESS = 1 << 6,   /* data is written compressed, where the target can */
	OX_COPY_COUNT = 1 << 7,	     /* the extents of the source are asked for in advance, so that
					progress counts the bytes that are copied alone */
	OX_COPY_KEEP_PAGES = 1 << 8, /* the target stays in the page cache, and nobody waits for its
					write-out: for one that is not synced */
};

struct ox_copy_options {
	size_t struct_size;
	unsigned flags; /* enum ox_copy_flags */
	/* Zeroes in the source's bytes are found in aligned runs of this size, of 512 at least, and
	 * written as other zeroes are. 0: 4096. */
	uint64_t sparse_bytes;
	uint64_t memory_bytes; /* of all buffers; 0: 64 MiB */
	unsigned tasks;	       /* pieces at once; 0: 16 */
	uint64_t rate_bytes;   /* a second; 0: as fast as it goes */
	/* Further sources, that follow the first one: the end of each lies at a multiple of 512. */
	struct ox_image *const *more_sources;
	size_t more_count;
	/* Begins there, and ends with the sources: what lies before was copied already. */
	uint64_t start;
	void (*progress)(void *opaque, uint64_t done, uint64_t total); /* bytes. NULL: not told */
	/* Not 0: give up, with -ECANCELED. NULL: never. */
	int (*interrupted)(void *opaque);
	/*
	 * Bytes of the source that cannot be read, in pieces of 512, each with its errno. 0: zeroes
	 * are taken for them, and the copy goes on; else it ends with what is returned. NULL: it
	 * ends with the error.
	 */
	int (*unreadable)(void *opaque, uint64_t offset, uint64_t length, int error);
	/*
	 * Called every mark_ms: all of the target below that offset is copied, and durable. Not 0:
	 * give up, with that error. NULL: nothing is flushed before the end.
	 */
	int (*mark)(void *opaque, uint64_t offset);
	uint32_t mark_ms; /* 0: 5000 */
	void *opaque;
	/* A part of the sources alone is copied, to the target's beginning: from that offset on,
	 * and so many bytes of it. Offsets above are within the part. Behind the end: -EINVAL. */
	uint64_t source_offset;
	uint64_t source_length; /* 0: up to the end */
};

#define OX_COPY_OPTIONS_INIT                                                                       \
	{                                                                                          \
		.struct_size = sizeof(struct ox_copy_options)                                      \
	}

struct ox_copy_result {
	uint64_t data_bytes;	   /* written as bytes */
	uint64_t zero_bytes;	   /* written as zeroes */
	uint64_t skipped_bytes;	   /* not written: the target read so already */
	uint64_t unreadable_bytes; /* of the source; zeroes were taken for them */
};

/*
 * Copies what the source's guest reads to the same offsets of the target, which is at least as
 * large (-EINVAL), and flushes it. What is there behind the source's end stays. The images stay
 * open; neither has another job meanwhile. *ret_result is filled in at the end, whatever it is; it
 * may be NULL. The two may be of different formats, not the same image.
 */
int ox_copy(struct ox_image *source, struct ox_image *target, const struct ox_copy_options *opts,
	    struct ox_copy_result *ret_result, struct ox_error **err) OX_CHECKED;
/* As a job: options, what they point at and *ret_result stay valid until it is done. */
int ox_copy_start(struct ox_image *source, struct ox_image *target,
		  const struct ox_copy_options *opts, struct ox_copy_result *ret_result,
		  struct ox_job **ret_job, struct ox_error **err) OX_CHECKED;
/*
 * Reads both, trusting no extent map of either, and compares them: of opts memory_bytes, tasks,
 * rate_bytes, more_sources, source_offset, source_length, progress and interrupted count. -EILSEQ:
 * they differ, and *ret_offset is where. What the target has behind the source's end is not looked
 * at.
 */
int ox_copy_verify(struct ox_image *source, struct ox_image *target,
		   const struct ox_copy_options *opts, uint64_t *ret_offset,
		   struct ox_error **err) OX_CHECKED;

#endif
