// SPDX-License-Identifier: MIT
/*
 * Draws a sample: a table for each export, its clients below it. Everything is made in memory, and
 * cut to the width of the screen at the end, so no line wraps. What servers and processes are
 * called has been made harmless before it is drawn.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/printable.h"
#include "common/size.h"
#include "top.h"

enum style { PLAIN, BOLD, DIM, READ, WRITE, ALARM };

struct view {
	FILE *out;
	const struct top_look *look;
	struct top_history *history;
	double seconds; /* between the samples */
	bool measured;  /* there are two samples: rates are those of now */
};

/* ---- Pieces ---- */

static const char *style(const struct view *view, enum style style)
{
	static const char *const codes[] = {
		[PLAIN] = "\033[0m", [BOLD] = "\033[1m",   [DIM] = "\033[2m",
		[READ] = "\033[36m", [WRITE] = "\033[33m", [ALARM] = "\033[1;31m",
	};

	return view->look->colour ? codes[style] : "";
}

enum { CELL_MAX = 24 };

static const char *show_rate(double rate, char text[CELL_MAX])
{
	if (rate < 0.05)
		snprintf(text, CELL_MAX, "-");
	else if (rate < 9.95)
		snprintf(text, CELL_MAX, "%.1f", rate);
	else if (rate < 99999.5)
		snprintf(text, CELL_MAX, "%.0f", rate);
	else if (rate < 9999500)
		snprintf(text, CELL_MAX, "%.0fk", rate / 1e3);
	else
		snprintf(text, CELL_MAX, "%.1fM", rate / 1e6);
	return text;
}

/* Megabytes, of 10^6 bytes as disks have them. */
static const char *show_megabytes(double bytes, char text[CELL_MAX])
{
	double megabytes = bytes / 1e6;

	if (bytes < 1)
		snprintf(text, CELL_MAX, "-");
	else if (megabytes < 0.0995)
		snprintf(text, CELL_MAX, "%.3f", megabytes);
	else
		snprintf(text, CELL_MAX, megabytes < 999.5 ? "%.1f" : "%.0f", megabytes);
	return text;
}

static const char *show_time(uint64_t nanoseconds, char text[CELL_MAX])
{
	static const struct {
		double unit;
		const char *name;
	} units[] = {{1e3, "us"}, {1e6, "ms"}, {1e9, "s"}};
	size_t i = 0;

	if (!nanoseconds) {
		snprintf(text, CELL_MAX, "-");
		return text;
	}
	while (i < 2 && (double)nanoseconds >= 999.5 * units[i].unit)
		i++;
	snprintf(text, CELL_MAX, (double)nanoseconds < 9.95 * units[i].unit ? "%.1f %s" : "%.0f %s",
		 (double)nanoseconds / units[i].unit, units[i].name);
	return text;
}

static const char *show_count(uint64_t count, char text[CELL_MAX])
{
	if (count)
		snprintf(text, CELL_MAX, "%" PRIu64, count);
	else
		snprintf(text, CELL_MAX, "-");
	return text;
}

static const char *show_duration(uint64_t nanoseconds, char text[CELL_MAX])
{
	uint64_t seconds = nanoseconds / CLOCK_SECOND;

	if (seconds >= 86400)
		snprintf(text, CELL_MAX, "%" PRIu64 " d %" PRIu64 " h", seconds / 86400,
			 seconds % 86400 / 3600);
	else if (seconds >= 3600)
		snprintf(text, CELL_MAX, "%" PRIu64 " h %" PRIu64 " min", seconds / 3600,
			 seconds % 3600 / 60);
	else if (seconds >= 60)
		snprintf(text, CELL_MAX, "%" PRIu64 " min %" PRIu64 " s", seconds / 60,
			 seconds % 60);
	else
		snprintf(text, CELL_MAX, "%" PRIu64 " s", seconds);
	return text;
}

