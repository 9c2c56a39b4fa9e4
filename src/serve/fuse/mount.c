/* SPDX-License-Identifier: MIT */
/* Mounting and unmounting, which is for a process that serves nothing (docs/mount.md). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/fuse/api.h"
#include "serve/serve.h"

#define HELPER "fusermount3"

static const struct fuse_lowlevel_ops nothing;

/* A comma ends an option. To be freed; NULL: memory is short. */
static char *escape(const char *name)
{
	char *text = malloc(2 * strlen(name) + 1);
	char *at = text;

	for (; text && *name; name++) {
		if (*name == ',' || *name == '\\')
			*at++ = '\\';
		*at++ = *name;
	}
	if (text)
		*at = '\0';
	return text;
}

/* default_permissions: the kernel holds everybody to owner and mode. */
static char *make_options(const struct ox_serve_mount_options *options)
{
	char *name = escape(options->name);
	char *text = NULL;

	if (name && asprintf(&text, "subtype=oxbow,default_permissions,nosuid,nodev%s%s,fsname=%s",
			     options->read_only ? ",ro" : "",
			     options->allow_other ? ",allow_other" : "", name) < 0)
		text = NULL;
	free(name);
	return text;
}

int ox_serve_fuse_mount(const struct ox_serve_mount_options *options,
			struct ox_serve_error *ret_error)
{
	char program[] = "oxbow";
	char flag[] = "-o";
	char *text = make_options(options);
	char *argv[] = {program, flag, text, NULL};
	struct fuse_args args = {.argc = 3, .argv = argv};
	static struct fuse_session *session; /* to free it would be to unmount */
	int fd = -ENOMEM;

	session = text ? ox_fuse.session_new(&args, &nothing, sizeof(nothing), NULL) : NULL;
	ox_fuse.opt_free_args(&args);
	free(text);
	if (session)
		fd = ox_fuse.session_mount(session, options->directory) == 0
			     ? ox_fuse.session_fd(session)
			     : -EPERM; /* libfuse has said why, on standard error */
	if (fd < 0)
		snprintf(ret_error->message, sizeof(ret_error->message), "Cannot mount on '%s'%s%s",
			 options->directory, session ? "" : ": ", session ? "" : strerror(ENOMEM));
	return fd;
}

/* Who is not root has a helper that is. Its exit status tells no more than that it failed. */
static int run_helper(const char *directory, bool detach)
{
	const pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		const char *const argv[] = {HELPER, "-u",      detach ? "-qz" : "-q",
					    "--",   directory, NULL};

		execvp(HELPER, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == 127 ? -ENOENT : -EBUSY;
}

int ox_serve_fuse_unmount(const char *directory, bool detach)
{
	if (umount2(directory, UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0)) == 0)
		return 0;
	return errno == EPERM ? run_helper(directory, detach) : -errno;
}
