/* SPDX-License-Identifier: MIT */
#ifndef OX_FMT_QCOW2_FENCE_H
#define OX_FMT_QCOW2_FENCE_H

#include <stddef.h>
#include <stdint.h>

/* What ox_qcow2_fence_encode put into the extension at bytes; 0 where it did not. */
uint64_t ox_qcow2_fence_decode(const uint8_t *bytes, size_t count);

#endif
