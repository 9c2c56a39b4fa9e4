/* SPDX-License-Identifier: MIT */
/* The user and the capabilities of a worker. Before its first thread: each has its own. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/sandbox/sandbox.h"

/* The user and group "nobody", on any Linux. */
#define NOBODY 65534

static bool has(unsigned capability)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct held[_LINUX_CAPABILITY_U32S_3];

	return syscall(SYS_capget, &header, held) == 0 &&
	       (held[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
}

/*
 * The keeper has the capabilities that this process begins with. Without CAP_KILL it could not end
 * a process of another user, and nor would its own death.
 */
static int may_change(void)
{
	return has(CAP_SETUID) && has(CAP_SETGID) && has(CAP_KILL) ? 0 : -EPERM;
}

/* Root's threads have no such limit, and nobody's is shared by all that run as nobody. */
static void lift_limit_of_threads(void)
{
	const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
	struct rlimit limit;

	if (setrlimit(RLIMIT_NPROC, &none) == 0 || getrlimit(RLIMIT_NPROC, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max; /* as far as that takes no CAP_SYS_RESOURCE */
	(void)setrlimit(RLIMIT_NPROC, &limit);
}

int ox_sandbox_change_user(const struct ox_sandbox_user *user)
{
	struct ox_sandbox_user next = *user;
	int ret;

	if (!user->stated && geteuid() != 0)
		return 0; /* it has no rights of the root's */
	if (!user->stated)
		next = (struct ox_sandbox_user){.uid = NOBODY, .gid = NOBODY};
	if (next.uid == geteuid() && next.gid == getegid())
		return 0;
	ret = may_change();
	if (ret < 0)
		return ret;
	lift_limit_of_threads();
	if (setgroups(0, NULL) < 0 || setresgid(next.gid, next.gid, next.gid) < 0 ||
	    setresuid(next.uid, next.uid, next.uid) < 0)
		return -errno;
	return 0;
}

/* What an execution could gain. Whoever lacks CAP_SETPCAP leaves it: no_new_privs rules it out as
 * well. The first number that is no capability ends it. */
void ox_sandbox_drop_bounds(void)
{
	for (unsigned long n = 0; prctl(PR_CAPBSET_DROP, n, 0, 0, 0) == 0; n++)
		;
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

int ox_sandbox_drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];

	memset(none, 0, sizeof(none));
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}
