/* SPDX-License-Identifier: MIT */
#include "cli/keeper/kept.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli/keeper/wire.h"

static const char *const names[] = {
	[OX_KEPT_OPENER] = "opener",
	[OX_KEPT_WORKER] = "worker",
	[OX_KEPT_SHARED] = "shared",
	[OX_KEPT_CONTROL] = "control",
};

const char *ox_kept_name(enum ox_kept_role role)
{
	return names[role];
}

int ox_kept_parse(const char *text, enum ox_kept_role *ret_role, int *ret_socket,
		  const char **ret_name)
{
	for (int role = OX_KEPT_OPENER; role <= OX_KEPT_CONTROL; role++) {
		size_t length = strlen(names[role]);
		char *end;
		long number;

		if (strncmp(text, names[role], length) != 0 || text[length] != ':')
			continue;
		text += length + 1;
		number = strtol(text, &end, 10);
		if (end == text || number < 0 || number > INT_MAX)
			return -EINVAL;
		if (*end != '\0' && (*end != ':' || end[1] == '\0'))
			return -EINVAL;
		*ret_name = *end == ':' ? end + 1 : NULL;
		*ret_role = (enum ox_kept_role)role;
		*ret_socket = (int)number;
		return 0;
	}
	return -EINVAL;
}

static int take_one(struct ox_wire_message *message, int *ret_fd)
{
	if (message->fd_count != 1 || *ret_fd >= 0)
		return -EBADMSG;
	*ret_fd = message->fds[0];
	message->fd_count = 0;
	return 0;
}

static int take(struct ox_kept *kept, struct ox_wire_message *message)
{
	switch (message->kind) {
	case OX_WIRE_LOCKED:
		return ox_wire_take_list(message, kept->locked, &kept->locked_count,
					 OX_KEPT_CHAIN_MAX);
	case OX_WIRE_STORED:
		kept->is_stored = true;
		return ox_wire_take_list(message, kept->locked, &kept->locked_count,
					 OX_KEPT_CHAIN_MAX);
	case OX_WIRE_FRESH:
		return ox_wire_take_list(message, kept->fresh, &kept->fresh_count,
					 OX_KEPT_CHAIN_MAX);
	case OX_WIRE_GIVEN:
		return take_one(message, &kept->given);
	case OX_WIRE_BARRIER:
		return take_one(message, &kept->barrier);
	case OX_WIRE_WITNESS:
		kept->witness_is_used_up = message->fd_count == 0;
		return kept->witness_is_used_up ? 0 : take_one(message, &kept->witness);
	case OX_WIRE_STATE:
		return take_one(message, &kept->state);
	case OX_WIRE_FLIGHT:
		kept->death.from_outside = message->number & 1;
		kept->death.ms = message->number >> 1;
		return take_one(message, &kept->flight_fd);
	case OX_WIRE_STATS:
		return take_one(message, &kept->stats_fd);
	case OX_WIRE_TLS:
		return take_one(message, &kept->tls_fd);
	case OX_WIRE_CONTROL:
		return take_one(message, &kept->control);
	default:
		return -EBADMSG;
	}
}

/* From here on the process ends when the keeper does. A keeper that died before is noticed too:
 * the process has another parent then. */
static int tie_to(pid_t keeper)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	return getppid() == keeper ? 0 : -ESRCH;
}

int ox_kept_begin(struct ox_kept *kept, int socket)
{
	struct ox_wire_message message;
	int ret;

	memset(kept, 0, sizeof(*kept));
	kept->socket = socket;
	kept->given = kept->barrier = kept->witness = kept->state = -1;
	kept->flight_fd = kept->stats_fd = kept->tls_fd = kept->control = -1;
	(void)prctl(PR_SET_NAME, "oxbow"); /* it was executed by a descriptor, without a name */
	for (;;) {
		ret = ox_wire_receive(socket, &message);
		if (ret <= 0)
			return ret < 0 ? ret : -ESRCH;
		if (message.kind == OX_WIRE_GO)
			break;
		ret = take(kept, &message);
		ox_wire_close(&message);
		if (ret < 0)
			return ret;
	}
	ox_wire_close(&message);
	kept->keeper = (pid_t)message.number;
	return tie_to(kept->keeper);
}
