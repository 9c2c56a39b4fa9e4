/* SPDX-License-Identifier: MIT */
/* The image of a server: opened, served, closed. */
#include "cli/serve/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/deadline.h"
#include "cli/log.h"
#include "cli/notify.h"
#include "serve/loop.h"

#define MANAGER_MS 5000

void ox_cli_serve_warn(void *opaque, const char *message)
{
	const struct ox_cli_serve_arguments *arguments = opaque;

	if (!arguments->quiet)
		ox_cli_warn(NULL, message);
}

static void on_log(void *opaque, const char *message)
{
	(void)opaque;
	ox_cli_error("%s", message);
}

/* Of a disk that has a name, behind that. */
static void print_addresses(const char *name, const char *uri, const char *vhost_path)
{
	const char *space = name ? " " : "";
	bool failed = false;

	name = name ? name : "";
	if (uri)
		failed = printf("%s%s%s\n", name, space, uri) < 0;
	if (vhost_path)
		failed = printf("%s%s%s\n", name, space, vhost_path) < 0 || failed;
	if (failed || fflush(stdout) != 0)
		ox_cli_error("Cannot print the URI: %s", strerror(errno));
}

int ox_cli_serve_ready(void *opaque, const char *uri, const char *vhost_path)
{
	struct ox_cli_serve_arguments *arguments = opaque;

	if (arguments->role == OX_KEPT_WORKER)
		return ox_kept_ready(arguments->kept);
	if (!arguments->keeper && ox_notify_ready() < 0)
		ox_cli_error("The service manager cannot be told that clients can connect");
	if (arguments->pid_file.path && !arguments->name) { /* else it is the server's */
		int ret = ox_cli_pid_file_write(&arguments->pid_file);

		if (ret < 0)
			return ret;
	}
	if (arguments->listening)
		arguments->listening(arguments->listening_opaque);
	else if (!arguments->quiet)
		print_addresses(arguments->name, uri, vhost_path);
	return 0;
}

/* A store that hangs keeps the library's close for good, and the process with it; or a thread,
 * which the main one looks after. */
static void begin_close_deadline(struct ox_cli_serve_arguments *arguments)
{
	if (arguments->in_thread)
		arguments->close_deadline_ms = ox_serve_now_ms() + arguments->serve.drain_ms;
	else
		ox_cli_deadline_begin(
			arguments->serve.drain_ms,
			"oxbow: The image's file does not answer: the image is not closed\n");
}

static void end_close_deadline(struct ox_cli_serve_arguments *arguments)
{
	if (arguments->in_thread)
		arguments->close_deadline_ms = 0;
	else
		ox_cli_deadline_end();
}

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_cli_serve_arguments *arguments = opaque;

	if (arguments->closing) /* a recovery comes first, which takes its time */
		begin_close_deadline(arguments);
	if (!arguments->opened)
		ox_cli_progress_report(&arguments->progress, done, total);
	else if (!arguments->quiet)
		ox_cli_recovery_report(&arguments->recovery, done, total);
}

static bool asks_for_room(const struct ox_cli_serve_arguments *arguments)
{
	return arguments->serve.low_space_bytes > 0 || arguments->serve.fuse.is_wanted ||
	       arguments->serve.on_full == OX_SERVE_FULL_PAUSE;
}

