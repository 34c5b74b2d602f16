// SPDX-License-Identifier: MIT
/*
 * What excludes what on the command line, in the words of qemu-nbd where it has the same rule.
 * Pure functions over parsed options.
 */
#include "options.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/tls.h"

/* These cannot be meant together. */
static const struct {
	const char *one;
	const char *other;
} exclusive[] = {
	{"read-only", "auto-read-only"},
	{"run", "fork"},
	{"run", "socket"},
	{"run", "port"},
	{"run", "bind"},
	{"run", "connect"},
	{"run", "stdio"},
	{"stdio", "fork"},
	{"stdio", "socket"},
	{"stdio", "port"},
	{"stdio", "bind"},
	{"stdio", "connect"},
	{"connect", "disconnect"},
	{"load-snapshot", "bitmap"},
	{"run", "list"},
	{"stdio", "list"},
	{"control", "list"},
};

/* What -L has no use for, in qemu-nbd's words. */
static const char *const not_with_list[] = {
	"export-name", "description", "connect",       "disconnect", "format",
	"cache",       "nocache",     "load-snapshot", "bitmap",     "allocation-depth",
	"discard",     "aio",         "partition",     "key-secret"};

static int check_list(const struct options *options, int operands, struct error *err)
{
	if (operands)
		return error_set(err, EINVAL, "List mode is incompatible with a file name");
	if (options->server.export_.offset)
		return error_set(err, EINVAL, "List mode is incompatible with per-device settings");
	for (size_t i = 0; i < sizeof(not_with_list) / sizeof(not_with_list[0]); i++)
		if (options_given(options, not_with_list[i]))
			return error_set(err, EINVAL,
					 "List mode is incompatible with per-device settings");
	if (options->fork)
		return error_set(err, EINVAL, "List mode is incompatible with forking");
	return 0;
}

static int check_tls(const struct options *options, struct error *err)
{
	if (options->tls_creds && options->device)
		return error_set(err, EINVAL, "TLS is not supported with a host device");
	if (options->tls_authz && !options->tls_creds)
		return error_set(err, EINVAL, "--tls-authz is not permitted without --tls-creds");
	if (options->tls_hostname && !options->tls_creds)
		return error_set(err, EINVAL,
				 "--tls-hostname is not permitted without --tls-creds");
	if (options->tls_authz && options->list)
		return error_set(err, EINVAL, "TLS authorization is incompatible with export list");
	if (options->tls_hostname && !options->list)
		return error_set(err, EINVAL, "TLS hostname is only supported with export list");
	if (options->tls_hostname && tls_check_host(options->tls_hostname, err))
		return error_wrap(err, "--tls-hostname");
	return 0;
}

int options_check(struct options *options, int operands, struct error *err)
{
	if (options->list) {
		options->mode = OPTIONS_LIST;
		if (check_list(options, operands, err) < 0)
			return -EINVAL;
	} else if (operands != 1) {
		return error_set(err, EINVAL,
				 "Invalid number of arguments\n"
				 "Try `%s --help' for more information.",
				 log_program());
	}
	for (size_t i = 0; i < sizeof(exclusive) / sizeof(exclusive[0]); i++)
		if (options_given(options, exclusive[i].one) &&
		    options_given(options, exclusive[i].other))
			return error_set(err, EINVAL, "--%s and --%s are mutually exclusive",
					 exclusive[i].one, exclusive[i].other);
	if (options->selinux_label && !options->socket && !options->device && !options->run)
		return error_set(err, EINVAL, "--selinux-label is not permitted without --socket");
	if (options_given(options, "partition") && options_given(options, "offset"))
		return error_set(err, EINVAL, "Cannot request partition and offset together");
	if (check_tls(options, err) < 0)
		return -EINVAL;
	if (options->detach)
		options->mode = OPTIONS_DETACH;
	return 0;
}

int options_check_activation(const struct options *options, unsigned int count, struct error *err)
{
	static const struct {
		const char *name;
		const char *said;
	} own[] = {
		{"connect", "NBD device"},          {"socket", "Unix socket"},
		{"bind", "The interface"},          {"port", "TCP port number"},
		{"stdio", "Standard input"},        {"run", "A command"},
		{"selinux-label", "SELinux label"},
	};

	if (!count)
		return 0;
	if (options->list)
		return error_set(err, EINVAL, "List mode is incompatible with socket activation");
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (options_given(options, own[i].name))
			return error_set(err, EINVAL,
					 "%s can't be set when using socket activation",
					 own[i].said);
	if (count > 1)
		return error_set(err, EINVAL,
				 "%s does not support socket activation with LISTEN_FDS > 1",
				 log_program());
	return 0;
}
