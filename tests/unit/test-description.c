// SPDX-License-Identifier: MIT
/* server/image/description and place: texts into trees, and trees into places. */
#include "server/image/description.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/image/place.h"

static struct image_description description;
static struct error err;

static void setup(void)
{
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	description_clear(&description);
}

static const struct image_node *parse(const char *text)
{
	description_clear(&description);
	ck_assert_msg(!description_parse(&description, text, NULL, &err), "%s: %s", text, err.text);
	return description.root;
}

START_TEST(test_tree)
{
	static const char *const same[] = {
		"driver=qcow2,read-only=on,file.driver=file,file.filename=a,,b,file.locking=off,"
		"backing.driver=raw,backing.file.filename=base,cache.direct=on,file.aio=native",
		"json:{\"driver\": \"qcow2\", \"read-only\": true, \"cache\": {\"direct\": true},"
		"\"file\": {\"driver\": \"file\", \"filename\": \"a,b\", \"locking\": \"off\","
		"\"aio\": \"native\"}, \"backing\": {\"driver\": \"raw\", \"file\": \"base\"}}",
		"json:{\"driver\": \"qcow2\", \"read-only\": \"on\", \"cache.direct\": true,"
		"\"file.driver\": \"file\", \"file.filename\": \"a,b\", \"file.locking\": \"off\","
		"\"file.aio\": \"native\", \"backing.driver\": \"raw\","
		"\"backing.file.filename\": \"base\"}",
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		const struct image_node *root = parse(same[i]);

		ck_assert_str_eq(root->driver, "qcow2");
		ck_assert_int_eq(root->kind, NODE_FORMAT);
		ck_assert_int_eq(root->read_only, NODE_ON);
		ck_assert_int_eq(root->file->kind, NODE_FILE);
		ck_assert_str_eq(root->file->filename, "a,b");
		ck_assert_int_eq(root->file->locking, NODE_LOCKING_OFF);
		ck_assert_int_eq(root->file->aio, NODE_AIO_NATIVE);
		ck_assert_int_eq(root->file->direct, NODE_ON); /* comes down */
		ck_assert_int_eq(root->backing->file->direct, NODE_ON);
		ck_assert_int_eq(root->backing->read_only, NODE_UNSET); /* stays */
		ck_assert_str_eq(root->backing->driver, "raw");
		ck_assert_str_eq(description_file(root->backing)->filename, "base");
		ck_assert(!root->no_backing && !root->data_file);
	}
}
END_TEST

START_TEST(test_forms)
{
	const struct image_node *root = parse("disk.img");

	ck_assert_ptr_null(root->driver);
	ck_assert_str_eq(root->file->filename, "disk.img");
	root = parse("driver=qcow2,file=x,backing=");
	ck_assert(root->no_backing && !root->backing);
	root = parse("json:{\"driver\":\"qcow2\",\"file\":\"x\",\"backing\":null}");
	ck_assert(root->no_backing && !root->backing);
	root = parse("driver=qcow2,file=x,backing=y");
	ck_assert(!root->no_backing && !root->backing->driver);
	ck_assert_str_eq(root->backing->file->filename, "y");
	root = parse("driver=qcow2,file=x,backing.driver=raw");
	ck_assert(root->backing && !root->backing->file);
	root = parse("driver=file,filename=x");
	ck_assert_int_eq(root->kind, NODE_FILE);
	root = parse("driver=throttle,throttle-group=t,file.driver=raw,file.file=x");
	ck_assert_int_eq(root->kind, NODE_FILTER);
	ck_assert_ptr_eq(place_skip_filters(root), root->file);
	ck_assert_str_eq(parse("driver=qcow2,file=x,encrypt.key-secret=s")->encrypt_key_secret,
			 "s");
	/* A format from elsewhere stands for the driver. */
	description_clear(&description);
	ck_assert_int_eq(description_parse(&description, "json:{\"driver\":\"raw\",\"file\":\"x\"}",
					   "qcow2", &err),
			 0);
	ck_assert_str_eq(description.root->driver, "qcow2");
}
END_TEST

