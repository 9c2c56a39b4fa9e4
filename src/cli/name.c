/* SPDX-License-Identifier: MIT */
/*
 * A file argument of the command line: a path, or, where its first part ends in a colon, something
 * of a protocol. Arguments alone are taken so; what an image names is a path always.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

int ox_cli_name_parse(const char *text, struct ox_cli_name *ret)
{
	static const char *const uris[] = {"nbd", "nbd+unix", "nbds", "nbds+unix", "null-co"};
	size_t n = strcspn(text, ":/");
	size_t shown = n < sizeof(ret->protocol) ? n : sizeof(ret->protocol) - 1;

	*ret = (struct ox_cli_name){.path = text};
	if (text[n] != ':')
		return 0;
	memcpy(ret->protocol, text, shown);
	if (strcmp(ret->protocol, "file") == 0) {
		ret->path = text + n + 1;
		return 0;
	}
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++)
		if (strcmp(ret->protocol, uris[i]) == 0)
			ret->flags = OX_OPEN_URI;
	return ret->flags ? 0 : -EPROTONOSUPPORT;
}

bool ox_cli_name_is_null(const char *text)
{
	struct ox_cli_name name;

	return ox_cli_name_parse(text, &name) == 0 && name.flags && strstr(text, "://") &&
	       strcmp(name.protocol, "null-co") == 0;
}

bool ox_cli_name_is_export(const char *text)
{
	struct ox_cli_name name;

	return ox_cli_name_parse(text, &name) == 0 && name.flags && strstr(text, "://") &&
	       strcmp(name.protocol, "null-co") != 0;
}

bool ox_cli_name_refuse_uri(const char *text, const char *done)
{
	struct ox_cli_name name;

	if (ox_cli_name_parse(text, &name) < 0 || !name.flags || !strstr(text, "://"))
		return false;
	if (ox_cli_name_is_null(text))
		ox_cli_error("'%s' holds nothing and cannot be %s", text, done);
	else
		ox_cli_error("'%s' is an export of an NBD server and cannot be %s: that takes a "
			     "file or a "
			     "block device",
			     text, done);
	return true;
}
