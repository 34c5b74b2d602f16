// SPDX-License-Identifier: MIT
/*
 * The table of options and what follows from it. Texts of errors that scripts may know from
 * qemu-nbd are the same here.
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/control-path.h"
#include "common/log.h"
#include "common/nbd-protocol.h"
#include "common/size.h"
#include "control.h"
#include "listener.h"
#include "object-throttle.h"
#include "options-image.h"

enum row_kind {
	ROW_HEADING, /* help is a headline of --help */
	ROW_FLAG,    /* sets the bool at place */
	ROW_TEXT,    /* sets the const char * at place */
	ROW_CALL,    /* asks set() */
};

typedef int option_setter(struct options *options, const char *value, struct error *err);

struct option_row {
	enum row_kind kind;
	char letter;          /* 0: none */
	const char *name;     /* long name */
	const char *argument; /* its name in --help; NULL: takes none */
	const char *help;     /* each '\n' starts a line */
	size_t place;         /* of ROW_FLAG and ROW_TEXT, in struct options */
	option_setter *set;
};

/* A service name is for getaddrinfo(3) to judge; a number must not be taken modulo 65536. */
static bool port_valid(const char *port)
{
	size_t zeroes = strspn(port, "0");
	uint64_t number;

	if (!*port || strspn(port, "0123456789") < strlen(port))
		return *port;
	return !port[zeroes] || size_parse_number(port + zeroes, UINT16_MAX, &number) == 0;
}

static int set_port(struct options *options, const char *value, struct error *err)
{
	if (!port_valid(value))
		return error_set(err, EINVAL, "Invalid port number '%s': it is 0 to 65535", value);
	options->port = value;
	return 0;
}

static int set_socket(struct options *options, const char *value, struct error *err)
{
	options->socket = value;
	return listener_check_path(value, err);
}

static int set_shared(struct options *options, const char *value, struct error *err)
{
	uint64_t number;

	if (size_parse_number(value, INT32_MAX, &number) < 0)
		return error_set(err, EINVAL, "Invalid shared device number '%s'", value);
	options->server.max_clients = (uint32_t)number;
	return 0;
}

static int set_handshake_limit(struct options *options, const char *value, struct error *err)
{
	uint64_t seconds;

	if (size_parse_number(value, UINT32_MAX / 1000, &seconds) < 0)
		return error_set(err, EINVAL, "Invalid handshake limit '%s'", value);
	options->server.handshake_limit_ms = (uint32_t)seconds * 1000;
	return 0;
}

static int set_offset(struct options *options, const char *value, struct error *err)
{
	if (size_parse_number(value, UINT64_MAX, &options->server.export_.offset) < 0)
		return error_set(err, EINVAL, "Invalid offset '%s'", value);
	return 0;
}

static int set_partition(struct options *options, const char *value, struct error *err)
{
	return partition_parse(value, &options->server.export_.partition, err);
}

static int set_export_name(struct options *options, const char *value, struct error *err)
{
	if (strlen(value) > NBD_STRING_MAX)
		return error_set(err, EINVAL, "export name '%.200s...' too long", value);
	options->server.export_.name = value;
	return 0;
}

static int set_description(struct options *options, const char *value, struct error *err)
{
	if (strlen(value) > NBD_STRING_MAX)
		return error_set(err, EINVAL, "export description '%.200s...' too long", value);
	options->server.export_.description = value;
	return 0;
}

static int set_cache(struct options *options, const char *value, struct error *err)
{
	static const struct {
		const char *name;
		struct cache_mode mode;
	} modes[] = {
		{"none", {.direct = true}},
		{"off", {.direct = true}},
		{"writeback", {.direct = false}},
		{"writethrough", {.write_through = true}},
		{"directsync", {.direct = true, .write_through = true}},
		{"unsafe", {.ignore_flush = true}},
	};

	if (options->cache_given)
		return error_set(err, EINVAL, "-n and --cache can only be specified once");
	options->cache_given = true;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i].name, value) == 0) {
			options->server.export_.cache = modes[i].mode;
			return 0;
		}
	return error_set(
		err, EINVAL,
		"Invalid cache mode `%s'; it is none, writeback, writethrough, directsync or "
		"unsafe",
		value);
}

