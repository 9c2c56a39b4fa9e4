/* SPDX-License-Identifier: MIT */
/* What paths say by their words alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <stdlib.h>

#include "base/arith.h"
#include "base/path.h"

static void a_name_is_beside_the_image_that_bears_it(void **state)
{
	static const struct {
		const char *base, *name, *path;
	} cases[] = {
		{"top", "base", "base"},       {"/vm/top", "base", "/vm/base"},
		{"/vm/top", "/base", "/base"}, {"a/top", "../base", "a/../base"},
		{"/top", "base", "/base"},
	};

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(cases); i++) {
		char *path = ox_path_beside(cases[i].base, cases[i].name);

		assert_string_equal(path, cases[i].path);
		free(path);
	}
}

static void what_lies_under_a_directory_is_told_by_words(void **state)
{
	static const struct {
		const char *dir, *path;
		int is_under;
	} cases[] = {
		{"/vm", "/vm/base", 1},
		{"/vm/", "/vm//a/./base", 1},
		{"/vm", "/vm/a/../base", 1},
		{"/vm", "/vm/../vm/base", 1},
		{"/vm/x/..", "/vm/base", 1},
		{"/", "/base", 1},
		{"vm", "vm/base", 1},
		{".", "base", 1},
		{".", "./a/b", 1},
		{"./vm", "vm/base", 1},
		{"", "base", 1},
		{"/vm", "/../../vm/base", 1},
		{"/vm", "/vm", 0},
		{"/vm", "/vm/.", 0},
		{"/vm", "/vm/a/..", 0},
		{"/vm", "/vmbase", 0},
		{"/vm", "/vm/../base", 0},
		{"/vm", "/vm/a/../../base", 0},
		{"/vm", "/base", 0},
		{"/vm", "vm/base", 0},
		{"vm", "/vm/base", 0},
		{".", "/base", 0},
		{"/", "base", 0},
		{"/", "/", 0},
		{".", "../base", 0},
		{"..", "../base", 0},
		{"vm", "vm/../../vm/base", 0},
		{".", ".", 0},
		{"/vm", "", 0},
	};

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(cases); i++) {
		int r = ox_path_is_under(cases[i].dir, cases[i].path);

		if (r != cases[i].is_under)
			fail_msg("'%s' under '%s': %d", cases[i].path, cases[i].dir, r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_is_beside_the_image_that_bears_it),
		cmocka_unit_test(what_lies_under_a_directory_is_told_by_words),
	};

	return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
