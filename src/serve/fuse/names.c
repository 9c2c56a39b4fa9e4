/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "serve/fuse/disk.h"

/* The kernel may remember names and lengths for good; what the disk takes on its host changes. */
#define NAME_SECONDS 3600.0
#define ATTRIBUTES_SECONDS 1.0

/* What the image takes on its host, with its metadata. */
static blkcnt_t count_blocks(const struct ox_fuse_disk *disk)
{
	const int fd = disk->part.loop->options->file_fd;
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_blocks
					      : (blkcnt_t)((disk->size_bytes + 511) / 512);
}

static bool fill(const struct ox_fuse_disk *disk, fuse_ino_t inode, struct stat *ret)
{
	const struct ox_serve_fuse_options *options = disk->options;
	const mode_t readers = (options->mode & 0444) >> 2;

	*ret = (struct stat){
		.st_ino = inode,
		.st_uid = options->uid,
		.st_gid = options->gid,
		.st_blksize = 65536,
		.st_mtim = disk->written,
		.st_ctim = disk->written,
		.st_atim = disk->written,
	};
	if (inode == OX_FUSE_ROOT_INODE) {
		ret->st_mode = S_IFDIR | (options->mode & 0444) | readers;
		ret->st_nlink = 2;
	} else {
		ret->st_mode = S_IFREG | (options->mode & (disk->read_only ? 0444 : 0666));
		ret->st_nlink = 1;
		ret->st_size = (off_t)disk->size_bytes;
		ret->st_blocks = count_blocks(disk);
	}
	return inode == OX_FUSE_ROOT_INODE || inode == OX_FUSE_DISK_INODE;
}

void ox_fuse_lookup(fuse_req_t asked, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {
		.ino = OX_FUSE_DISK_INODE,
		.attr_timeout = ATTRIBUTES_SECONDS,
		.entry_timeout = NAME_SECONDS,
	};

	if (parent != OX_FUSE_ROOT_INODE || strcmp(name, OX_FUSE_NAME) != 0 ||
	    !fill(ox_fuse_disk_of(asked), OX_FUSE_DISK_INODE, &entry.attr))
		ox_fuse.reply_err(asked, ENOENT);
	else
		ox_fuse.reply_entry(asked, &entry);
}

void ox_fuse_getattr(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file)
{
	struct stat attributes;

	(void)file;
	if (fill(ox_fuse_disk_of(asked), inode, &attributes))
		ox_fuse.reply_attr(asked, &attributes, ATTRIBUTES_SECONDS);
	else
		ox_fuse.reply_err(asked, ENOENT);
}

/* Neither length nor owner nor mode; times are what they are. */
void ox_fuse_setattr(fuse_req_t asked, fuse_ino_t inode, struct stat *attributes, int which,
		     struct fuse_file_info *file)
{
	const struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	const bool same_size =
		!(which & FUSE_SET_ATTR_SIZE) || (uint64_t)attributes->st_size == disk->size_bytes;

	if (!same_size || (which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
		ox_fuse.reply_err(asked, disk->read_only ? EROFS : EPERM);
	else
		ox_fuse_getattr(asked, inode, file);
}

/* O_TRUNC is not for it, as for a block device: it was let through as a part of the flags. */
void ox_fuse_open(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file)
{
	const struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);

	if (inode != OX_FUSE_DISK_INODE) {
		ox_fuse.reply_err(asked, EISDIR);
	} else if (disk->read_only && (file->flags & O_ACCMODE) != O_RDONLY) {
		ox_fuse.reply_err(asked, EROFS);
	} else {
		file->direct_io = disk->options->direct;
		file->keep_cache = !disk->options->direct; /* nobody else writes to it */
		ox_fuse.reply_open(asked, file);
	}
}

void ox_fuse_readdir(fuse_req_t asked, fuse_ino_t inode, size_t count, off_t offset,
		     struct fuse_file_info *file)
{
	static const struct {
		const char *name;
		fuse_ino_t inode;
	} entries[] = {
		{".", OX_FUSE_ROOT_INODE},
		{"..", OX_FUSE_ROOT_INODE},
		{OX_FUSE_NAME, OX_FUSE_DISK_INODE},
	};
	char bytes[1024];
	size_t used = 0;

	(void)file;
	if (inode != OX_FUSE_ROOT_INODE) {
		ox_fuse.reply_err(asked, ENOTDIR);
		return;
	}
	count = count < sizeof(bytes) ? count : sizeof(bytes);
	for (off_t i = offset; i >= 0 && i < 3; i++) {
		struct stat attributes;
		size_t needed;

		(void)fill(ox_fuse_disk_of(asked), entries[i].inode, &attributes);
		needed = ox_fuse.add_direntry(asked, bytes + used, count - used, entries[i].name,
					      &attributes, i + 1);
		if (needed > count - used)
			break;
		used += needed;
	}
	ox_fuse.reply_buf(asked, bytes, used);
}

/* ---- what the folder is not for ---- */

static void refuse(fuse_req_t asked)
{
	ox_fuse.reply_err(asked, ox_fuse_disk_of(asked)->read_only ? EROFS : EPERM);
}

void ox_fuse_refuse_name(fuse_req_t asked, fuse_ino_t parent, const char *name)
{
	(void)parent;
	(void)name;
	refuse(asked);
}

void ox_fuse_refuse_folder(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)mode;
	ox_fuse_refuse_name(asked, parent, name);
}

void ox_fuse_refuse_node(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode,
			 dev_t device)
{
	(void)device;
	ox_fuse_refuse_folder(asked, parent, name, mode);
}

void ox_fuse_refuse_file(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode,
			 struct fuse_file_info *file)
{
	(void)file;
	ox_fuse_refuse_folder(asked, parent, name, mode);
}

void ox_fuse_refuse_symlink(fuse_req_t asked, const char *to, fuse_ino_t parent, const char *name)
{
	(void)to;
	ox_fuse_refuse_name(asked, parent, name);
}

void ox_fuse_refuse_link(fuse_req_t asked, fuse_ino_t inode, fuse_ino_t parent, const char *name)
{
	(void)inode;
	ox_fuse_refuse_name(asked, parent, name);
}

void ox_fuse_refuse_rename(fuse_req_t asked, fuse_ino_t parent, const char *name,
			   fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
	(void)new_parent;
	(void)new_name;
	(void)flags;
	ox_fuse_refuse_name(asked, parent, name);
}

void ox_fuse_statfs(fuse_req_t asked, fuse_ino_t inode)
{
	const struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	const struct statvfs answer = {
		.f_bsize = 512,
		.f_frsize = 512,
		.f_blocks = (disk->size_bytes + 511) / 512,
		.f_files = 1,
		.f_namemax = 255,
	};

	(void)inode;
	ox_fuse.reply_statfs(asked, &answer);
}
