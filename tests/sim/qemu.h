/* SPDX-License-Identifier: MIT */
#ifndef SIM_QEMU_H
#define SIM_QEMU_H

#include <stdbool.h>

#include "bytes.h"

/* Writes the image to a file in dir and lets qemu-img check it: another's opinion of a survivor. */
void sim_qemu_check(const char *dir, const char *format, const struct sim_bytes *bytes,
		    bool leaks_allowed);

#endif