/* A bar of eighths; something is never shown as nothing. */
static void put_bar(const struct view *view, double share, unsigned int width, enum style colour)
{
	unsigned int eighths = (unsigned int)(min_of(share, 1.0) * width * 8 + 0.5);
	unsigned int i;

	if (share <= 0)
		return;
	fputs("  ", view->out);
	eighths = max_of(eighths, 1u);
	fputs(style(view, colour), view->out);
	if (!view->look->utf8) {
		for (i = 0; i < (eighths + 7) / 8; i++)
			fputc('#', view->out);
	} else {
		for (i = 0; i < eighths / 8; i++)
			fputs("\xe2\x96\x88", view->out);
		if (eighths % 8) /* U+2589 is seven eighths, U+258F one */
			fprintf(view->out, "\xe2\x96%c", 0x90 - (int)(eighths % 8));
	}
	fputs(style(view, PLAIN), view->out);
}

/* ---- Numbers of an interval ---- */

static double per_second(const struct view *view, uint64_t count)
{
	return view->seconds > 0 ? (double)count / view->seconds : 0;
}

/* Requests in the server at a time: what they waited together, over the time (Little's law). */
static double depth_of(const struct view *view, uint64_t sum)
{
	return per_second(view, sum) / 1e9;
}

/* Of an interval the largest is known only as a bucket; of all time it is known. */
static uint64_t largest(const uint64_t buckets[LATENCY_BUCKETS], uint64_t max)
{
	for (int i = LATENCY_BUCKETS - 1; i >= 0; i--)
		if (buckets[i])
			return min_of(latency_bound((unsigned int)i), max);
	return 0;
}

static uint64_t errors_of(const struct top_numbers *numbers)
{
	uint64_t errors = 0;

	for (int kind = 0; kind < TOP_KINDS; kind++)
		errors += numbers->counts[kind].errors;
	return errors;
}

/* ---- An export ---- */

static const char *const kind_names[TOP_KINDS] = {"read", "write", "flush", "other"};
static const enum style kind_styles[TOP_KINDS] = {READ, WRITE, BOLD, BOLD};

enum { TABLE_WIDTH = 70 }; /* what stands before the bars */

/* What a bar shows: bytes where there are some, else requests. */
static double weight(const struct view *view, const struct top_count *count, int kind)
{
	return per_second(view, kind == TOP_FLUSH ? count->requests : count->bytes);
}

static void put_kind(const struct view *view, int kind, const struct top_numbers *change,
		     const struct top_numbers *total)
{
	const struct top_count *count = &change->counts[kind];
	const uint64_t *buckets = change->latency[kind].buckets;
	uint64_t max = total->latency[kind].max;
	char rate[CELL_MAX], bytes[CELL_MAX], depth[CELL_MAX], p50[CELL_MAX], p99[CELL_MAX],
		top[CELL_MAX], errors[CELL_MAX];
	unsigned int columns = view->look->columns;

	fprintf(view->out, "  %s%-6s%s %8s %9s %7s %8s %8s %8s %s%8s%s",
		style(view, kind_styles[kind]), kind_names[kind], style(view, PLAIN),
		show_rate(per_second(view, count->requests), rate),
		show_megabytes(per_second(view, count->bytes), bytes),
		show_rate(depth_of(view, change->latency[kind].sum), depth),
		show_time(latency_quantile(buckets, 500, max), p50),
		show_time(latency_quantile(buckets, 990, max), p99),
		show_time(largest(buckets, max), top),
		style(view, count->errors && view->measured ? ALARM : PLAIN),
		show_count(total->counts[kind].errors, errors), style(view, PLAIN));
	if (columns > TABLE_WIDTH + 6 && view->history->peak[kind])
		put_bar(view, weight(view, count, kind) / (double)view->history->peak[kind],
			min_of(columns - TABLE_WIDTH - 1, 60u), kind_styles[kind]);
	fputc('\n', view->out);
}

