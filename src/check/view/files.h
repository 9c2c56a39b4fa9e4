/* SPDX-License-Identifier: MIT */
/* Files that an image names. */
#ifndef OX_CHECK_FILES_H
#define OX_CHECK_FILES_H

#include "check/journal/journal.h"

/* A finding where one that the image names is not there. NULL names none. 0 or -ENOMEM. */
int ox_files_judge(struct ox_journal *j, const char *image, const char *name,
		   enum ox_finding_id id);

#endif
