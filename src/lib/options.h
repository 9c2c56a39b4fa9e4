/* SPDX-License-Identifier: MIT */
/*
 * Options of the public API: from the caller's struct, perhaps older or newer than this library, to
 * one that holds nothing unknown. What is refused today can get a meaning later.
 */
#ifndef OX_LIB_OPTIONS_H
#define OX_LIB_OPTIONS_H

#include "oxbow.h"

struct ox_options_type;

extern const struct ox_options_type ox_open_options_type;
extern const struct ox_options_type ox_create_options_type;
extern const struct ox_options_type ox_check_options_type;
extern const struct ox_options_type ox_build_options_type;
extern const struct ox_options_type ox_checksum_options_type;
extern const struct ox_options_type ox_compare_options_type;
extern const struct ox_options_type ox_copy_options_type;
extern const struct ox_options_type ox_undo_options_type;
extern const struct ox_options_type ox_layout_options_type;
extern const struct ox_options_type ox_resize_options_type;
extern const struct ox_options_type ox_commit_options_type;
extern const struct ox_options_type ox_rebase_options_type;

/*
 * Fills ret, a struct of the type, from given; NULL, and fields that an older program does not
 * know, mean zero. -EINVAL: no size, or a value or flag that nobody knows; -E2BIG: a newer program
 * asks for something in fields that this library does not have.
 */
int ox_options_take(const struct ox_options_type *type, const void *given, void *ret,
		    struct ox_error **err) OX_CHECKED;

#endif
