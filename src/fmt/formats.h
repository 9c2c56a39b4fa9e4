/* SPDX-License-Identifier: MIT */
/*
 * The formats that a file is recognised by: docs/formats.md has the table. Most of them are named
 * only so that they are not taken for raw.
 */
#ifndef OX_FMT_FORMATS_H
#define OX_FMT_FORMATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OX_FORMATS_HEAD_BYTES 4096u
#define OX_FORMATS_TAIL_BYTES 512u

/* What a probe looks at. Unused bytes are zero. */
struct ox_formats_sample {
	uint64_t file_bytes;
	uint8_t head[OX_FORMATS_HEAD_BYTES]; /* the file's first bytes */
	uint8_t tail[OX_FORMATS_TAIL_BYTES]; /* its last; of a shorter file: all of it, first */
};

/* Where the tail begins in the file. */
static inline uint64_t ox_formats_tail_offset(uint64_t file_bytes)
{
	return file_bytes < OX_FORMATS_TAIL_BYTES ? 0 : file_bytes - OX_FORMATS_TAIL_BYTES;
}

/* The format's name as qemu-img has it; "raw": none was recognised. */
const char *ox_formats_probe(const struct ox_formats_sample *s);
/* Whether there is a format of that name, "raw" included; then as a string that stays. QEMU's names
 * of a file or a device with no format over it, which images state of backing files, are raw. */
const char *ox_formats_find(const char *name);
bool ox_formats_is_raw(const char *name);
/* The size of the disk, of a sample of a format that is neither raw nor qcow2. False: the sample
 * does not tell. */
bool ox_formats_disk_bytes(const struct ox_formats_sample *s, uint64_t *ret_bytes);

#endif
