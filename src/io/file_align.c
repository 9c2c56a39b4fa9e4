/* SPDX-License-Identifier: MIT */
#include "io/file_align.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"

enum {
	SECTOR_BYTES = 512,
	PAGE_BYTES = 4096,
	MAX_ALIGN_BYTES = 64 * 1024,
};

struct alignment {
	uint32_t file_bytes;
	uint32_t mem_bytes;
};

static bool is_plausible(const struct alignment *a)
{
	return ox_is_pow2(a->file_bytes) && a->file_bytes <= MAX_ALIGN_BYTES &&
	       ox_is_pow2(a->mem_bytes) && a->mem_bytes <= PAGE_BYTES;
}

/* Linux 6.1 and later say it, for some file systems. */
static bool ask_statx(int fd, struct alignment *ret)
{
	struct statx st;
	struct alignment a;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) < 0 ||
	    !(st.stx_mask & STATX_DIOALIGN))
		return false;
	a = (struct alignment){st.stx_dio_offset_align, st.stx_dio_mem_align};
	if (!is_plausible(&a))
		return false;
	*ret = a;
	return true;
}

/* The logical block of a device. */
static bool ask_device(int fd, struct alignment *ret)
{
	int bytes;

	if (ioctl(fd, BLKSSZGET, &bytes) < 0 || bytes < 1 || !ox_is_pow2((uint64_t)bytes) ||
	    bytes > MAX_ALIGN_BYTES)
		return false;
	*ret = (struct alignment){(uint32_t)bytes,
				  (uint32_t)(bytes < PAGE_BYTES ? bytes : PAGE_BYTES)};
	return true;
}

/* Reads blocks of growing size, each at an offset and an address that are no better aligned than
 * its size, until one is allowed. A file too short to tell gets the page. */
static int try_reads(int fd, uint64_t length, struct alignment *ret)
{
	char *buf = aligned_alloc(PAGE_BYTES, (size_t)2 * PAGE_BYTES);
	uint32_t bytes;

	if (!buf)
		return -ENOMEM;
	for (bytes = SECTOR_BYTES; bytes < PAGE_BYTES; bytes *= 2)
		if (length >= 2 * bytes && pread(fd, buf + bytes, bytes, bytes) >= 0)
			break;
	free(buf);
	*ret = (struct alignment){bytes, bytes};
	return 0;
}

int ox_file_align_find(int fd, bool direct, bool is_block, struct ox_io *io)
{
	struct alignment a = {1, 1};
	int r = 0;

	/* A device's fallocate wants logical blocks even where the page cache takes any write. */
	io->zero_align_bytes = 1;
	if (is_block)
		io->zero_align_bytes = ask_device(fd, &a) ? a.file_bytes : PAGE_BYTES;
	if (!direct)
		a = (struct alignment){1, 1};
	else if (!ask_statx(fd, &a) && !(is_block && ask_device(fd, &a)))
		r = try_reads(fd, io->length, &a);
	if (r < 0)
		return r;
	io->align_bytes = a.file_bytes;
	io->mem_align_bytes = a.mem_bytes;
	/* The kernel zeroes a part of a page through the page cache. A direct write that meets such
	 * a page fails with EIO, so direct stores zero whole pages only; io.c writes the edges. */
	if (direct && !is_block)
		io->zero_align_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	if (io->zero_align_bytes < a.file_bytes)
		io->zero_align_bytes = a.file_bytes;
	return 0;
}
