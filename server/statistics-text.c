// SPDX-License-Identifier: MIT
/*
 * Writes what the books hold. Runs on the control socket's thread; takes a book's lock only to
 * copy its numbers.
 */
#include "statistics-text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/printable.h"
#include "image/epoch.h"
#include "image/hostfile.h"

/* ---- JSON ---- */

static void json_begin(struct json *json, FILE *out, const struct statistics_world *world)
{
	char text[LISTENER_TEXT_MAX];

	json_init(json, out);
	json_object_begin_line(json, NULL);
	json_string(json, "program", "hawserd");
	json_string(json, "version", HAWSER_VERSION);
	json_number(json, "format", STATISTICS_FORMAT);
	json_number(json, "pid", (uint64_t)getpid());
	json_array_begin(json, "listening");
	for (size_t i = 0; i < world->listeners->count; i++)
		json_string(json, NULL, listener_describe(&world->listeners->items[i], text));
	json_array_end(json);
}

int statistics_print_hello(FILE *out, const struct statistics_world *world)
{
	struct json json;

	json_begin(&json, out, world);
	json_array_begin(&json, "exports");
	for (size_t i = 0; i < world->export_count; i++)
		json_string(&json, NULL, world->exports[i].name);
	json_array_end(&json);
	json_object_end(&json);
	return json_finish(&json);
}

static void json_latency(struct json *json, const char *key,
			 const struct statistics_latency *latency)
{
	json_object_begin(json, key);
	json_number(json, "sum_ns", latency->sum);
	json_number(json, "max_ns", latency->max);
	json_number(json, "p50_ns", latency_quantile(latency->buckets, 500, latency->max));
	json_number(json, "p99_ns", latency_quantile(latency->buckets, 990, latency->max));
	json_array_begin(json, "buckets");
	for (unsigned int i = 0; i < LATENCY_BUCKETS; i++) {
		if (!latency->buckets[i])
			continue;
		json_array_begin(json, NULL);
		if (i == LATENCY_BUCKETS - 1)
			json_null(json, NULL);
		else
			json_number(json, NULL, latency_bound(i));
		json_number(json, NULL, latency->buckets[i]);
		json_array_end(json);
	}
	json_array_end(json);
	json_object_end(json);
}

static void json_numbers(struct json *json, const struct statistics_numbers *numbers)
{
	json_object_begin(json, "commands");
	for (int i = 0; i < STATISTICS_COMMANDS; i++) {
		json_object_begin(json, statistics_command_names[i]);
		json_number(json, "requests", numbers->commands[i].requests);
		json_number(json, "bytes", numbers->commands[i].bytes);
		json_number(json, "errors", numbers->commands[i].errors);
		json_object_end(json);
	}
	json_object_end(json);
	json_number(json, "cache_misses", numbers->misses);
	json_number(json, "throttled", numbers->throttled);
	json_number(json, "throttled_ns", numbers->throttled_time);
	json_number(json, "jobs", numbers->jobs);
	json_number(json, "buffer_bytes", numbers->buffers);
	json_object_begin(json, "latency");
	for (int i = 0; i < STATISTICS_KINDS; i++)
		json_latency(json, statistics_kind_names[i], &numbers->latency[i]);
	json_object_end(json);
}

static void json_client(struct json *json, const struct statistics_client *client)
{
	json_object_begin(json, NULL);
	json_number(json, "id", client->id);
	json_string(json, "address", client->peer[0] ? client->peer : NULL);
	if (client->pid > 0)
		json_number(json, "pid", (uint64_t)client->pid);
	else
		json_null(json, "pid");
	json_numbers(json, &client->numbers);
	json_object_end(json);
}

static void json_image(struct json *json, struct export *export)
{
	struct image *image;
	EPOCH_SCOPE;

	image = export->image;
	json_string(json, "file", image->file->path);
	json_string(json, "image_format", image->driver->name);
}

