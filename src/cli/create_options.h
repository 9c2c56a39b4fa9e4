/* SPDX-License-Identifier: MIT */
/* The format-specific options of `oxbow create`: what may stand in -o, and what it says. */
#ifndef OX_CLI_CREATE_OPTIONS_H
#define OX_CLI_CREATE_OPTIONS_H

#include "cli/cli.h"

struct ox_cli_create_option;

/* The options of one format with the values given for them. */
struct ox_cli_create_values {
	const struct ox_cli_create_option *options; /* in the order in which they are printed */
	size_t count;
	const char *given[24]; /* by option; NULL: not given. Owned by the caller */
};

/* NULL, or the reason why there is no such format. */
const char *ox_cli_create_values_init(struct ox_cli_create_values *values, const char *format);
void ox_cli_create_print_help(const struct ox_cli_create_values *values, const char *format);

/* Sets one option; the last of several counts. 0, or -EINVAL and a message. */
int ox_cli_create_set(struct ox_cli_create_values *values, const char *file, const char *key,
		      const char *value) OX_CHECKED;
/* -ENOENT where the format has no such option. */
int ox_cli_create_replace(struct ox_cli_create_values *values, const char *key,
			  const char *value) OX_CHECKED;
/* What was given; NULL: nothing. */
const char *ox_cli_create_get(const struct ox_cli_create_values *values, const char *key);

/* "key=value key=value", defaults included, size_bytes for the size. */
void ox_cli_create_print(const struct ox_cli_create_values *values, uint64_t size_bytes);
/* Fills everything but the size and the names of the backing file. 0, or -EINVAL and a message. */
int ox_cli_create_apply(const struct ox_cli_create_values *values, const char *file,
			struct ox_create_options *ret_create) OX_CHECKED;

#endif