static void put_workers(const struct view *view, const struct top_numbers *change)
{
	uint64_t reads = change->counts[TOP_READ].requests;
	char rate[CELL_MAX], time[CELL_MAX], size[SIZE_TEXT_MAX];

	if (change->misses)
		fprintf(view->out, "\n  reads not in memory: %s/s",
			show_rate(per_second(view, change->misses), rate));
	else
		fprintf(view->out, "\n  reads not in memory: none");
	if (change->misses && reads)
		fprintf(view->out, " (%.1f %%)",
			min_of(100.0 * (double)change->misses / (double)reads, 100.0));
	fprintf(view->out, "   with workers: %" PRIu64 " job%s", change->jobs,
		change->jobs == 1 ? "" : "s");
	if (change->buffers)
		fprintf(view->out, ", %s of buffers", size_format(change->buffers, size));
	fputc('\n', view->out);
	if (change->throttled)
		fprintf(view->out, "  held up by limits: %s/s, each for %s\n",
			show_rate(per_second(view, change->throttled), rate),
			show_time(change->throttled_time / change->throttled, time));
}

/* The last rates as a line of small bars. */
static void put_history(const struct view *view, int kind)
{
	static const char marks[] = " .:-=+*#%";
	const struct top_history *history = view->history;
	unsigned int width = view->look->columns > 40 ? view->look->columns - 32 : 8;
	size_t kept = min_of(history->count, (size_t)TOP_HISTORY);
	size_t shown = min_of(kept, (size_t)width);
	char peak[CELL_MAX];

	fprintf(view->out, "  %s%-6s ", style(view, kind_styles[kind]), kind_names[kind]);
	for (size_t i = history->count - shown; i < history->count; i++) {
		double share = (double)history->rates[kind][i % TOP_HISTORY] /
			       (double)max_of(history->peak[kind], UINT64_C(1));
		unsigned int level = (unsigned int)(min_of(share, 1.0) * 8 + 0.5);

		if (!view->look->utf8)
			fputc(marks[level], view->out);
		else if (share <= 0)
			fputc(' ', view->out);
		else
			fprintf(view->out, "\xe2\x96%c", 0x80 + (int)max_of(level, 1u));
	}
	fprintf(view->out, "%s%*s  peak %s MB/s\n", style(view, PLAIN), (int)(width - shown), "",
		show_megabytes((double)history->peak[kind], peak));
}

static void put_export_title(const struct view *view, const struct top_export *export)
{
	char size[SIZE_TEXT_MAX], name[44], file[200], format[16];

	printable_copy(file, sizeof(file), export->file, strlen(export->file));
	printable_copy(name, sizeof(name), export->name, strlen(export->name));
	fprintf(view->out,
		"\n%s%s%s%s%s, %s, %s  %" PRIu64 " client%s, %" PRIu64 " since the start  %s\n\n",
		style(view, BOLD), name, name[0] ? "  " : "", style(view, PLAIN),
		printable_copy(format, sizeof(format), export->format, strlen(export->format)),
		size_format(export->size, size), export->read_only ? "read-only" : "writable",
		export->connections, export->connections == 1 ? "" : "s", export->connections_total,
		file);
}

static void put_table_head(const struct view *view)
{
	fprintf(view->out, "%s  %-6s %8s %9s %7s %8s %8s %8s %8s%s\n", style(view, DIM), "",
		"REQ/S", "MB/S", "DEPTH", "P50", "P99", "MAX", "ERRORS", style(view, PLAIN));
}

/* A server may tell any number. */
static uint64_t whole(double number)
{
	return number < 1e18 ? (uint64_t)number : UINT64_C(1000000000000000000);
}

static void remember(const struct view *view, const struct top_numbers *change)
{
	struct top_history *history = view->history;
	size_t place = history->count++ % TOP_HISTORY;

	for (int kind = 0; kind < TOP_KINDS; kind++)
		history->peak[kind] = max_of(history->peak[kind],
					     whole(weight(view, &change->counts[kind], kind)));
	for (int kind = TOP_READ; kind <= TOP_WRITE; kind++)
		history->rates[kind][place] = whole(weight(view, &change->counts[kind], kind));
}

