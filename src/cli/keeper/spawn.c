/* SPDX-License-Identifier: MIT */
#include "cli/keeper/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/compat/called.h"
#include "cli/keeper/handed.h"

#define OWN_ARGUMENTS 3 /* oxbow serve --kept-as=ROLE:SOCKET */
#define LAST_FD (~0U)

int ox_spawn_binary(void)
{
	int fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* In the child, between fork and exec. It keeps what the keeper has blocked of the signals that end
 * a server: those are for the keeper, which tells its children. */
static void become(int binary, int socket, char **argv)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	/* Also what whoever started the keeper has left open. */
	(void)close_range(STDERR_FILENO + 1, LAST_FD, CLOSE_RANGE_CLOEXEC);
	if (fcntl(socket, F_SETFD, 0) == 0)
		fexecve(binary, argv, environ);
	_exit(OX_SPAWN_FAILED);
}

static char **make_argv(char *role, char *const *arguments)
{
	static char name[16]; /* that messages of the child begin with */
	static char verb[] = "serve";
	size_t count = 0;
	char **argv;

	while (arguments[count])
		count++;
	argv = calloc(OWN_ARGUMENTS + count + 1, sizeof(*argv));
	if (!argv)
		return NULL;
	snprintf(name, sizeof(name), "%s", ox_called_name());
	argv[0] = name;
	argv[1] = verb;
	argv[2] = role;
	for (size_t i = 0; i < count; i++)
		argv[OWN_ARGUMENTS + i] = arguments[i];
	return argv;
}

int ox_spawn_pair(int *ret_own, int *ret_other)
{
	int sockets[2];
	int code = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		return -errno;
	if (fcntl(sockets[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
		code = -errno;
		close(sockets[0]);
		close(sockets[1]);
		return code;
	}
	*ret_own = sockets[0];
	*ret_other = sockets[1];
	return 0;
}

int ox_spawn(int binary, enum ox_kept_role role, const char *name, char *const *arguments,
	     struct ox_spawned *ret)
{
	char text[32 + OX_HANDED_DISK_BYTES];
	int own = -1;
	int other = -1;
	char **argv;
	pid_t pid;
	int code = ox_spawn_pair(&own, &other);

	if (code < 0)
		return code;
	snprintf(text, sizeof(text), "--kept-as=%s:%d%s%s", ox_kept_name(role), other,
		 name[0] ? ":" : "", name);
	argv = make_argv(text, arguments);
	pid = argv ? fork() : -1;
	if (pid == 0)
		become(binary, other, argv);
	if (pid < 0)
		code = argv ? -errno : -ENOMEM;
	free(argv);
	close(other);
	if (code < 0) {
		close(own);
		return code;
	}
	*ret = (struct ox_spawned){pid, own};
	return 0;
}
