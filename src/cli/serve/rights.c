/* SPDX-License-Identifier: MIT */
/* The words that say whose a socket is. */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "cli/serve/serve.h"

static int parse_number(const char *text, int base, unsigned long max, unsigned long *ret)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	*ret = strtoul(text, &end, base);
	return errno == 0 && *end == '\0' && *ret <= max ? 0 : -EINVAL;
}

int ox_cli_socket_mode_parse(const char *text, struct ox_serve_socket_rights *ret)
{
	unsigned long mode;

	if (parse_number(text, 8, 0777, &mode) < 0)
		return -EINVAL;
	ret->has_mode = true;
	ret->mode = (mode_t)mode;
	return 0;
}

/* The largest number means "as it is" to the kernel. */
int ox_cli_socket_owner_parse(const char *text, struct ox_serve_socket_rights *ret)
{
	const struct passwd *user = getpwnam(text);
	unsigned long number;

	if (!user && parse_number(text, 10, (uid_t)-1 - 1ul, &number) < 0)
		return -EINVAL;
	ret->has_owner = true;
	ret->owner = user ? user->pw_uid : (uid_t)number;
	return 0;
}

int ox_cli_socket_group_parse(const char *text, struct ox_serve_socket_rights *ret)
{
	const struct group *group = getgrnam(text);
	unsigned long number;

	if (!group && parse_number(text, 10, (gid_t)-1 - 1ul, &number) < 0)
		return -EINVAL;
	ret->has_group = true;
	ret->group = group ? group->gr_gid : (gid_t)number;
	return 0;
}
