// SPDX-License-Identifier: MIT
/*
 * Texts that come from /proc and /sys: a line of mountinfo (users choose mount points), the
 * backend identifier of a device (whoever attached it chose it), device names.
 */
#include "common/kernel/device.h"
#include "common/kernel/holders.h"
#include "fuzz.h"

static void check_mount_line(const char *text)
{
	size_t length = strlen(text);
	char *line = strdup(text);
	struct mount_line mount;

	FUZZ_CHECK(line);
	if (mount_line_parse(line, &mount)) {
		FUZZ_CHECK(mount.point >= line && mount.point <= line + length);
		FUZZ_CHECK(mount.source >= line && mount.source <= line + length);
		FUZZ_CHECK(strlen(mount.point) + strlen(mount.source) <= length);
	}
	free(line);
}

static void check_built(const char *label, const char *uri)
{
	char backend[DEVICE_BACKEND_MAX + 1];
	struct device_backend parsed;

	device_backend_build(backend, label, uri, 3);
	FUZZ_CHECK(strlen(backend) <= DEVICE_BACKEND_MAX);
	FUZZ_CHECK(device_backend_parse(backend, &parsed));
	FUZZ_CHECK(parsed.connections == 3);
	FUZZ_CHECK(strlen(parsed.label) <= DEVICE_LABEL_MAX);
	if (device_label_valid(label))
		FUZZ_CHECK(strcmp(parsed.label, label) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *label = fuzz_take_text(&data, &size, ';');
	char *uri = fuzz_text(data, size);
	struct device_backend backend;

	check_mount_line(text);
	if (device_backend_parse(text, &backend)) {
		FUZZ_CHECK(strlen(backend.label) < sizeof(backend.label));
		FUZZ_CHECK(strlen(backend.uri) < sizeof(backend.uri));
	}
	/* Labels and URIs are checked before they are built in; ';' parts the fields. */
	if (device_label_valid(label))
		check_built(label, uri);
	FUZZ_CHECK(!(device_spelling(text) && device_is_partition(text)));
	free(text);
	free(label);
	free(uri);
	return 0;
}
