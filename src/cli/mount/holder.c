/* SPDX-License-Identifier: MIT */
/*
 * The process that mounts and unmounts, and waits for its end. It has neither the image nor the
 * mount's descriptor, so that the death of the one that serves is the end of the mount's life: what
 * is asked of it fails, and it is taken away.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "cli/keeper/wire.h"
#include "cli/mount/mount.h"
#include "cli/notify.h"

struct holder {
	struct ox_cli_mount *mount;
	int signals;
	dev_t device; /* of the mount, once it is there */
	bool is_mounted;
	bool is_announced;
	bool has_failed;
	bool has_ended; /* the worker */
	bool is_open;	/* the image */
	bool gave_up;	/* the worker was killed before it had opened it */
	unsigned stops;
	int status;
	char line[1024]; /* of the worker, so far */
	size_t line_bytes;
};

/* ---- what the worker says on standard error, in the background ---- */

/* To whoever has started it, and after that to the system's log. */
static void pass_on_line(struct holder *holder, const char *line, size_t bytes)
{
	if (holder->is_announced)
		syslog(LOG_WARNING, "%.*s", (int)bytes, line);
	else
		(void)fprintf(stderr, "%.*s\n", (int)bytes, line);
}

static void pass_on_lines(struct holder *holder)
{
	const size_t room = sizeof(holder->line) - holder->line_bytes;
	ssize_t got = read(holder->mount->lines, holder->line + holder->line_bytes, room);
	char *newline;

	if (got <= 0 && errno != EINTR) {
		close(holder->mount->lines);
		holder->mount->lines = -1;
	}
	if (got <= 0)
		return;
	holder->line_bytes += (size_t)got;
	while ((newline = memchr(holder->line, '\n', holder->line_bytes)) ||
	       holder->line_bytes == sizeof(holder->line)) {
		const size_t bytes =
			newline ? (size_t)(newline - holder->line) : holder->line_bytes;
		const size_t used = newline ? bytes + 1 : bytes;

		pass_on_line(holder, holder->line, bytes);
		holder->line_bytes -= used;
		memmove(holder->line, holder->line + used, holder->line_bytes);
	}
}

static void say(struct holder *holder, const char *format, ...) OX_CLI_PRINTF(2, 3);

static void say(struct holder *holder, const char *format, ...)
{
	char line[PATH_MAX + 256];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (holder->is_announced && !holder->mount->foreground)
		syslog(LOG_WARNING, "%s", line);
	else
		ox_cli_error("%s", line);
}

/* ---- the worker ---- */

static void tell(struct holder *holder, enum ox_wire_kind kind, uint32_t number, const int *fd)
{
	int ret = ox_wire_send(holder->mount->socket, kind, number, fd, fd ? 1 : 0);

	if (ret < 0 && ret != -EPIPE) /* it cannot go on */
		(void)kill(holder->mount->worker, SIGKILL);
}

static void fail(struct holder *holder)
{
	holder->has_failed = true;
	tell(holder, OX_WIRE_STOP, 0, NULL);
}

/* The descriptor is the worker's alone from here on. */
static void mount_it(struct holder *holder)
{
	const struct ox_cli_mount *mount = holder->mount;
	const struct ox_serve_mount_options options = {
		.directory = mount->path,
		.name = mount->serve.image,
		.read_only = mount->serve.open.flags & OX_OPEN_READ_ONLY,
		.allow_other = mount->allow_other,
	};
	struct ox_serve_error error = {0};
	int fd;

	if (holder->stops > 0) {
		tell(holder, OX_WIRE_STOP, 0, NULL);
		return;
	}
	fd = ox_serve_fuse_mount(&options, &error);
	if (fd < 0) {
		say(holder, "%s", error.message);
		fail(holder);
		return;
	}
	holder->is_mounted = true;
	tell(holder, OX_WIRE_LISTEN, OX_WIRE_FUSE, &fd);
	close(fd);
}

/* Nobody who reads what the command says is to wait for its end. */
static int leave_starter(struct ox_cli_mount *mount)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int ret;

	openlog("oxbow", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	if (null >= 0) {
		(void)dup2(null, STDERR_FILENO);
		close(null);
	}
	if (!mount->serve.pid_file.path || mount->serve.pid_file.path[0] == '/')
		ret = chdir("/"); /* which is then in nobody's way */
	ret = write(mount->told_fd, "", 1) == 1 ? 0 : -EPIPE;
	close(mount->told_fd);
	mount->told_fd = -1;
	return ret;
}

static int announce(struct holder *holder)
{
	struct ox_cli_mount *mount = holder->mount;

	if (mount->serve.pid_file.path && ox_cli_pid_file_write(&mount->serve.pid_file) < 0)
		return -EIO;
	holder->is_announced = true;
	if (!mount->foreground)
		return leave_starter(mount);
	if (ox_notify_ready() < 0)
		say(holder, "The service manager cannot be told that it is mounted");
	if (!mount->serve.quiet && (printf("%s/disk\n", mount->path) < 0 || fflush(stdout) != 0))
		say(holder, "Cannot print the path: %s", strerror(errno));
	return 0;
}

