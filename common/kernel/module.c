// SPDX-License-Identifier: MIT
/*
 * Before the first verb: rights, the module, the choice of interface. Runs modprobe, never insmod:
 * where the module lives, and its options, are the system's business. Any thread.
 */
#include "interface.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"

enum { CAPABILITY_SYS_ADMIN = 21, MODPROBE_TEXT_MAX = 300 };

static const char module_directory[] = "/sys/module/nbd";

static bool has_capability(void)
{
	AUTO_FILE FILE *status = fopen("/proc/self/status", "re");
	unsigned long long effective = 0;
	char line[128];

	if (!status)
		return geteuid() == 0;
	while (fgets(line, sizeof(line), status))
		if (sscanf(line, "CapEff: %llx", &effective) == 1)
			break;
	return effective >> CAPABILITY_SYS_ADMIN & 1;
}

int module_check_rights(struct error *err)
{
	if (has_capability())
		return 0;
	return error_set(err, EPERM,
			 "no permission to change nbd devices: it needs root (CAP_SYS_ADMIN); "
			 "run it with sudo");
}

static int spawn_modprobe(char *const argv[], int output, pid_t *pid)
{
	static const char *const paths[] = {"/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe",
					    "/usr/bin/modprobe"};
	static char *const environment[] = {(char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	posix_spawn_file_actions_t actions;
	int rc = ENOENT;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, output, 1);
	posix_spawn_file_actions_adddup2(&actions, output, 2);
	for (size_t i = 0; rc == ENOENT && i < sizeof(paths) / sizeof(paths[0]); i++)
		rc = posix_spawn(pid, paths[i], &actions, NULL, argv, environment);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* What modprobe said, on one line. */
static void read_output(int fd, char text[MODPROBE_TEXT_MAX])
{
	size_t used = 0;
	ssize_t count;

	while (used < MODPROBE_TEXT_MAX - 1 &&
	       (count = read(fd, text + used, MODPROBE_TEXT_MAX - 1 - used)) > 0)
		used += (size_t)count;
	while (used && text[used - 1] == '\n')
		used--;
	text[used] = '\0';
	for (char *at = text; (at = strchr(at, '\n'));)
		*at = ' ';
}

/* Runs modprobe; its exit status, or -errno when it cannot run. */
static int run_modprobe(char text[MODPROBE_TEXT_MAX])
{
	char *argv[] = {(char *)"modprobe", (char *)"nbd", NULL};
	AUTO_CLOSE int reader = -1;
	AUTO_CLOSE int writer = -1;
	int ends[2], status = 0, rc;
	pid_t pid;

	text[0] = '\0';
	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	reader = ends[0];
	writer = ends[1];
	rc = spawn_modprobe(argv, writer, &pid);
	if (rc)
		return -rc;
	cleanup_close(&writer);
	read_output(reader, text);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool module_present(void)
{
	return !access(module_directory, F_OK) || !access("/sys/block/nbd0", F_OK);
}

int module_load(struct error *err)
{
	char text[MODPROBE_TEXT_MAX];
	int rc;

	if (module_present())
		return 0;
	rc = run_modprobe(text);
	if (!rc && module_present())
		return 0;
	if (rc < 0)
		return error_set(err, ENODEV,
				 "the kernel module nbd is not loaded and modprobe cannot run: %s; "
				 "load it with 'modprobe nbd'",
				 strerror(-rc));
	return error_set(err, ENODEV,
			 "the kernel module nbd cannot be loaded%s%s; this kernel needs nbd.ko "
			 "(CONFIG_BLK_DEV_NBD)",
			 *text ? ": " : "", text);
}

int interface_error(struct error *err, int code, const char *what, const char *detail)
{
	if (code == EPERM || code == EACCES)
		return error_set(err, EPERM,
				 "%s: the kernel denies it; it needs CAP_SYS_ADMIN in the initial "
				 "user namespace (root outside of containers)",
				 what);
	return error_set(err, code, "%s: %s%s%s", what, strerror(code), *detail ? ": " : "",
			 detail);
}

int device_interface_choose(enum device_choice choice, const struct device_interface **interface,
			    bool *degraded, struct error *err)
{
	int rc = module_check_rights(err);

	if (degraded)
		*degraded = false;
	if (!rc)
		rc = module_load(err);
	if (rc)
		return rc;
	*interface = choice == DEVICE_CHOICE_IOCTL ? &device_ioctl : &device_netlink;
	if (choice == DEVICE_CHOICE_IOCTL)
		return 0;
	rc = netlink_available(err);
	if (rc != -ENOENT || choice == DEVICE_CHOICE_NETLINK)
		return rc;
	*interface = &device_ioctl;
	if (degraded)
		*degraded = true;
	return 0;
}
