/* SPDX-License-Identifier: MIT */
#include "cli/limits.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct key {
	const char *name;
	size_t field; /* of struct ox_serve_limits */
	bool is_size;
};

static const struct key keys[] = {
	{"iops", offsetof(struct ox_serve_limits, iops), false},
	{"iops-burst", offsetof(struct ox_serve_limits, iops_burst), false},
	{"bandwidth", offsetof(struct ox_serve_limits, bandwidth), true},
	{"bandwidth-burst", offsetof(struct ox_serve_limits, bandwidth_burst), true},
};

#define KEYS (sizeof(keys) / sizeof(keys[0]))

static int parse_number(const char *text, bool is_size, uint64_t *ret)
{
	uint64_t number = 0;

	if (is_size && ox_cli_size_parse(text, &number) < 0)
		return -EINVAL;
	if (!is_size) {
		char *end;

		if (text[0] < '0' || text[0] > '9')
			return -EINVAL;
		errno = 0;
		number = strtoull(text, &end, 10);
		if (errno != 0 || *end != '\0')
			return -EINVAL;
	}
	if (number > OX_SERVE_LIMIT_MAX)
		return -EINVAL;
	*ret = number;
	return 0;
}

static int take_item(const struct ox_cli_option *item, unsigned *seen,
		     struct ox_serve_limits *limits)
{
	for (size_t i = 0; i < KEYS; i++) {
		const unsigned bit = 1u << i;
		uint64_t number;

		if (strcmp(item->key, keys[i].name) != 0)
			continue;
		if ((*seen & bit) || !item->value ||
		    parse_number(item->value, keys[i].is_size, &number) < 0)
			return -EINVAL;
		*seen |= bit;
		memcpy((char *)limits + keys[i].field, &number, sizeof(number));
		return 0;
	}
	return -EINVAL;
}

int ox_cli_limits_parse(const char *text, struct ox_serve_limits *ret)
{
	struct ox_cli_options options = {0};
	struct ox_serve_limits limits = {0};
	unsigned seen = 0;
	int code;

	if (strcmp(text, "none") == 0) {
		*ret = limits;
		return 0;
	}
	code = ox_cli_options_parse(&options, text);
	for (size_t i = 0; code == 0 && i < options.count; i++)
		code = take_item(&options.items[i], &seen, &limits);
	ox_cli_options_free(&options);
	if (code == 0 && ((limits.iops_burst > 0 && limits.iops == 0) ||
			  (limits.bandwidth_burst > 0 && limits.bandwidth == 0)))
		code = -EINVAL;
	if (code == 0)
		*ret = limits;
	return code;
}
