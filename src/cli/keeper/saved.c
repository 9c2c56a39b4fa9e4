/* SPDX-License-Identifier: MIT */
#include "cli/keeper/saved.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 4096u
#define COPY_BYTES (64u << 10)
#define STATE_BYTES_MIN 4096u
#define STATE_BYTES_MAX (UINT64_C(64) << 30)
#define NUMBERS_MAX 100u    /* states of one image in one place */
#define BASE_NAME_BYTES 128 /* of the image's name, in that of the state */

/* The numbers are the machine's own: no other one reads them. */
struct head {
	char magic[8];
	struct ox_saved_of of;
	uint64_t state_bytes;
};

static const char magic[8] = "oxbowsv";

/* ---- places ---- */

static void add_place(struct ox_saved_places *places, const char *dir, size_t length,
		      const char *below)
{
	int n = snprintf(places->paths[places->count], PATH_MAX, "%.*s%s", (int)length, dir, below);

	if (length > 0 && n > 0 && n < PATH_MAX)
		places->count++;
}

void ox_saved_places_get(struct ox_saved_places *ret, const char *pid_file)
{
	const char *name = pid_file ? strrchr(pid_file, '/') : NULL;
	const char *runtime = getenv("RUNTIME_DIRECTORY");
	const char *user = getenv("XDG_RUNTIME_DIR");

	*ret = (struct ox_saved_places){0};
	if (pid_file)
		add_place(ret, name ? pid_file : ".",
			  name && name > pid_file ? (size_t)(name - pid_file) : 1, "");
	if (runtime) /* a list, of which the first is the unit's own */
		add_place(ret, runtime, strcspn(runtime, ":"), "");
	ret->last_is_ours = true;
	if (geteuid() == 0)
		add_place(ret, "/run", strlen("/run"), "/oxbow");
	else if (user)
		add_place(ret, user, strlen(user), "/oxbow");
	else
		ret->last_is_ours = false;
}

/* ---- the image ---- */

static uint64_t block_device_of(const struct stat *st)
{
	return S_ISBLK(st->st_mode) ? st->st_rdev : 0;
}

static int identify(int image_fd, struct ox_saved_of *ret)
{
	struct stat st;

	if (fstat(image_fd, &st) < 0)
		return -errno;
	*ret = (struct ox_saved_of){
		.device = st.st_dev,
		.inode = st.st_ino,
		.block_device = block_device_of(&st),
		.bytes = (uint64_t)st.st_size,
		.changed_s = st.st_mtim.tv_sec,
		.changed_ns = st.st_mtim.tv_nsec,
	};
	return 0;
}

bool ox_saved_is_of(const struct ox_saved_of *saved, int image_fd)
{
	struct ox_saved_of now = {0};

	return identify(image_fd, &now) == 0 && now.device == saved->device &&
	       now.inode == saved->inode && now.block_device == saved->block_device &&
	       now.bytes == saved->bytes && now.changed_s == saved->changed_s &&
	       now.changed_ns == saved->changed_ns;
}

/* ---- names: IMAGE-INODE.state, IMAGE.2-INODE.state ---- */

static void make_name(char *ret, size_t bytes, const char *image, uint64_t inode, unsigned number)
{
	const char *slash = strrchr(image, '/');
	const char *base = slash ? slash + 1 : image;
	char middle[16] = "";

	if (number > 1)
		snprintf(middle, sizeof(middle), ".%u", number);
	snprintf(ret, bytes, "%.*s%s-%llu.state", BASE_NAME_BYTES, base, middle,
		 (unsigned long long)inode);
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text);
	size_t end_length = strlen(end);

	return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* ---- bytes ---- */

static int copy_piece(int from, off_t from_at, int to, off_t to_at, size_t bytes)
{
	static char buffer[COPY_BYTES];
	ssize_t got = pread(from, buffer, bytes, from_at);

	if (got != (ssize_t)bytes)
		return got < 0 ? -errno : -EBADMSG; /* somebody has cut it */
	for (size_t done = 0; done < bytes;) {
		ssize_t put = pwrite(to, buffer + done, bytes - done, to_at + (off_t)done);

		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		done += (size_t)put;
	}
	return 0;
}

/* Most of a state has never been touched: holes stay holes. */
static int copy(int from, off_t from_start, int to, off_t to_start, off_t bytes)
{
	int ret = 0;

	for (off_t at = 0; at < bytes && ret == 0;) {
		off_t data = lseek(from, from_start + at, SEEK_DATA);
		off_t end;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(from, data, SEEK_HOLE);
		if (end < 0)
			return -errno;
		at = data - from_start;
		end = end - from_start < bytes ? end - from_start : bytes;
		while (at < end && ret == 0) {
			size_t piece =
				end - at < (off_t)COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;

			ret = copy_piece(from, from_start + at, to, to_start + at, piece);
			at += (off_t)piece;
		}
	}
	return ret;
}

