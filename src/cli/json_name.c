/* SPDX-License-Identifier: MIT */
/*
 * json:{...}, a block device's description as JSON, on the command line alone: what an image names
 * is a path always. It is flattened into the settings of --image-opts: {"file": {"filename": "x"}}
 * is file.filename=x.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* Deeper ones describe nothing that there is. */
#define DEPTH_MAX 16

bool ox_cli_json_name_is(const char *text)
{
	return strncmp(text, "json:", 5) == 0;
}

/* Copies a string that is quoted by `'` as one quoted by `"`. at: behind the first quote. */
static const char *requote(const char *at, char **to)
{
	*(*to)++ = '"';
	for (; *at && *at != '\''; at++) {
		if (*at == '"')
			*(*to)++ = '\\';
		if (*at != '\\' || !at[1]) {
			*(*to)++ = *at;
			continue;
		}
		at++;
		if (*at != '\'')
			*(*to)++ = '\\';
		*(*to)++ = *at;
	}
	*(*to)++ = '"';
	return *at ? at + 1 : at;
}

static const char *copy_string(const char *at, char **to)
{
	*(*to)++ = *at++;
	while (*at && *at != '"') {
		if (*at == '\\' && at[1])
			*(*to)++ = *at++;
		*(*to)++ = *at++;
	}
	if (*at)
		*(*to)++ = *at++;
	return at;
}

/* Scripts write strings in either kind of quotes. To be freed; NULL: no memory. */
static char *with_double_quotes(const char *text)
{
	char *result = malloc(strlen(text) * 2 + 3);
	char *to = result;

	if (!result)
		return NULL;
	while (*text) {
		if (*text == '\'')
			text = requote(text + 1, &to);
		else if (*text == '"')
			text = copy_string(text, &to);
		else
			*to++ = *text++;
	}
	*to = '\0';
	return result;
}

/* To be freed; NULL: no memory. */
static char *text_of(const json_t *value)
{
	char *text = NULL;

	if (json_is_string(value))
		return strdup(json_string_value(value));
	if (json_is_boolean(value))
		return strdup(json_is_true(value) ? "on" : "off");
	if (json_is_null(value))
		return strdup("");
	if (json_is_integer(value))
		return asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)) < 0
			       ? NULL
			       : text;
	return asprintf(&text, "%.17g", json_real_value(value)) < 0 ? NULL : text;
}

static int flatten(const char *prefix, json_t *value, unsigned depth,
		   struct ox_cli_options *options);

static int flatten_member(const char *prefix, const char *key, json_t *member, unsigned depth,
			  struct ox_cli_options *options)
{
	char *name;
	int r;

	if (asprintf(&name, "%s%s%s", prefix, *prefix ? "." : "", key) < 0)
		return -ENOMEM;
	r = flatten(name, member, depth, options);
	free(name);
	return r;
}

static int flatten(const char *prefix, json_t *value, unsigned depth,
		   struct ox_cli_options *options)
{
	const char *key;
	json_t *member;
	char number[24], *text;
	size_t i;
	int r = 0;

	if (depth == DEPTH_MAX)
		return -E2BIG;
	if (json_is_object(value)) {
		json_object_foreach(value, key, member)
		{
			if (r == 0)
				r = flatten_member(prefix, key, member, depth + 1, options);
		}
		return r;
	}
	if (json_is_array(value)) {
		json_array_foreach(value, i, member)
		{
			snprintf(number, sizeof(number), "%zu", i);
			if (r == 0)
				r = flatten_member(prefix, number, member, depth + 1, options);
		}
		return r;
	}
	text = text_of(value);
	r = text ? ox_cli_options_add(options, prefix, text) : -ENOMEM;
	free(text);
	return r;
}

int ox_cli_json_name_parse(const char *text, struct ox_cli_options *options)
{
	char *json = with_double_quotes(text + strlen("json:"));
	json_error_t error = {0};
	json_t *value = json ? json_loads(json, JSON_DECODE_ANY, &error) : NULL;
	int r = -EINVAL;

	free(json);
	if (!value)
		ox_cli_error("Could not open '%s': Could not parse the JSON options: %s", text,
			     json ? error.text : strerror(ENOMEM));
	else if (!json_is_object(value))
		ox_cli_error("Could not open '%s': Invalid JSON object given", text);
	else if (json_object_size(value) == 0)
		ox_cli_error("Could not open '%s': Must specify either driver or file", text);
	else {
		r = flatten("", value, 0, options);
		if (r < 0)
			ox_cli_error("Could not open '%s': %s", text, strerror(-r));
	}
	json_decref(value);
	return r;
}
