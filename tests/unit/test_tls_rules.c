/* SPDX-License-Identifier: MIT */
/* Who may connect by the name of its certificate: the rules, without TLS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/tls/rules.h"

#define RULES(list) "{\"rules\": [" list "]}"
#define RULE(match, policy) "{\"match\": \"" match "\", \"policy\": \"" policy "\"}"
#define GLOB(match, policy)                                                                        \
	"{\"match\": \"" match "\", \"policy\": \"" policy "\", \"format\": \"glob\"}"

static struct ox_tls_rules *take(const char *text)
{
	struct ox_serve_error error = {0};
	struct ox_tls_rules *rules = NULL;

	if (ox_tls_rules_new(text, strlen(text), &rules, &error) < 0)
		fail_msg("%s: %s", text, error.message);
	return rules;
}

static bool allow(const char *text, const char *name)
{
	struct ox_tls_rules *rules = take(text);
	bool allowed = ox_tls_rules_allow(rules, name, strlen(name));

	ox_tls_rules_free(rules);
	return allowed;
}

static void check_refused(const void *text, size_t bytes, const char *message)
{
	struct ox_serve_error error = {0};
	struct ox_tls_rules *rules = NULL;

	if (ox_tls_rules_new(text, bytes, &rules, &error) != -EINVAL)
		fail_msg("taken: %s", (const char *)text);
	assert_null(rules);
	if (!strstr(error.message, message))
		fail_msg("'%s' is not said, but: %s", message, error.message);
}

/* ---- what decides ---- */

static void test_without_a_rule_the_policy_decides_and_is_to_deny(void **state)
{
	(void)state;
	assert_false(allow("{}", "CN=one"));
	assert_false(allow("{\"rules\": []}", "CN=one"));
	assert_false(allow("{\"policy\": \"deny\"}", "CN=one"));
	assert_true(allow("{\"policy\": \"allow\"}", "CN=one"));
	assert_true(allow("{\"policy\": \"allow\", \"rules\": [" RULE("CN=two", "deny") "]}",
			  "CN=one"));
	assert_false(allow("{\"policy\": \"allow\", \"rules\": [" RULE("CN=one", "deny") "]}",
			   "CN=one"));
}

static void test_the_first_rule_that_matches_decides(void **state)
{
	static const char first[] =
		RULES(RULE("CN=one", "allow") "," GLOB("CN=*", "deny") "," RULE("CN=two", "allow"));

	(void)state;
	assert_true(allow(first, "CN=one"));
	assert_false(allow(first, "CN=two"));
	assert_false(allow(first, "O=three"));
	assert_false(allow(RULES(RULE("CN=one", "deny") "," RULE("CN=one", "allow")), "CN=one"));
}

static void test_an_exact_rule_compares_byte_for_byte(void **state)
{
	static const char *const others[] = {
		"CN=one, O=x", "cn=one,O=x",  "CN=one,O=xy",
		"CN=one,O=",   "xCN=one,O=x", "O=x,CN=one",
	};

	(void)state;
	assert_true(allow(RULES(RULE("CN=one,O=x", "allow")), "CN=one,O=x"));
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_false(allow(RULES(RULE("CN=one,O=x", "allow")), others[i]));
	/* no character of it means anything else */
	assert_false(allow(RULES(RULE("CN=*", "allow")), "CN=one"));
	assert_true(allow(RULES(RULE("CN=*", "allow")), "CN=*"));
	assert_true(
		allow(RULES("{\"match\": \"CN=a\", \"format\": \"exact\", \"policy\": \"allow\"}"),
		      "CN=a"));
	assert_true(allow(RULES(RULE("CN=J\\u00f6rg", "allow")), "CN=J\xc3\xb6rg"));
}

static void test_a_glob_is_a_pattern_of_the_whole_name(void **state)
{
	(void)state;
	assert_true(allow(RULES(GLOB("CN=*,O=x", "allow")), "CN=one,O=x"));
	assert_true(allow(RULES(GLOB("CN=*,O=x", "allow")), "CN=,O=x"));
	assert_true(allow(RULES(GLOB("CN=[ab]?", "allow")), "CN=b1"));
	assert_true(allow(RULES(GLOB("*", "allow")), ".a/b"));
	assert_false(allow(RULES(GLOB("CN=*,O=x", "allow")), "CN=one,O=xy"));
	assert_false(allow(RULES(GLOB("CN=*,O=x", "allow")), "O=y,CN=one,O=x"));
	assert_false(allow(RULES(GLOB("CN=[ab]?", "allow")), "CN=c1"));
	assert_false(allow(RULES(GLOB("cn=*", "allow")), "CN=one"));
	assert_false(allow(RULES(GLOB("CN=[", "allow")), "CN=a"));
	/* a printed comma has a backslash, which a pattern escapes */
	assert_true(allow(RULES(GLOB("CN=a\\\\\\\\,b*", "allow")), "CN=a\\,b c"));
	assert_false(allow(RULES(GLOB("CN=a\\\\,b*", "allow")), "CN=a\\,b c"));
}

