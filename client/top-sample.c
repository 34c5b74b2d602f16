// SPDX-License-Identifier: MIT
/* From the server's JSON to numbers, and what changed between two samples. Pure but for the names
 * of processes, which are looked up. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/printable.h"
#include "top.h"

/* Which commands of the server make up a kind. Latencies have the kinds' own names. */
static const struct {
	const char *command;
	enum top_kind kind;
} commands[] = {
	{"read", TOP_READ},   {"write", TOP_WRITE}, {"flush", TOP_FLUSH},  {"trim", TOP_OTHER},
	{"cache", TOP_OTHER}, {"zero", TOP_OTHER},  {"status", TOP_OTHER}, {"unknown", TOP_OTHER},
};

static const char *const latencies[TOP_KINDS] = {"read", "write", "flush", "other"};

/* A bucket is named by its bound, so that servers with other buckets can be read, too. */
static void read_buckets(const struct json_value *latency, uint64_t buckets[LATENCY_BUCKETS])
{
	const struct json_value *list = json_member(latency, "buckets"), *row;

	for (row = list ? list->first : NULL; row; row = row->next) {
		const struct json_value *bound = row->first;

		if (!bound || !bound->next)
			continue;
		buckets[bound->kind == JSON_NUMBER && bound->number
				? latency_bucket(bound->number - 1)
				: LATENCY_BUCKETS - 1] += bound->next->number;
	}
}

static void read_numbers(const struct json_value *object, struct top_numbers *numbers)
{
	const struct json_value *counts = json_member(object, "commands");

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct json_value *command = json_member(counts, commands[i].command);
		struct top_count *count = &numbers->counts[commands[i].kind];

		count->requests += json_member_number(command, "requests");
		count->bytes += json_member_number(command, "bytes");
		count->errors += json_member_number(command, "errors");
	}
	numbers->misses = json_member_number(object, "cache_misses");
	numbers->throttled = json_member_number(object, "throttled");
	numbers->throttled_time = json_member_number(object, "throttled_ns");
	numbers->jobs = json_member_number(object, "jobs");
	numbers->buffers = json_member_number(object, "buffer_bytes");
	for (int kind = 0; kind < TOP_KINDS; kind++) {
		const struct json_value *latency =
			json_member(json_member(object, "latency"), latencies[kind]);

		numbers->latency[kind].sum = json_member_number(latency, "sum_ns");
		numbers->latency[kind].max = json_member_number(latency, "max_ns");
		read_buckets(latency, numbers->latency[kind].buckets);
	}
}

/* "qemu-img (4711)", or the number alone. */
static void name_process(uint64_t pid, char *name, size_t size)
{
	char path[64], text[32], shown[40];
	AUTO_CLOSE int fd = -1;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%llu/comm", (unsigned long long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (got > 0 && text[got - 1] == '\n')
		got--;
	if (got > 0)
		snprintf(name, size, "%s (%llu)",
			 printable_copy(shown, sizeof(shown), text, (size_t)got),
			 (unsigned long long)pid);
	else
		snprintf(name, size, "process %llu", (unsigned long long)pid);
}

static void read_client(const struct json_value *object, struct top_client *client)
{
	const char *address = json_member_text(object, "address");
	uint64_t pid = json_member_number(object, "pid");

	client->id = json_member_number(object, "id");
	if (address)
		printable_copy(client->name, sizeof(client->name), address, strlen(address));
	else if (pid)
		name_process(pid, client->name, sizeof(client->name));
	else
		snprintf(client->name, sizeof(client->name), "local");
	read_numbers(object, &client->numbers);
}

static const char *text_of(const struct json_value *object, const char *key)
{
	const char *text = json_member_text(object, key);

	return text ? text : "";
}

static int read_export(const struct json_value *object, struct top_export *export)
{
	const struct json_value *clients = json_member(object, "clients"), *client;

	export->name = text_of(object, "name");
	export->file = text_of(object, "file");
	export->format = text_of(object, "image_format");
	export->size = json_member_number(object, "size");
	export->read_only = json_member_number(object, "read_only");
	export->connections = json_member_number(object, "connections");
	export->connections_total = json_member_number(object, "connections_total");
	read_numbers(object, &export->numbers);
	if (!clients || !clients->count)
		return 0;
	export->clients = calloc(clients->count, sizeof(*export->clients));
	if (!export->clients)
		return -ENOMEM;
	for (client = clients->first; client; client = client->next)
		read_client(client, &export->clients[export->client_count++]);
	return 0;
}

static int read_tree(struct top_sample *sample)
{
	const struct json_value *exports = json_member(sample->tree, "exports"), *object;

	sample->clock = json_member_number(sample->tree, "clock_ns");
	sample->uptime = json_member_number(sample->tree, "uptime_ns");
	sample->pid = json_member_number(sample->tree, "pid");
	sample->listening = json_member(sample->tree, "listening");
	if (!exports || !exports->count || !sample->clock)
		return -EPROTO;
	sample->exports = calloc(exports->count, sizeof(*sample->exports));
	if (!sample->exports)
		return -ENOMEM;
	for (object = exports->first; object; object = object->next)
		if (read_export(object, &sample->exports[sample->export_count++]))
			return -ENOMEM;
	return 0;
}

int top_sample_read(const char *text, size_t length, struct top_sample *sample, struct error *err)
{
	int rc;

	*sample = (struct top_sample){0};
	rc = json_read(text, length, &sample->tree, err);
	if (rc) {
		error_wrap(err, "the server's numbers cannot be read");
		return rc == -EINVAL ? -EPROTO : rc;
	}
	rc = read_tree(sample);
	if (rc) {
		top_sample_clear(sample);
		error_set(err, -rc,
			  rc == -EPROTO ? "the server tells no numbers" : "out of memory");
	}
	return rc;
}

void top_sample_clear(struct top_sample *sample)
{
	for (size_t i = 0; i < sample->export_count; i++)
		free(sample->exports[i].clients);
	free(sample->exports);
	json_value_free(sample->tree);
	*sample = (struct top_sample){0};
}

/* A server that lies must not make rates of 2^64. */
static uint64_t grown(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

void top_numbers_since(const struct top_numbers *now, const struct top_numbers *before,
		       struct top_numbers *change)
{
	*change = *now;
	if (!before)
		return;
	change->misses = grown(now->misses, before->misses);
	change->throttled = grown(now->throttled, before->throttled);
	change->throttled_time = grown(now->throttled_time, before->throttled_time);
	for (int kind = 0; kind < TOP_KINDS; kind++) {
		struct top_count *count = &change->counts[kind];

		count->requests = grown(count->requests, before->counts[kind].requests);
		count->bytes = grown(count->bytes, before->counts[kind].bytes);
		count->errors = grown(count->errors, before->counts[kind].errors);
		change->latency[kind].sum =
			grown(now->latency[kind].sum, before->latency[kind].sum);
		for (int i = 0; i < LATENCY_BUCKETS; i++)
			change->latency[kind].buckets[i] = grown(now->latency[kind].buckets[i],
								 before->latency[kind].buckets[i]);
	}
}

const struct top_export *top_sample_export(const struct top_sample *sample, const char *name)
{
	for (size_t i = 0; sample && i < sample->export_count; i++)
		if (!strcmp(sample->exports[i].name, name))
			return &sample->exports[i];
	return NULL;
}

const struct top_client *top_export_client(const struct top_export *export, uint64_t id)
{
	for (size_t i = 0; export && i < export->client_count; i++)
		if (export->clients[i].id == id)
			return &export->clients[i];
	return NULL;
}