static int json_export(struct json *json, struct export *export)
{
	struct statistics_view view;
	int rc = statistics_view(&export->statistics, STATISTICS_CLIENTS_MAX, &view);

	json_object_begin(json, NULL);
	json_string(json, "name", export->name);
	json_image(json, export);
	json_number(json, "size", export->size);
	json_bool(json, "read_only", export->read_only);
	json_number(json, "connections", view.live);
	json_number(json, "connections_total", view.joined);
	json_numbers(json, &view.total);
	json_array_begin(json, "clients");
	for (unsigned int i = 0; i < view.client_count; i++)
		json_client(json, &view.clients[i]);
	json_array_end(json);
	json_object_end(json);
	statistics_view_clear(&view);
	return rc;
}

int statistics_print_json(FILE *out, const struct statistics_world *world)
{
	uint64_t now = clock_now();
	struct json json;
	int rc = 0;

	json_begin(&json, out, world);
	json_number(&json, "clock_ns", now);
	json_number(&json, "uptime_ns", now - world->started);
	json_array_begin(&json, "exports");
	for (size_t i = 0; !rc && i < world->export_count; i++)
		rc = json_export(&json, &world->exports[i]);
	json_array_end(&json);
	json_object_end(&json);
	return rc ? rc : json_finish(&json);
}

/* ---- OpenMetrics ---- */

/* One export as a metric sees it. */
struct row {
	FILE *out;
	const char *name; /* of the export */
	const struct statistics_view *view;
};

static void put_label_value(FILE *out, const char *text)
{
	size_t length = strlen(text);

	while (length) {
		uint32_t code = 0;
		size_t bytes = utf8_decode(text, length, &code);

		if (!bytes)
			fputs("\xef\xbf\xbd", out); /* U+FFFD */
		else if (code == '\n')
			fputs("\\n", out);
		else if (code == '"' || code == '\\')
			fprintf(out, "\\%c", (int)code);
		else
			fwrite(text, 1, bytes, out);
		text += bytes ? bytes : 1;
		length -= bytes ? bytes : 1;
	}
}

/* name{export="..." and leaves the braces open. */
static void begin_sample(const struct row *row, const char *name)
{
	fprintf(row->out, "%s{export=\"", name);
	put_label_value(row->out, row->name);
	fputc('"', row->out);
}

static void put_sample(const struct row *row, const char *name, uint64_t value)
{
	begin_sample(row, name);
	fprintf(row->out, "} %" PRIu64 "\n", value);
}

static void put_command(const struct row *row, const char *name, int command, uint64_t value)
{
	begin_sample(row, name);
	fprintf(row->out, ",command=\"%s\"} %" PRIu64 "\n", statistics_command_names[command],
		value);
}

static void put_requests(const struct row *row)
{
	for (int i = 0; i < STATISTICS_COMMANDS; i++)
		put_command(row, "hawser_requests_total", i, row->view->total.commands[i].requests);
}

static void put_bytes(const struct row *row)
{
	for (int i = 0; i < STATISTICS_COMMANDS; i++)
		put_command(row, "hawser_request_bytes_total", i,
			    row->view->total.commands[i].bytes);
}

static void put_errors(const struct row *row)
{
	for (int i = 0; i < STATISTICS_COMMANDS; i++)
		put_command(row, "hawser_request_errors_total", i,
			    row->view->total.commands[i].errors);
}

static void put_misses(const struct row *row)
{
	put_sample(row, "hawser_cache_misses_total", row->view->total.misses);
}

static void put_throttled(const struct row *row)
{
	put_sample(row, "hawser_throttled_requests_total", row->view->total.throttled);
}

static void put_throttled_time(const struct row *row)
{
	begin_sample(row, "hawser_throttled_seconds_total");
	fprintf(row->out, "} %.9f\n", (double)row->view->total.throttled_time / 1e9);
}

static void put_jobs(const struct row *row)
{
	put_sample(row, "hawser_jobs", row->view->total.jobs);
}

static void put_buffers(const struct row *row)
{
	put_sample(row, "hawser_buffer_bytes", row->view->total.buffers);
}

static void put_connections(const struct row *row)
{
	put_sample(row, "hawser_connections", row->view->live);
}

