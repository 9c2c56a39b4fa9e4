/* SPDX-License-Identifier: MIT */
/*
 * The names that the one binary answers to. Called as qemu-img, qemu-io or qemu-nbd it takes their
 * command lines, and its messages begin with that name (docs/old-names.md).
 */
#ifndef OX_CLI_COMPAT_CALLED_H
#define OX_CLI_COMPAT_CALLED_H

#include <stdbool.h>

enum ox_called {
	OX_CALLED_OXBOW,
	OX_CALLED_QEMU_IMG,
	OX_CALLED_QEMU_IO,
	OX_CALLED_QEMU_NBD,
	OX_CALLED_VHOST_USER_BLK,
};

/* The version that scripts are told, which ask an old name for it: what it answers as. */
#define OX_CALLED_VERSION "10.0.0"

/* Takes the name from argv[0]; before anything else. */
void ox_called_set(const char *program);
enum ox_called ox_called_as(void);
/* Whether it is one of the three. */
bool ox_called_by_old_name(void);
/* What messages begin with: "oxbow", "qemu-img", ... */
const char *ox_called_name(void);
/* How the message of an image that a server cannot open begins. */
const char *ox_called_could_not_open(void);
/* Prints the help text of a verb of oxbow's, in which the program bears the name it was called by:
 * "oxbow create" is "qemu-img create", and "oxbow io" is "qemu-io". */
void ox_called_print_help(const char *text);

/* The programs. argv is main's; they return the exit status. */
int ox_compat_img(int argc, char **argv);
int ox_compat_nbd(int argc, char **argv);

#endif
