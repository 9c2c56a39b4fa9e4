/* SPDX-License-Identifier: MIT */
#include "cli/keeper/mark.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/keeper/saved.h"

#define NAME_BYTES 64

/* Whatever the image goes by. */
static int name_of(int image_fd, char name[NAME_BYTES])
{
	struct stat st;

	if (fstat(image_fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		snprintf(name, NAME_BYTES, "block-%llx.unflushed", (unsigned long long)st.st_rdev);
	else
		snprintf(name, NAME_BYTES, "%llx-%llu.unflushed", (unsigned long long)st.st_dev,
			 (unsigned long long)st.st_ino);
	return 0;
}

/* One that is there counts, else the first place where one can be made. */
static void try_place(const char *place, const char *name, struct ox_mark *mark)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", place, name) >= (int)sizeof(path))
		return;
	mark->is_there = access(path, F_OK) == 0;
	if (!mark->is_there && (mark->path[0] || access(place, W_OK | X_OK) < 0))
		return;
	memcpy(mark->path, path, sizeof(path));
}

bool ox_mark_find(struct ox_mark *mark, int image_fd)
{
	static struct ox_saved_places places;
	char name[NAME_BYTES];

	*mark = (struct ox_mark){.path = ""};
	if (name_of(image_fd, name) < 0)
		return true;
	ox_saved_places_get(&places, NULL);
	for (unsigned i = 0; i < places.count && !mark->is_there; i++) {
		if (i + 1 == places.count && places.last_is_ours)
			(void)mkdir(places.paths[i], 0700); /* or it is there */
		try_place(places.paths[i], name, mark);
	}
	return mark->is_there || !mark->path[0];
}

int ox_mark_make(struct ox_mark *mark)
{
	int fd;

	/* One that was found may be gone: without a keeper it is looked for before the image is
	 * locked, and the server before may have ended in order since. */
	if (!mark->path[0])
		return -ENOENT;
	fd = open(mark->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	mark->is_there = true;
	return 0;
}

int ox_mark_remove(struct ox_mark *mark)
{
	if (!mark->is_there)
		return 0;
	mark->is_there = false;
	return unlink(mark->path) < 0 && errno != ENOENT ? -errno : 0;
}