static void put_joined(const struct row *row)
{
	put_sample(row, "hawser_clients_total", row->view->joined);
}

static void put_histogram(const struct row *row, const char *kind,
			  const struct statistics_latency *latency)
{
	uint64_t count = 0;

	/* Powers of two are enough here: one bound in LATENCY_STEPS. */
	for (unsigned int i = 0; i < LATENCY_BUCKETS; i++) {
		count += latency->buckets[i];
		if (i % LATENCY_STEPS)
			continue;
		begin_sample(row, "hawser_request_seconds_bucket");
		fprintf(row->out, ",kind=\"%s\",le=\"%.9f\"} %" PRIu64 "\n", kind,
			(double)latency_bound(i) / 1e9, count);
	}
	begin_sample(row, "hawser_request_seconds_bucket");
	fprintf(row->out, ",kind=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", kind, count);
	begin_sample(row, "hawser_request_seconds_count");
	fprintf(row->out, ",kind=\"%s\"} %" PRIu64 "\n", kind, count);
	begin_sample(row, "hawser_request_seconds_sum");
	fprintf(row->out, ",kind=\"%s\"} %.9f\n", kind, (double)latency->sum / 1e9);
}

static void put_latency(const struct row *row)
{
	for (int i = 0; i < STATISTICS_KINDS; i++)
		put_histogram(row, statistics_kind_names[i], &row->view->total.latency[i]);
}

static const struct {
	const char *name, *type, *unit, *help;
	void (*put)(const struct row *row);
} families[] = {
	{"hawser_requests", "counter", NULL, "Requests that were answered.", put_requests},
	{"hawser_request_bytes", "counter", "bytes", "Bytes of requests that succeeded.",
	 put_bytes},
	{"hawser_request_errors", "counter", NULL, "Requests that were answered with an error.",
	 put_errors},
	{"hawser_cache_misses", "counter", NULL, "Reads that were handed to workers.", put_misses},
	{"hawser_throttled_requests", "counter", NULL, "Requests that waited for their limits.",
	 put_throttled},
	{"hawser_throttled_seconds", "counter", "seconds", "How long they waited.",
	 put_throttled_time},
	{"hawser_jobs", "gauge", NULL, "Pieces of requests that are with the workers.", put_jobs},
	{"hawser_buffer_bytes", "gauge", "bytes", "Memory of these pieces.", put_buffers},
	{"hawser_connections", "gauge", NULL, "Clients in transmission.", put_connections},
	{"hawser_clients", "counter", NULL, "Clients since the start.", put_joined},
	{"hawser_request_seconds", "histogram", "seconds",
	 "From the arrival of a request to the sending of its reply.", put_latency},
};

enum { FAMILIES = sizeof(families) / sizeof(families[0]) };

static void put_family(FILE *out, size_t family, const struct statistics_world *world,
		       const struct statistics_view *views)
{
	fprintf(out, "# TYPE %s %s\n", families[family].name, families[family].type);
	if (families[family].unit)
		fprintf(out, "# UNIT %s %s\n", families[family].name, families[family].unit);
	fprintf(out, "# HELP %s %s\n", families[family].name, families[family].help);
	for (size_t i = 0; i < world->export_count; i++) {
		const struct row row = {
			.out = out, .name = world->exports[i].name, .view = &views[i]};

		families[family].put(&row);
	}
}

int statistics_print_openmetrics(FILE *out, const struct statistics_world *world)
{
	struct statistics_view *views = calloc(world->export_count, sizeof(*views));
	int rc = views ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < world->export_count; i++)
		rc = statistics_view(&world->exports[i].statistics, 0, &views[i]);
	fprintf(out,
		"# TYPE hawser_build info\n"
		"# HELP hawser_build The program.\n"
		"hawser_build_info{version=\"%s\"} 1\n",
		HAWSER_VERSION);
	for (size_t family = 0; !rc && family < FAMILIES; family++)
		put_family(out, family, world, views);
	fputs("# EOF\n", out);
	for (size_t i = 0; views && i < world->export_count; i++)
		statistics_view_clear(&views[i]);
	free(views);
	return rc;
}
