/* SPDX-License-Identifier: MIT */
#include "cli/log.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES 32768u
/* Always left in the buffer, for telling how many lines were lost. */
#define NOTICE_BYTES 96u
/* How long the end waits for whoever reads. */
#define END_SECONDS 1

/* Lines are appended to `pending`; the thread takes all of it at once into `writing`. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool running;
	bool busy; /* `writing` is being written, without the lock */
	size_t pending_bytes;
	unsigned long lost_lines;
	char pending[BUFFER_BYTES];
	char writing[BUFFER_BYTES];
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* One write for as many whole lines as a pipe takes in one piece, so that lines of processes that
 * share it do not mix. */
static size_t piece_bytes(const char *text, size_t length)
{
	size_t piece = length < PIPE_BUF ? length : PIPE_BUF;

	while (piece > 0 && text[piece - 1] != '\n')
		piece--;
	if (piece == 0)
		return length < PIPE_BUF ? length : PIPE_BUF;
	return piece;
}

static void write_out(const char *text, size_t length)
{
	while (length > 0) {
		ssize_t written = write(STDERR_FILENO, text, piece_bytes(text, length));

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return; /* nobody reads any more, and there is nobody to tell */
		text += written;
		length -= (size_t)written;
	}
}

static void *write_lines(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&log_state.lock);
	for (;;) {
		size_t length;

		while (log_state.pending_bytes == 0)
			pthread_cond_wait(&log_state.changed, &log_state.lock);
		length = log_state.pending_bytes;
		memcpy(log_state.writing, log_state.pending, length);
		log_state.pending_bytes = 0;
		log_state.busy = true;
		pthread_mutex_unlock(&log_state.lock);
		write_out(log_state.writing, length);
		pthread_mutex_lock(&log_state.lock);
		log_state.busy = false;
		pthread_cond_broadcast(&log_state.changed);
	}
	return NULL;
}

int ox_cli_log_start(void)
{
	pthread_condattr_t attributes;
	pthread_t thread;
	sigset_t all;
	sigset_t before;
	int ret;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&log_state.changed, &attributes);
	pthread_condattr_destroy(&attributes);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&thread, NULL, write_lines, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret != 0)
		return -ret;
	pthread_detach(thread);
	log_state.running = true;
	return 0;
}

static void append(const char *text, size_t length)
{
	memcpy(log_state.pending + log_state.pending_bytes, text, length);
	log_state.pending_bytes += length;
}

static void tell_lost(void)
{
	char notice[NOTICE_BYTES];
	int length;

	if (log_state.lost_lines == 0)
		return;
	length = snprintf(notice, sizeof(notice),
			  "oxbow: %lu lines were lost here, because nobody read them\n",
			  log_state.lost_lines);
	append(notice, (size_t)length);
	log_state.lost_lines = 0;
}

bool ox_cli_log_take(const char *line, size_t length)
{
	if (!log_state.running)
		return false;
	pthread_mutex_lock(&log_state.lock);
	if (log_state.pending_bytes + length + 2 * NOTICE_BYTES > BUFFER_BYTES) {
		log_state.lost_lines++;
	} else {
		tell_lost();
		append(line, length);
		pthread_cond_broadcast(&log_state.changed);
	}
	pthread_mutex_unlock(&log_state.lock);
	return true;
}

void ox_cli_log_end(void)
{
	struct timespec deadline;

	if (!log_state.running)
		return;
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += END_SECONDS;
	pthread_mutex_lock(&log_state.lock);
	tell_lost();
	pthread_cond_broadcast(&log_state.changed);
	while (log_state.pending_bytes > 0 || log_state.busy) {
		if (pthread_cond_timedwait(&log_state.changed, &log_state.lock, &deadline) ==
		    ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&log_state.lock);
}
