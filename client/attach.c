// SPDX-License-Identifier: MIT
/*
 * hawser attach: URI, connections, plan, device, ready. Until the kernel is asked a signal simply
 * ends the program, and nothing is left; from then on signals wait until the device is either
 * usable or given back. The main thread.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach-links.h"
#include "command.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/kernel/device.h"
#include "common/log.h"
#include "common/printable.h"
#include "common/size.h"
#include "common/uri.h"
#include "device-fault.h"
#include "nbdtab.h"

/* A number that the user did not give. */
#define UNSET UINT64_MAX

struct attach_options {
	const char *device;
	bool read_only;
	bool read_write;
	uint64_t timeout;
	uint64_t dead_timeout;
	uint64_t connections;
	uint64_t block_size;
	bool ioctl;
	bool netlink;
	const char *name;
	bool json;
	bool no_wait;
};

#define FIELD(field) offsetof(struct attach_options, field)

static const struct option_row rows[] = {
	{"device", 0, "DEVICE", OPTION_STRING, FIELD(device),
	 "attach to this device (/dev/nbdN); the kernel picks one otherwise"},
	{"name", 0, "NAME", OPTION_STRING, FIELD(name),
	 "a name for detach and status to find the device by"},
	{"read-only", 'r', NULL, OPTION_FLAG, FIELD(read_only),
	 "make the device read-only, whatever the server allows"},
	{"read-write", 0, NULL, OPTION_FLAG, FIELD(read_write),
	 "fail if the server's export is read-only"},
	{"block-size", 'b', "BYTES", OPTION_SIZE, FIELD(block_size),
	 "logical block size (512, or the server's minimum)"},
	{"connections", 'C', "N", OPTION_NUMBER, FIELD(connections),
	 "number of connections, where the server allows several (1)"},
	{"timeout", 't', "SECONDS", OPTION_SECONDS, FIELD(timeout),
	 "a request without an answer for so long ends its connection (45)"},
	{"dead-timeout", 'T', "SECONDS", OPTION_SECONDS, FIELD(dead_timeout),
	 "requests wait so long for a new connection, then fail (60)"},
	{"netlink", 0, NULL, OPTION_FLAG, FIELD(netlink),
	 "use the netlink interface, and fail where there is none"},
	{"ioctl", 0, NULL, OPTION_FLAG, FIELD(ioctl),
	 "use the ioctls: a process stays while the device is attached"},
	{"no-wait", 0, NULL, OPTION_FLAG, FIELD(no_wait),
	 "return as soon as the kernel has it, before partitions are there"},
	{"json", 'j', NULL, OPTION_FLAG, FIELD(json), "print the result as JSON"},
	{0},
};

/* Everything known about one attach. */
struct job {
	struct attach_options options;
	struct attach_wish wish;
	const char *uri;
	int index;
	bool guessed; /* the operand is no entry of the table: it may be a host */
	enum device_choice choice;
	const struct device_interface *interface;
	struct attach_links links;
	struct attach_plan plan;
};

static void set_default(uint64_t *field, int64_t value)
{
	if (*field == UNSET)
		*field = (uint64_t)value;
}

/* What the line of the table says, where the command line says nothing. */
static void merge_entry(struct attach_options *options, const struct nbdtab_entry *entry)
{
	if (!options->device)
		options->device = entry->device;
	if (!options->name)
		options->name = entry->name;
	if (entry->read_only && !options->read_write)
		options->read_only = true;
	if (entry->block_size > 0)
		set_default(&options->block_size, entry->block_size);
	if (entry->connections > 0)
		set_default(&options->connections, entry->connections);
	if (entry->timeout > 0)
		set_default(&options->timeout, entry->timeout);
	if (entry->dead_timeout > 0)
		set_default(&options->dead_timeout, entry->dead_timeout);
}

/* The operand is a place, or the key of an entry in the table. */
static int find_entry(struct job *job, const char *operand, struct nbdtab_entry *entry,
		      struct error *err)
{
	int rc;

	job->uri = operand;
	if (strchr(operand, ':') || (operand[0] == '/' && strncmp(operand, "/dev/nbd", 8)) ||
	    operand[0] == '.')
		return COMMAND_OK;
	rc = nbdtab_find(NBDTAB_PATH, operand, entry, err);
	if (rc == -ENOENT && (device_spelling(operand) || operand[0] == '/')) {
		error_set(err, ENOENT,
			  "%s is a device and has no entry in " NBDTAB_PATH
			  "; name the server, as in nbd://host/export",
			  operand);
		return COMMAND_USAGE;
	}
	job->guessed = rc == -ENOENT;
	if (job->guessed)
		return COMMAND_OK;
	if (rc)
		return COMMAND_FAILED;
	job->uri = entry->uri;
	merge_entry(&job->options, entry);
	return COMMAND_OK;
}