static int set_bitmap(struct options *options, const char *value, struct error *err)
{
	struct export_config *config = &options->server.export_;

	for (size_t i = 0; i < config->bitmap_count; i++)
		if (!strcmp(config->bitmaps[i], value))
			return 0;
	if (config->bitmap_count == SERVER_BITMAPS_MAX)
		return error_set(err, EINVAL, "--bitmap can be given %d times at most",
				 SERVER_BITMAPS_MAX);
	/* The last one comes first, as in qemu-nbd: ids and the order of lists are the same. */
	config->bitmap_count++;
	config->bitmaps = options->bitmaps + SERVER_BITMAPS_MAX - config->bitmap_count;
	options->bitmaps[SERVER_BITMAPS_MAX - config->bitmap_count] = value;
	return 0;
}

static int set_discard(struct options *options, const char *value, struct error *err)
{
	static const struct {
		const char *name;
		enum discard_mode mode;
	} modes[] = {
		{"ignore", DISCARD_IGNORE},
		{"off", DISCARD_IGNORE},
		{"unmap", DISCARD_UNMAP},
		{"on", DISCARD_UNMAP},
	};

	if (options->discard_given)
		return error_set(err, EINVAL, "--discard can only be specified once");
	options->discard_given = true;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i].name, value) == 0) {
			options->server.export_.discard = modes[i].mode;
			return 0;
		}
	return error_set(err, EINVAL, "Invalid discard mode `%s'; it is ignore or unmap", value);
}

static int set_detect_zeroes(struct options *options, const char *value, struct error *err)
{
	static const char *const modes[] = {
		[DETECT_ZEROES_OFF] = "off",
		[DETECT_ZEROES_ON] = "on",
		[DETECT_ZEROES_UNMAP] = "unmap",
	};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i], value) == 0) {
			options->server.export_.detect_zeroes = (enum detect_zeroes)i;
			return 0;
		}
	return error_set(err, EINVAL,
			 "Failed to parse detect_zeroes mode: invalid parameter value: %s; it is "
			 "off, on or unmap",
			 value);
}

static int set_nocache(struct options *options, const char *value, struct error *err)
{
	(void)value;
	return set_cache(options, "none", err);
}

static int set_aio(struct options *options, const char *value, struct error *err)
{
	static const char *const names[] = {"threads", "native", "io_uring"};

	if (options->aio)
		return error_set(err, EINVAL, "--aio can only be specified once");
	for (int i = 0; i < 3; i++)
		if (!strcmp(names[i], value))
			options->aio = NODE_AIO_THREADS + i;
	if (options->aio)
		return 0;
	return error_set(err, EINVAL, "Invalid aio mode '%s'; it is threads, native or io_uring",
			 value);
}

static int set_control(struct options *options, const char *value, struct error *err)
{
	options->control = value;
	return control_check_path(value, err);
}

static int set_object(struct options *options, const char *value, struct error *err)
{
	if (!strcmp(value, "help")) {
		options->mode = OPTIONS_OBJECT_HELP;
		return 0;
	}
	return object_set_add(&options->objects, value, err);
}

static int set_trace(struct options *options, const char *value, struct error *err)
{
	if (trace_asks_help(value)) {
		options->mode = OPTIONS_TRACE_HELP;
		return 0;
	}
	return trace_setup_add(&options->trace, value, err) ? error_wrap(err, "--trace") : 0;
}

/* A group that nobody else refers to. */
static int set_limit(struct options *options, const char *value, struct error *err)
{
	AUTO_FREE char *text = NULL;
	int rc;

	if (!*value)
		return error_set(err, EINVAL,
				 "--limit wants limits, as in --limit=bps=20M,iops=500");
	if (options->server.export_.throttle_group)
		return error_set(err, EINVAL, "--limit can only be specified once");
	if (asprintf(&text, "throttle-group,id=" OBJECT_THROTTLE_OWN ",%s", value) < 0) {
		text = NULL;
		return error_set(err, ENOMEM, "out of memory");
	}
	options->server.export_.throttle_group = OBJECT_THROTTLE_OWN;
	rc = object_set_add(&options->objects, text, err);
	if (rc)
		return error_wrap(err, "--limit");
	options->objects.items[options->objects.count - 1].option = "--limit";
	return 0;
}

static int set_help(struct options *options, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	options->mode = OPTIONS_HELP;
	return 0;
}

static int set_version(struct options *options, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	options->mode = OPTIONS_VERSION;
	return 0;
}