static void is_ready(struct holder *holder)
{
	struct stat st;

	if (stat(holder->mount->path, &st) < 0) { /* which the worker has to answer */
		say(holder, "Cannot mount on '%s': %s", holder->mount->directory, strerror(errno));
		fail(holder);
		return;
	}
	holder->device = st.st_dev;
	if (announce(holder) < 0)
		fail(holder);
}

static void hear(struct holder *holder)
{
	struct ox_wire_message message;
	int ret = ox_wire_receive(holder->mount->socket, &message);

	if (ret == -EAGAIN)
		return;
	if (ret <= 0) {
		close(holder->mount->socket);
		holder->mount->socket = -1;
		return;
	}
	holder->is_open |= message.kind == OX_WIRE_OPENED;
	if (message.kind == OX_WIRE_OPENED && !holder->is_mounted)
		mount_it(holder);
	else if (message.kind == OX_WIRE_READY && holder->is_mounted && !holder->is_announced)
		is_ready(holder);
	ox_wire_close(&message);
}

/* ---- the end ---- */

/* Something else may have been mounted over it. */
static bool is_on_top(const struct holder *holder)
{
	struct stat st;

	return stat(holder->mount->path, &st) == 0 && st.st_dev == holder->device;
}

static void unmount(struct holder *holder, bool detach)
{
	const char *directory = holder->mount->directory;
	int ret = is_on_top(holder) ? ox_serve_fuse_unmount(holder->mount->path, detach) : -EEXIST;

	if (ret == 0 && detach)
		say(holder, "'%s' is detached, and ends with its last user", directory);
	else if (ret == -EBUSY)
		say(holder,
		    "'%s' is in use, and stays mounted. A second signal detaches it from the "
		    "folder, a third one takes it from its users",
		    directory);
	else if (ret == -EEXIST)
		say(holder, "Something else is mounted on '%s' by now: it stays", directory);
	else if (ret < 0)
		say(holder, "Cannot unmount '%s': %s", directory, strerror(-ret));
}

static void stop(struct holder *holder)
{
	holder->stops++;
	/* The server of an export may never answer, and nothing was asked of the image yet. */
	holder->gave_up = !holder->is_open && ox_cli_serve_is_export(&holder->mount->serve);
	if (holder->gave_up)
		(void)kill(holder->mount->worker, SIGKILL);
	else if (!holder->is_announced || holder->stops > 2)
		tell(holder, OX_WIRE_STOP, 0, NULL);
	else
		unmount(holder, holder->stops == 2);
}

static void reap(struct holder *holder)
{
	int status;

	if (waitpid(holder->mount->worker, &status, WNOHANG) != holder->mount->worker)
		return;
	holder->has_ended = true;
	if (WIFSIGNALED(status) && !holder->gave_up)
		say(holder, "Process %ld, which served '%s', died of signal %d (%s)",
		    (long)holder->mount->worker, holder->mount->serve.image, WTERMSIG(status),
		    strsignal(WTERMSIG(status)));
	holder->status = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

/* What it leaves behind is a mount that answers nothing. */
static void clear_away(struct holder *holder)
{
	struct statfs st; /* which the kernel remembers nothing of */

	if (holder->is_mounted && statfs(holder->mount->path, &st) < 0 && errno == ENOTCONN &&
	    ox_serve_fuse_unmount(holder->mount->path, true) < 0)
		say(holder, "Cannot unmount '%s'", holder->mount->directory);
}

static void take_signals(struct holder *holder)
{
	struct signalfd_siginfo info;

	while (read(holder->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			reap(holder);
		else
			stop(holder);
	}
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Who was interrupted in waiting for the mount does not want it any more. */
static void starter_is_gone(struct holder *holder)
{
	close(holder->mount->told_fd);
	holder->mount->told_fd = -1;
	stop(holder);
}

static void turn(struct holder *holder)
{
	struct pollfd polled[] = {
		{.fd = holder->signals, .events = POLLIN},
		{.fd = holder->mount->socket, .events = POLLIN},
		{.fd = holder->mount->lines, .events = POLLIN},
		{.fd = holder->mount->told_fd},
	};

	if (poll(polled, 4, -1) < 0)
		return; /* EINTR */
	if (polled[3].revents)
		starter_is_gone(holder);
	if (polled[2].revents)
		pass_on_lines(holder);
	if (polled[1].revents)
		hear(holder);
	if (polled[0].revents)
		take_signals(holder);
}

int ox_cli_mount_hold(struct ox_cli_mount *mount)
{
	struct holder holder = {.mount = mount, .signals = open_signals()};

	if (holder.signals < 0) {
		ox_cli_error("Cannot take signals: %s", strerror(errno));
		(void)kill(mount->worker, SIGKILL);
		return 1;
	}
	while (!holder.has_ended)
		turn(&holder);
	while (mount->lines >= 0) /* to its end */
		pass_on_lines(&holder);
	clear_away(&holder);
	return holder.has_failed ? 1 : holder.status;
}
