/* SPDX-License-Identifier: MIT */
/* What an image under construction is, inside. */
#ifndef OX_LIB_BUILD_H
#define OX_LIB_BUILD_H

#include "lib/build_state.h"
#include "lib/context.h"
#include "lib/source.h"

struct ox_build {
	struct ox_context *ctx;
	struct ox_build_options opts;
	struct ox_open_options open;
	struct ox_create_options create; /* not with EXISTING */
	char *path;
	char *work_path; /* where the file is meanwhile */
	char *state_path;
	struct ox_io *below; /* the file; not with EXISTING */
	struct ox_withheld held;
	struct ox_image *image; /* over both */
	struct ox_build_state state;
	bool made;    /* the file is ours */
	bool opened;  /* and below is to be emptied where it is not */
	bool renames; /* work_path is not its last name */
	bool is_new;
};

#endif
