/* SPDX-License-Identifier: MIT */
/*
 * Objects of --object that say who may connect over TLS: what of them is wrong, in QEMU's words,
 * and what `oxbow serve --tls-authz` takes of them.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define RULES_MAX 1000u
/* A word of a command line has at most 128 KiB, and the keeper's children get this one. */
#define ONCE_MAX (100u << 10)
#define TEXT "json:"

static int no_memory(void)
{
	ox_cli_error("%s", strerror(ENOMEM));
	return -ENOMEM;
}

static int unexpected(const char *key)
{
	ox_cli_error("Parameter '%s' is unexpected", key);
	return -EINVAL;
}

static int missing(const char *key)
{
	ox_cli_error("Parameter '%s' is missing", key);
	return -EINVAL;
}

/* What each object has; and its type, which stands alone. */
static bool is_common(const struct ox_cli_option *item, const struct ox_cli_options *options)
{
	return strcmp(item->key, "id") == 0 || strcmp(item->key, "qom-type") == 0 ||
	       (item == options->items && !item->value);
}

static int check_value(const struct ox_cli_option *item)
{
	if (item->value)
		return 0;
	ox_cli_error("Expected '=' after parameter '%s'", item->key);
	return -EINVAL;
}

/* ---- rules, as JSON ---- */

/* key is that of a rule, or of the list. The last of several counts. */
static int set(json_t *object, const char *key, const char *value)
{
	static const char *const words[][3] = {{"policy", "deny", "allow"},
					       {"format", "exact", "glob"}};
	json_t *text = json_string(value);

	for (size_t i = 0; i < 2; i++) {
		if (strcmp(key, words[i][0]) != 0 || strcmp(value, words[i][1]) == 0 ||
		    strcmp(value, words[i][2]) == 0)
			continue;
		json_decref(text);
		ox_cli_error("Parameter '%s' does not accept value '%s'", key, value);
		return -EINVAL;
	}
	if (json_object_set_new(object, key, text) == 0)
		return 0;
	ox_cli_error("Parameter '%s' is no UTF-8", key);
	return -EINVAL;
}

/* The rule of that number, which begins empty. NULL: memory is short. */
static json_t *rule_of(json_t *rules, size_t index)
{
	while (json_array_size(rules) <= index)
		if (json_array_append_new(rules, json_object()) < 0)
			return NULL;
	return json_array_get(rules, index);
}

/* "rules.N.KEY" */
static int take_rule(json_t *rules, const struct ox_cli_option *item)
{
	const char *number = item->key + strlen("rules.");
	const size_t digits = strspn(number, "0123456789");
	const char *key = number + digits + 1;
	unsigned long index;
	json_t *rule;

	if (digits == 0 || (number[digits] != '\0' && number[digits] != '.')) {
		ox_cli_error("Invalid parameter type for 'rules', expected: array");
		return -EINVAL;
	}
	if (number[digits] == '\0') {
		ox_cli_error("Invalid parameter type for '%s', expected: object", item->key);
		return -EINVAL;
	}
	if (strcmp(key, "match") != 0 && strcmp(key, "policy") != 0 && strcmp(key, "format") != 0)
		return unexpected(item->key);
	index = strtoul(number, NULL, 10);
	if (index >= RULES_MAX) {
		ox_cli_error("There are at most %u rules; a file (authz-list-file) has more",
			     RULES_MAX);
		return -EINVAL;
	}
	rule = rule_of(rules, index);
	return rule ? set(rule, key, item->value) : no_memory();
}

static int check_rules(const json_t *rules)
{
	char key[40];

	for (size_t i = 0; i < json_array_size(rules); i++) {
		const json_t *rule = json_array_get(rules, i);

		if (json_object_size(rule) == 0) {
			ox_cli_error("Parameter 'rules.%zu' missing", i);
			return -EINVAL;
		}
		for (int j = 0; j < 2; j++) {
			const char *needed = j ? "policy" : "match";

			snprintf(key, sizeof(key), "rules.%zu.%s", i, needed);
			if (!json_object_get(rule, needed))
				return missing(key);
		}
	}
	return 0;
}

static int take_list(const struct ox_cli_options *options, json_t *list, json_t *rules)
{
	int ret = 0;

	for (size_t i = 0; i < options->count && ret == 0; i++) {
		const struct ox_cli_option *item = &options->items[i];

		if (is_common(item, options))
			continue;
		ret = check_value(item);
		if (ret == 0 && strcmp(item->key, "policy") == 0)
			ret = set(list, "policy", item->value);
		else if (ret == 0 && strncmp(item->key, "rules.", strlen("rules.")) == 0)
			ret = take_rule(rules, item);
		else if (ret == 0)
			ret = unexpected(item->key);
	}
	return ret < 0 ? ret : check_rules(rules);
}

