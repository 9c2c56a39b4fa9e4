/* SPDX-License-Identifier: MIT */
/* oxbow serve: images, offered over NBD and vhost-user, in the foreground. */
#include "cli/serve/serve.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/control/control.h"
#include "cli/keeper/saved.h"
#include "cli/log.h"
#include "cli/serve/disks.h"

/* All that a worker needs its rights for has been done, and it has one thread. */
static int enter_sandbox(const struct ox_cli_serve_arguments *arguments)
{
	int ret = ox_sandbox_enter(&arguments->sandbox);

	if (ret < 0 && arguments->user)
		ox_cli_error("Cannot serve as the user %s: %s", arguments->user, strerror(-ret));
	return ret;
}

int ox_cli_serve_take_kept(struct ox_cli_serve_arguments *arguments, struct ox_context *ctx)
{
	int ret;

	if (arguments->serve.fuse.is_wanted) /* which nobody takes over */
		return 0;
	ret = ox_kept_take_flight(arguments->kept, ctx, arguments->image);
	if (ret == 0)
		ret = ox_kept_take_stats(arguments->kept);
	if (ret == 0)
		ret = ox_kept_hold(arguments->kept, ctx);
	return ret;
}

/* GnuTLS is a file, and its beginning reads some. */
int ox_cli_serve_prepare_tls(const struct ox_cli_serve_arguments *arguments)
{
	struct ox_serve_error error;
	int ret = 0;

	if (arguments->serve.nbd.tls.is_required)
		ret = ox_serve_tls_prepare(&error);
	if (ret < 0)
		ox_cli_error("%s", error.message);
	return ret;
}

static int prepare_worker(struct ox_cli_serve_arguments *arguments, struct ox_context *ctx)
{
	int ret = ox_cli_serve_take_kept(arguments, ctx);

	if (ret == 0 && !arguments->no_sandbox)
		ret = enter_sandbox(arguments);
	return ret;
}

static int prepare(struct ox_cli_serve_arguments *arguments, struct ox_context *ctx)
{
	int ret = 0;

	if (arguments->role == OX_KEPT_WORKER)
		ret = prepare_worker(arguments, ctx);
	if (ret < 0)
		return ret;
	ret = ox_cli_log_start();
	if (ret < 0)
		ox_cli_error("Cannot start a thread for messages: %s", strerror(-ret));
	return ret;
}

/* Without what a server has saved for it, the image lacks writes that were answered. */
int ox_cli_serve_look_for_saved(const struct ox_cli_serve_arguments *arguments, int fd)
{
	static struct ox_saved_places places;
	char path[PATH_MAX];
	struct stat st;

	if (arguments->state || ox_cli_serve_is_export(arguments))
		return 0;
	if ((fd >= 0 ? fstat(fd, &st) : stat(arguments->image, &st)) < 0)
		return 0; /* the opening tells */
	ox_saved_places_get(&places, arguments->pid_file.path);
	if (!ox_saved_find(&places, &st, path))
		return 0;
	ox_cli_error("A server of '%s' has saved in '%s' what it had answered and could not write. "
		     "Serve with --state and that file to go on; or remove the file, which "
		     "gives these writes up",
		     arguments->image, path);
	return -EBUSY;
}

int ox_cli_serve_begin(struct ox_cli_serve_arguments *arguments)
{
	struct ox_context *ctx;
	int ret = ox_cli_serve_prepare_tls(arguments);

	if (ret < 0)
		return ret;
	if (arguments->role == OX_KEPT_WORKER && !arguments->no_sandbox)
		ox_sandbox_begin(&arguments->sandbox);
	if (arguments->role == OX_KEPT_NOT)
		ret = ox_cli_serve_look_for_saved(arguments, arguments->fd);
	if (ret == 0)
		ret = ox_cli_context_new(OX_ENGINE_DEFAULT, &ctx);
	if (ret < 0)
		return ret;
	ret = prepare(arguments, ctx);
	if (ret == 0)
		return ox_cli_serve_image(ctx, arguments);
	ox_context_free(ctx);
	return ret;
}