/* ---- Its clients ---- */

struct client_row {
	const struct top_client *client;
	struct top_numbers change;
	uint64_t weight;
};

/* The busiest first, then the oldest. */
static int compare_rows(const void *one, const void *other)
{
	const struct client_row *a = one, *b = other;

	if (a->weight != b->weight)
		return a->weight < b->weight ? 1 : -1;
	return a->client->id < b->client->id ? -1 : 1;
}

static void fill_row(struct client_row *row, const struct top_client *client,
		     const struct top_export *before)
{
	const struct top_client *earlier = top_export_client(before, client->id);

	row->client = client;
	top_numbers_since(&client->numbers, earlier ? &earlier->numbers : NULL, &row->change);
	row->weight = row->change.counts[TOP_READ].bytes + row->change.counts[TOP_WRITE].bytes +
		      row->change.counts[TOP_FLUSH].requests +
		      row->change.counts[TOP_OTHER].requests;
}

/* On a narrow screen some columns go, and long names are cut. */
static bool shows_misses(const struct view *view)
{
	return view->look->columns >= 100;
}

static bool shows_median(const struct view *view)
{
	return view->look->columns >= 90;
}

static int client_name_width(const struct view *view)
{
	int others = 60 + (shows_median(view) ? 8 : 0) + (shows_misses(view) ? 8 : 0);

	int left = (int)view->look->columns - others;

	return left < 12 ? 12 : min_of(left, 32);
}

static void put_client(const struct view *view, const struct client_row *row)
{
	const struct top_numbers *change = &row->change;
	uint64_t buckets[LATENCY_BUCKETS] = {0}, max = 0, sum = 0;
	int name_width = client_name_width(view);
	char reads[CELL_MAX], read_bytes[CELL_MAX], writes[CELL_MAX], write_bytes[CELL_MAX],
		depth[CELL_MAX], p50[CELL_MAX], p99[CELL_MAX], misses[CELL_MAX], errors[CELL_MAX];

	for (int kind = 0; kind < TOP_KINDS; kind++) {
		sum += change->latency[kind].sum;
		max = max_of(max, change->latency[kind].max);
		for (int i = 0; i < LATENCY_BUCKETS; i++)
			buckets[i] += change->latency[kind].buckets[i];
	}
	fprintf(view->out, "  %3" PRIu64 " %-*.*s %7s %7s %7s %7s %6s", row->client->id, name_width,
		name_width, row->client->name,
		show_rate(per_second(view, change->counts[TOP_READ].requests), reads),
		show_megabytes(per_second(view, change->counts[TOP_READ].bytes), read_bytes),
		show_rate(per_second(view, change->counts[TOP_WRITE].requests), writes),
		show_megabytes(per_second(view, change->counts[TOP_WRITE].bytes), write_bytes),
		show_rate(depth_of(view, sum), depth));
	if (shows_median(view))
		fprintf(view->out, " %7s", show_time(latency_quantile(buckets, 500, max), p50));
	fprintf(view->out, " %7s", show_time(latency_quantile(buckets, 990, max), p99));
	if (shows_misses(view))
		fprintf(view->out, " %7s", show_rate(per_second(view, change->misses), misses));
	fprintf(view->out, " %s%6s%s\n",
		style(view, errors_of(change) && view->measured ? ALARM : PLAIN),
		show_count(errors_of(&row->client->numbers), errors), style(view, PLAIN));
}

