/* SPDX-License-Identifier: MIT */
/*
 * Landlock without a rule: every right that the kernel can withhold is withheld. It does not touch
 * what is open. The header of Debian 12 does not know the later rights, so they stand here.
 */
#include <errno.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/sandbox/sandbox.h"

/* Of struct landlock_ruleset_attr, which grows. */
struct rights {
	uint64_t files;
	uint64_t network;
	uint64_t scoped;
};

/* By the ABI of the kernel: how many of each there are, from the lowest bit on. */
static const struct {
	unsigned files;
	unsigned network;
	unsigned scoped;
} known[] = {
	[1] = {13, 0, 0}, /* Linux 5.13 */
	[2] = {14, 0, 0}, /* to move files between folders */
	[3] = {15, 0, 0}, /* to truncate them */
	[4] = {15, 2, 0}, /* to bind and to connect TCP sockets */
	[5] = {16, 2, 0}, /* ioctl of devices */
	[6] = {16, 2, 2}, /* Linux 6.12: abstract unix sockets, and signals, of others */
};

#define LAST_KNOWN ((long)(sizeof(known) / sizeof(known[0])) - 1)

static uint64_t lowest(unsigned bits)
{
	return ((uint64_t)1 << bits) - 1;
}

static int restrict_to(const struct rights *handled)
{
	int ruleset =
		(int)syscall(SYS_landlock_create_ruleset, handled, sizeof(*handled), (uint32_t)0);
	int ret = 0;

	if (ruleset < 0)
		return -errno;
	if (syscall(SYS_landlock_restrict_self, ruleset, (uint32_t)0) < 0)
		ret = -errno;
	close(ruleset);
	return ret;
}

int ox_sandbox_landlock(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0,
			   (uint32_t)LANDLOCK_CREATE_RULESET_VERSION);
	struct rights handled;

	if (abi < 0)
		return -errno;
	if (abi > LAST_KNOWN)
		abi = LAST_KNOWN;
	handled = (struct rights){
		.files = lowest(known[abi].files),
		.network = lowest(known[abi].network),
		.scoped = lowest(known[abi].scoped),
	};
	/* It reads what the kernel tells of the process, and the program for its report. */
	if (ox_sandbox_is_lenient())
		handled.files &=
			~(uint64_t)(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR);
	return restrict_to(&handled);
}
