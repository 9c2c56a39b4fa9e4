/* SPDX-License-Identifier: MIT */
/* Checksums of what an image's guest reads: a part of oxbow.h, which is what programs include. */
#ifndef OXBOW_CHECKSUM_H
#define OXBOW_CHECKSUM_H

/* ---- checksums ---- */

/* docs/checksum.md defines them. */
enum ox_checksum_algorithm {
	OX_CHECKSUM_BLKHASH, /* of the SHA-256 of blocks of 64 KiB: in parallel, past zeroes */
	OX_CHECKSUM_SHA256,  /* of the disk's bytes, as sha256sum of a raw image gives it */
};

#define OX_CHECKSUM_BYTES 32

struct ox_checksum_options {
	size_t struct_size;
	enum ox_checksum_algorithm algorithm;
	uint64_t memory_bytes; /* of all buffers; 0: 64 MiB */
	unsigned tasks;	       /* pieces at once; 0: 16 */
	void (*progress)(void *opaque, uint64_t done, uint64_t total); /* bytes. NULL: not told */
	/* Not 0: give up, with -ECANCELED. NULL: never. */
	int (*interrupted)(void *opaque);
	void *opaque;
};

#define OX_CHECKSUM_OPTIONS_INIT                                                                   \
	{                                                                                          \
		.struct_size = sizeof(struct ox_checksum_options)                                  \
	}

/* The checksum of the whole disk, of OX_CHECKSUM_BYTES: the same for every format, layout and chain
 * of which a guest reads the same. */
int ox_checksum(struct ox_image *image, const struct ox_checksum_options *opts, uint8_t *ret_digest,
		struct ox_error **err) OX_CHECKED;
/* As a job: what is given stays valid until it is done. */
int ox_checksum_start(struct ox_image *image, const struct ox_checksum_options *opts,
		      uint8_t *ret_digest, struct ox_job **ret_job,
		      struct ox_error **err) OX_CHECKED;

#endif
