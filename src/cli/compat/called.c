/* SPDX-License-Identifier: MIT */
#include "cli/compat/called.h"

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const char *const names[] = {
	[OX_CALLED_OXBOW] = "oxbow",
	[OX_CALLED_QEMU_IMG] = "qemu-img",
	[OX_CALLED_QEMU_IO] = "qemu-io",
	[OX_CALLED_QEMU_NBD] = "qemu-nbd",
	[OX_CALLED_VHOST_USER_BLK] = "vhost-user-blk",
};

static enum ox_called called;

void ox_called_set(const char *program)
{
	const char *slash = strrchr(program, '/');
	const char *name = slash ? slash + 1 : program;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(name, names[i]) == 0)
			called = (enum ox_called)i;
	}
}

enum ox_called ox_called_as(void)
{
	return called;
}

bool ox_called_by_old_name(void)
{
	return called == OX_CALLED_QEMU_IMG || called == OX_CALLED_QEMU_IO ||
	       called == OX_CALLED_QEMU_NBD;
}

const char *ox_called_name(void)
{
	return ox_called_by_old_name() ? names[called] : names[OX_CALLED_OXBOW];
}

const char *ox_called_could_not_open(void)
{
	return called == OX_CALLED_QEMU_NBD ? "Failed to blk_new_open" : "Could not open";
}

void ox_called_print_help(const char *text)
{
	static const char own[] = "oxbow ";
	const char *at;

	if (!ox_called_by_old_name()) {
		fputs(text, stdout);
		return;
	}
	while ((at = strstr(text, own))) {
		fwrite(text, 1, (size_t)(at - text), stdout);
		text = at + strlen(own);
		if (called == OX_CALLED_QEMU_IO && strncmp(text, "io ", 3) == 0)
			text += 3;
		printf("%s ", names[called]);
	}
	fputs(text, stdout);
}
