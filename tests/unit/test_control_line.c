/* SPDX-License-Identifier: MIT */
/* Lines of operators: what each command takes, and that nothing is passed over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/control/line.h"
#include "serve/command.h"

static struct ox_control_line line;

static void takes(const char *text)
{
	const char *why = "";

	if (ox_control_line_parse(text, strlen(text), &line, &why) < 0)
		fail_msg("%s: %s", text, why);
}

static void refuses(const char *text, const char *expected)
{
	const char *why = "";

	assert_int_equal(ox_control_line_parse(text, strlen(text), &line, &why), -EINVAL);
	if (!strstr(why, expected))
		fail_msg("%s is refused for another reason: %s", text, why);
}

static void test_a_disk_may_be_named(void **state)
{
	(void)state;
	takes("{\"command\":\"status\"}");
	assert_int_equal(line.verb, OX_CONTROL_STATUS);
	assert_false(line.has_disk);
	takes(" {\"disk\" : \"vm1\", \"command\" : \"flush\"} ");
	assert_int_equal(line.verb, OX_CONTROL_FLUSH);
	assert_true(line.has_disk);
	assert_string_equal(line.disk, "vm1");
	takes("{\"command\":\"remove\",\"disk\":\"\"}");
	assert_true(line.has_disk);
}

static void test_a_size_is_stated_in_one_way(void **state)
{
	(void)state;
	takes("{\"command\":\"resize\",\"size\":9223372036854775807}");
	assert_true(line.values[0] == INT64_MAX && line.values[1] == 0);
	takes("{\"command\":\"resize\",\"grow-by\":5,\"shrink\":true}");
	assert_int_equal(line.values[0], 5);
	assert_int_equal(line.values[1], OX_SERVE_RESIZE_MORE | OX_SERVE_RESIZE_SHRINKS);
	refuses("{\"command\":\"resize\"}", "'size' or 'grow-by'");
	refuses("{\"command\":\"resize\",\"size\":1,\"grow-by\":1}", "'size' or 'grow-by'");
	refuses("{\"command\":\"resize\",\"size\":-1}", "a number of bytes");
	refuses("{\"command\":\"resize\",\"size\":1e3}", "a number of bytes");
	refuses("{\"command\":\"resize\",\"size\":1,\"shrink\":\"yes\"}", "true or false");
}

static void test_limits_that_are_not_stated_are_none(void **state)
{
	(void)state;
	takes("{\"command\":\"limit\",\"bandwidth\":7,\"iops-burst\":3}");
	assert_true(line.values[0] == 0 && line.values[1] == 3);
	assert_true(line.values[2] == 7 && line.values[3] == 0);
	refuses("{\"command\":\"limit\",\"iops\":\"7\"}", "a limit is a number");
}

static void test_members_of_other_commands_are_refused(void **state)
{
	(void)state;
	refuses("{\"command\":\"stop\",\"disk\":\"vm1\"}", "does not take");
	refuses("{\"command\":\"flush\",\"size\":1}", "does not take");
	refuses("{\"command\":\"resize\",\"size\":1,\"iops\":1}", "does not take");
	refuses("{\"command\":\"limit\",\"size\":1}", "does not take");
	refuses("{\"command\":\"status\",\"x\":1}", "does not take");
	refuses("{\"command\":\"status\",\"command\":\"stop\"}", "no line of JSON");
	refuses("{\"command\":\"status\"} x", "no line of JSON");
	refuses("\"status\"", "no line of JSON");
	refuses("[]", "a 'command'");
	refuses("{\"command\":7}", "a 'command'");
	refuses("{\"command\":\"statuses\"}", "no such command");
}

#define ADD(more)                                                                                  \
	"{\"command\":\"add\",\"name\":\"vm1\",\"image\":\"d\",\"drain-ms\":1,\"hang-ms\":"        \
	"4294967295,\"descriptors\":{\"chain\":2,\"nbd\":1,\"vhost-user-blk\":0},"                 \
	"\"nbd\":\"unix:/x\"," more "}"

static void test_what_is_added_becomes_a_record(void **state)
{
	static const char words[] = "--cache=none\0--read-only";

	(void)state;
	takes(ADD("\"lock\":\"read\",\"options\":[\"cache=none\",\"read-only\"]"));
	assert_non_null(line.add);
	assert_int_equal(line.values[OX_CONTROL_CHAIN], 2);
	assert_int_equal(line.values[OX_CONTROL_NBD], 1);
	assert_int_equal(line.values[OX_CONTROL_VHOST], 0);
	assert_int_equal(line.add->lock, OX_LOCK_READ);
	assert_true(line.add->hang_ms == UINT32_MAX);
	assert_int_equal(line.add->word_count, 2);
	assert_memory_equal(line.add->words, words, sizeof(words));
	assert_string_equal(line.add->nbd, "unix:/x");
	assert_string_equal(line.add->vhost, "");
	free(line.add);
	refuses(ADD("\"lock\":\"none\",\"options\":[]"), "'lock'");
	refuses(ADD("\"lock\":\"read\",\"options\":[7]"), "'options'");
	refuses(ADD("\"lock\":\"read\""), "'options'");
	refuses(ADD("\"lock\":\"read\",\"options\":[\"a\\u0000b\"]"), "no line of JSON");
}

/* As many words as fit, and one byte more than fits. */
static void test_words_that_do_not_fit_are_refused(void **state)
{
	const size_t room = sizeof(((struct ox_control_add *)NULL)->words);
	const size_t longest = room - 3; /* dashes and a zero */
	char *word = malloc(room + 1);
	char *text = NULL;

	(void)state;
	assert_non_null(word);
	memset(word, 'x', room);
	for (size_t over = 0; over <= 1; over++) {
		word[longest + over] = '\0';
		assert_true(asprintf(&text, ADD("\"lock\":\"read\",\"options\":[\"%s\"]"), word) >
			    0);
		if (over)
			refuses(text, "'options'");
		else
			takes(text);
		if (!over)
			free(line.add);
		free(text);
		word[longest + over] = 'x';
	}
	free(word);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_disk_may_be_named),
		cmocka_unit_test(test_a_size_is_stated_in_one_way),
		cmocka_unit_test(test_limits_that_are_not_stated_are_none),
		cmocka_unit_test(test_members_of_other_commands_are_refused),
		cmocka_unit_test(test_what_is_added_becomes_a_record),
		cmocka_unit_test(test_words_that_do_not_fit_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