/* The children are told numbers: where a word states the user, which its text ends. */
int ox_cli_serve_resolve_user(const struct ox_cli_serve_arguments *arguments, char **words,
			      char **ret_word)
{
	struct ox_sandbox_user user;
	int ret = ox_sandbox_user_find(arguments->user, &user);
	size_t length = strlen(arguments->user);

	*ret_word = NULL;
	if (ret < 0) {
		ox_cli_error("--user: there is no user '%s'%s%s", arguments->user,
			     ret == -ENOENT ? "" : ": ", ret == -ENOENT ? "" : strerror(-ret));
		return ret;
	}
	for (; *words; words++) {
		size_t before = strlen(*words);

		if (before < length || *words + before - length != arguments->user)
			continue;
		before -= length;
		ret = asprintf(ret_word, "%.*s%u:%u", (int)before, *words, (unsigned)user.uid,
			       (unsigned)user.gid);
		if (ret < 0)
			*ret_word = NULL;
		else
			*words = *ret_word;
		return ret < 0 ? -ENOMEM : 0;
	}
	return -EINVAL;
}

/* One process has one user, and one sandbox. */
static const char *group_of(const struct ox_cli_serve_arguments *arguments)
{
	if (arguments->no_sandbox)
		return "no sandbox";
	return arguments->user ? arguments->user : "";
}

void ox_cli_serve_describe(struct ox_cli_serve_arguments *arguments, char *const *words,
			   struct ox_keeper_disk_options *ret)
{
	*ret = (struct ox_keeper_disk_options){
		.name = arguments->name ? arguments->name : "",
		.image = arguments->image,
		.given = arguments->fd,
		.lock = ox_kept_lock_of(&arguments->open),
		.address = arguments->serve.nbd.address,
		.vhost_path = arguments->serve.vhost.path,
		.rights = arguments->serve.rights,
		.export_name = arguments->serve.nbd.export_name,
		.tls = {arguments->tls_directory, arguments->tls_authz,
			arguments->serve.nbd.tls.verify_peer},
		.nbd = arguments->serve.nbd,
		.drain_ms = arguments->serve.drain_ms,
		.hang_ms = arguments->hang_ms,
		.state = arguments->state,
		.pid_file = arguments->pid_file.path,
		.group = arguments->shares ? group_of(arguments) : NULL,
		.arguments = words,
		.ready = ox_cli_serve_ready,
		.opaque = arguments,
	};
}

/* The one disk of a command line. */
static int keep(struct ox_cli_serve_arguments *arguments, char **words)
{
	const struct ox_keeper_options options = {
		.control_path = arguments->control,
		.control_arguments = words,
	};
	struct ox_keeper_disk_options disk;
	struct ox_keeper *keeper = NULL;
	char *user = NULL;
	int ret = 0;

	if (arguments->user)
		ret = ox_cli_serve_resolve_user(arguments, words, &user);
	if (ret == 0) {
		ox_cli_serve_describe(arguments, words, &disk);
		keeper = ox_keeper_new(&options);
		ret = keeper ? ox_keeper_add(keeper, &disk) : -EIO; /* it has said why not */
	}
	if (keeper && ox_keeper_run(keeper) != 0)
		ret = -EIO;
	free(user);
	return ret;
}

static int open_for_keeper(struct ox_cli_serve_arguments *arguments)
{
	struct ox_kept *kept = arguments->kept;
	const bool is_stored = kept->is_stored;
	int ret = ox_kept_open(kept, arguments->image, &arguments->open);

	/* Also where the chain was given: it may be a disk that an operator adds. */
	return ret == 0 && !is_stored ? ox_cli_serve_look_for_saved(arguments, kept->locked[0])
				      : ret;
}

/* It needs no right but to what it was handed. */
static int run_control(struct ox_cli_serve_arguments *arguments)
{
	json_object_seed(0); /* from a file, as long as one can be opened */
	ox_kept_offer_to_end();
	if (!arguments->no_sandbox) {
		int ret;

		ox_sandbox_begin(&arguments->sandbox);
		ret = enter_sandbox(arguments);
		if (ret < 0)
			return ret;
	}
	return ox_control_run(arguments->kept);
}

