/* SPDX-License-Identifier: MIT */
/*
 * hawserd's command line. One table drives parsing and --help; the completion and the check of the
 * manual read --help, so an option is written down once. Options come before or after FILE, long
 * ones may be shortened. Main thread, at start; prints nothing but what getopt_long(3) says about
 * an option it does not know, and --help or --version when asked.
 */
#ifndef HAWSER_SERVER_OPTIONS_H
#define HAWSER_SERVER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "image/description.h"
#include "object.h"
#include "server.h"
#include "trace.h"

enum options_mode {
	OPTIONS_SERVE,
	OPTIONS_DETACH,      /* -d: server.export_.file is the device */
	OPTIONS_LIST,        /* -L */
	OPTIONS_HELP,        /* -h */
	OPTIONS_VERSION,     /* -V */
	OPTIONS_OBJECT_HELP, /* --object help */
	OPTIONS_TRACE_HELP,  /* --trace help */
};

/* Strings are those of argv, or constants; options_clear() frees the rest. */
struct options {
	struct server_config server;
	enum options_mode mode;
	const char *port; /* NULL: not given */
	const char *bind; /* NULL: not given */
	const char *socket;
	const char *device; /* -c */
	const char *run;
	const char *pid_file;
	const char *selinux_label;
	const char *control;    /* NULL: not given */
	const char *key_secret; /* id of an object, or NULL */
	bool stdio;
	bool fork;
	bool read_only;
	bool auto_read_only;
	bool image_opts;
	enum node_aio aio; /* --aio */
	bool cache_given;
	bool discard_given;
	bool list;
	bool detach;
	const char *bitmaps[SERVER_BITMAPS_MAX];
	unsigned int verbose;
	const char *tls_creds;                /* id of an object; NULL: no TLS */
	const char *tls_authz;                /* likewise */
	const char *tls_hostname;             /* for -L; NULL: not given */
	struct trace_setup trace;             /* --trace */
	struct object_set objects;            /* --object: noted, not yet made */
	struct image_description description; /* --image-opts, json: */
	uint64_t seen;                        /* a bit for each row of the table that was given */
};

#define OPTIONS_BIND_DEFAULT "0.0.0.0"
/* Under the name of qemu-nbd: the version whose options these are. */
#define OPTIONS_QEMU_VERSION "10.0.0"

/*
 * Fills *options and checks what excludes what. 0, or -EINVAL with the sentence to print. Reorders
 * argv as getopt_long(3) does.
 */
int options_parse(struct options *options, int argc, char **argv, struct error *err);

/* Frees what options_parse() has made, also where it failed. */
void options_clear(struct options *options);

/* Was this option (its long name) given? */
bool options_given(const struct options *options, const char *name);

/* The part of options_parse() that follows the reading: sets the mode, refuses what cannot be meant
 * together. operands is the number of FILEs. */
int options_check(struct options *options, int operands, struct error *err);

/* count sockets were handed over by the service manager: refuses options that name others. */
int options_check_activation(const struct options *options, unsigned int count, struct error *err);

void options_print_help(FILE *out);
void options_print_version(FILE *out);

#endif
