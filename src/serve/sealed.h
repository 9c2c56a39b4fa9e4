/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives the process which writes it: a file in memory of a fixed length, which
 * nobody can cut short under whoever looks at it.
 */
#ifndef OX_SERVE_SEALED_H
#define OX_SERVE_SEALED_H

#include <stddef.h>

#include "oxbow.h"

/* A descriptor of new memory, of zeroes, or -errno. name: for /proc. */
int ox_sealed_make(const char *name, size_t bytes) OX_CHECKED;
/* protection: PROT_READ, or with PROT_WRITE. -EINVAL: it is no such memory of that length. To be
 * unmapped by munmap(2). Core dumps leave it out. */
int ox_sealed_map(int fd, size_t bytes, int protection, void **ret) OX_CHECKED;

#endif
