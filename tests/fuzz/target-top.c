// SPDX-License-Identifier: MIT
/*
 * What hawser top makes of a server's answers: bytes 0 and 1 are the look of the terminal, the
 * rest two samples, with NUL between them. Whatever they say, what is drawn is harmless and fits.
 */
#include "client/top.h"
#include "common/printable.h"
#include "fuzz.h"

/* Every line is text that a terminal shows, and not too wide; escapes are only those of colours. */
static void check_picture(const char *text, size_t length, const struct top_look *look)
{
	unsigned int width = 0;

	while (length) {
		uint32_t code;
		size_t bytes = utf8_decode(text, length, &code);

		FUZZ_CHECK(bytes);
		if (code == '\n') {
			width = 0;
		} else if (code == '\033') {
			FUZZ_CHECK(look->colour && text[1] == '[');
			bytes = 2 + strspn(text + 2, "0123456789;");
			FUZZ_CHECK(text[bytes++] == 'm');
		} else {
			FUZZ_CHECK(code >= 0x20 && (code < 0x7f || code >= 0xa0));
			FUZZ_CHECK(code < 0x202a || code > 0x202e);
			FUZZ_CHECK(++width <= look->columns);
		}
		text += bytes;
		length -= bytes;
	}
}

static void draw(const struct top_look *look, const struct top_sample *now,
		 const struct top_sample *before, struct top_history *history)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);

	FUZZ_CHECK(out);
	top_view_draw(out, look, now, before, history);
	FUZZ_CHECK(fclose(out) == 0 && length);
	check_picture(text, length, look);
	free(text);
}

static void check_samples(const uint8_t *first, size_t first_length, const uint8_t *second,
			  size_t second_length, const struct top_look *look)
{
	uint8_t *texts[] = {fuzz_exact(first, first_length), fuzz_exact(second, second_length)};
	struct top_history history = {0};
	struct top_sample before, now;

	if (!top_sample_read((char *)texts[0], first_length, &before, NULL)) {
		draw(look, &before, NULL, &history);
		if (!top_sample_read((char *)texts[1], second_length, &now, NULL)) {
			draw(look, &now, &before, &history);
			draw(look, &before, &now, &history); /* clocks that go back */
			top_sample_clear(&now);
		}
		top_sample_clear(&before);
	}
	free(texts[0]);
	free(texts[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct top_look look = {0};
	const uint8_t *second;
	size_t first_length;

	if (size < 2)
		return 0;
	look.columns = data[0];
	look.rows = data[1] >> 3;
	look.colour = data[1] & 1;
	look.utf8 = data[1] & 2;
	look.live = data[1] & 4;
	data += 2;
	size -= 2;
	second = size ? memchr(data, '\0', size) : NULL;
	first_length = second ? (size_t)(second - data) : size;
	if (second)
		check_samples(data, first_length, second + 1, size - first_length - 1, &look);
	else
		check_samples(data, first_length, data, size, &look);
	return 0;
}
