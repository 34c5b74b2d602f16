// SPDX-License-Identifier: MIT
/*
 * The order of a start: open the image, then bind, then tell the world (pid file, service manager,
 * waiting parent). What was begun is undone in the opposite order, so a start that fails leaves
 * nothing behind.
 */
#include "service.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "captive.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/nbd-protocol.h"
#include "common/notify.h"
#include "common/reclaim.h"
#include "common/size.h"
#include "control.h"
#include "daemon.h"
#include "device.h"
#include "label.h"
#include "listener.h"
#include "object-throttle.h"

struct service {
	const struct options *options;
	struct server_config config;
	struct notify notify;
	struct daemon daemon;
	struct server *server;
	struct listener_set listeners;
	struct control *control;
	struct captive captive;
	struct device_link link;
	struct pid_file pid_file;
};

/* From here on the signals wait for the server; before, they just end the start. */
static void block_signals(void)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
}

static struct server_config make_config(const struct options *options)
{
	struct server_config config = options->server;

	if (options->device) {
		/* Without a socket nobody could come after the kernel has gone, and the kernel's
		 * connection is not one of the clients that -e counts. */
		config.persistent = config.persistent && options->socket;
		config.max_clients += config.max_clients ? 1 : 0;
		config.keep_memory_locked = true;
		config.signals_elsewhere = true;
	}
	if (options->run)
		config.persistent = true; /* the command's end is the end */
	if (options->stdio)
		config.persistent = false;
	if (config.export_.throttle_group)
		config.export_.throttle =
			object_throttle_find(&options->objects, config.export_.throttle_group);
	return config;
}

/* ---- Start ---- */

static int go_background(struct service *service, struct error *err)
{
	const struct options *options = service->options;

	if (!options->fork && (!options->device || options->verbose))
		return 0;
	return daemon_fork(&service->daemon, err);
}

static int listen_unix(struct service *service, const char *path, struct error *err)
{
	const char *label = service->options->selinux_label;
	int rc = label ? label_sockets(label, err) : 0;

	if (!rc)
		rc = listener_open_unix(&service->listeners, path, err);
	if (!rc && label)
		rc = label_sockets(NULL, err);
	return rc;
}

/* Names are resolved before signals are blocked: that can take long. */
static int listen_everywhere(struct service *service, unsigned int activation, struct error *err)
{
	const struct options *options = service->options;
	const char *path = options->socket;
	int rc = 0;

	if (!options->run && !options->socket && !options->device && !options->stdio && !activation)
		rc = listener_open_tcp(&service->listeners,
				       options->bind ? options->bind : OPTIONS_BIND_DEFAULT,
				       options->port ? options->port : NBD_DEFAULT_PORT, err);
	block_signals();
	for (unsigned int i = 0; !rc && i < activation; i++)
		rc = listener_adopt(&service->listeners, NOTIFY_FDS_START + (int)i, err);
	if (!rc && options->run) {
		rc = captive_prepare(&service->captive, err);
		path = service->captive.socket;
	}
	if (!rc && path)
		rc = listen_unix(service, path, err);
	for (size_t i = 0; !rc && i < service->listeners.count; i++)
		rc = server_add_listener(service->server, service->listeners.items[i].fd, err);
	return rc;
}

/* Standard input becomes /dev/null, so that nothing else reads from the client. */
static int add_stdin(struct service *service, struct error *err)
{
	AUTO_CLOSE int client = -1, null = -1;
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);
	int type = 0, rc;

	if (getpeername(STDIN_FILENO, (struct sockaddr *)&peer, &length) < 0)
		return error_set(err, errno, "standard input is not a connected socket");
	length = sizeof(type);
	if (getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
	    type != SOCK_STREAM)
		return error_set(err, EPROTOTYPE, "standard input is not a stream socket");
	client = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (client < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0)
		return error_set_errno(err, errno, "Cannot take standard input");
	rc = server_add_client(service->server, client, err);
	if (!rc)
		take_fd(&client);
	return rc;
}