static bool in_range(const char *option, uint64_t value, uint64_t most, const char *unit,
		     struct error *err)
{
	if (value >= 1 && value <= most)
		return true;
	command_usage(err, "--%s is 1 to %llu%s, not %llu", option, (unsigned long long)most, unit,
		      (unsigned long long)value);
	return false;
}

static int check_options(struct job *job, struct error *err)
{
	struct attach_options *options = &job->options;

	set_default(&options->timeout, DEVICE_TIMEOUT_DEFAULT);
	set_default(&options->dead_timeout, DEVICE_DEAD_TIMEOUT_DEFAULT);
	set_default(&options->connections, 1);
	set_default(&options->block_size, 0);
	if (options->read_only && options->read_write)
		return command_usage(err, "--read-only and --read-write exclude each other");
	if (options->ioctl && options->netlink)
		return command_usage(err, "--ioctl and --netlink exclude each other");
	/* Zero would let requests hang for ever, unkillable. */
	if (!in_range("timeout", options->timeout, DEVICE_TIMEOUT_MAX, " seconds", err) ||
	    !in_range("dead-timeout", options->dead_timeout, DEVICE_TIMEOUT_MAX, " seconds", err) ||
	    !in_range("connections", options->connections, DEVICE_SOCKETS_MAX, "", err))
		return COMMAND_USAGE;
	if (options->name && !device_label_valid(options->name))
		return command_usage(err,
				     "'%s' is no name for a device: use letters, digits and . _ : "
				     "@ -, at most %d, and not like nbd0",
				     options->name, DEVICE_LABEL_MAX);
	job->index = DEVICE_INDEX_ANY;
	if (options->device && device_parse(options->device, &job->index, err))
		return COMMAND_USAGE;
	job->choice = options->ioctl     ? DEVICE_CHOICE_IOCTL
		      : options->netlink ? DEVICE_CHOICE_NETLINK
					 : DEVICE_CHOICE_AUTO;
	job->wish = (struct attach_wish){.read_only = options->read_only,
					 .read_write = options->read_write,
					 .block_size = options->block_size,
					 .connections = options->connections};
	return COMMAND_OK;
}

/* ---- The device ---- */

static int name_free(const char *name, struct error *err)
{
	int index;

	if (!name || device_find_label(name, &index))
		return 0;
	return error_set(err, EBUSY, "the name '%s' is taken by /dev/nbd%d", name, index);
}

static int choose_interface(struct job *job, struct error *err)
{
	bool degraded;
	int rc = device_interface_choose(job->choice, &job->interface, &degraded, err);

	if (!rc && degraded)
		log_warning("this kernel (or network namespace) has no netlink interface to nbd: "
			    "using ioctls; a process stays for the device, and if the server goes "
			    "away the device is lost at once, with what is mounted on it");
	return rc ? rc : name_free(job->options.name, err);
}

static void notices(const struct job *job)
{
	char text[SIZE_TEXT_MAX];

	if (job->plan.degraded)
		log_warning("NBD export is read-only: the device is read-only, too");
	if (job->plan.lost)
		log_warning("the last %llu bytes of the export are not reachable: its size is no "
			    "multiple of the device's block of %u bytes (the device has %s)",
			    (unsigned long long)job->plan.lost, job->plan.block_size,
			    size_format(job->plan.size, text));
	if (!(job->plan.flags & NBD_FLAG_SEND_FLUSH) && !job->plan.read_only)
		log_warning("the server offers no FLUSH: what is written may be lost if it fails");
}

static int attach_device(struct job *job, struct error *err)
{
	char backend[DEVICE_BACKEND_MAX + 1];
	struct device_attach attach = {
		.request = {.index = job->index,
			    .sockets = job->links.sockets,
			    .socket_count = job->links.count,
			    .size = job->plan.size,
			    .block_size = job->plan.block_size,
			    .flags = job->plan.flags,
			    .timeout = (uint32_t)job->options.timeout,
			    .dead_timeout = (uint32_t)job->options.dead_timeout,
			    .backend = backend},
		.max_payload = job->plan.max_payload,
		.no_wait = job->options.no_wait,
	};
	struct device_state state;
	int rc;

	device_backend_build(backend, job->options.name, job->links.uri,
			     (unsigned int)job->links.count);
	rc = device_attach(job->interface, &attach, &job->index, err);
	if (rc == -EINVAL && attach.request.index >= 0 &&
	    !device_state_read(attach.request.index, &state, NULL) && !state.exists)
		error_hint(err, " (it does not exist; is the number too high?)");
	else if (rc == -EINVAL && job->plan.block_size > sysconf(_SC_PAGESIZE))
		error_hint(err,
			   " (few kernels have devices with blocks of %u bytes, more than a "
			   "page)",
			   job->plan.block_size);
	return rc;
}

