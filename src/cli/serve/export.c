/* SPDX-License-Identifier: MIT */
/*
 * An export of another server as the image. There is no descriptor that a keeper could hold, and
 * what was answered and not flushed lies in the process that serves: so that has no successor.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "cli/serve/serve.h"

bool ox_cli_serve_is_export(const struct ox_cli_serve_arguments *arguments)
{
	return arguments->open.flags & OX_OPEN_URI;
}

static bool is_of_systemd(const char *address)
{
	return address && strncmp(address, "systemd:", 8) == 0;
}

void ox_cli_serve_offer_signals(const struct ox_cli_serve_arguments *arguments, bool offered)
{
	sigset_t set;

	if (!ox_cli_serve_is_export(arguments) || arguments->role != OX_KEPT_NOT)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	(void)pthread_sigmask(offered ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

/* What was asked for of a keeper; NULL: nothing. */
static const char *asked_of_keeper(const struct ox_cli_serve_arguments *arguments)
{
	if (arguments->keeper_stated)
		return "--keeper";
	if (arguments->control)
		return "--control";
	if (arguments->state)
		return "--state";
	if (arguments->user)
		return "--user";
	if (is_of_systemd(arguments->serve.nbd.address) ||
	    is_of_systemd(arguments->serve.vhost.path))
		return "A socket of systemd's";
	return NULL;
}

int ox_cli_serve_take_export(struct ox_cli_serve_arguments *arguments)
{
	const char *asked;

	if (arguments->fd >= 0)
		return 0; /* the image is a descriptor, whatever its name */
	if ((!ox_cli_name_is_export(arguments->image) && !ox_cli_name_is_null(arguments->image)) ||
	    !arguments->takes_exports || arguments->role != OX_KEPT_NOT)
		return ox_cli_name_refuse_uri(arguments->image, "served so") ? -ENOTSUP : 0;
	asked = asked_of_keeper(arguments);
	if (asked)
		ox_cli_usage_error("serve",
				   "%s takes a keeper, and what is no file has none: what was "
				   "answered would not outlive the process that serves",
				   asked);
	else if (arguments->serve.low_space_bytes > 0)
		ox_cli_usage_error("serve", "--low-space: nobody can tell how much room the "
					    "server of an export has left");
	if (asked || arguments->serve.low_space_bytes > 0)
		return -EINVAL;
	arguments->open.flags |= OX_OPEN_URI;
	arguments->keeper = false;
	return 0;
}
