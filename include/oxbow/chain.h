/* SPDX-License-Identifier: MIT */
/* What changes an image beside its data: its size, and its place in a chain. A part of oxbow.h,
 * which is what programs include. docs/chain.md tells what holds when it is cut short. */
#ifndef OXBOW_CHAIN_H
#define OXBOW_CHAIN_H

/* ---- resizing, with choices ---- */

struct ox_resize_options {
	size_t struct_size;
	/* What a larger disk gets: as at a creation. OX_PREALLOC_OFF in every format, METADATA in
	 * qcow2, FALLOC and FULL in qcow2 and raw. */
	enum ox_preallocation preallocation;
	/* Preallocation: done of total bytes. NULL: not told. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* Asked often while space is preallocated; not 0: give up, with -EINTR; the size is as it
	 * was. NULL: never. */
	int (*interrupted)(void *opaque);
};

#define OX_RESIZE_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.struct_size = sizeof(struct ox_resize_options)                                    \
	}

/* As ox_resize, but takes a size by its word: where that cannot be had to the byte (a format that
 * counts sectors, a device) it is refused, and not rounded. A raw file gets exactly so many bytes.
 */
int ox_resize_with(struct ox_image *image, uint64_t new_bytes, const struct ox_resize_options *opts,
		   struct ox_error **err) OX_CHECKED;
int ox_resize_with_start(struct ox_image *image, uint64_t new_bytes,
			 const struct ox_resize_options *opts, struct ox_job **ret_job,
			 struct ox_error **err) OX_CHECKED;

/* ---- committing ---- */

struct ox_commit_options {
	size_t struct_size;
	const char *base; /* an image of the chain below, as the one above it names it, or by a path
			     to the same file; NULL: the image's own backing file */
	bool keep;	  /* the image keeps what was copied. Else, where base is its own backing
			     file, it is emptied, and reads what it read from there */
	bool dry_run;	  /* nothing is changed */
	uint64_t rate_bytes;   /* copied in a second at the most; 0: as fast as it goes */
	uint64_t memory_bytes; /* of all buffers; 0: 64 MiB */
	/* Done of total bytes. NULL: not told. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* Asked often; not 0: give up, with -ECANCELED. What was done stays done, the chain reads
	 * the same, and another commit goes on from there. NULL: never. */
	int (*interrupted)(void *opaque);
};

#define OX_COMMIT_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.struct_size = sizeof(struct ox_commit_options)                                    \
	}

struct ox_commit_result {
	const char *base;	 /* the file's path; valid while the image is open */
	uint64_t data_bytes;	 /* copied, or to be copied */
	uint64_t zero_bytes;	 /* that read as zeroes, and are zeroes in the base */
	uint64_t base_bytes;	 /* the base's size before */
	uint64_t new_base_bytes; /* and after */
	bool emptied;
	unsigned snapshots; /* the image's own, which read through to the changed base */
};

/*
 * Copies what the image, and those between it and the base, have into the base, which is opened for
 * writing meanwhile and grows to the image's size where it is shorter. At each moment, also where
 * the process dies or the power goes, the image reads the same. Whatever else rests on the base
 * reads differently afterwards. The image must be open for writing unless it is a dry run, with its
 * chain, and no request may be under way (-EBUSY); those that come meanwhile are refused so.
 * ret_result may be NULL.
 */
int ox_commit(struct ox_image *image, const struct ox_commit_options *opts,
	      struct ox_commit_result *ret_result, struct ox_error **err) OX_CHECKED;
/* ret_result, if not NULL, and the strings of the options stay valid until the job is done. */
int ox_commit_start(struct ox_image *image, const struct ox_commit_options *opts,
		    struct ox_commit_result *ret_result, struct ox_job **ret_job,
		    struct ox_error **err) OX_CHECKED;

/* ---- rebasing ---- */

struct ox_rebase_options {
	size_t struct_size;
	const char *backing_file;   /* as the image is to name it; NULL or "": none */
	const char *backing_format; /* needed with backing_file */
	bool unsafe;   /* changes the name alone: the caller says that nothing else is needed */
	bool dry_run;  /* nothing is changed */
	bool compress; /* what is copied into the image is compressed (qcow2) */
	bool share;    /* take no notice of others' locks on the new chain */
	enum ox_cache_mode cache; /* of the new chain */
	uint64_t memory_bytes;	  /* of all buffers; 0: 64 MiB */
	/* Done of total bytes. NULL: not told. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* As of a commit. */
	int (*interrupted)(void *opaque);
};

#define OX_REBASE_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.struct_size = sizeof(struct ox_rebase_options)                                    \
	}

struct ox_rebase_result {
	uint64_t data_bytes; /* copied into the image, or to be copied */
	uint64_t zero_bytes; /* that are zeroes in the image now */
	unsigned snapshots;  /* the image's own, which read through to the other backing file */
};

/*
 * Gives the image another backing file. Unless it is unsafe what reads differently through the new
 * one is copied into the image first, in whole clusters, and the image reads the same at each
 * moment, also where the process dies or the power goes. The new chain is opened by path, as the
 * image will name it, and is the image's from then on; -ELOOP where the image would be a part of
 * its own chain. An unsafe one leaves the image without a chain, so that it is best closed; an
 * image that was opened without one can be rebased unsafely alone. Requests as with ox_commit.
 * ret_result may be NULL.
 */
int ox_rebase(struct ox_image *image, const struct ox_rebase_options *opts,
	      struct ox_rebase_result *ret_result, struct ox_error **err) OX_CHECKED;
int ox_rebase_start(struct ox_image *image, const struct ox_rebase_options *opts,
		    struct ox_rebase_result *ret_result, struct ox_job **ret_job,
		    struct ox_error **err) OX_CHECKED;

#endif
