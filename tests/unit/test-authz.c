// SPDX-License-Identifier: MIT
/* server/authz and server/glob: patterns, rules, and files of rules that change. */
#include "server/authz.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* ---- Rules as JSON ---- */

static const struct {
	const char *text, *said; /* NULL: it is taken */
} rules[] = {
	{"{}", NULL},
	{"{\"policy\":\"allow\",\"rules\":[]}", NULL},
	{"{\"rules\":[{\"match\":\"*x*\",\"policy\":\"deny\",\"format\":\"glob\"}]}", NULL},
	{"[]", "it is not an object with 'policy' and a list of 'rules'"},
	{"{\"ruels\":[]}", "unknown member 'ruels'; there are policy, rules"},
	{"{\"policy\":7}", "the member 'policy' is not a text"},
	{"{\"policy\":\"maybe\"}", "the policy is 'allow' or 'deny', not 'maybe'"},
	{"{\"policy\":null}", "the member 'policy' is not a text"},
	{"{\"policy\":\"allow\",\"policy\":\"deny\"}", "the member 'policy' is there twice"},
	{"{\"rules\":{}}", "the member 'rules' is not a list"},
	{"{\"rules\":[\"ann\"]}", "rule 0: it is not an object with 'match' and 'policy'"},
	{"{\"rules\":[{\"match\":\"a\"}]}", "rule 0: a rule needs 'match' and 'policy'"},
	{"{\"rules\":[{\"match\":\"a\",\"policy\":\"deny\"},"
	 "{\"match\":\"*x*\",\"policy\":\"deny\",\"fromat\":\"glob\"}]}",
	 "rule 1: unknown member 'fromat'; there are match, policy, format"},
	{"{\"rules\":[{\"match\":\"*x*\",\"policy\":\"deny\",\"format\":true}]}",
	 "rule 0: the member 'format' is not a text"},
};

START_TEST(test_json)
{
	struct error err = ERROR_INIT;
	struct authz *authz;
	int rc = authz_new_json(&authz, rules[_i].text, strlen(rules[_i].text), &err);

	ck_assert_str_eq(err.text, rules[_i].said ? rules[_i].said : "");
	ck_assert_int_eq(rc, rules[_i].said ? -EINVAL : 0);
	ck_assert(!authz == !!rules[_i].said);
	authz_free(authz);
}
END_TEST

/* ---- Rules as properties ---- */

static const struct {
	const char *text, *said;
} properties[] = {
	{"rules.0.match=a,rules.0.policy=deny,rules.1.match=b,rules.1.policy=allow", ""},
	{"rules.0.format=glob", "rule 0: a rule needs 'match' and 'policy'"},
	{"rules.0.match=a,rules.0.policy=deny,rules.1.format=glob",
	 "rule 1: a rule needs 'match' and 'policy'"},
	{"rules.1.match=a,rules.1.policy=deny",
	 "Parameter 'rules.0' is missing before 'rules.1.match'"},
	{"rules.0.match=a,rules.0.policy=deny,rules.2.match=b,rules.2.policy=allow",
	 "Parameter 'rules.1' is missing before 'rules.2.match'"},
};

START_TEST(test_properties)
{
	struct error err = ERROR_INIT;
	struct keyval list = {0};
	struct authz *authz;

	ck_assert_int_eq(keyval_parse(&list, properties[_i].text, NULL, &err), 0);
	ck_assert_int_eq(authz_new_list(&authz, &list, &err), *properties[_i].said ? -EINVAL : 0);
	ck_assert_str_eq(err.text, properties[_i].said);
	authz_free(authz);
	keyval_clear(&list);
}
END_TEST

/* ---- Files ---- */

static char folder[] = "/tmp/hawser-authz-XXXXXX";
static char *before;

static void setup(void)
{
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	before = getcwd(NULL, 0);
	ck_assert_ptr_nonnull(mkdtemp(folder));
	ck_assert_int_eq(chdir(folder), 0);
}

static void teardown(void)
{
	static const char *const names[] = {"one/rules", "two/rules", "one", "two", "now"};

	ck_assert_int_eq(chdir(folder), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		remove(names[i]);
	ck_assert_int_eq(chdir(before), 0);
	free(before);
	ck_assert_int_eq(rmdir(folder), 0);
}

static void write_file(const char *name, const char *text)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
}

/* Rules that allow `name` alone; all of one length. */
static void write_rules(const char *path, const char *name)
{
	char text[200];

	snprintf(text, sizeof(text), "{\"rules\":[{\"match\":\"%s\",\"policy\":\"allow\"}]}", name);
	write_file(path, text);
}

/* The daemon changes its folder; links to the file, or to its folder, may lead elsewhere then. */
START_TEST(test_link_moves)
{
	struct error err = ERROR_INIT;
	struct authz *authz;

	ck_assert_int_eq(mkdir("one", 0700), 0);
	ck_assert_int_eq(mkdir("two", 0700), 0);
	write_rules("one/rules", "ann");
	write_rules("two/rules", "bob");
	ck_assert_int_eq(symlink("one", "now"), 0);
	ck_assert_msg(!authz_new_file(&authz, "now/rules", true, &err), "%s", err.text);
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert(authz_allows(authz, "ann") && !authz_allows(authz, "bob"));
	ck_assert_int_eq(chdir(folder), 0);
	ck_assert_int_eq(unlink("now"), 0);
	ck_assert(!authz_allows(authz, "ann"));
	ck_assert_int_eq(symlink("two", "now"), 0);
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert(!authz_allows(authz, "ann") && authz_allows(authz, "bob"));
	authz_free(authz);
}
END_TEST

/* The same size, inode and time of the data do not make it the same file. */
START_TEST(test_time_set_back)
{
	struct error err = ERROR_INIT;
	struct authz *authz;
	struct stat status;

	ck_assert_int_eq(mkdir("one", 0700), 0);
	write_rules("one/rules", "ann");
	ck_assert_int_eq(stat("one/rules", &status), 0);
	ck_assert_int_eq(authz_new_file(&authz, "one/rules", true, &err), 0);
	usleep(20000); /* the clock of files has a tick */
	write_rules("one/rules", "bob");
	ck_assert_int_eq(utimensat(AT_FDCWD, "one/rules",
				   (struct timespec[]){status.st_atim, status.st_mtim}, 0),
			 0);
	ck_assert(!authz_allows(authz, "ann") && authz_allows(authz, "bob"));
	authz_free(authz);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("authz");
	TCase *tcase = tcase_create("rules"), *files = tcase_create("files");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, test_glob, 0, sizeof(patterns) / sizeof(patterns[0]));
	tcase_add_test(tcase, test_glob_is_quick);
	tcase_add_loop_test(tcase, test_json, 0, sizeof(rules) / sizeof(rules[0]));
	tcase_add_loop_test(tcase, test_properties, 0, sizeof(properties) / sizeof(properties[0]));
	tcase_add_checked_fixture(files, setup, teardown);
	tcase_add_test(files, test_link_moves);
	tcase_add_test(files, test_time_set_back);
	suite_add_tcase(suite, tcase);
	suite_add_tcase(suite, files);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
