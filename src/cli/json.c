/* SPDX-License-Identifier: MIT */
/* JSON on stdout. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int ox_cli_output_parse(const char *text, enum ox_cli_output *ret_output)
{
	if (strcmp(text, "json") == 0)
		*ret_output = OX_CLI_JSON;
	else if (strcmp(text, "human") == 0)
		*ret_output = OX_CLI_HUMAN;
	else {
		ox_cli_error("--output must be used with human or json as argument.");
		return -EINVAL;
	}
	return 0;
}

/* The bytes of the longest well-formed UTF-8 sequence at text: 0 if the first byte begins none. */
static size_t utf8_length(const char *text)
{
	for (size_t length = 1; length <= 4 && text[length - 1]; length++) {
		json_t *probe = json_stringn(text, length);

		json_decref(probe);
		if (probe)
			return length;
	}
	return 0;
}

json_t *ox_cli_json_string(const char *text)
{
	static const char replacement[] = "\xef\xbf\xbd";
	json_t *result = json_string(text);
	char *clean, *to;

	if (result)
		return result;
	/* No UTF-8 (or no memory): every stray byte grows to three. */
	clean = to = malloc(strlen(text) * 3 + 1);
	if (!clean)
		return NULL;
	while (*text) {
		size_t length = utf8_length(text);

		if (length == 0) {
			to = mempcpy(to, replacement, sizeof(replacement) - 1);
			text++;
		} else {
			to = mempcpy(to, text, length);
			text += length;
		}
	}
	*to = '\0';
	result = json_string(clean);
	free(clean);
	return result;
}

void ox_cli_json_set(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, value) == 0)
		return;
	ox_cli_error("%s", strerror(ENOMEM));
	exit(1);
}

void ox_cli_json_print(json_t *value)
{
	if (json_dumpf(value, stdout, JSON_INDENT(4) | JSON_ENSURE_ASCII) < 0) {
		ox_cli_error("standard output: %m");
		exit(1);
	}
	putchar('\n');
	json_decref(value);
}