/* From here to the end of the program no signal interrupts; device_attach() sees pending ones. */
static void hold_signals(sigset_t *before)
{
	sigset_t held;

	sigemptyset(&held);
	sigaddset(&held, SIGINT);
	sigaddset(&held, SIGTERM);
	sigaddset(&held, SIGHUP);
	sigprocmask(SIG_BLOCK, &held, before);
}

static int attach_guarded(struct job *job, struct error *err)
{
	sigset_t before;
	int rc;

	hold_signals(&before);
	rc = attach_device(job, err);
	if (rc == -EINTR) {
		log_error("interrupted; nothing is attached");
		attach_links_close(&job->links, false);
		sigprocmask(SIG_SETMASK, &before, NULL); /* the signal now has its way */
	}
	attach_links_close(&job->links, rc == 0);
	return rc ? device_fault(rc) : COMMAND_OK;
}

/* ---- The result ---- */

static void print_json(const struct job *job, const struct device_state *state)
{
	char path[DEVICE_PATH_SIZE];
	struct device_backend backend;
	struct json json;

	device_backend_parse(state->backend, &backend);
	json_init(&json, stdout);
	json_object_begin(&json, NULL);
	json_string(&json, "device", device_path(job->index, path));
	json_number(&json, "index", (uint64_t)job->index);
	json_number(&json, "size", job->plan.size);
	json_number(&json, "lost_bytes", job->plan.lost);
	json_number(&json, "block_size", job->plan.block_size);
	json_bool(&json, "read_only", job->plan.read_only);
	json_number(&json, "partitions", state->partitions);
	json_number(&json, "connections", job->wish.connections);
	json_string(&json, "interface", job->interface->name);
	json_string(&json, "name", job->options.name);
	json_string(&json, "uri", *backend.uri ? backend.uri : job->uri);
	json_object_end(&json);
	json_finish(&json);
}

static void print_result(const struct job *job)
{
	char path[DEVICE_PATH_SIZE], size[SIZE_TEXT_MAX];
	struct device_state state = {0};

	device_state_read(job->index, &state, NULL);
	if (job->options.json) {
		print_json(job, &state);
		return;
	}
	printf("Connected %s\n", device_path(job->index, path));
	printf("%s, %s, blocks of %u bytes", size_format(job->plan.size, size),
	       job->plan.read_only ? "read-only" : "writable", job->plan.block_size);
	if (state.partitions)
		printf(", %u partition%s", state.partitions, state.partitions == 1 ? "" : "s");
	if (job->wish.connections > 1)
		printf(", %u connections", (unsigned int)job->wish.connections);
	putchar('\n');
}

/* What is wrong with the command line is said before what this machine lacks. */
static int check_uri(const char *text, struct error *err)
{
	struct nbd_uri uri = NBD_URI_INIT;
	int rc = nbd_uri_parse(text, &uri, err);

	nbd_uri_clear(&uri);
	return rc == -EINVAL ? COMMAND_USAGE : rc ? COMMAND_FAILED : COMMAND_OK;
}

static int attach(struct job *job, struct error *err)
{
	int status, rc;

	/* Rights and module first: no server is bothered for nothing. */
	rc = choose_interface(job, err);
	if (rc)
		return device_fault(rc);
	status = attach_links_open(&job->links, job->uri, &job->wish, &job->plan, err);
	if (status != COMMAND_OK) {
		attach_links_close(&job->links, false);
		return status;
	}
	notices(job);
	status = attach_guarded(job, err);
	if (status == COMMAND_OK)
		print_result(job);
	return status;
}

static int run(int argc, char **argv, struct error *err)
{
	struct nbdtab_entry entry = {0};
	struct job job = {.options = {.timeout = UNSET,
				      .dead_timeout = UNSET,
				      .connections = UNSET,
				      .block_size = UNSET}};
	struct operands operands;
	int status = command_parse(&command_attach, argc, argv, &job.options, &operands, err);

	if (status != COMMAND_GO_ON)
		return status;
	status = find_entry(&job, operands.text[0], &entry, err);
	if (status == COMMAND_OK)
		status = check_options(&job, err);
	if (status == COMMAND_OK)
		status = check_uri(job.uri, err);
	if (status == COMMAND_OK)
		status = attach(&job, err);
	if (status == COMMAND_UNREACHABLE && job.guessed)
		error_hint(err, " (" NBDTAB_PATH " has no entry '%s', so it was taken for a host)",
			   operands.text[0]);
	nbdtab_entry_clear(&entry);
	return status;
}

const struct command command_attach = {
	.name = "attach",
	.operands = "URI|NAME",
	.summary = "Attach an export to a block device, and wait until it is usable",
	.details = "A NAME is looked up in " NBDTAB_PATH ".\n"
		   "A read-only export gives a read-only device, with a notice.",
	.operands_min = 1,
	.operands_max = 1,
	.options = rows,
	.run = run,
};
