/* SPDX-License-Identifier: MIT */
/* A disk that holds nothing, as a block-device description names it (driver=null-co,size=...), made
 * a URI. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int ox_cli_null_option(struct ox_cli_null *null, const char *key, const char *value)
{
	if (strncmp(key, "file.", 5) == 0)
		key += 5;
	if (strcmp(key, "size") == 0) {
		null->first_key = "size";
		null->size = value;
	} else if (strcmp(key, "read-zeroes") == 0) {
		null->first_key = "read-zeroes";
		null->read_zeroes = value;
	} else {
		return -ENOENT;
	}
	return 0;
}

int ox_cli_null_uri(const struct ox_cli_null *null, char **ret)
{
	uint64_t bytes = UINT64_C(1) << 30;
	bool zeroes = false;

	if (null->size && ox_cli_size_parse(null->size, &bytes) < 0) {
		ox_cli_error("Parameter 'size' expects a size");
		return -EINVAL;
	}
	if (null->read_zeroes && ox_cli_bool_parse(null->read_zeroes, &zeroes) < 0) {
		ox_cli_error("Parameter 'read-zeroes' expects 'on' or 'off'");
		return -EINVAL;
	}
	if (asprintf(ret, "null-co://?size=%" PRIu64 "&read-zeroes=%s", bytes,
		     zeroes ? "on" : "off") < 0) {
		*ret = NULL;
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	return 0;
}
