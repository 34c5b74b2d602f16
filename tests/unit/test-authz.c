// SPDX-License-Identifier: MIT
/* server/authz and server/glob: patterns, rules, and files of rules that change. */
#include "server/authz.h"

#include <check.h>
#include <stdlib.h>

#include "server/glob.h"

static const struct {
	const char *pattern, *text;
	bool matches;
} patterns[] = {
	{"", "", true},
	{"", "a", false},
	{"*", "", true},
	{"**", "abc", true},
	{"?", "", false},
	{"?", "a", true},
	{"?*?", "a", false},
	{"?*?", "ab", true},
	{"a*", "ba", false},
	{"*a", "aab", false},
	{"*aab", "aaaab", true},
	{"*a*b*c", "xxaxbxbxcxc", true},
	{"*a*b*c", "xxaxcxbx", false},
	{"CN=?ob", "CN=bob", true},
	{"*CN=bob", "O=x,CN=bob", true},
	/* One character may have several bytes. */
	{"CN=?", "CN=\xc3\xa9", true},
	{"CN=??", "CN=\xc3\xa9", false},
	{"CN=??", "CN=\xe2\x82\xac\xf0\x9f\x98\x80", true},
	{"*?z", "\xc3\xa9z", true},
	/* What is no UTF-8 ends within the text. */
	{"?", "\xf0", true},
	{"??", "\xff\xfe", true},
	/* Neither brackets nor backslashes are special. */
	{"CN=bad[1]*", "CN=bad[1],O=x", true},
	{"CN=bad[1]*", "CN=bad1,O=x", false},
	{"O=Foo\\, Inc,*", "O=Foo\\, Inc,CN=x", true},
	{"O=Foo\\, Inc,*", "O=Foo, Inc,CN=x", false},
	{"\\*", "*", false},
	{"\\*", "\\x", true},
};

START_TEST(test_glob)
{
	ck_assert_msg(glob_matches(patterns[_i].pattern, patterns[_i].text) == patterns[_i].matches,
		      "'%s' and '%s'", patterns[_i].pattern, patterns[_i].text);
}
END_TEST

/* A pattern of many stars must not cost more than the product of the lengths. */
START_TEST(test_glob_is_quick)
{
	enum { LENGTH = 4096 };
	static char pattern[LENGTH + 1], text[LENGTH + 1];

	for (size_t i = 0; i < LENGTH; i++) {
		pattern[i] = i % 2 ? 'a' : '*';
		text[i] = 'a';
	}
	pattern[LENGTH - 1] = 'b';
	ck_assert(!glob_matches(pattern, text));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("authz");
	TCase *tcase = tcase_create("authz");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, test_glob, 0, sizeof(patterns) / sizeof(patterns[0]));
	tcase_add_test(tcase, test_glob_is_quick);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