/* ---- writing ---- */

static int fill(int fd, const struct ox_saved_of *of, int state_fd)
{
	struct head head = {.of = *of};
	struct stat st;
	int ret;

	if (fstat(state_fd, &st) < 0)
		return -errno;
	memcpy(head.magic, magic, sizeof(magic));
	head.state_bytes = (uint64_t)st.st_size;
	if (ftruncate(fd, (off_t)HEAD_BYTES + st.st_size) < 0)
		return -errno;
	ret = copy(state_fd, 0, fd, HEAD_BYTES, st.st_size);
	if (ret == 0 && pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
		ret = -EIO;
	if (ret == 0 && fsync(fd) < 0)
		ret = -errno;
	return ret;
}

/* Gives it the first name that is free. Nothing is ever written over. */
static int give_name(const char *temporary, const char *dir, const char *image, uint64_t inode,
		     char ret_path[PATH_MAX])
{
	char name[256];

	for (unsigned number = 1; number <= NUMBERS_MAX; number++) {
		make_name(name, sizeof(name), image, inode, number);
		if (snprintf(ret_path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
			return -ENAMETOOLONG;
		if (link(temporary, ret_path) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int write_into(const char *dir, const char *image, const struct ox_saved_of *of,
		      int state_fd, char ret_path[PATH_MAX])
{
	char temporary[PATH_MAX];
	int ret;
	int fd;

	if (snprintf(temporary, sizeof(temporary), "%s/.oxbow-XXXXXX", dir) >= PATH_MAX)
		return -ENAMETOOLONG;
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = fill(fd, of, state_fd);
	if (ret == 0)
		ret = give_name(temporary, dir, image, of->inode, ret_path);
	close(fd);
	(void)unlink(temporary);
	return ret;
}

int ox_saved_write(const struct ox_saved_places *places, const char *image, int image_fd,
		   int state_fd, char ret_path[PATH_MAX], bool *ret_sync_failed)
{
	struct ox_saved_of of;
	int ret;

	*ret_sync_failed = fsync(image_fd) < 0 && errno != EINVAL && errno != EROFS;
	if (*ret_sync_failed)
		return -errno;
	ret = identify(image_fd, &of);
	if (ret < 0)
		return ret;
	ret = -ENOENT;
	for (unsigned i = 0; i < places->count && ret < 0; i++) {
		if (i + 1 == places->count && places->last_is_ours)
			(void)mkdir(places->paths[i], 0700);
		ret = write_into(places->paths[i], image, &of, state_fd, ret_path);
	}
	return ret;
}

/* ---- reading ---- */

static int judge(int fd, struct head *ret)
{
	struct head head;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)(HEAD_BYTES + STATE_BYTES_MIN) ||
	    (uint64_t)st.st_size > HEAD_BYTES + STATE_BYTES_MAX)
		return -EBADMSG;
	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
		return -EBADMSG;
	if (memcmp(head.magic, magic, sizeof(magic)) != 0 ||
	    head.state_bytes != (uint64_t)st.st_size - HEAD_BYTES)
		return -EBADMSG;
	*ret = head;
	return 0;
}

int ox_saved_read(const char *path, int state_fd, struct ox_saved_of *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct head head = {0};
	int code;

	if (fd < 0)
		return -errno;
	code = judge(fd, &head);
	if (code == 0 && ftruncate(state_fd, (off_t)head.state_bytes) < 0)
		code = -errno;
	if (code == 0)
		code = copy(fd, HEAD_BYTES, state_fd, 0, (off_t)head.state_bytes);
	close(fd);
	if (code == 0)
		*ret = head.of;
	return code;
}

/* ---- finding ---- */

static bool is_of(const char *path, const struct stat *image)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct head head = {0};
	int ret;

	if (fd < 0)
		return errno == EACCES;
	ret = judge(fd, &head);
	close(fd);
	return ret == 0 && head.of.device == image->st_dev && head.of.inode == image->st_ino &&
	       head.of.block_device == block_device_of(image);
}

/* The image may go by another name by now: its inode counts. */
static bool find_in(const char *place, const struct stat *image, char ret_path[PATH_MAX])
{
	DIR *dir = opendir(place);
	struct dirent *entry;
	bool found = false;
	char end[48];

	if (!dir)
		return false;
	make_name(end, sizeof(end), "", image->st_ino, 1);
	while (!found && (entry = readdir(dir)))
		found = ends_with(entry->d_name, end) &&
			snprintf(ret_path, PATH_MAX, "%s/%s", place, entry->d_name) < PATH_MAX &&
			is_of(ret_path, image);
	closedir(dir);
	return found;
}

bool ox_saved_find(const struct ox_saved_places *places, const struct stat *image,
		   char ret_path[PATH_MAX])
{
	for (unsigned i = 0; i < places->count; i++)
		if (find_in(places->paths[i], image, ret_path))
			return true;
	return false;
}
