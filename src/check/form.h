/* SPDX-License-Identifier: MIT */
/*
 * A version, or a cluster size, that there is not: without them nothing can be followed. The values
 * are few. Each is tried on a layer over the image, and the one is taken under which tables and
 * counts agree, while under all others they do not.
 */
#ifndef OX_CHECK_FORM_H
#define OX_CHECK_FORM_H

#include <stdint.h>

#include "io/io.h"

#define OX_FORM_BYTES ((size_t)512)

/* *ret_word: what is wrong with the header's first sector, and *ret_sector what it was; NULL where
 * it is right, or nothing tells. 0 or -ENOMEM. */
int ox_form_find_co(struct ox_io *io, uint8_t ret_sector[OX_FORM_BYTES], const char **ret_word);

#endif
