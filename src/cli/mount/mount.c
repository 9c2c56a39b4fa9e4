/* SPDX-License-Identifier: MIT */
/* oxbow mount: a disk as a file. */
#include "cli/mount/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/keeper/spawn.h"

#define FIRST_FD 3
#define LAST_FD (~0U)

/* ---- the background ---- */

/* Whoever has started it waits for the mount, or for its failure, which has been told. */
static int await_mount(int fd, pid_t child)
{
	ssize_t got;
	int status;
	char byte;

	do {
		got = read(fd, &byte, 1);
	} while (got < 0 && errno == EINTR);
	if (got == 1)
		return 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return 1;
}

static void leave_terminal(void)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)setsid();
	if (null < 0)
		return;
	(void)dup2(null, STDIN_FILENO);
	(void)dup2(null, STDOUT_FILENO);
	if (null > STDERR_FILENO)
		close(null);
}

/* -1: this is the process that goes on. Else the exit status of the one that does not. */
static int go_into_background(struct ox_cli_mount *mount)
{
	int fds[2];
	pid_t child;

	if (mount->foreground)
		return -1;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		ox_cli_error("Cannot make a pipe: %s", strerror(errno));
		return 1;
	}
	child = fork();
	if (child < 0) {
		ox_cli_error("Cannot start a process: %s", strerror(errno));
		return 1;
	}
	if (child > 0) {
		close(fds[1]);
		return await_mount(fds[0], child);
	}
	close(fds[0]);
	mount->told_fd = fds[1];
	leave_terminal();
	return -1;
}

/* ---- both processes ---- */

static int start_worker(struct ox_cli_mount *mount)
{
	const pid_t holder = getpid();
	int lines[2] = {-1, -1};
	int other = -1;
	pid_t child;
	int ret = ox_spawn_pair(&mount->socket, &other);

	if (ret == 0 && !mount->foreground && pipe2(lines, O_CLOEXEC) < 0)
		ret = -errno;
	child = ret == 0 ? fork() : -1;
	if (child < 0) {
		ox_cli_error("Cannot start a process: %s", strerror(ret < 0 ? -ret : errno));
		return -EIO;
	}
	if (child == 0) { /* it keeps the socket alone */
		if ((lines[1] >= 0 && dup2(lines[1], STDERR_FILENO) < 0) ||
		    (other != FIRST_FD && dup2(other, FIRST_FD) < 0))
			_exit(1);
		(void)close_range(FIRST_FD + 1, LAST_FD, 0);
		exit(ox_cli_mount_work(mount, FIRST_FD, holder));
	}
	close(other);
	if (lines[1] >= 0)
		close(lines[1]);
	mount->lines = lines[0];
	mount->worker = child;
	return 0;
}

static void block_signals(void)
{
	sigset_t set;

	ox_serve_block_signals();
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	(void)signal(SIGCHLD, SIG_DFL);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
}

static int prepare(struct ox_cli_mount *mount)
{
	struct ox_serve_error error;
	struct stat st;
	int ret;

	mount->path = realpath(mount->directory, NULL);
	if (!mount->path || stat(mount->path, &st) < 0) {
		ox_cli_error("Cannot mount on '%s': %s", mount->directory, strerror(errno));
		return -EINVAL;
	}
	if (!S_ISDIR(st.st_mode)) {
		ox_cli_error("Cannot mount on '%s': %s", mount->directory, strerror(ENOTDIR));
		return -ENOTDIR;
	}
	if (mount->serve.user &&
	    ox_sandbox_user_find(mount->serve.user, &mount->serve.sandbox.user) < 0) {
		ox_cli_error("--user: there is no user '%s'", mount->serve.user);
		return -EINVAL;
	}
	ret = ox_serve_fuse_prepare(&error);
	if (ret < 0)
		ox_cli_error("%s", error.message);
	return ret < 0 ? ret : ox_cli_pid_file_open(&mount->serve.pid_file);
}

static int run(struct ox_cli_mount *mount)
{
	int status;

	/* What whoever has started it left open: it would stay so for as long as the mount. */
	(void)close_range(FIRST_FD, LAST_FD, 0);
	if (prepare(mount) < 0)
		return 1;
	status = go_into_background(mount);
	if (status >= 0)
		return status;
	block_signals();
	status = start_worker(mount) < 0 ? 1 : ox_cli_mount_hold(mount);
	ox_cli_pid_file_remove(&mount->serve.pid_file);
	return status;
}

int ox_cli_mount(int argc, char **argv)
{
	static struct ox_cli_mount mount;
	struct ox_serve_fuse_options *fuse = &mount.serve.serve.fuse;
	int status;

	ox_cli_serve_init(&mount.serve);
	mount.told_fd = mount.lines = mount.socket = -1;
	*fuse = (struct ox_serve_fuse_options){
		.is_wanted = true,
		.uid = getuid(),
		.gid = getgid(),
		.mode = S_IRUSR | S_IWUSR,
	};
	if (ox_cli_mount_parse(argc, argv, &mount) < 0)
		return 1;
	if (mount.serve.help) {
		fputs(ox_cli_mount_help, stdout);
		return ox_cli_finish_output(0);
	}
	fuse->direct = mount.serve.open.cache == OX_CACHE_NONE ||
		       mount.serve.open.cache == OX_CACHE_DIRECTSYNC;
	status = run(&mount);
	free(mount.path);
	return status;
}
