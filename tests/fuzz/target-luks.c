// SPDX-License-Identifier: MIT
/*
 * The input is a whole LUKS image, whose passphrase is "abc". Its header is parsed; unless it costs
 * too much it is opened, and what is written to it, at any place, must be read back.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"
#include "common/size.h"
#include "fuzz.h"
#include "server/image/image.h"
#include "server/image/luks/format.h"
#include "server/secret.h"

enum { STEP = 3000, ROUNDS_MAX = 2000 };

static uint8_t buffer[STEP];

/* What it takes to try all slots. */
static uint64_t rounds_of(const struct luks_header *header)
{
	uint64_t sum = 0;

	for (int i = 0; i < LUKS_SLOTS; i++)
		if (header->slots[i].active)
			sum += (uint64_t)header->slots[i].rounds + header->digest_rounds;
	return sum;
}

static bool apart(const struct luks_header *header, const struct luks_slot *one,
		  const struct luks_slot *other)
{
	return one->offset + (uint64_t)one->stripes * header->key_length <= other->offset ||
	       other->offset + (uint64_t)other->stripes * header->key_length <= one->offset;
}

static void check_header(const struct luks_header *header)
{
	FUZZ_CHECK(header->cipher[LUKS_NAME] == '\0' && header->mode[LUKS_NAME] == '\0');
	FUZZ_CHECK(luks_hash(header->hash) && header->digest_rounds);
	FUZZ_CHECK(header->key_length >= 16 && header->key_length <= 64);
	for (int i = 0; i < LUKS_SLOTS; i++) {
		const struct luks_slot *slot = &header->slots[i];

		FUZZ_CHECK(slot->rounds || !slot->active);
		FUZZ_CHECK(slot->offset >= LUKS_HEADER && slot->stripes &&
			   slot->stripes <= LUKS_STRIPES_MAX);
		for (int j = 0; j < LUKS_SLOTS; j++)
			FUZZ_CHECK(j == i || apart(header, slot, &header->slots[j]));
	}
}

static void write_around(struct image *image, uint64_t offset, uint8_t byte)
{
	uint64_t size = image->size, length;

	if (offset >= size)
		return;
	length = min_of(size - offset, (uint64_t)STEP / (1 + byte % 5));
	memset(buffer, byte, length);
	FUZZ_CHECK(image_write(image, buffer, offset, length) == 0);
	memset(buffer, 0, length);
	FUZZ_CHECK(image_read(image, buffer, offset, length) == 0);
	for (uint64_t i = 0; i < length; i++)
		FUZZ_CHECK(buffer[i] == byte);
}

static void use(struct image *image)
{
	uint64_t size = image->size;

	FUZZ_CHECK(size % 512 == 0);
	write_around(image, 0, 11);
	write_around(image, 700, 12);
	write_around(image, size / 2, 13);
	if (size < 2)
		return;
	FUZZ_CHECK(image_zero(image, 1, min_of(size - 1, (uint64_t)STEP), 0) == 0);
	FUZZ_CHECK(image_read(image, buffer, 0, 2) == 0 && buffer[0] == 11 && buffer[1] == 0);
	image_discard(image, 1, size - 1);
	FUZZ_CHECK(image_read(image, buffer, 0, 1) == 0 && buffer[0] == 11);
}

static void open_and_use(const uint8_t *data, size_t size, const struct secret *key)
{
	const struct image_options options = {.format = "luks",
					      .access = IMAGE_READ_WRITE,
					      .discard = DISCARD_UNMAP,
					      .key_secret = key};
	struct error err = ERROR_INIT;
	struct image *image;
	char path[64];
	int fd = memfd_create("image", MFD_CLOEXEC);

	FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (image_open(path, &options, &image, &err) == 0) {
		use(image);
		image_close(image);
	} else {
		FUZZ_CHECK(*err.text);
	}
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = ERROR_INIT;
	struct luks_header header;
	struct secret *key;

	log_threshold = LOG_LEVEL_ERROR;
	if (luks_parse_header(data, size, &header, &err)) {
		FUZZ_CHECK(*err.text);
		return 0;
	}
	check_header(&header);
	if (rounds_of(&header) > ROUNDS_MAX)
		return 0;
	key = secret_create("abc", 3, &err);
	FUZZ_CHECK(key);
	open_and_use(data, size, key);
	secret_free(key);
	return 0;
}
