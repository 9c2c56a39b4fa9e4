/* SPDX-License-Identifier: MIT */
/*
 * The sandbox (docs/sandbox.md): what a process of the keeper's gives up, because it parses what
 * strangers wrote. Whatever takes it over can reach the descriptors that it has, and nothing else.
 *
 *	ox_sandbox_begin	before the first thread: file system, network, signals (landlock)
 *	(rings are made, and hold what they must)
 *	ox_sandbox_enter	user, capabilities, system calls; for good
 */
#ifndef OX_CLI_SANDBOX_SANDBOX_H
#define OX_CLI_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

#include "oxbow.h"

struct ox_sandbox_user {
	bool stated; /* else: nobody, if the process may change its user */
	uid_t uid;
	gid_t gid;
};

/* The system calls of a worker are the fewest. */
enum ox_sandbox_calls {
	OX_SANDBOX_WORKER,
	OX_SANDBOX_CLIENT, /* of an export: it sends over sockets that it is handed connected */
	OX_SANDBOX_OPENER, /* it opens paths */
};

struct ox_sandbox {
	enum ox_sandbox_calls calls;
	struct ox_sandbox_user user;
	pid_t keeper; /* the parent, whose death is to end this process */
	/* Says what is missing, in a line. */
	void (*warn)(void *opaque, const char *message);
	void *opaque;
};

void ox_sandbox_begin(const struct ox_sandbox *sandbox);
/* What the kernel lacks is told, and done without. -errno: the user that is stated cannot be taken;
 * -ESRCH: the keeper is gone. */
int ox_sandbox_enter(const struct ox_sandbox *sandbox) OX_CHECKED;
/* Its three parts, for a process with threads, which make rings of their own: once for all, when
 * none of them needs the old user any more; then by each of them; then once more, by one for all.
 */
int ox_sandbox_enter_process(const struct ox_sandbox *sandbox) OX_CHECKED;
void ox_sandbox_enter_thread(const struct ox_sandbox *sandbox);
void ox_sandbox_close(const struct ox_sandbox *sandbox);
/* The opener's, which opens paths and keeps its rights to: system calls alone. */
void ox_sandbox_enter_opener(const struct ox_sandbox *sandbox);

/* Whether the parts of it are left out that a sanitizer cannot do without. */
bool ox_sandbox_is_lenient(void);

/* ---- user.c: --user ---- */

/* "UID:GID", as a child gets it. -EINVAL. */
int ox_sandbox_user_parse(const char *text, struct ox_sandbox_user *ret) OX_CHECKED;
/* A name or a number as well, looked up. -ENOENT: there is no such user; -errno. */
int ox_sandbox_user_find(const char *text, struct ox_sandbox_user *ret) OX_CHECKED;

/* ---- the parts; each returns 0 or -errno ---- */

/* landlock.c: no file can be opened, made or removed, no TCP port bound or connected to, no signal
 * sent to another process. Binds the calling thread. -ENOSYS, -EOPNOTSUPP: not in this kernel. */
int ox_sandbox_landlock(void) OX_CHECKED;
/* credentials.c, in this order */
void ox_sandbox_drop_bounds(void);
int ox_sandbox_change_user(const struct ox_sandbox_user *user) OX_CHECKED;
int ox_sandbox_drop_capabilities(void) OX_CHECKED;
/* calls.c */
int ox_sandbox_filter_calls(enum ox_sandbox_calls calls) OX_CHECKED;

#endif
