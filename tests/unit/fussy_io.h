/* SPDX-License-Identifier: MIT */
/*
 * A byte store for tests. It lies in memory, gives short counts and interruptions, and asserts that
 * it is asked for nothing but what ox_io_ops promises.
 */
#ifndef OX_TESTS_FUSSY_IO_H
#define OX_TESTS_FUSSY_IO_H

#include "io/io.h"

#define FUSSY_ALIGN_BYTES 512

struct ox_io *fussy_io_open(struct ox_reactor *r);

#endif
