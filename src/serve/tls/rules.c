/* SPDX-License-Identifier: MIT */
#include "serve/tls/rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rule {
	char *match;
	bool is_glob;
	bool allows;
};

struct ox_tls_rules {
	bool allows_others;
	size_t count;
	struct rule list[];
};

static int fail(struct ox_serve_error *error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* What the file says is put into the log: nothing of it is to be taken for the end of a line. */
static int fail(struct ox_serve_error *error, const char *format, ...)
{
	char what[400];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	for (char *at = what; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	snprintf(error->message, sizeof(error->message), "TLS rules (--tls-authz): %s", what);
	return -EINVAL;
}

static int no_memory(struct ox_serve_error *error)
{
	(void)fail(error, "memory is short");
	return -ENOMEM;
}

/* ---- JSON ---- */

/* Where something stands, for messages: "" or "rule 3: ". */
struct place {
	char text[32];
};

static struct place in_rule(size_t index)
{
	struct place place;

	snprintf(place.text, sizeof(place.text), "rule %zu: ", index + 1);
	return place;
}

static int check_keys(json_t *object, const char *const known[], const char *place,
		      struct ox_serve_error *error)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		size_t i = 0;

		while (known[i] && strcmp(known[i], key) != 0)
			i++;
		if (!known[i])
			return fail(error, "%sthere is no key '%s'", place, key);
	}
	return 0;
}

/* The value of key, one of two words. Where it is absent *ret_is_second stays, if it may be. */
static int take_word(const json_t *object, const char *key, const char *const words[2],
		     bool is_needed, const char *place, bool *ret_is_second,
		     struct ox_serve_error *error)
{
	const json_t *value = json_object_get(object, key);
	const char *word = json_string_value(value);

	if (!value && !is_needed)
		return 0;
	if (!value)
		return fail(error, "%s'%s' is missing", place, key);
	if (!word || (strcmp(word, words[0]) != 0 && strcmp(word, words[1]) != 0))
		return fail(error, "%s'%s' is \"%s\" or \"%s\"", place, key, words[0], words[1]);
	*ret_is_second = strcmp(word, words[1]) == 0;
	return 0;
}

static const char *const policies[] = {"deny", "allow"};
static const char *const formats[] = {"exact", "glob"};

static int take_rule(json_t *object, size_t index, struct rule *rule, struct ox_serve_error *error)
{
	static const char *const known[] = {"match", "policy", "format", NULL};
	const struct place place = in_rule(index);
	const char *match;
	int ret;

	if (!json_is_object(object))
		return fail(error, "%sit is no object", place.text);
	ret = check_keys(object, known, place.text, error);
	if (ret == 0)
		ret = take_word(object, "policy", policies, true, place.text, &rule->allows, error);
	if (ret == 0)
		ret = take_word(object, "format", formats, false, place.text, &rule->is_glob,
				error);
	if (ret < 0)
		return ret;
	match = json_string_value(json_object_get(object, "match"));
	if (!match)
		return fail(error, "%s'match' is missing, or no string", place.text);
	rule->match = strdup(match);
	return rule->match ? 0 : no_memory(error);
}

static int take_rules(json_t *root, struct ox_tls_rules **ret, struct ox_serve_error *error)
{
	static const char *const known[] = {"policy", "rules", NULL};
	const json_t *list = json_object_get(root, "rules");
	const size_t count = json_array_size(list);
	struct ox_tls_rules *rules;
	int code;

	if (!json_is_object(root))
		return fail(error, "it is no JSON object");
	if (list && !json_is_array(list))
		return fail(error, "'rules' is no array");
	rules = calloc(1, sizeof(*rules) + count * sizeof(rules->list[0]));
	if (!rules)
		return no_memory(error);
	rules->count = count;
	code = check_keys(root, known, "", error);
	if (code == 0)
		code = take_word(root, "policy", policies, false, "", &rules->allows_others, error);
	for (size_t i = 0; i < count && code == 0; i++)
		code = take_rule(json_array_get(list, i), i, &rules->list[i], error);
	if (code < 0)
		ox_tls_rules_free(rules);
	else
		*ret = rules;
	return code;
}

int ox_tls_rules_new(const void *text, size_t bytes, struct ox_tls_rules **ret,
		     struct ox_serve_error *ret_error)
{
	json_error_t error;
	json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	int code;

	if (!root && json_error_code(&error) == json_error_out_of_memory)
		return no_memory(ret_error);
	if (!root)
		return fail(ret_error, "line %d, column %d: %s", error.line, error.column,
			    error.text);
	code = take_rules(root, ret, ret_error);
	json_decref(root);
	return code;
}

void ox_tls_rules_free(struct ox_tls_rules *rules)
{
	if (!rules)
		return;
	for (size_t i = 0; i < rules->count; i++)
		free(rules->list[i].match);
	free(rules);
}

/* ---- names ---- */

/* 0: it matches; FNM_NOMATCH: it does not; else nobody knows. */
static int compare(const struct rule *rule, const char *name)
{
	if (rule->is_glob)
		return fnmatch(rule->match, name, 0);
	return strcmp(rule->match, name) == 0 ? 0 : FNM_NOMATCH;
}

bool ox_tls_rules_allow(const struct ox_tls_rules *rules, const char *name, size_t bytes)
{
	if (bytes == 0 || bytes > OX_TLS_NAME_MAX || memchr(name, '\0', bytes))
		return false;
	for (size_t i = 0; i < rules->count; i++) {
		const int ret = compare(&rules->list[i], name);

		if (ret == 0)
			return rules->list[i].allows;
		if (ret != FNM_NOMATCH)
			return false;
	}
	return rules->allows_others;
}