static void put_clients(const struct view *view, const struct top_export *export,
			const struct top_export *before, size_t room)
{
	AUTO_FREE struct client_row *rows = calloc(export->client_count + 1, sizeof(*rows));
	size_t shown = min_of(export->client_count, room);

	if (!rows || !export->client_count)
		return;
	for (size_t i = 0; i < export->client_count; i++)
		fill_row(&rows[i], &export->clients[i], before);
	qsort(rows, export->client_count, sizeof(*rows), compare_rows);
	fprintf(view->out, "\n%s      %-*s %7s %7s %7s %7s %6s%s %7s%s %6s%s\n", style(view, DIM),
		client_name_width(view), "CLIENT", "READ/S", "MB/S", "WRITE/S", "MB/S", "DEPTH",
		shows_median(view) ? "     P50" : "", "P99", shows_misses(view) ? "  MISS/S" : "",
		"ERRORS", style(view, PLAIN));
	for (size_t i = 0; i < shown; i++)
		put_client(view, &rows[i]);
	if (shown < export->connections)
		fprintf(view->out, "%s      and %" PRIu64 " more%s\n", style(view, DIM),
			export->connections - shown, style(view, PLAIN));
}

/* ---- All of it ---- */

static void put_title(const struct view *view, const struct top_sample *now)
{
	const struct json_value *place = now->listening ? now->listening->first : NULL;
	char up[CELL_MAX], shown[120];

	fprintf(view->out, "%shawserd%s %" PRIu64 ", up %s", style(view, BOLD), style(view, PLAIN),
		now->pid, show_duration(now->uptime, up));
	for (const char *word = ", on "; place; place = place->next, word = ", ")
		if (place->text)
			fprintf(view->out, "%s%s", word,
				printable_copy(shown, sizeof(shown), place->text,
					       strlen(place->text)));
	fprintf(view->out, "%s%s%s\n", style(view, DIM),
		!view->measured ? "   (since the start)" : "", style(view, PLAIN));
}

/* Rows for clients: what the other lines of the screen leave, at least one. */
static size_t room_for_clients(const struct top_look *look)
{
	enum { OTHER_LINES = 18 };

	if (!look->rows)
		return SIZE_MAX;
	return look->rows > OTHER_LINES ? look->rows - OTHER_LINES : 1;
}

static void put_export(const struct view *view, const struct top_export *export,
		       const struct top_export *before)
{
	struct top_numbers *change = malloc(sizeof(*change));

	if (!change)
		return;
	top_numbers_since(&export->numbers, before ? &before->numbers : NULL, change);
	if (view->measured)
		remember(view, change);
	put_export_title(view, export);
	put_table_head(view);
	for (int kind = 0; kind < TOP_KINDS; kind++)
		put_kind(view, kind, change, &export->numbers);
	put_workers(view, change);
	if (view->look->live) {
		fputc('\n', view->out);
		put_history(view, TOP_READ);
		put_history(view, TOP_WRITE);
	}
	put_clients(view, export, before, room_for_clients(view->look));
	free(change);
}

/* Copies a line, at most columns wide; escapes take no room. Returns what is behind it. */
static const char *put_cut(FILE *out, const char *line, unsigned int columns)
{
	unsigned int width = 0;

	for (; *line && *line != '\n'; line++) {
		if (*line == '\033') {
			size_t length = strcspn(line, "m") + 1;

			fwrite(line, 1, length, out);
			line += length - 1;
			continue;
		}
		width += (*line & 0xc0) != 0x80;
		if (width <= columns)
			fputc(*line, out);
	}
	fputc('\n', out);
	return *line ? line + 1 : line;
}

void top_view_draw(FILE *out, const struct top_look *look, const struct top_sample *now,
		   const struct top_sample *before, struct top_history *history)
{
	AUTO_FREE char *text = NULL;
	size_t length = 0;
	struct view view = {
		.out = open_memstream(&text, &length),
		.look = look,
		.history = history,
		.measured = before,
		.seconds = (double)(before ? now->clock - before->clock : now->uptime) /
			   (double)CLOCK_SECOND,
	};
	const char *line;

	if (!view.out)
		return;
	put_title(&view, now);
	for (size_t i = 0; i < now->export_count; i++)
		put_export(&view, &now->exports[i],
			   top_sample_export(before, now->exports[i].name));
	if (fclose(view.out))
		return;
	for (line = text; *line;)
		line = put_cut(out, line, look->columns);
}
