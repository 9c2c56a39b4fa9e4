/* SPDX-License-Identifier: MIT */
/* The verbs of the command. argv[0] is the verb; each returns the exit code. */
#ifndef OX_CLI_CLI_H
#define OX_CLI_CLI_H

int ox_cli_serve(int argc, char **argv);

#endif
