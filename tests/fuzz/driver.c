// SPDX-License-Identifier: MIT
/*
 * Runs a fuzz target without libFuzzer: each seed, then mutations of the seeds, the same ones each
 * time. `make check` uses it with any compiler.
 *
 *   fuzz-TARGET [DIRECTORY [COUNT [SECONDS]]]    seeds and so many mutations of them
 *   fuzz-TARGET FILE                             that input only (a crash to look at)
 *
 * An input that kills the target is left in ./crash-TARGET.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "fuzz.h"

enum { INPUT_MAX = 64 << 10, SEEDS_MAX = 256, COUNT = 100000, SECONDS = 2 };

struct input {
	uint8_t *bytes;
	size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t seed_count;
static const char *target; /* name, from the program's */

/* The input in hand, for the handlers below. */
static const uint8_t *current;
static size_t current_size;

/* Only what a signal handler may call. */
static void save_current(void)
{
	static char path[PATH_MAX];
	int fd;

	memcpy(path, "crash-", 7);
	strncat(path, target, sizeof(path) - 8);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd >= 0 && write(fd, current, current_size) == (ssize_t)current_size)
		dprintf(STDERR_FILENO, "the input is in %s\n", path);
	if (fd >= 0)
		close(fd);
}

static void on_signal(int number)
{
	save_current();
	signal(number, SIG_DFL);
	raise(number);
}

/* There in programs that are built with a sanitizer. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void catch_deaths(void)
{
	static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_signal);
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(save_current);
}

/* A second is far more than any input needs. */
enum { INPUT_SECONDS = 20 };

static void run(const uint8_t *bytes, size_t size)
{
	uint8_t *exact = fuzz_exact(bytes, size);

	current = exact;
	current_size = size;
	alarm(INPUT_SECONDS);
	LLVMFuzzerTestOneInput(exact, size);
	alarm(0);
	free(exact);
}

static void add_seed(const char *path)
{
	struct input *seed = &seeds[seed_count];
	FILE *file = fopen(path, "rbe");

	if (!file || seed_count == SEEDS_MAX) {
		fprintf(stderr, "cannot take the seed %s\n", path);
		exit(EXIT_FAILURE);
	}
	seed->bytes = malloc(INPUT_MAX);
	FUZZ_CHECK(seed->bytes);
	seed->size = fread(seed->bytes, 1, INPUT_MAX, file);
	fclose(file);
	seed_count++;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void add_seeds(const char *directory)
{
	struct dirent **entries;
	int count = scandir(directory, &entries, not_hidden, by_name);

	for (int i = 0; i < count; i++) {
		char path[PATH_MAX + 256];

		snprintf(path, sizeof(path), "%s/%s", directory, entries[i]->d_name);
		add_seed(path);
		free(entries[i]);
	}
	if (count <= 0) {
		fprintf(stderr, "there are no seeds in %s\n", directory);
		exit(EXIT_FAILURE);
	}
	free(entries);
}

/* ---- Mutations ---- */

static struct fuzz_random random_state = {.state = UINT64_C(0x6861777365720001)};

static size_t below(size_t limit)
{
	return fuzz_below(&random_state, limit);
}

/* A number at an edge, big-endian, over what is there. */
static void put_edge(uint8_t *bytes, size_t size)
{
	static const uint64_t edges[] = {0,          1,          7,          8,
					 255,        256,        4095,       4096,
					 4097,       16384,      16385,      65535,
					 65536,      0x40000,    0x100000,   33554432,
					 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
					 UINT64_MAX};
	uint64_t value = edges[below(sizeof(edges) / sizeof(edges[0]))];
	size_t width = (size_t)1 << below(4), at;

	if (size < width)
		return;
	at = below(size - width + 1);
	for (size_t i = 0; i < width; i++)
		bytes[at + i] = (uint8_t)(value >> 8 * (width - 1 - i));
}

static size_t insert(uint8_t *bytes, size_t size, const uint8_t *piece, size_t length)
{
	size_t at = below(size + 1);

	if (!length || size + length > INPUT_MAX)
		return size;
	memmove(bytes + at + length, bytes + at, size - at);
	memcpy(bytes + at, piece, length);
	return size + length;
}

/* A piece of any seed goes in somewhere. */
static size_t splice_seed(uint8_t *bytes, size_t size)
{
	const struct input *seed = &seeds[below(seed_count)];
	size_t from = seed->size ? below(seed->size) : 0;

	return insert(bytes, size, seed->bytes + from,
		      seed->size ? below(seed->size - from) + 1 : 0);
}

static size_t erase(uint8_t *bytes, size_t size)
{
	size_t at = below(size), length = below(size - at) + 1;

	if (length > 16)
		length = below(2) ? length : 1 + below(16);
	memmove(bytes + at, bytes + at + length, size - at - length);
	return size - length;
}

static size_t mutate_once(uint8_t *bytes, size_t size)
{
	uint8_t noise[8];

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)below(256);
	switch (size ? below(7) : 6) {
	case 0:
		bytes[below(size)] ^= (uint8_t)(1u << below(8));
		return size;
	case 1:
		bytes[below(size)] = noise[0];
		return size;
	case 2:
	case 3:
		put_edge(bytes, size);
		return size;
	case 4:
		return erase(bytes, size);
	case 5:
		return insert(bytes, size, noise, 1 + below(sizeof(noise)));
	default:
		return splice_seed(bytes, size);
	}
}

static void run_mutations(unsigned long count, uint64_t deadline)
{
	uint8_t *bytes = malloc(INPUT_MAX);
	unsigned long done;

	FUZZ_CHECK(bytes);
	for (done = 0; done < count && clock_now() < deadline; done++) {
		const struct input *seed = &seeds[below(seed_count)];
		size_t size = seed->size, steps = 1 + below(6);

		memcpy(bytes, seed->bytes, size);
		while (steps--)
			size = mutate_once(bytes, size);
		run(bytes, size);
	}
	printf("fuzz-%s: %zu seeds, %lu mutations\n", target, seed_count, done);
	free(bytes);
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	char directory[PATH_MAX];
	struct stat status;

	target = strncmp(name, "fuzz-", 5) ? name : name + 5;
	snprintf(directory, sizeof(directory), "%s%s", argc > 1 ? argv[1] : "tests/fuzz/seeds/",
		 argc > 1 ? "" : target);
	catch_deaths();
	if (stat(directory, &status) == 0 && S_ISREG(status.st_mode))
		add_seed(directory);
	else
		add_seeds(directory);
	for (size_t i = 0; i < seed_count; i++)
		run(seeds[i].bytes, seeds[i].size);
	if (!S_ISREG(status.st_mode))
		run_mutations(argc > 2 ? strtoul(argv[2], NULL, 10) : COUNT,
			      clock_now() + (argc > 3 ? strtoul(argv[3], NULL, 10) : SECONDS) *
						    CLOCK_SECOND);
	for (size_t i = 0; i < seed_count; i++)
		free(seeds[i].bytes);
	return EXIT_SUCCESS;
}