static int set_verbose(struct options *options, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	options->verbose++;
	return 0;
}

/* clang-format off */
#define FLAG(letter, name, member, help) \
	{ROW_FLAG, letter, name, NULL, help, offsetof(struct options, member), NULL}
#define TEXT(letter, name, argument, member, help) \
	{ROW_TEXT, letter, name, argument, help, offsetof(struct options, member), NULL}
#define CALL(letter, name, argument, set, help) \
	{ROW_CALL, letter, name, argument, help, 0, set}
#define HEADING(help) \
	{ROW_HEADING, 0, NULL, NULL, help, 0, NULL}

static const struct option_row table[] = {
	HEADING("Where to listen:"),
	CALL('p', "port", "PORT", set_port, "TCP port (default " NBD_DEFAULT_PORT ")"),
	TEXT('b', "bind", "HOST", bind, "address to listen on (default " OPTIONS_BIND_DEFAULT ")"),
	CALL('k', "socket", "PATH", set_socket, "listen on this Unix socket instead"),
	TEXT(0, "selinux-label", "LABEL", selinux_label,
	     "SELinux label of the socket of -k"),
	FLAG(0, "stdio", stdio, "serve one client: the socket on standard input"),
	TEXT(0, "run", "COMMAND", run,
	     "serve on a private socket while COMMAND runs, with\n"
	     "$uri and $unixsocket set, and end with its status"),

	HEADING("What to export:"),
	TEXT('f', "format", "FORMAT", server.export_.format, "raw, qcow2 or luks (default: look into the image)"),
	FLAG(0, "image-opts", image_opts,
	     "FILE is a list: driver=qcow2,file.filename=..."),
	CALL('o', "offset", "OFFSET", set_offset, "serve the image from this byte on"),
	CALL('P', "partition", "NUM", set_partition,
	     "serve this partition only (MBR or GPT): its number,\n"
	     "label=NAME or uuid=UUID"),
	CALL('x', "export-name", "NAME", set_export_name, "name of the export (default: empty)"),
	CALL('D', "description", "TEXT", set_description, "description of the export"),
	FLAG('r', "read-only", read_only, "never write to the image"),
	FLAG('s', "snapshot", server.export_.snapshot,
	     "writes go to a temporary file, gone at the end"),
	TEXT('l', "load-snapshot", "SNAPSHOT", server.export_.load_snapshot,
	     "serve this snapshot inside the image, read-only: its\n"
	     "ID or name, or snapshot.id=ID,snapshot.name=NAME"),
	TEXT(0, "key-secret", "ID", key_secret,
	     "the --object secret that opens an encrypted image"),
	FLAG(0, "no-references", server.export_.no_references,
	     "refuse an image that names other files"),
	FLAG('A', "allocation-depth", server.export_.allocation_depth,
	     "tell which image of a chain holds what"),
	CALL('B', "bitmap", "NAME", set_bitmap, "tell this dirty bitmap of the image; can be repeated"),
	FLAG(0, "drop-bitmaps", server.export_.drop_bitmaps,
	     "write even if dirty bitmaps in the image become void"),
	FLAG(0, "auto-read-only", auto_read_only, "serve read-only where the image cannot be written"),
	CALL(0, "cache", "MODE", set_cache,
	     "none, writeback, writethrough, directsync\n"
	     "or unsafe (default writeback)"),
	CALL('n', "nocache", NULL, set_nocache, "the same as --cache=none"),
	CALL(0, "discard", "MODE", set_discard,
	     "what TRIM does: ignore, or unmap: give the room back\n"
	     "(default ignore; with -s unmap)"),
	CALL(0, "aio", "MODE", set_aio,
	     "threads, native or io_uring: accepted, the server\n"
	     "has its own way; native needs --cache=none"),
	CALL(0, "detect-zeroes", "MODE", set_detect_zeroes,
	     "off, on, or unmap: zero what is written as zeroes\n"
	     "(default off; unmap needs --discard=unmap)"),

	HEADING("How to serve:"),
	CALL(0, "limit", "LIMITS", set_limit,
	     "iops=N,bps=N,...: operations and bytes per second"),
	CALL('e', "shared", "NUM", set_shared, "clients at a time, 0: any number (default 1)"),
	FLAG('t', "persistent", server.persistent, "go on when the last client has left"),
	CALL(0, "handshake-limit", "SECONDS", set_handshake_limit,
	     "time for a client to choose an export, 0: no limit\n"
	     "(default 10)"),
	FLAG(0, "fork", fork, "return when the server is ready, serve in background"),
	TEXT(0, "pid-file", "PATH", pid_file, "write the process number into this file"),
	CALL(0, "control", "PATH", set_control,
	     "tell statistics on this Unix socket, 'none': nowhere\n"
	     "(default: in " CONTROL_PATH_SYSTEM " or $XDG_RUNTIME_DIR/hawser)"),
	CALL('T', "trace", "PATTERN,...", set_trace,
	     "write events that match, with the time: PATTERN is\n"
	     "[enable=]PATTERN,events=FILE,file=FILE, or 'help'"),
	CALL('v', "verbose", NULL, set_verbose, "say more on standard error; twice: debug"),

	HEADING("Devices of this machine:"),
	TEXT('c', "connect", "DEV", device,
	     "attach FILE to the nbd device DEV ('auto': a free\n"
	     "one) and return when it can be used"),
	FLAG('d', "disconnect", detach, "detach the nbd device that is given as FILE"),

	HEADING("Others:"),
	CALL(0, "object", "TYPE,id=ID,...", set_object,
	     "make a thing that other options refer to by its ID;\n"
	     "'help' lists the types"),
	TEXT(0, "tls-creds", "ID", tls_creds,
	     "demand TLS of every client, with these credentials\n"
	     "(with -L: speak TLS)"),
	TEXT(0, "tls-authz", "ID", tls_authz, "let in only whom these rules allow"),
	TEXT(0, "tls-hostname", "HOST", tls_hostname,
	     "with -L: the name in the server's certificate"),
	FLAG('L', "list", list, "show what the server at -k, or -b and -p, exports"),
	CALL('h', "help", NULL, set_help, "print this help"),
	CALL('V', "version", NULL, set_version, "print the version"),
};
/* clang-format on */

