/* SPDX-License-Identifier: MIT */
/* What alignment the requests to a file or block device must have. */
#ifndef OX_IO_FILE_ALIGN_H
#define OX_IO_FILE_ALIGN_H

#include <stdbool.h>

#include "io/io.h"

/* Sets the three alignments of io, whose length is set already. direct: fd is open with O_DIRECT.
 * 0 or a negative errno. */
int ox_file_align_find(int fd, bool direct, bool is_block, struct ox_io *io)
	__attribute__((warn_unused_result));

#endif