/* Beside the library's: to ask its file system. Where there is none, the server says so. */
static void keep_file(struct ox_cli_serve_arguments *arguments, int fd)
{
	if (asks_for_room(arguments) && arguments->serve.file_fd < 0)
		arguments->serve.file_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void close_file(struct ox_cli_serve_arguments *arguments)
{
	if (arguments->serve.file_fd >= 0)
		close(arguments->serve.file_fd);
	arguments->serve.file_fd = -1;
}

static int on_open_file(void *opaque, const struct ox_file_wanted *wanted)
{
	struct ox_cli_serve_arguments *arguments = opaque;
	int fd = ox_kept_file(arguments->kept, wanted);

	if (fd >= 0 && wanted->depth == 0)
		keep_file(arguments, fd);
	return fd;
}

static void on_synced(void *opaque)
{
	const struct ox_cli_serve_arguments *arguments = opaque;

	ox_kept_synced(arguments->kept);
}

static int read_tls(const struct ox_cli_serve_arguments *arguments, const char *otherwise)
{
	const struct ox_serve_tls_source source = {
		.directory = arguments->tls_directory,
		.authz = arguments->tls_authz,
		.verify_peer = arguments->serve.nbd.tls.verify_peer,
	};
	struct ox_serve_error error = {0};
	int fd = ox_serve_tls_read(&source, &error);

	if (fd < 0)
		ox_cli_error("%s%s", error.message, otherwise);
	return fd;
}

static int renew_tls(void *opaque)
{
	return read_tls(opaque, "; the old ones stay");
}

/* A keeper has done it for its workers. */
static int take_tls(struct ox_cli_serve_arguments *arguments)
{
	struct ox_serve_tls_options *tls = &arguments->serve.nbd.tls;

	if (!tls->is_required)
		return 0;
	if (arguments->role == OX_KEPT_NOT) {
		tls->renew = renew_tls;
		tls->fd = read_tls(arguments, "");
	} else {
		tls->fd = arguments->kept->tls_fd;
		arguments->kept->tls_fd = -1;
	}
	return tls->fd < 0 ? -EINVAL : 0;
}

static void close_tls(struct ox_cli_serve_arguments *arguments)
{
	struct ox_serve_tls_options *tls = &arguments->serve.nbd.tls;

	if (tls->is_required && tls->fd >= 0)
		close(tls->fd);
	tls->fd = -1;
}

/* The keeper has the locks, and its opener has opened the files. */
void ox_cli_serve_by_keeper(struct ox_cli_serve_arguments *arguments)
{
	arguments->fd = -1;
	arguments->open.flags |= OX_OPEN_LOCKS_HELD;
	if (arguments->open.backing_policy == OX_BACKING_UNDER)
		arguments->open.backing_policy = OX_BACKING_ALLOW; /* and saw to where they lie */
	arguments->open.open_file = on_open_file;
	arguments->open.synced = on_synced;
	ox_kept_set_options(arguments->kept, &arguments->open);
}

/* The state that a keeper holds is a file, if one in memory. */
static const char *hint_for(const struct ox_cli_serve_arguments *arguments, int code)
{
	struct rlimit limit;

	if (code != -EFBIG || arguments->open.state_fd == 0 ||
	    getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return "";
	return "; raise ulimit -f, or serve with --no-keeper";
}

/* Who connects for this process may know more than its errno tells. */
static void tell_failure(const struct ox_cli_serve_arguments *arguments, int code,
			 const struct ox_error *error)
{
	const char *said = arguments->kept && arguments->kept->said ? arguments->kept->said() : "";

	ox_cli_error("%s '%s': %s%s%s%s", ox_called_could_not_open(), arguments->image,
		     ox_error_message(error), *said ? ": " : "", said, hint_for(arguments, code));
}

/* By what it is opened, whatever it is called. */
static const char *place_of(const struct ox_cli_serve_arguments *arguments)
{
	return arguments->kept && arguments->kept->uri ? arguments->kept->uri : arguments->image;
}

static int open_image(struct ox_context *ctx, struct ox_cli_serve_arguments *arguments,
		      struct ox_image **ret_image)
{
	struct ox_error *error = NULL;
	int ret;

	if (!arguments->quiet)
		ox_cli_progress_begin(&arguments->progress, false, stderr);
	if (arguments->fd >= 0)
		keep_file(arguments, arguments->fd);
	else if (arguments->role == OX_KEPT_NOT && asks_for_room(arguments) &&
		 !ox_cli_serve_is_export(arguments))
		arguments->serve.file_fd = open(arguments->image, O_PATH | O_CLOEXEC);
	ox_cli_serve_offer_signals(arguments, true);
	if (arguments->fd >= 0)
		ret = ox_image_open_fd(ctx, arguments->fd, arguments->image, &arguments->open,
				       ret_image, &error);
	else
		ret = ox_image_open(ctx, place_of(arguments), &arguments->open, ret_image, &error);
	ox_cli_serve_offer_signals(arguments, false);
	ox_cli_progress_end(&arguments->progress, ret == 0);
	arguments->opened = ret == 0;
	if (ret < 0) {
		tell_failure(arguments, ret, error);
		ox_error_free(error);
	}
	return ret;
}

static int close_image(struct ox_image *image, struct ox_cli_serve_arguments *arguments)
{
	struct ox_error *error = NULL;
	int ret;

	arguments->closing = true;
	ox_image_leave_recovery(image); /* it goes on at the next start */
	begin_close_deadline(arguments);
	ret = ox_image_close(image, &error);
	end_close_deadline(arguments);
	if (ret < 0) {
		ox_cli_error("Could not close '%s' cleanly: %s", arguments->image,
			     ox_error_message(error));
		ox_error_free(error);
	}
	return ret;
}

/* 1: the server is to end before it has begun. */
static int await_keeper(struct ox_cli_serve_arguments *arguments)
{
	int ret = ox_kept_await_listeners(arguments->kept,
					  (arguments->serve.nbd.address != NULL) +
						  (arguments->serve.vhost.path != NULL) +
						  arguments->serve.fuse.is_wanted);

	if (ret == 0)
		arguments->serve.handed = &arguments->kept->handed;
	if (ret < 0)
		ox_cli_error("The keeper cannot be heard: %s", strerror(-ret));
	return ret;
}

static int serve_clients(struct ox_context *ctx, struct ox_image *image,
			 struct ox_cli_serve_arguments *arguments)
{
	struct ox_serve_error error;
	int ret;

	if (arguments->role == OX_KEPT_WORKER) {
		ret = await_keeper(arguments);
		if (ret != 0)
			return ret < 0 ? ret : 0;
	}
	ox_cli_notices_init(&arguments->notices);
	arguments->notices.full_waits = arguments->serve.on_full == OX_SERVE_FULL_PAUSE;
	ox_image_set_notice(image, ox_cli_notices_take, &arguments->notices);
	ret = ox_serve(ctx, image, &arguments->serve, &error);
	ox_cli_notices_end(&arguments->notices);
	if (ret < 0 && error.message[0])
		ox_cli_error("%s", error.message);
	arguments->lost = ret < 0 && error.requests_lost;
	return ret;
}

static int on_mark(void *opaque)
{
	struct ox_cli_serve_arguments *arguments = opaque;

	return ox_mark_make(&arguments->mark);
}

/* What a keeper does for its workers. */
static void find_mark(struct ox_cli_serve_arguments *arguments)
{
	int fd;

	if (arguments->role != OX_KEPT_NOT || !arguments->serve.vhost.path)
		return;
	if (ox_cli_serve_is_export(arguments)) { /* which has no folder for one: nobody can tell */
		arguments->serve.vhost.may_be_lost = true;
		return;
	}
	fd = arguments->fd >= 0 ? fcntl(arguments->fd, F_DUPFD_CLOEXEC, 0)
				: open(arguments->image, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return; /* the opening tells */
	arguments->serve.vhost.may_be_lost = ox_mark_find(&arguments->mark, fd);
	arguments->serve.mark = on_mark;
	close(fd);
}

static void drop_mark(struct ox_cli_serve_arguments *arguments)
{
	if (ox_mark_remove(&arguments->mark) < 0)
		ox_cli_error("Cannot remove '%s': the next server of '%s' takes writes for lost",
			     arguments->mark.path, arguments->image);
}

int ox_cli_serve_image(struct ox_context *ctx, struct ox_cli_serve_arguments *arguments)
{
	struct ox_image *image;
	int close_ret;
	int ret;

	find_mark(arguments);
	ret = take_tls(arguments);
	if (ret == 0)
		ret = open_image(ctx, arguments, &image);
	if (ret < 0) {
		close_tls(arguments);
		close_file(arguments);
		ox_context_free(ctx);
		return ret;
	}
	ret = serve_clients(ctx, image, arguments);
	close_tls(arguments);
	close_file(arguments);
	if (arguments->lost)
		return ret;
	close_ret = close_image(image, arguments);
	if (close_ret == 0)
		drop_mark(arguments);
	ox_context_free(ctx);
	return ret < 0 ? ret : close_ret;
}

void ox_cli_serve_listen(struct ox_cli_serve_arguments *arguments)
{
	arguments->open.warn = ox_cli_serve_warn;
	arguments->open.progress = on_progress;
	arguments->open.opaque = arguments;
	arguments->serve.ready = ox_cli_serve_ready;
	arguments->serve.warn = ox_cli_serve_warn;
	arguments->serve.log = arguments->verbose ? on_log : NULL;
	arguments->serve.opaque = arguments;
	arguments->serve.vhost.cache = arguments->open.cache;
}
