/* SPDX-License-Identifier: MIT */
/* Lists of options in one argument. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

/* Copies one part, up to a single comma, with ",," made ",". Returns where it ended. */
static const char *take_part(const char *text, char *part)
{
	while (*text) {
		if (*text == ',') {
			if (text[1] != ',')
				break;
			text++;
		}
		*part++ = *text++;
	}
	*part = '\0';
	return text;
}

int ox_cli_options_add(struct ox_cli_options *options, const char *key, const char *value)
{
	struct ox_cli_option *items, *item;

	items = reallocarray(options->items, options->count + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	options->items = items;
	item = &items[options->count];
	item->key = strdup(key);
	item->value = value ? strdup(value) : NULL;
	if (!item->key || (value && !item->value)) {
		free(item->key);
		free(item->value);
		return -ENOMEM;
	}
	options->count++;
	return 0;
}

static int append(struct ox_cli_options *options, char *part)
{
	char *equals = strchr(part, '=');

	if (equals)
		*equals = '\0';
	return ox_cli_options_add(options, part, equals ? equals + 1 : NULL);
}

int ox_cli_options_parse(struct ox_cli_options *options, const char *text)
{
	char *part = malloc(strlen(text) + 1);
	int r = 0;

	if (!part)
		return -ENOMEM;
	for (;;) {
		text = take_part(text, part);
		if (!*part || *part == '=') {
			r = -EINVAL;
			break;
		}
		r = append(options, part);
		if (r < 0 || !*text)
			break;
		text++;
	}
	free(part);
	return r;
}

void ox_cli_options_free(struct ox_cli_options *options)
{
	for (size_t i = 0; i < options->count; i++) {
		free(options->items[i].key);
		free(options->items[i].value);
	}
	free(options->items);
	*options = (struct ox_cli_options){0};
}

bool ox_cli_options_want_help(const struct ox_cli_options *options)
{
	for (size_t i = 0; i < options->count; i++) {
		const struct ox_cli_option *item = &options->items[i];

		if (!item->value && (strcmp(item->key, "help") == 0 || strcmp(item->key, "?") == 0))
			return true;
	}
	return false;
}

int ox_cli_bool_parse(const char *value, bool *ret_value)
{
	static const char *const words[] = {"off", "on", "no", "yes", "false", "true", "n", "y"};

	if (!value) {
		*ret_value = true;
		return 0;
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(value, words[i]) == 0) {
			*ret_value = i & 1;
			return 0;
		}
	}
	return -EINVAL;
}
