// SPDX-License-Identifier: MIT
/*
 * hawserd: parse, then do one thing: serve, list, detach, or print. Errors are printed here and in
 * service.c, nowhere below; the exit status is 0 or 1, but that of --run's command.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "common/notify.h"
#include "daemon.h"
#include "device.h"
#include "list.h"
#include "object-tls.h"
#include "object-secret.h"
#include "options.h"
#include "service.h"

static int fail(const struct error *err)
{
	log_error("%s", err->text);
	return EXIT_FAILURE;
}

static int print_out(void (*print)(FILE *out))
{
	print(stdout);
	/* A reader that has seen enough (grep -q) is no failure. */
	return fflush(stdout) && errno != EPIPE ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int list(const struct options *options)
{
	struct error err = ERROR_INIT;

	return list_exports(options, stdout, &err) < 0 ? fail(&err) : EXIT_SUCCESS;
}

static int detach(const struct options *options)
{
	const char *device = options->server.export_.file;
	struct error err = ERROR_INIT;

	if (device_disconnect(device, &err) < 0)
		return fail(&err);
	printf("%s disconnected\n", device);
	return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The objects that --tls-creds and --tls-authz name. */
static int find_tls(struct options *options, struct error *err)
{
	struct server_tls *tls = &options->server.tls;

	if (options->tls_creds) {
		tls->creds = object_tls_creds(&options->objects, options->tls_creds,
					      options->list ? TLS_CLIENT : TLS_SERVER, err);
		if (!tls->creds)
			return -err->code;
	}
	if (options->tls_authz) {
		tls->authz = object_authz(&options->objects, options->tls_authz, err);
		if (!tls->authz)
			return -err->code;
		if (!object_tls_asks_names(&options->objects, options->tls_creds))
			log_warning("--tls-authz=%s lets nobody in: with the credentials '%s' no "
				    "client "
				    "has a name; use certificates without verify-peer=off, or keys",
				    options->tls_authz, options->tls_creds);
	}
	return 0;
}

/* --key-secret names an object, which exists only now. */
static int find_key(struct options *options, struct error *err)
{
	options->server.export_.objects = &options->objects;
	if (!options->key_secret)
		return 0;
	options->server.export_.key_secret =
		object_secret_find(&options->objects, options->key_secret, err);
	return options->server.export_.key_secret ? 0 : -EINVAL;
}

static int act(struct options *options, unsigned int activation)
{
	struct error err = ERROR_INIT;

	switch (options->mode) {
	case OPTIONS_HELP:
		return print_out(options_print_help);
	case OPTIONS_VERSION:
		return print_out(options_print_version);
	case OPTIONS_OBJECT_HELP:
		return print_out(object_print_types);
	case OPTIONS_TRACE_HELP:
		return print_out(trace_print_events);
	case OPTIONS_DETACH:
		return detach(options);
	case OPTIONS_LIST:
	case OPTIONS_SERVE:
		break;
	}
	if (trace_begin(&options->trace, &err) < 0 ||
	    object_set_create(&options->objects, &err) < 0 || find_tls(options, &err) < 0 ||
	    find_key(options, &err) < 0)
		return fail(&err);
	return options->mode == OPTIONS_LIST ? list(options) : service_run(options, activation);
}

/* What the command line asks for; *options is cleared by the caller, whatever comes of it. */
static int parse_and_act(struct options *options, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	int activation;

	if (options_parse(options, argc, argv, &err) < 0)
		return fail(&err);
	if (options->verbose)
		log_threshold = options->verbose > 1 ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
	activation = notify_take_sockets(&err);
	if (activation < 0 || options_check_activation(options, (unsigned int)activation, &err) < 0)
		return fail(&err);
	return act(options, (unsigned int)activation);
}

int main(int argc, char **argv)
{
	static char no_name[] = "hawserd";
	struct error err = ERROR_INIT;
	struct options options;
	int status;

	log_init(argc ? argv[0] : no_name);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file size limit is one client's error */
	if (daemon_keep_stdio(&err) < 0)
		return fail(&err);
	if (argc) /* getopt_long speaks under the same name as we do */
		argv[0] = (char *)(uintptr_t)log_program();
	status = parse_and_act(&options, argc, argv);
	options_clear(&options);
	return status;
}