static const struct {
	const char *text, *said;
} refused[] = {
	{"foo=bar", "Must specify either driver or file"},
	{"", "Must specify either driver or file"},
	{"filename=x", "Must specify either driver or file"},
	{"driver=qcow2", "A block device must be specified for \"file\""},
	{"driver=file", "The 'file' block driver requires a file name"},
	{"driver=nope,file=x", "Unknown driver 'nope'"},
	{"driver=vmdk,file=x", "the driver 'vmdk' is not available in this version"},
	{"driver=raw,file=x,reda-only=on",
	 "Invalid parameter 'reda-only'; did you mean 'read-only'?"},
	{"driver=raw,file.filename=x,file.loking=on",
	 "Invalid parameter 'file.loking'; did you mean 'file.locking'?"},
	{"driver=raw,file.filename=x,file.file.filename=y",
	 "Block protocol '' does not support the option 'file.file.'; say the driver"},
	{"driver=qcow2,file=x,offset=512",
	 "Block format 'qcow2' does not support the option 'offset'"},
	{"driver=raw,file=x,backing=y", "Block format 'raw' does not support the option 'backing'"},
	{"driver=raw,file=x,size=1000", "Specified size is not multiple of 512"},
	{"driver=raw,file=x,discard=maybe", "Invalid discard option"},
	{"driver=raw,file=x,detect-zeroes=1", "invalid parameter value: 1"},
	{"driver=qcow2,file=x,overlap-check=x",
	 "Unsupported value 'x' for qcow2 option 'overlap-check'. Allowed are any of the "
	 "following: "
	 "none, constant, cached, all"},
	{"driver=qcow2,file=x,discard-no-unref=on",
	 "Parameter 'discard-no-unref' is not supported: clusters are always given back here"},
	{"driver=throttle,file=x", "Please specify a throttle group"},
	{"driver=qcow2,file=x,backing.driver=throttle,backing.throttle-group=t,backing.file=y",
	 "a throttle node in a backing or data file is not supported; put it above the image"},
	{"driver=qcow2,file=x,file.filename=y",
	 "Parameter 'file' is a name, and has parameters of its own"},
	{"driver=qcow2,file.filename=x,file.node-name=n,backing=n",
	 "Parameter 'backing' refers to the node 'n': describe the node in that place instead"},
	{"json:[1]", "Invalid JSON object given"},
	{"json:{", "Could not parse the JSON options: no JSON at byte 1"},
	{"json:{\"offset\":-1}", "Parameter 'offset' expects a non-negative whole number"},
	{"json:{\"a=b\":1}", "Invalid parameter 'a=b'"},
};

START_TEST(test_refused)
{
	ck_assert_int_lt(description_parse(&description, refused[_i].text, NULL, &err), 0);
	ck_assert_str_eq(err.text, refused[_i].said);
	ck_assert_ptr_null(description.root);
	ck_assert_uint_eq(description.properties.count, 0);
}
END_TEST

START_TEST(test_depth)
{
	char text[4096] = "";

	for (int i = 0; i < 40; i++)
		strcat(text, "file.");
	strcat(text, "filename=x");
	ck_assert_int_eq(description_parse(&description, text, NULL, &err), -EINVAL);
	ck_assert_str_eq(err.text, "more than 32 nodes below each other");
}
END_TEST

static const struct image_node *place_of(const char *text, struct image_place *place)
{
	const struct image_node *format;

	ck_assert_int_eq(place_find(parse(text), place, &format, &err), 0);
	return format;
}

START_TEST(test_place)
{
	struct image_place place;

	ck_assert_ptr_null(place_of("driver=raw,file=x", &place));
	ck_assert(place.base == 0 && place.length == NODE_TO_THE_END);
	ck_assert_str_eq(place.path, "x");
	ck_assert_ptr_null(place_of("driver=raw,offset=1k,size=1k,file.driver=raw,file.offset=4k,"
				    "file.file.driver=file,file.file.filename=x,force-share=on",
				    &place));
	ck_assert(place.base == 5120 && place.length == 1024 && place.force_share);
	ck_assert_str_eq(place.driver, "file");
	ck_assert_int_eq(place_check_size(&place, 6144, &err), 0);
	ck_assert_int_eq(place_check_size(&place, 6143, &err), -EINVAL);
	ck_assert_int_eq(place_check_size(&place, 5119, &err), -EINVAL);
	/* The inner part bounds the outer one. */
	ck_assert_ptr_null(
		place_of("driver=raw,offset=1k,file.driver=raw,file.size=4k,file.file=x", &place));
	ck_assert(place.base == 1024 && place.length == 3072);
	/* Of a disk of another format. */
	ck_assert_ptr_nonnull(
		place_of("driver=raw,offset=1k,file.driver=qcow2,file.file=x", &place));
	ck_assert(place.base == 1024);
}
END_TEST

START_TEST(test_place_refused)
{
	static const char *const texts[] = {
		"driver=raw,offset=8k,file.driver=raw,file.size=4k,file.file=x",
		"driver=raw,size=8k,file.driver=raw,file.size=4k,file.file=x",
		"driver=raw,offset=7E,file.driver=raw,file.offset=7E,file.file=x",
		"driver=raw,offset=4k,size=1k,file.driver=raw,file.size=4k,file.file=x",
	};
	const struct image_node *format;
	struct image_place place;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		description_clear(&description);
		ck_assert_int_eq(description_parse(&description, texts[i], NULL, &err), 0);
		ck_assert_int_eq(place_find(description.root, &place, &format, &err), -EINVAL);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("description");
	TCase *tcase = tcase_create("description");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_tree);
	tcase_add_test(tcase, test_forms);
	tcase_add_loop_test(tcase, test_refused, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(tcase, test_depth);
	tcase_add_test(tcase, test_place);
	tcase_add_test(tcase, test_place_refused);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
