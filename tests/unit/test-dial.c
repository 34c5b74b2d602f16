// SPDX-License-Identifier: MIT
/* Dialling up to a deadline, with a name server that answers when the test likes. */
#include <check.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/dial.h"
#include "common/resolve.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held: the name server is silent */
static atomic_int asked, answered;
static struct error err;

/* Stands before the library's: names are what the test says, numbers are not looked up. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *wanted,
		struct addrinfo **addresses)
{
	struct {
		struct addrinfo info;
		struct sockaddr_in address;
	} * one;
	bool number = host[0] >= '0' && host[0] <= '9';

	if (wanted->ai_flags & AI_NUMERICHOST && !number)
		return EAI_NONAME;
	if (!number) {
		asked++;
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
		answered++;
		if (strcmp(host, "known"))
			return EAI_NONAME;
	}
	one = calloc(1, sizeof(*one));
	one->address.sin_family = AF_INET;
	one->address.sin_port = htons((uint16_t)atoi(port));
	one->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	one->info = (struct addrinfo){.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
	one->info.ai_addr = (struct sockaddr *)&one->address;
	one->info.ai_addrlen = sizeof(one->address);
	*addresses = &one->info;
	return 0;
}

void freeaddrinfo(struct addrinfo *addresses)
{
	free(addresses);
}

/* A server on a port of its own; returns its socket. */
static int listen_somewhere(char port[8])
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fd, 4), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	snprintf(port, 8, "%u", ntohs(address.sin_port));
	return fd;
}

START_TEST(test_known)
{
	uint64_t deadlines[] = {CLOCK_NEVER, clock_now() + 60 * CLOCK_SECOND};
	char port[8];
	int server = listen_somewhere(port), fd;

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(dial_tcp("known", port, deadlines[i], &fd, &err), 0);
		close(fd);
	}
	ck_assert_int_eq(asked, 2);
	ck_assert_int_eq(dial_tcp("127.0.0.1", port, deadlines[1], &fd, &err), 0);
	close(fd);
	ck_assert_int_eq(asked, 2);
	close(server);
}
END_TEST

START_TEST(test_unknown)
{
	int fd;

	ck_assert_int_eq(dial_tcp("unknown", "1", CLOCK_NEVER, &fd, &err), -EHOSTUNREACH);
	ck_assert_int_eq(fd, -1);
	ck_assert_ptr_nonnull(strstr(err.text, "'unknown'"));
}
END_TEST

/* The deadline holds while the name server is silent, and what it says too late harms nobody. */
START_TEST(test_silent)
{
	const char *names[] = {"known", "unknown"};
	int fd;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < 2; i++) {
		uint64_t deadline = clock_now() + 50 * CLOCK_MILLISECOND;

		ck_assert_int_eq(dial_tcp(names[i], "1", deadline, &fd, &err), -ETIMEDOUT);
		ck_assert_int_eq(fd, -1);
		ck_assert_ptr_nonnull(strstr(err.text, "no answer in time"));
		ck_assert_uint_ge(clock_now(), deadline);
	}
	ck_assert_int_eq(dial_tcp("known", "1", 0, &fd, &err), -ETIMEDOUT);
	pthread_mutex_unlock(&lock);
	while (answered < asked || asked < 3)
		usleep(1000);
	ck_assert_int_eq(dial_tcp("unknown", "1", CLOCK_NEVER, &fd, &err), -EHOSTUNREACH);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dial");
	TCase *tcase = tcase_create("names");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, test_known);
	tcase_add_test(tcase, test_unknown);
	tcase_add_test(tcase, test_silent);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
