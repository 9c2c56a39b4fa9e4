/* SPDX-License-Identifier: MIT */
/* The disks of a configuration file, under one keeper: taken on, and let go at a reload. */
#ifndef OX_CLI_SERVE_DISKS_H
#define OX_CLI_SERVE_DISKS_H

#include "cli/serve/serve.h"

/* Until the end. arguments: of the command line. Returns 0 or a negative errno, having said what
 * went wrong. */
int ox_cli_serve_config(struct ox_cli_serve_arguments *arguments) OX_CHECKED;

#endif
