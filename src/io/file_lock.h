/* SPDX-License-Identifier: MIT */
/*
 * QEMU's image locks, so that it and oxbow never write one image at once.
 *
 * A user of an image holds permissions, and refuses to share some with others. Either is told by a
 * shared open-file-description lock on one byte of the file: 100 + i for holding permission i,
 * 200 + i for refusing it to others. Nobody ever holds an exclusive lock; one that takes a
 * permission locks first and then tests that no other has locked the byte that says no.
 *
 * The locks belong to the open file description: they vanish with its last descriptor.
 */
#ifndef OX_IO_FILE_LOCK_H
#define OX_IO_FILE_LOCK_H

#include <stdbool.h>

#include "base/error.h"

/* Permissions, as bits; the bit number is the byte's. QEMU's 2 (write unchanged) and 4 are not
 * taken by anything here. */
enum ox_file_lock_perm {
	OX_FILE_LOCK_READ = 1 << 0, /* consistent read */
	OX_FILE_LOCK_WRITE = 1 << 1,
	OX_FILE_LOCK_RESIZE = 1 << 3,
};

/* What one user has locked. All zero: nothing. */
struct ox_file_lock {
	unsigned held;	   /* enum ox_file_lock_perm */
	unsigned unshared; /* the same */
};

/* What QEMU's users of an image hold and refuse to others; each includes the one before. */
#define OX_FILE_LOCK_CHANGES (OX_FILE_LOCK_WRITE | OX_FILE_LOCK_RESIZE)
#define OX_FILE_LOCK_OF_NOBODY ((struct ox_file_lock){0})
#define OX_FILE_LOCK_OF_SHARER ((struct ox_file_lock){OX_FILE_LOCK_READ, 0})
#define OX_FILE_LOCK_OF_READER ((struct ox_file_lock){OX_FILE_LOCK_READ, OX_FILE_LOCK_CHANGES})
#define OX_FILE_LOCK_OF_WRITER                                                                     \
	((struct ox_file_lock){OX_FILE_LOCK_READ | OX_FILE_LOCK_CHANGES, OX_FILE_LOCK_CHANGES})

/* Who asks for locks. */
struct ox_file_lock_taker {
	int fd; /* open for reading */
	const char *name;
	bool opens_nothing; /* must not look in /proc for who is in the way */
};

/*
 * Adds what want has beyond *have to the locks of the taker's descriptor, and tests all of want
 * against other users. want includes *have, and *have is want afterwards. Where others are in the
 * way: -EAGAIN, with QEMU's words and the other process where it can be found. On
 * failure *have and the locks are as before. Where the file system has no such locks: 0, with
 * *have as before. Where it says ENOLCK, the same only if want refuses nothing to others.
 */
int ox_file_lock_take(const struct ox_file_lock_taker *taker, struct ox_file_lock *have,
		      struct ox_file_lock want, struct ox_error **err)
	__attribute__((warn_unused_result));

/* Sets the locks of *have on another descriptor of the same file, untested: the caller still has
 * them through the first. */
int ox_file_lock_copy(int fd, const char *name, struct ox_file_lock have, struct ox_error **err)
	__attribute__((warn_unused_result));

/* 1: the open file description of fd has these locks, as the kernel tells in /proc; 0: not all of
 * them; -errno. */
int ox_file_lock_is_held(int fd, struct ox_file_lock lock) __attribute__((warn_unused_result));

/* Gives up what keep does not include. Cannot fail. */
void ox_file_lock_keep(int fd, struct ox_file_lock *have, struct ox_file_lock keep);

#endif