/* The manager hears our number before the process that it started, the parent, ends. */
static int tell_world(struct service *service, struct error *err)
{
	const struct options *options = service->options;
	bool goes_mute = service->daemon.pipe >= 0 && !options->verbose;

	if (options->pid_file && pid_file_create(&service->pid_file, options->pid_file, err) < 0)
		return -err->code;
	notify_send(&service->notify, "READY=1\nMAINPID=%ld\nSTATUS=Serving %s", (long)getpid(),
		    options->server.export_.file);
	if (daemon_ready(&service->daemon, options->verbose, err) < 0)
		return -err->code;
	/* Not beside a device: the log may be written to it, and then would wait for us, as we for
	 * the log. */
	if (goes_mute && !options->device)
		log_to_system();
	return 0;
}

static void say_what_is_served(const struct service *service)
{
	const struct export_config *export_ = &service->config.export_;
	char size[SIZE_TEXT_MAX], where[LISTENER_TEXT_MAX];

	if (!log_wants(LOG_LEVEL_INFO))
		return;
	log_info("'%s' as export '%s', %" PRIu64 " bytes (%s), %s", export_->file, export_->name,
		 server_size(service->server), size_format(server_size(service->server), size),
		 server_read_only(service->server) ? "read-only" : "writable");
	for (size_t i = 0; i < service->listeners.count; i++)
		log_info("listening on %s", listener_describe(&service->listeners.items[i], where));
}

/* On the link's thread, while the server runs. */
static int device_is_ready(void *context, const char *device, struct error *err)
{
	struct service *service = context;
	const struct options *options = service->options;

	if (options->verbose)
		fprintf(stderr, "NBD device %s is now connected to %s\n", device,
			options->server.export_.file);
	if (!strcmp(options->device, "auto") && (printf("%s\n", device) < 0 || fflush(stdout)))
		return error_set_errno(err, errno, "Cannot tell the name of %s", device);
	return tell_world(service, err);
}

/* Before the drain, which may last: the manager's timeout for the stop begins here. */
static void tell_stopping(void *context)
{
	struct service *service = context;

	notify_send(&service->notify, "STOPPING=1");
}

static int start_clients(struct service *service, struct error *err)
{
	const struct options *options = service->options;

	if (options->device) {
		service->link.ready = device_is_ready;
		service->link.context = service;
		return device_link_start(&service->link, service->server, options, err);
	}
	if (options->stdio && add_stdin(service, err) < 0)
		return -err->code;
	if (tell_world(service, err) < 0)
		return -err->code;
	service->captive.tls = options->tls_creds;
	if (options->run)
		return captive_start(&service->captive, service->server, options->run,
				     options->server.export_.name, err);
	return 0;
}

static int start(struct service *service, unsigned int activation, struct error *err)
{
	int rc = go_background(service, err);

	if (rc)
		return rc;
	if (service->options->device)
		reclaim_prepare_process();
	service->config.stopping = tell_stopping;
	service->config.stopping_context = service;
	rc = server_open(&service->server, &service->config, err);
	if (!rc)
		rc = listen_everywhere(service, activation, err);
	if (!rc)
		rc = control_open(&service->control, service->options->control, service->server,
				  &service->listeners, err);
	if (rc)
		return rc;
	say_what_is_served(service);
	return start_clients(service, err);
}

/* ---- End ---- */

/* stuck: threads hang in the disk; waiting for them would keep the process for ever. */
static void clear(struct service *service, bool stuck)
{
	pid_file_remove(&service->pid_file);
	control_close(service->control);
	listener_close_all(&service->listeners);
	captive_clear(&service->captive);
	if (service->server && !stuck)
		server_close(service->server);
	notify_clear(&service->notify);
	daemon_clear(&service->daemon);
}

static int run(struct service *service, struct error *err)
{
	struct error link_error = ERROR_INIT;
	int rc = server_run(service->server, err);
	int link = device_link_finish(&service->link, &link_error);

	if (!rc && link) {
		rc = link;
		*err = link_error;
	}
	return rc;
}

int service_run(const struct options *options, unsigned int activation)
{
	struct service service = {.options = options,
				  .config = make_config(options),
				  .daemon = DAEMON_INIT,
				  .pid_file = PID_FILE_INIT};
	struct error err = ERROR_INIT;
	int rc, status = 0;

	notify_init(&service.notify);
	if (options->device && (options->port || options->bind))
		log_warning("--port and --bind have no effect with --connect");
	rc = start(&service, activation, &err);
	if (!rc) {
		rc = run(&service, &err);
		status = captive_status(&service.captive);
	}
	if (rc)
		log_error("%s", err.text);
	clear(&service, rc == -ETIMEDOUT);
	return rc ? EXIT_FAILURE : status;
}
