/* SPDX-License-Identifier: MIT */
#include "cli/compat/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- --fork ---- */

/* What the child says until it is ready; later lines have no reader. */
static void pass_on(int fd)
{
	char text[4096];
	ssize_t got;

	while ((got = read(fd, text, sizeof(text))) > 0) {
		for (ssize_t at = 0, put; at < got; at += put) {
			put = write(STDERR_FILENO, text + at, (size_t)(got - at));
			if (put < 0)
				return;
		}
	}
}

/* Both are read without waiting. */
static bool await_byte(int ready_fd, int said_fd)
{
	struct pollfd fds[] = {{ready_fd, POLLIN, 0}, {said_fd, POLLIN, 0}};
	char byte;
	ssize_t got;

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return false;
		if (fds[1].revents) {
			pass_on(said_fd);
			if (fds[1].revents & (POLLHUP | POLLERR))
				fds[1].fd = -1;
		}
		if (!fds[0].revents)
			continue;
		got = read(ready_fd, &byte, 1);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		pass_on(said_fd);
		return got == 1;
	}
}

static int await_child(int ready_fd, int said_fd, pid_t child)
{
	int state = 0;

	if (await_byte(ready_fd, said_fd))
		return 0;
	while (waitpid(child, &state, 0) < 0 && errno == EINTR)
		;
	pass_on(said_fd);
	if (WIFSIGNALED(state))
		ox_cli_error("The server was killed by signal %d", WTERMSIG(state));
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

/* A keeper's children have the same stderr, and would else keep it open for whoever collects what
 * the parent says. */
static void become_child(struct ox_compat_nbd *nbd, int ready_fd, int said_fd)
{
	nbd->ready_fd = ready_fd;
	leave_terminal();
	if (!nbd->verbose)
		(void)dup2(said_fd, STDERR_FILENO);
	close(said_fd);
}

int ox_compat_nbd_fork(struct ox_compat_nbd *nbd)
{
	int ready[2], said[2];
	pid_t child;

	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(said, O_CLOEXEC) < 0) {
		ox_cli_error("Failed to create pipe: %s", strerror(errno));
		return 1;
	}
	fflush(stdout);
	child = fork();
	if (child < 0) {
		ox_cli_error("Failed to fork: %s", strerror(errno));
		return 1;
	}
	if (child == 0) {
		close(ready[0]);
		close(said[0]);
		become_child(nbd, ready[1], said[1]);
		return -1;
	}
	close(ready[1]);
	close(said[1]);
	(void)fcntl(ready[0], F_SETFL, O_NONBLOCK);
	(void)fcntl(said[0], F_SETFL, O_NONBLOCK);
	return await_child(ready[0], said[0], child);
}

void ox_compat_nbd_listening(void *opaque)
{
	struct ox_compat_nbd *nbd = opaque;
	int null;

	ox_cli_temporary_drop(&nbd->overlay); /* it is open, and needs no name */
	if (nbd->ready_fd < 0)
		return;
	if (write(nbd->ready_fd, "", 1) < 0)
		ox_cli_error("The parent is gone");
	close(nbd->ready_fd);
	nbd->ready_fd = -1;
	null = nbd->verbose ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null >= 0) {
		(void)dup2(null, STDERR_FILENO);
		close(null);
	}
}

/* ---- the image ---- */

static void tell_failure(const struct ox_compat_nbd *nbd, int code, const struct ox_error *err)
{
	ox_cli_error("%s '%s': %s", ox_called_could_not_open(), nbd->source.text,
		     err ? ox_error_message(err) : strerror(-code));
}

static const char *known_format(const char *format)
{
	static const char *const formats[] = {"qcow2", "qed", "raw"};

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (strcmp(formats[i], format) == 0)
			return formats[i];
	}
	return NULL;
}

static int probe(struct ox_compat_nbd *nbd, struct ox_context *ctx)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image_info *info;
	struct ox_error *err = NULL;
	int r;

	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_PROBE | OX_OPEN_FORCE_SHARE;
	r = ox_image_info_read(ctx, nbd->source.path, &opts, &info, &err);
	if (r < 0) {
		tell_failure(nbd, r, err);
		ox_error_free(err);
		return r;
	}
	nbd->source.open.format = known_format(info->format);
	if (!nbd->source.open.format) {
		ox_cli_error("%s '%s': Unknown driver '%s'", ox_called_could_not_open(),
			     nbd->source.text, info->format);
		r = -ENOTSUP;
	} else if (strcmp(info->format, "raw") == 0) {
		ox_cli_error("warning: Image format was not specified for '%s' and probing "
			     "guessed raw; say -f raw: a client can make such a file look like "
			     "another format",
			     nbd->source.text);
	}
	ox_image_info_free(info);
	return r;
}

int ox_compat_nbd_find_format(struct ox_compat_nbd *nbd)
{
	const char *format = nbd->source.open.format;
	struct ox_context *ctx;
	int r;

	if (format && !known_format(format)) {
		ox_cli_error("%s '%s': Unknown driver '%s'", ox_called_could_not_open(),
			     nbd->source.text, format);
		return -EINVAL;
	}
	if (format)
		return 0;
	/* Threads begin and end here, before signals are blocked. */
	r = ox_cli_context_new(OX_ENGINE_THREAD_POOL, &ctx);
	if (r < 0)
		return r;
	r = probe(nbd, ctx);
	ox_context_free(ctx);
	return r;
}
