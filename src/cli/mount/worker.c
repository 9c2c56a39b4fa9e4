/* SPDX-License-Identifier: MIT */
/* The process that serves the file: it has the image, and the mount's descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli/log.h"
#include "cli/mount/mount.h"

/* What a keeper hands over is found here instead: the chain, whose descriptions have the locks.
 * Nothing is opened by a path afterwards. */
static int open_chain(struct ox_cli_mount *mount, struct ox_kept *kept)
{
	int ret = ox_kept_lock_chain(kept, mount->serve.image, &mount->serve.open);

	if (ret == 0 && kept->locked[0] >= 0)
		ret = ox_cli_serve_look_for_saved(&mount->serve, kept->locked[0]);
	for (unsigned i = 0; ret == 0 && i < kept->locked_count; i++) {
		kept->fresh[i] = -1;
		if (kept->locked[i] >= 0)
			kept->fresh[i] = fcntl(kept->locked[i], F_DUPFD_CLOEXEC, 0);
		if (kept->locked[i] >= 0 && kept->fresh[i] < 0) {
			ret = -errno;
			ox_cli_error("Could not open '%s': %s", mount->serve.image, strerror(-ret));
		} else {
			kept->fresh_count++;
		}
	}
	if (ret < 0)
		return ret;
	if (chdir("/") < 0)
		ox_cli_error("Cannot leave the folder: %s", strerror(errno));
	ox_cli_serve_by_keeper(&mount->serve);
	return 0;
}

static int enter_sandbox(struct ox_cli_serve_arguments *arguments, pid_t holder)
{
	arguments->sandbox.keeper = holder;
	arguments->sandbox.warn = ox_cli_serve_warn;
	arguments->sandbox.opaque = arguments;
	return ox_cli_serve_begin(arguments);
}

/* It is opened in the sandbox, by whom libnbd must have been loaded for, and not by its path. */
static int prepare_export(struct ox_cli_mount *mount, struct ox_kept *kept)
{
	struct ox_cli_serve_arguments *arguments = &mount->serve;
	struct ox_error *error = NULL;
	int ret = ox_uri_prepare(arguments->image, &error);

	if (ret < 0)
		ox_cli_error("Could not open '%s': %s", arguments->image, ox_error_message(error));
	ox_error_free(error);
	if (ret < 0 || arguments->no_sandbox)
		return ret;
	arguments->sandbox.calls = OX_SANDBOX_CLIENT;
	arguments->open.connect = ox_cli_mount_connect;
	kept->said = ox_cli_mount_connector_said;
	ret = ox_cli_mount_connector_start(arguments->image, &arguments->sandbox.user, &kept->uri);
	/* Its backing files are no part of it, and are found while they can be. */
	if (ret == 0 && arguments->open.backing_policy != OX_BACKING_DENY)
		ret = open_chain(mount, kept);
	return ret;
}

static int serve(struct ox_cli_mount *mount, struct ox_kept *kept, pid_t holder)
{
	struct ox_cli_serve_arguments *arguments = &mount->serve;
	int ret;

	arguments->role = OX_KEPT_WORKER;
	arguments->kept = kept;
	ox_cli_serve_listen(arguments);
	ret = ox_cli_serve_is_export(arguments) ? prepare_export(mount, kept)
						: open_chain(mount, kept);
	if (ret < 0)
		return ret;
	return enter_sandbox(arguments, holder);
}

int ox_cli_mount_work(struct ox_cli_mount *mount, int socket, pid_t holder)
{
	static struct ox_kept kept;
	int ret;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != holder)
		return 1;
	kept.socket = socket;
	kept.keeper = holder;
	kept.given = kept.barrier = kept.witness = kept.state = -1;
	kept.flight_fd = kept.stats_fd = kept.tls_fd = kept.control = -1;
	ret = serve(mount, &kept, holder);
	ox_cli_log_end();
	return ret < 0 ? 1 : 0;
}
