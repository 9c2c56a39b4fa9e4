/* SPDX-License-Identifier: MIT */
/* The names of the feature bits that the specification defines. */
#ifndef OX_FMT_QCOW2_FEATURES_H
#define OX_FMT_QCOW2_FEATURES_H

#include <stdint.h>

#define OX_QCOW2_FEATURE_NAME_BYTES 46
#define OX_QCOW2_FEATURE_COUNT 8

enum ox_qcow2_feature_word {
	OX_QCOW2_FEATURE_INCOMPATIBLE,
	OX_QCOW2_FEATURE_COMPATIBLE,
	OX_QCOW2_FEATURE_AUTOCLEAR,
};

/* A record of the feature name table, as it lies on disk. */
struct ox_qcow2_feature {
	uint8_t word; /* enum ox_qcow2_feature_word */
	uint8_t bit;
	char name[OX_QCOW2_FEATURE_NAME_BYTES]; /* NUL-padded; all 46 may be used */
};

extern const struct ox_qcow2_feature ox_qcow2_features[OX_QCOW2_FEATURE_COUNT];

#endif
