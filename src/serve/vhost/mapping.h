/* SPDX-License-Identifier: MIT */
/*
 * A shared mapping of a file that somebody else holds: guest memory, the inflight region, the dirty
 * log. Two things are kept from doing harm:
 *
 *	a file that is shorter than is said	is refused: its true length is looked at
 *	a file that becomes shorter later	is caught: who touches a page that is gone gets
 *SIGBUS, and the handler of this module puts zero pages in place of the whole mapping, which is
 *broken then
 *
 * Nobody outside sees what is written into a broken mapping, and what is read from it is not what
 * was written. So whoever answers anything asks first whether its mappings are broken; the device
 * ends then, and the process goes on. The kernel itself, asked to read into a page that is gone,
 * gives -EFAULT and no signal.
 *
 * The handler is the process's; each new mapping sees to it that it is there. A SIGBUS that no
 * mapping explains goes to whatever handled it before. Mappings may be made by any thread, and one
 *is used and closed by one thread at a time.
 */
#ifndef OX_SERVE_VHOST_MAPPING_H
#define OX_SERVE_VHOST_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

struct ox_vhost_mapping;

/* Installs the handler anew, for who knows that somebody else has put another in its place. */
int ox_vhost_mapping_catch(void) OX_CHECKED;

/*
 * Maps [offset, offset + bytes) of a regular file, a memory file among them, for reading and
 * writing. fd stays the caller's and is not needed afterwards. -EINVAL: nothing to map, not such a
 * file, or a range that no file has; -EFBIG: the file ends before the range does; -EACCES, -EPERM:
 * it cannot be written; -ENOMEM.
 */
int ox_vhost_mapping_open(int fd, uint64_t offset, uint64_t bytes,
			  struct ox_vhost_mapping **ret) OX_CHECKED;
/* Nobody uses it any more, the kernel for a request included. NULL is allowed. */
void ox_vhost_mapping_close(struct ox_vhost_mapping *mapping);

/* Its first byte, for as long as it is open, broken or not. */
uint8_t *ox_vhost_mapping_start(const struct ox_vhost_mapping *mapping);
/* Whether a page of it was gone when it was touched. It stays so. */
bool ox_vhost_mapping_is_broken(const struct ox_vhost_mapping *mapping);
/* Whether any open mapping of the process is: seldom, and quick to ask. */
bool ox_vhost_mapping_some_are_broken(void);

#endif
