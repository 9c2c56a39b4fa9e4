/* SPDX-License-Identifier: MIT */
#include "check/view/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/path.h"

/* Only whether there is such a file: it is not opened, and no URL or option is one. */
int ox_files_judge(struct ox_journal *j, const char *image, const char *name, enum ox_finding_id id)
{
	const char *colon = name ? strchr(name, ':') : NULL;
	char *path;

	if (!name || (colon && !memchr(name, '/', (size_t)(colon - name))))
		return 0;
	path = ox_path_beside(image, name);
	if (!path)
		return -ENOMEM;
	if (access(path, F_OK) < 0 && errno == ENOENT)
		ox_journal_found(j, id, OX_FOUND(.word = name));
	free(path);
	return 0;
}
