// SPDX-License-Identifier: MIT
/* /etc/nbdtab: the first line of the input is the key, the rest is the table. */
#include <errno.h>

#include "client/nbdtab.h"
#include "common/kernel/device.h"
#include "common/uri.h"
#include "fuzz.h"

static void check_number(int64_t value, int64_t min, int64_t max)
{
	FUZZ_CHECK(value == NBDTAB_UNSET || (value >= min && value <= max));
}

/* nbd0, /dev/nbd0 and 0 are the same; what is not spelled so is a name. */
static bool is_wanted(const struct nbdtab_entry *entry, const char *key)
{
	int wanted, found;

	if (!device_spelling(key))
		return fuzz_same_text(entry->name, key);
	return entry->device && !device_parse(key, &wanted, NULL) &&
	       !device_parse(entry->device, &found, NULL) && wanted == found;
}

static void check_entry(const struct nbdtab_entry *entry, const char *key)
{
	struct nbd_uri uri = NBD_URI_INIT;
	struct error err = ERROR_INIT;

	FUZZ_CHECK(entry->line >= 1);
	FUZZ_CHECK(entry->uri);
	FUZZ_CHECK(is_wanted(entry, key));
	check_number(entry->block_size, 512, 65536);
	check_number(entry->connections, 1, 64);
	check_number(entry->timeout, 0, UINT32_MAX);
	check_number(entry->dead_timeout, 0, UINT32_MAX);
	/* Whatever the line's place was, it goes to this parser next. */
	nbd_uri_parse(entry->uri, &uri, &err);
	nbd_uri_clear(&uri);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbdtab_entry entry;
	struct error err = ERROR_INIT;
	char *key = fuzz_take_text(&data, &size, '\n');
	char *table = (char *)fuzz_exact(data, size);
	int rc = nbdtab_parse(table, size, key, &entry, &err);

	if (rc == 0) {
		check_entry(&entry, key);
	} else {
		FUZZ_CHECK(rc == -ENOENT || rc == -EINVAL);
		FUZZ_CHECK(err.code == -rc && err.text[0]);
		FUZZ_CHECK(!entry.uri && !entry.name && !entry.device);
	}
	nbdtab_entry_clear(&entry);
	nbdtab_entry_clear(&entry);
	free(table);
	free(key);
	return 0;
}