enum { ROWS = sizeof(table) / sizeof(table[0]) };
_Static_assert(ROWS <= 64, "options.seen has a bit for each row");
/* Codes of getopt_long: letters are themselves, long names their row above all letters. */
enum { ROW_CODE = 256 };

static int row_of_name(const char *name)
{
	for (int row = 0; row < ROWS; row++)
		if (table[row].name && !strcmp(table[row].name, name))
			return row;
	return -1;
}

static int row_of_code(int code)
{
	if (code >= ROW_CODE)
		return code - ROW_CODE;
	for (int row = 0; row < ROWS; row++)
		if (table[row].letter && table[row].letter == code)
			return row;
	return -1;
}

bool options_given(const struct options *options, const char *name)
{
	int row = row_of_name(name);

	return row >= 0 && (options->seen & (UINT64_C(1) << row));
}

static int take(struct options *options, int code, const char *value, struct error *err)
{
	int index = row_of_code(code);
	const struct option_row *row;

	if (index < 0) /* getopt has said what is wrong */
		return error_set(err, EINVAL, "Try `%s --help' for more information.",
				 log_program());
	row = &table[index];
	options->seen |= UINT64_C(1) << index;
	switch (row->kind) {
	case ROW_FLAG:
		*(bool *)((char *)options + row->place) = true;
		return 0;
	case ROW_TEXT:
		*(const char **)((char *)options + row->place) = value;
		return 0;
	case ROW_CALL:
		return row->set(options, value, err);
	case ROW_HEADING:
		break;
	}
	return 0;
}

/* Options that qemu-nbd has not. */
static const char *const ours[] = {"auto-read-only", "control", "drop-bitmaps", "limit",
				   "no-references",  "run",     "stdio"};

static bool is_ours(const char *name)
{
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (!strcmp(ours[i], name))
			return true;
	return false;
}

/* Does this word of the command line shorten an option of qemu-nbd? */
static bool shortens_theirs(const char *word, size_t length)
{
	for (int row = 0; row < ROWS; row++)
		if (table[row].name && !is_ours(table[row].name) &&
		    !strncmp(table[row].name, word, length))
			return true;
	return false;
}

/*
 * An option of ours must not make ambiguous what qemu-nbd takes for a shortened one (--r, --no,
 * --con): getopt_long hears of it only when a word means it and none of qemu-nbd's.
 */