/* Of one that may connect, alone. */
static int take_simple(const struct ox_cli_options *options, json_t *rules)
{
	const char *identity = NULL;
	json_t *rule;
	int ret;

	for (size_t i = 0; i < options->count; i++) {
		const struct ox_cli_option *item = &options->items[i];

		if (is_common(item, options))
			continue;
		if (strcmp(item->key, "identity") != 0)
			return unexpected(item->key);
		ret = check_value(item);
		if (ret < 0)
			return ret;
		identity = item->value;
	}
	if (!identity)
		return missing("identity");
	rule = rule_of(rules, 0);
	if (!rule)
		return no_memory();
	ret = set(rule, "match", identity);
	return ret < 0 ? ret : set(rule, "policy", "allow");
}

/* *ret is to be freed. */
static int make_rules(const struct ox_cli_options *options, char **ret)
{
	json_t *list = json_object();
	json_t *rules = json_array();
	char *text = NULL;
	int code;

	if (!list || !rules)
		code = no_memory();
	else if (strcmp(ox_cli_object_type(options), "authz-simple") == 0)
		code = take_simple(options, rules);
	else
		code = take_list(options, list, rules);
	if (code == 0 && json_object_set(list, "rules", rules) == 0)
		text = json_dumps(list, JSON_COMPACT);
	if (code == 0 && (!text || asprintf(ret, TEXT "%s", text) < 0))
		code = no_memory();
	free(text);
	json_decref(rules);
	json_decref(list);
	return code;
}

/* ---- a file of them ---- */

static int check_file(const struct ox_cli_options *options, const char **ret_name,
		      bool *ret_refresh)
{
	const char *name = NULL;

	*ret_refresh = true;
	for (size_t i = 0; i < options->count; i++) {
		const struct ox_cli_option *item = &options->items[i];

		if (is_common(item, options))
			continue;
		if (strcmp(item->key, "filename") != 0 && strcmp(item->key, "refresh") != 0)
			return unexpected(item->key);
		if (check_value(item) < 0)
			return -EINVAL;
		if (strcmp(item->key, "filename") == 0) {
			name = item->value;
		} else if (ox_cli_bool_parse(item->value, ret_refresh) < 0) {
			ox_cli_error("Parameter 'refresh' expects 'on' or 'off'");
			return -EINVAL;
		}
	}
	if (!name)
		return missing("filename");
	*ret_name = name;
	return 0;
}

static int fail_file(const char *name, const char *why)
{
	ox_cli_error("Unable to read '%s': %s", name, why);
	return -EINVAL;
}

/* What it holds now, for good. */
static int read_once(const char *name, char **ret)
{
	char *text = malloc(strlen(TEXT) + ONCE_MAX + 1);
	FILE *file = fopen(name, "re");
	const char *why = file ? NULL : strerror(errno);
	size_t bytes;

	if (!text || !file) {
		free(text);
		if (file)
			fclose(file);
		return file ? no_memory() : fail_file(name, why);
	}
	strcpy(text, TEXT);
	bytes = fread(text + strlen(TEXT), 1, ONCE_MAX, file);
	text[strlen(TEXT) + bytes] = '\0';
	if (ferror(file))
		why = strerror(errno);
	else if (bytes == ONCE_MAX)
		why = "it is too large for refresh=off";
	else if (strlen(text) != strlen(TEXT) + bytes)
		why = "a byte of it is zero";
	fclose(file);
	if (!why) {
		*ret = text;
		return 0;
	}
	free(text);
	return fail_file(name, why);
}

static int name_file(const char *name, char **ret)
{
	const bool is_odd = strncmp(name, TEXT, strlen(TEXT)) == 0;

	return asprintf(ret, "%s%s", is_odd ? "./" : "", name) < 0 ? no_memory() : 0;
}

/* ---- all of them ---- */

bool ox_cli_authz_is(const struct ox_cli_options *options)
{
	return strncmp(ox_cli_object_type(options), "authz-", strlen("authz-")) == 0;
}

int ox_cli_authz_check(const struct ox_cli_options *options)
{
	const char *type = ox_cli_object_type(options);
	bool refresh;
	char *rules;
	int ret;

	if (strcmp(type, "authz-pam") == 0) {
		ox_cli_error("invalid object type: authz-pam");
		return -EINVAL;
	}
	if (strcmp(type, "authz-list-file") == 0) {
		const char *name;

		return check_file(options, &name, &refresh);
	}
	ret = make_rules(options, &rules);
	if (ret == 0)
		free(rules);
	return ret;
}

int ox_cli_authz_word(const struct ox_cli_options *options, char **ret)
{
	const char *name;
	bool refresh;
	int code;

	if (strcmp(ox_cli_object_type(options), "authz-list-file") != 0)
		return make_rules(options, ret);
	code = check_file(options, &name, &refresh);
	if (code < 0)
		return code;
	return refresh ? name_file(name, ret) : read_once(name, ret);
}
