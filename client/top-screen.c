// SPDX-License-Identifier: MIT
/*
 * The terminal of `hawser top`: the other screen, keys without Enter, and whatever happens, the
 * terminal as it was at the end. Signals are taken by descriptor, so nothing runs in a handler.
 */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "top.h"

struct screen {
	const struct top_server *server;
	uint64_t interval;
	struct termios before; /* how we found the terminal */
	bool has_keys;         /* standard input is the terminal */
	bool open;
	int signal_fd;
	struct top_sample now, earlier;
	struct top_history history;
};

struct top_look top_screen_look(void)
{
	struct top_look look = {.columns = 80};
	const char *term = getenv("TERM"), *none = getenv("NO_COLOR");
	struct winsize size;

	setlocale(LC_CTYPE, "");
	look.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	if (!isatty(STDOUT_FILENO)) {
		look.columns = 120;
		return look;
	}
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row) {
		look.columns = size.ws_col;
		look.rows = size.ws_row;
	}
	look.live = term && *term && strcmp(term, "dumb");
	look.colour = look.live && !(none && *none);
	return look;
}

/* ---- Opening and closing ---- */

static void write_out(const char *text, size_t length)
{
	while (length) {
		ssize_t done = write(STDOUT_FILENO, text, length);

		if (done < 0 && errno != EINTR)
			return;
		if (done > 0) {
			text += done;
			length -= (size_t)done;
		}
	}
}

static void screen_open(struct screen *screen)
{
	static const char begin[] = "\033[?1049h\033[?25l\033[H\033[2J";
	struct termios raw = screen->before;

	if (screen->has_keys) {
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 0;
		raw.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
	}
	write_out(begin, sizeof(begin) - 1);
	screen->open = true;
}

static void screen_close(struct screen *screen)
{
	static const char end[] = "\033[0m\033[?25h\033[?1049l";

	if (!screen->open)
		return;
	write_out(end, sizeof(end) - 1);
	if (screen->has_keys)
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &screen->before);
	screen->open = false;
}

static void screen_clear(struct screen *screen)
{
	screen_close(screen);
	cleanup_close(&screen->signal_fd);
	top_sample_clear(&screen->now);
	top_sample_clear(&screen->earlier);
}

static int screen_init(struct screen *screen, struct error *err)
{
	static const int wanted[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH, SIGCONT};
	sigset_t signals;

	sigemptyset(&signals);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		sigaddset(&signals, wanted[i]);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	screen->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (screen->signal_fd < 0)
		return error_set_errno(err, errno, "cannot wait for signals");
	screen->has_keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &screen->before) == 0;
	return 0;
}

/* ---- Drawing ---- */

/* One write for a whole picture: nothing flickers. Each line clears what was right of it. */
static void draw(struct screen *screen)
{
	struct top_look look = top_screen_look();
	AUTO_FREE char *picture = NULL, *text = NULL;
	size_t length = 0, picture_length = 0;
	FILE *out = open_memstream(&text, &length), *frame;
	unsigned int rows = 0;
	char *line, *next, keys[48];

	if (!out)
		return;
	look.live = true;
	top_view_draw(out, &look, &screen->now, screen->earlier.clock ? &screen->earlier : NULL,
		      &screen->history);
	if (fclose(out) || !(frame = open_memstream(&picture, &picture_length)))
		return;
	fputs("\033[H", frame);
	for (line = text; *line && (!look.rows || rows + 1 < look.rows); line = next, rows++) {
		next = line + strcspn(line, "\n");
		fprintf(frame, "%.*s\033[K\n", (int)(next - line), line);
		next += *next == '\n';
	}
	fputs("\033[J", frame);
	if (look.rows)
		fprintf(frame, "\033[%u;1H", look.rows);
	snprintf(keys, sizeof(keys), " every %u s, q: quit",
		 (unsigned int)(screen->interval / CLOCK_SECOND));
	fprintf(frame, "%s%.*s%s", look.colour ? "\033[2m" : "", (int)look.columns, keys,
		look.colour ? "\033[0m" : "");
	if (fclose(frame) == 0)
		write_out(picture, picture_length);
}

/* Takes the next sample. A command_status. */
static int refresh(struct screen *screen, struct error *err)
{
	AUTO_FREE char *answer = NULL;
	struct top_sample sample;
	size_t length;
	int status = top_server_ask(screen->server, "stats json", &answer, &length, err);

	if (status != COMMAND_OK)
		return status;
	if (top_sample_read(answer, length, &sample, err))
		return COMMAND_PROTOCOL;
	top_sample_clear(&screen->earlier);
	screen->earlier = screen->now;
	screen->now = sample;
	draw(screen);
	return COMMAND_OK;
}

/* ---- Waiting ---- */

enum event { EVENT_NONE, EVENT_QUIT, EVENT_REFRESH, EVENT_GONE };

/* Gives the terminal back for as long as we are stopped. */
static void stop_here(struct screen *screen)
{
	screen_close(screen);
	raise(SIGSTOP);
	screen_open(screen);
}

static enum event take_signal(struct screen *screen)
{
	struct signalfd_siginfo info;

	if (read(screen->signal_fd, &info, sizeof(info)) != sizeof(info))
		return EVENT_NONE;
	switch (info.ssi_signo) {
	case SIGTSTP:
		stop_here(screen);
		return EVENT_REFRESH;
	case SIGWINCH:
	case SIGCONT:
		return EVENT_REFRESH;
	default:
		return EVENT_QUIT;
	}
}

static enum event take_key(void)
{
	char keys[64];
	ssize_t got = read(STDIN_FILENO, keys, sizeof(keys));

	if (got <= 0)
		return EVENT_QUIT; /* the terminal is gone */
	if (memchr(keys, 'q', (size_t)got) || memchr(keys, 'Q', (size_t)got))
		return EVENT_QUIT;
	return memchr(keys, ' ', (size_t)got) ? EVENT_REFRESH : EVENT_NONE;
}

/* Until something happens or the deadline passes. */
static enum event wait_for_event(struct screen *screen, uint64_t deadline)
{
	struct pollfd items[] = {
		{.fd = screen->signal_fd, .events = POLLIN},
		{.fd = screen->has_keys ? STDIN_FILENO : -1, .events = POLLIN},
		{.fd = screen->server->fd, .events = 0}, /* only its end */
	};

	if (poll(items, 3, clock_poll_timeout(deadline)) < 0)
		return EVENT_NONE;
	if (items[0].revents)
		return take_signal(screen);
	if (items[1].revents)
		return take_key();
	return items[2].revents ? EVENT_GONE : EVENT_NONE;
}

static int run(struct screen *screen, struct error *err)
{
	uint64_t next = clock_now();
	int status = COMMAND_OK;

	while (status == COMMAND_OK) {
		if (clock_now() >= next) {
			status = refresh(screen, err);
			next = clock_now() + screen->interval;
			continue;
		}
		switch (wait_for_event(screen, next)) {
		case EVENT_QUIT:
			return COMMAND_OK;
		case EVENT_REFRESH:
			draw(screen);
			break;
		case EVENT_GONE: /* asking says how it ended */
			next = 0;
			break;
		case EVENT_NONE:
			break;
		}
	}
	return status;
}

int top_screen_run(const struct top_server *server, uint64_t interval, struct error *err)
{
	struct screen screen = {
		.server = server, .interval = interval * CLOCK_SECOND, .signal_fd = -1};
	int status;

	if (screen_init(&screen, err))
		return COMMAND_FAILED;
	screen_open(&screen);
	status = run(&screen, err);
	screen_clear(&screen);
	return status;
}
