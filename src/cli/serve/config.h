/* SPDX-License-Identifier: MIT */
/*
 * The configuration file of `oxbow serve --config`: disks by name, each with the long options of
 * the command line as its keys (docs/configuration.md).
 *
 *	[server]            what is the server's: pid-file, control
 *	[defaults]          what holds for each disk that does not say otherwise
 *	[disk vm1]          image = PATH, and options
 *
 * A file is taken as a whole or not at all.
 */
#ifndef OX_CLI_SERVE_CONFIG_H
#define OX_CLI_SERVE_CONFIG_H

#include <stdbool.h>

#include "cli/cli.h"

/* The longest name of a disk: letters, digits, '.', '_' and '-', the first a letter or a digit. */
#define OX_CONFIG_NAME_MAX 64

/* Its command line: argv[0] is the verb, the last one is the image. */
struct ox_config_disk {
	char *name;
	unsigned line; /* where it begins */
	int argc;
	char **argv; /* ended by a NULL */
};

struct ox_config {
	unsigned disk_count;
	struct ox_config_disk *disks; /* in the order of the file */
	char *pid_file;		      /* NULL: not stated */
	char *control;		      /* the same */
};

/* 0; a negative errno, having said what is wrong, and where. */
int ox_config_read(const char *path, struct ox_config *ret) OX_CHECKED;
void ox_config_free(struct ox_config *config);
/* Leaves nothing in it that is to be freed. */
void ox_config_free_disk(struct ox_config_disk *disk);
/* Whether both say the same. */
bool ox_config_disk_equals(const struct ox_config_disk *a, const struct ox_config_disk *b);
bool ox_config_is_name(const char *text);

#endif
