/* SPDX-License-Identifier: MIT */
/* Files that the program hands over as it is asked for them: open_file of struct ox_open_options.
 * Nobody else opens a path then. */
#ifndef OX_IMG_ASK_H
#define OX_IMG_ASK_H

#include "base/error.h"
#include "oxbow.h"

/* A descriptor, which is the caller's from now on, or a negative errno. opts have an open_file. */
int ox_ask_for_file(const struct ox_open_options *opts, const struct ox_file_wanted *wanted,
		    struct ox_error **err) OX_CHECKED;
/* Flags of a store that is made of a descriptor which the program has handed over. */
unsigned ox_ask_store_flags(const struct ox_open_options *opts);

#endif