static void test_a_name_that_cannot_be_compared_is_denied_by_any_policy(void **state)
{
	static const char all[] = "{\"policy\": \"allow\", \"rules\": [" GLOB(
		"*", "allow") "," RULE("", "allow") "]}";
	struct ox_tls_rules *rules = take(all);
	char name[OX_TLS_NAME_MAX + 2];

	(void)state;
	memset(name, 'x', sizeof(name));
	name[OX_TLS_NAME_MAX + 1] = '\0';
	assert_false(ox_tls_rules_allow(rules, name, OX_TLS_NAME_MAX + 1));
	name[OX_TLS_NAME_MAX] = '\0';
	assert_true(ox_tls_rules_allow(rules, name, OX_TLS_NAME_MAX));
	assert_false(ox_tls_rules_allow(rules, "", 0));
	assert_false(ox_tls_rules_allow(rules, "CN=one\0,O=x", 11));
	assert_false(ox_tls_rules_allow(rules, "\0", 1));
	assert_true(ox_tls_rules_allow(rules, "CN=one", 6));
	ox_tls_rules_free(rules);
	ox_tls_rules_free(NULL);
}

/* ---- what is taken ---- */

static void test_what_is_not_known_is_refused_by_its_name(void **state)
{
	static const struct {
		const char *text, *message;
	} bad[] = {
		{"{\"polcy\": \"deny\"}", "there is no key 'polcy'"},
		{"{\"rules\": [], \"x\": 1}", "there is no key 'x'"},
		{RULES(RULE("a", "deny") ", {\"match\": \"a\", \"policy\": \"deny\", \"user\": 1}"),
		 "rule 2: there is no key 'user'"},
		{"{\"policy\": \"maybe\"}", "'policy' is \"deny\" or \"allow\""},
		{"{\"policy\": \"Allow\"}", "'policy' is"},
		{"{\"policy\": true}", "'policy' is"},
		{"{\"policy\": null}", "'policy' is"},
		{RULES("{\"match\": \"a\"}"), "rule 1: 'policy' is missing"},
		{RULES("{\"policy\": \"deny\"}"), "rule 1: 'match' is missing"},
		{RULES("{\"match\": 7, \"policy\": \"deny\"}"),
		 "rule 1: 'match' is missing, or no"},
		{RULES("{\"match\": \"a\", \"policy\": []}"), "rule 1: 'policy' is"},
		{RULES("{\"match\": \"a\", \"policy\": \"deny\", \"format\": \"regex\"}"),
		 "rule 1: 'format' is \"exact\" or \"glob\""},
		{RULES("{\"match\": \"a\", \"policy\": \"deny\", \"format\": null}"),
		 "'format' is"},
		{RULES("\"a\""), "rule 1: it is no object"},
		{"{\"rules\": {}}", "'rules' is no array"},
		{"{\"rules\": null}", "'rules' is no array"},
		{"[]", "it is no JSON object"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		check_refused(bad[i].text, strlen(bad[i].text), bad[i].message);
}

static void test_what_is_no_json_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		" ",
		"null",
		"7",
		"{",
		"{}{}",
		"{} x",
		"{'policy': 'deny'}",
		"{\"policy\": \"deny\",}",
		"# policy\n{}",
		"{\"policy\": \"deny\", \"policy\": \"allow\"}",
		RULES("{\"match\": \"a\", \"match\": \"b\", \"policy\": \"deny\"}"),
		RULES(RULE("a\\u0000b", "allow")),
		RULES(RULE("a\xff", "allow")),
		RULES(RULE("a\nb", "allow")),
		RULES(RULE("\\ud800", "allow")),
	};
	static const char zero[] = RULES(RULE("a\0b", "allow"));
	const size_t deep_bytes = 1u << 20;
	char *deep = malloc(deep_bytes);

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		check_refused(bad[i], strlen(bad[i]), "TLS rules");
	check_refused(zero, sizeof(zero) - 1, "TLS rules");
	check_refused("{}\0", 3, "TLS rules");
	assert_non_null(deep);
	memset(deep, '[', deep_bytes);
	check_refused(deep, deep_bytes, "TLS rules");
	free(deep);
}

static void test_what_a_file_says_ends_no_line_of_the_log(void **state)
{
	struct ox_serve_error error = {0};
	struct ox_tls_rules *rules;
	const char *const bad[] = {"{\"a\\nb\\u001b\": 1}", "{\"a\": \n\x1b", "x\r\ny"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ox_tls_rules_new(bad[i], strlen(bad[i]), &rules, &error), -EINVAL);
		assert_null(strpbrk(error.message, "\n\r\x1b"));
	}
}

static void test_many_rules_are_taken_in_their_order(void **state)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);
	struct ox_tls_rules *rules;

	(void)state;
	assert_non_null(file);
	fprintf(file, "{\"rules\": [");
	for (int i = 0; i < 9999; i++)
		fprintf(file, "{\"match\": \"CN=%d\", \"policy\": \"%s\"},", i,
			i % 2 ? "allow" : "deny");
	fprintf(file, GLOB("CN=*", "allow") "]}");
	fclose(file);
	rules = take(text);
	assert_true(ox_tls_rules_allow(rules, "CN=9997", 7));
	assert_false(ox_tls_rules_allow(rules, "CN=9998", 7));
	assert_true(ox_tls_rules_allow(rules, "CN=10000", 8));
	ox_tls_rules_free(rules);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_a_rule_the_policy_decides_and_is_to_deny),
		cmocka_unit_test(test_the_first_rule_that_matches_decides),
		cmocka_unit_test(test_an_exact_rule_compares_byte_for_byte),
		cmocka_unit_test(test_a_glob_is_a_pattern_of_the_whole_name),
		cmocka_unit_test(test_a_name_that_cannot_be_compared_is_denied_by_any_policy),
		cmocka_unit_test(test_what_is_not_known_is_refused_by_its_name),
		cmocka_unit_test(test_what_is_no_json_is_refused),
		cmocka_unit_test(test_what_a_file_says_ends_no_line_of_the_log),
		cmocka_unit_test(test_many_rules_are_taken_in_their_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