static bool is_meant(const char *name, int argc, char **argv)
{
	if (!is_ours(name))
		return true;
	for (int i = 1; i < argc; i++) {
		const char *word = !strncmp(argv[i], "--", 2) ? argv[i] + 2 : "";
		size_t length = strcspn(word, "=");

		if (length && !strncmp(name, word, length) && !shortens_theirs(word, length))
			return true;
	}
	return false;
}

/* The table in getopt_long's form. */
static void build_getopt(int argc, char **argv, struct option long_options[ROWS + 1],
			 char letters[2 * ROWS + 1])
{
	memset(long_options, 0, (ROWS + 1) * sizeof(*long_options));
	for (int row = 0; row < ROWS; row++) {
		const struct option_row *from = &table[row];

		if (!from->name || !is_meant(from->name, argc, argv))
			continue;
		*long_options++ = (struct option){from->name,
						  from->argument ? required_argument : no_argument,
						  NULL, ROW_CODE + row};
		if (from->letter) {
			*letters++ = from->letter;
			if (from->argument)
				*letters++ = ':';
		}
	}
	*letters = '\0';
}

static void set_defaults(struct options *options)
{
	*options = (struct options){
		.mode = OPTIONS_SERVE,
		.server = {.export_ = {.name = "", .access = IMAGE_READ_WRITE},
			   .max_clients = 1,
			   .handshake_limit_ms = 10 * 1000},
	};
}

int options_parse(struct options *options, int argc, char **argv, struct error *err)
{
	struct option long_options[ROWS + 1];
	char letters[2 * ROWS + 1];
	int code;

	set_defaults(options);
	build_getopt(argc, argv, long_options, letters);
	optind = 0; /* glibc: start anew, for a second call in one process */
	while ((code = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		if (take(options, code, optarg, err) < 0)
			return -EINVAL;
		/* These answer at once, whatever else is on the line. */
		if (options->mode != OPTIONS_SERVE)
			return 0;
	}
	options->server.export_.file = optind < argc ? argv[optind] : NULL;
	/* Nobody wants to keep room in a file that will vanish. */
	if (options->server.export_.snapshot && !options->discard_given)
		options->server.export_.discard = DISCARD_UNMAP;
	if (options_check(options, argc - optind, err) < 0)
		return -EINVAL;
	if (options->auto_read_only)
		options->server.export_.access = IMAGE_AUTO_READ_ONLY;
	if (options->read_only || options->server.export_.load_snapshot)
		options->server.export_.access = IMAGE_READ_ONLY;
	return options->mode == OPTIONS_SERVE ? options_image(options, err) : 0;
}

void options_clear(struct options *options)
{
	description_clear(&options->description);
	object_set_clear(&options->objects);
	trace_setup_clear(&options->trace);
}

enum { HELP_COLUMN = 28 };

static void print_row(FILE *out, const struct option_row *row)
{
	const char *line = row->help;
	int used;

	if (row->kind == ROW_HEADING) {
		fprintf(out, "\n%s\n", line);
		return;
	}
	used = row->letter ? fprintf(out, "  -%c, --%s", row->letter, row->name)
			   : fprintf(out, "      --%s", row->name);
	if (row->argument)
		used += fprintf(out, "=%s", row->argument);
	if (used + 2 > HELP_COLUMN) {
		fputc('\n', out);
		used = 0;
	}
	for (int column = used; line; column = 0) {
		int length = (int)strcspn(line, "\n");

		fprintf(out, "%*s%.*s\n", HELP_COLUMN - column, "", length, line);
		line = line[length] ? line + length + 1 : NULL;
	}
}

void options_print_help(FILE *out)
{
	fprintf(out,
		"Usage: %s [OPTIONS] FILE\n"
		"  or:  %s -d DEVICE\n"
		"  or:  %s -L [OPTIONS]\n"
		"Serves a disk image over NBD.\n",
		log_program(), log_program(), log_program());
	for (int row = 0; row < ROWS; row++)
		print_row(out, &table[row]);
	fprintf(out, "\nSee hawserd(8).\n");
}

void options_print_version(FILE *out)
{
	/* Programs read this line to learn whose options these are, and of which version. */
	if (!strcmp(log_program(), "qemu-nbd"))
		fprintf(out, "qemu-nbd " OPTIONS_QEMU_VERSION " (Hawser %s)\n", HAWSER_VERSION);
	else
		fprintf(out, "hawserd %s (Hawser)\n", HAWSER_VERSION);
}
