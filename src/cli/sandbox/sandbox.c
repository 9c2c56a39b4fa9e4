/* SPDX-License-Identifier: MIT */
#include "cli/sandbox/sandbox.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define LENIENT true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define LENIENT true
#endif
#endif
#ifndef LENIENT
#define LENIENT false
#endif

bool ox_sandbox_is_lenient(void)
{
	return LENIENT;
}

static void tell(const struct ox_sandbox *sandbox, const char *what, int code)
{
	char line[160];

	if (code == 0)
		return;
	snprintf(line, sizeof(line), "The sandbox is not complete: %s (%s)", what, strerror(-code));
	sandbox->warn(sandbox->opaque, line);
}

static int give_up_gaining(void)
{
	ox_sandbox_drop_bounds();
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

void ox_sandbox_begin(const struct ox_sandbox *sandbox)
{
	tell(sandbox, "an execution may gain rights", give_up_gaining());
	tell(sandbox, "files are not out of reach", ox_sandbox_landlock());
}

/* A change of credentials has undone it. A keeper that died before is noticed too. */
static int tie_to(pid_t keeper)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	return getppid() == keeper ? 0 : -ESRCH;
}

int ox_sandbox_enter_process(const struct ox_sandbox *sandbox)
{
	int ret = ox_sandbox_change_user(&sandbox->user);

	if (ret < 0 && sandbox->user.stated)
		return ret;
	tell(sandbox, "the user is not changed", ret);
	/* The kernel lets nobody of the same user look into a process that has changed its own;
	 * nor a sanitizer into itself. */
	if (LENIENT)
		(void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return tie_to(sandbox->keeper);
}

void ox_sandbox_enter_thread(const struct ox_sandbox *sandbox)
{
	tell(sandbox, "capabilities are not dropped", ox_sandbox_drop_capabilities());
}

void ox_sandbox_close(const struct ox_sandbox *sandbox)
{
	tell(sandbox, "system calls are not restricted", ox_sandbox_filter_calls(sandbox->calls));
}

int ox_sandbox_enter(const struct ox_sandbox *sandbox)
{
	int ret = ox_sandbox_enter_process(sandbox);

	if (ret < 0)
		return ret;
	ox_sandbox_enter_thread(sandbox);
	ox_sandbox_close(sandbox);
	return 0;
}

void ox_sandbox_enter_opener(const struct ox_sandbox *sandbox)
{
	tell(sandbox, "an execution may gain rights", give_up_gaining());
	tell(sandbox, "the opener's system calls are not restricted",
	     ox_sandbox_filter_calls(OX_SANDBOX_OPENER));
}