/* As a child of a keeper's. */
static int run_kept(struct ox_cli_serve_arguments *arguments)
{
	static struct ox_kept kept;
	int ret = ox_kept_begin(&kept, arguments->socket);

	if (ret < 0) {
		ox_cli_error("There is no keeper behind --kept-as: %s", strerror(-ret));
		return ret;
	}
	arguments->kept = &kept;
	arguments->sandbox = (struct ox_sandbox){
		.keeper = kept.keeper,
		.warn = ox_cli_serve_warn,
		.opaque = arguments,
	};
	if (arguments->user && ox_sandbox_user_parse(arguments->user, &arguments->sandbox.user) < 0)
		return -EINVAL;
	if (arguments->role == OX_KEPT_OPENER && !arguments->no_sandbox)
		ox_sandbox_enter_opener(&arguments->sandbox);
	if (arguments->role == OX_KEPT_OPENER)
		return open_for_keeper(arguments);
	if (arguments->role == OX_KEPT_CONTROL)
		return run_control(arguments);
	ox_kept_offer_to_end();
	ox_cli_serve_by_keeper(arguments);
	return ox_cli_serve_begin(arguments);
}

/* Of this process and its children. A chain takes two descriptors an image for a moment, and each
 * client one. Where the limit stays, whoever finds none left says so. */
static void raise_limit_of_fds(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

void ox_cli_serve_init(struct ox_cli_serve_arguments *arguments)
{
	*arguments = (struct ox_cli_serve_arguments){
		.format = "qcow2",
		.fd = -1,
		.hang_ms = OX_CLI_SERVE_HANG_MS,
		.keeper = true,
		.open = OX_OPEN_OPTIONS_INIT,
		.serve = {.nbd = {.export_name = "", .max_clients = OX_CLI_SERVE_CLIENTS},
			  .vhost = {.queues = OX_CLI_SERVE_QUEUES,
				    .queue_size = OX_CLI_SERVE_QUEUE_SIZE,
				    .block_bytes = OX_CLI_SERVE_BLOCK_BYTES},
			  .drain_ms = OX_CLI_SERVE_DRAIN_MS,
			  .file_fd = -1},
	};
	arguments->open.backing_policy = OX_BACKING_DENY; /* until --allow-backing */
}

/* The disk of a command line: with a keeper, without one, or as a keeper's child. */
static int serve(struct ox_cli_serve_arguments *arguments, char **words)
{
	int ret;

	ox_cli_serve_listen(arguments);
	if (arguments->role != OX_KEPT_NOT)
		return run_kept(arguments);
	ret = ox_cli_pid_file_open(&arguments->pid_file);
	if (ret < 0)
		return ret;
	ret = arguments->keeper ? keep(arguments, words) : ox_cli_serve_begin(arguments);
	ox_cli_pid_file_remove(&arguments->pid_file);
	return ret;
}

int ox_cli_serve_run(struct ox_cli_serve_arguments *arguments, char **words)
{
	int ret;

	/* Before the library has threads, so that none of them takes the signals. */
	ox_serve_block_signals();
	if (arguments->role == OX_KEPT_SHARED)
		return ox_cli_serve_shared(arguments->socket) < 0 ? OX_KEPT_FAILED : 0;
	if (arguments->role == OX_KEPT_NOT)
		raise_limit_of_fds();
	ret = arguments->config ? ox_cli_serve_config(arguments) : serve(arguments, words);
	ox_cli_log_end();
	if (ret == -ENOTRECOVERABLE && arguments->role != OX_KEPT_NOT)
		return OX_KEPT_NOT_ADOPTED;
	if (ret < 0)
		return arguments->role == OX_KEPT_WORKER ? OX_KEPT_FAILED : 1;
	return 0;
}

int ox_cli_serve(int argc, char **argv)
{
	struct ox_cli_serve_arguments arguments;

	ox_cli_serve_init(&arguments);
	arguments.takes_exports = true;
	if (ox_cli_serve_parse(argc, argv, &arguments) < 0)
		return 1;
	if (arguments.help) {
		fputs(ox_cli_serve_help, stdout);
		return ox_cli_finish_output(0);
	}
	return ox_cli_serve_run(&arguments, argv + 1);
}
