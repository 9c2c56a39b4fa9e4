/* SPDX-License-Identifier: MIT */
/* The user of the workers, as --user states it. The keeper looks it up once, at its start: what a
 * worker would load for that is nothing for it. */
#include <errno.h>
#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>

#include "cli/sandbox/sandbox.h"

/* The highest number means "leave it as it is" to the kernel. */
static int parse_id(const char *text, char end_mark, uint32_t *ret, const char **ret_rest)
{
	char *end;
	unsigned long long number;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno != 0 || *end != end_mark || number >= UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)number;
	*ret_rest = end + (end_mark != '\0');
	return 0;
}

int ox_sandbox_user_parse(const char *text, struct ox_sandbox_user *ret)
{
	const char *rest;
	uint32_t uid;
	uint32_t gid;

	if (parse_id(text, ':', &uid, &rest) < 0 || parse_id(rest, '\0', &gid, &rest) < 0)
		return -EINVAL;
	*ret = (struct ox_sandbox_user){true, uid, gid};
	return 0;
}

int ox_sandbox_user_find(const char *text, struct ox_sandbox_user *ret)
{
	const struct passwd *entry;
	const char *rest;
	uint32_t uid;

	if (ox_sandbox_user_parse(text, ret) == 0)
		return 0;
	errno = 0;
	entry = parse_id(text, '\0', &uid, &rest) == 0 ? getpwuid(uid) : getpwnam(text);
	if (!entry)
		return errno == 0 || errno == ENOENT ? -ENOENT : -errno;
	*ret = (struct ox_sandbox_user){true, entry->pw_uid, entry->pw_gid};
	return 0;
}
