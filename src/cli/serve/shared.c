/* SPDX-License-Identifier: MIT */
/*
 * A worker of several disks (worker = shared): each has a context and a thread of its own, so that
 * a slow image delays no other. A ring belongs to the thread that makes it, and is made with rights
 * that nothing of an image or a client must be read with. So all threads go from stage to stage
 * together:
 *
 *	RINGS     each makes its context
 *	RIGHTS    the user was changed; each gives up its capabilities
 *	SERVING   the system calls are restricted; each serves its disk
 *
 * The main thread leads them, waits for their end, and sees to it that an image which cannot be
 * closed in time holds up nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/keeper/wire.h"
#include "cli/log.h"
#include "cli/serve/serve.h"
#include "serve/loop.h"

#define LOOK_MS 250

/* More than a command line has. */
#define WORDS_MAX 4096u
#define WORDS_BYTES_MAX (1u << 20)

enum stage {
	RINGS,
	RIGHTS,
	SERVING,
	FAILED, /* nobody serves */
};

struct disk {
	struct disk *next;
	struct ox_cli_serve_arguments arguments;
	struct ox_kept kept;
	struct ox_context *ctx; /* NULL: it is not served */
	char *words;		/* its name, and its command line */
	char **argv;
	int argc;
	int socket;
	int end_socket;	       /* the same: the server closes its own */
	atomic_bool has_ended; /* which was told */
};

struct process {
	struct disk *disks;
	pid_t keeper;
	struct ox_sandbox sandbox;
	bool has_sandbox;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum stage stage;
	unsigned done; /* threads that have done what the stage asks for */
	unsigned threads;
	unsigned running; /* disks */
};

static struct process process = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- what the keeper hands over ---- */

static int read_words(struct disk *disk, int fd)
{
	struct stat st;
	size_t bytes;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size <= 0 || st.st_size > (off_t)WORDS_BYTES_MAX)
		return -EBADMSG;
	bytes = (size_t)st.st_size;
	disk->words = malloc(bytes);
	disk->argv = calloc(WORDS_MAX + 1, sizeof(*disk->argv));
	if (!disk->words || !disk->argv)
		return -ENOMEM;
	if (pread(fd, disk->words, bytes, 0) != (ssize_t)bytes || disk->words[bytes - 1] != '\0')
		return -EBADMSG;
	for (size_t at = 0; at < bytes; at += strlen(disk->words + at) + 1) {
		if (disk->argc == (int)WORDS_MAX)
			return -EBADMSG;
		disk->argv[disk->argc++] = disk->words + at;
	}
	return 0;
}

static int take_disk(struct ox_wire_message *message)
{
	struct disk *disk;
	int ret;

	if (message->fd_count != 2)
		return -EBADMSG;
	disk = calloc(1, sizeof(*disk));
	if (!disk)
		return -ENOMEM;
	disk->next = process.disks;
	process.disks = disk;
	disk->socket = message->fds[0];
	disk->end_socket = fcntl(disk->socket, F_DUPFD_CLOEXEC, 0);
	ret = disk->end_socket < 0 ? -errno : read_words(disk, message->fds[1]);
	close(message->fds[1]);
	message->fd_count = 0;
	return ret;
}

static int take_disks(int socket)
{
	struct ox_wire_message message;
	int ret;

	for (;;) {
		ret = ox_wire_receive(socket, &message);
		if (ret <= 0)
			return ret < 0 ? ret : -ESRCH;
		if (message.kind == OX_WIRE_GO)
			break;
		ret = message.kind == OX_WIRE_DISK ? take_disk(&message) : -EBADMSG;
		ox_wire_close(&message);
		if (ret < 0)
			return ret;
	}
	process.keeper = (pid_t)message.number;
	ox_wire_close(&message);
	close(socket);
	return 0;
}

/* ---- what is prepared for each ---- */

/* Its name is for what is said of it. */
static void speak_of(const struct disk *disk)
{
	ox_cli_message_about(disk && disk->argv[0][0] ? disk->argv[0] : NULL);
}

static int parse(struct disk *disk)
{
	struct ox_cli_serve_arguments *arguments = &disk->arguments;
	int ret;

	ox_cli_serve_init(arguments);
	ret = ox_cli_serve_parse(disk->argc, disk->argv, arguments);
	if (ret < 0) {
		close(disk->socket); /* with all that is in it */
		return ret;
	}
	arguments->name = disk->argv[0][0] ? disk->argv[0] : NULL;
	arguments->role = OX_KEPT_WORKER;
	arguments->in_thread = true;
	arguments->kept = &disk->kept;
	ox_cli_serve_listen(arguments);
	ret = ox_kept_begin(&disk->kept, disk->socket);
	if (ret == 0)
		ox_cli_serve_by_keeper(arguments);
	if (ret == 0 && ox_cli_serve_prepare_tls(arguments) == 0)
		return 0;
	if (ret == 0) {
		ox_kept_close(&disk->kept);
		return -ENOTSUP; /* which was said */
	}
	ox_cli_error("The keeper cannot be heard: %s", strerror(-ret));
	ox_kept_close(&disk->kept);
	return ret;
}

static int make_context(struct disk *disk)
{
	int ret = ox_cli_context_new(OX_ENGINE_DEFAULT, &disk->ctx);

	if (ret == 0)
		ret = ox_cli_serve_take_kept(&disk->arguments, disk->ctx);
	if (ret == 0)
		return 0;
	ox_context_free(disk->ctx);
	disk->ctx = NULL;
	ox_kept_close(&disk->kept);
	return ret;
}

/* False: it was told before. */
static bool tell_end(struct disk *disk, int status)
{
	if (atomic_exchange(&disk->has_ended, true))
		return false;
	ox_kept_tell_end(disk->end_socket, status);
	close(disk->end_socket);
	return true;
}

/* ---- stages ---- */

/* A thread: has done the stage's. Returns the next one. */
static enum stage arrive(void)
{
	enum stage stage;

	pthread_mutex_lock(&process.lock);
	stage = process.stage;
	process.done++;
	pthread_cond_broadcast(&process.changed);
	while (process.stage == stage)
		pthread_cond_wait(&process.changed, &process.lock);
	stage = process.stage;
	pthread_mutex_unlock(&process.lock);
	return stage;
}

/* The main thread. */
static void await_all(void)
{
	pthread_mutex_lock(&process.lock);
	while (process.done < process.threads)
		pthread_cond_wait(&process.changed, &process.lock);
	process.done = 0;
	pthread_mutex_unlock(&process.lock);
}

static void go_on_to(enum stage stage)
{
	pthread_mutex_lock(&process.lock);
	process.stage = stage;
	pthread_cond_broadcast(&process.changed);
	pthread_mutex_unlock(&process.lock);
}

/* ---- a disk's thread ---- */

/* As a process of its own exits. */
static int status_of(int ret)
{
	if (ret == -ENOTRECOVERABLE)
		return OX_KEPT_NOT_ADOPTED;
	return ret < 0 ? OX_KEPT_FAILED : 0;
}

static void end_thread(struct disk *disk, int status)
{
	pthread_mutex_lock(&process.lock);
	if (tell_end(disk, status))
		process.running--;
	pthread_cond_broadcast(&process.changed);
	pthread_mutex_unlock(&process.lock);
}

/* Its requests go on, and with them what they write into: nothing of it is given back. */
static void wait_for_good(void)
{
	for (;;)
		(void)poll(NULL, 0, -1);
}

static void serve(struct disk *disk)
{
	int ret = ox_cli_serve_image(disk->ctx, &disk->arguments);

	if (disk->arguments.serve.handed)
		disk->kept.socket = -1;
	if (!disk->arguments.lost)
		ox_kept_close(&disk->kept);
	end_thread(disk, status_of(ret));
	if (disk->arguments.lost)
		wait_for_good();
}

static void *work(void *opaque)
{
	struct disk *disk = opaque;
	enum stage stage;
	int ret;

	speak_of(disk);
	ret = make_context(disk);
	stage = arrive();
	if (stage == RIGHTS) {
		if (process.has_sandbox)
			ox_sandbox_enter_thread(&process.sandbox);
		stage = arrive();
	}
	if (ret == 0 && stage == SERVING)
		serve(disk);
	else
		end_thread(disk, OX_KEPT_FAILED);
	return NULL;
}

/* ---- the main thread ---- */

/* One that cannot be served is none of the others. */
static void parse_each(void)
{
	for (struct disk *disk = process.disks; disk; disk = disk->next) {
		speak_of(disk);
		if (parse(disk) < 0)
			(void)tell_end(disk, OX_KEPT_FAILED);
		speak_of(NULL);
	}
}

static void start_threads(void)
{
	for (struct disk *disk = process.disks; disk; disk = disk->next) {
		pthread_t thread;
		int ret;

		if (disk->has_ended)
			continue;
		ret = pthread_create(&thread, NULL, work, disk);
		if (ret == 0) {
			process.threads++;
			pthread_detach(thread);
			continue;
		}
		speak_of(disk);
		ox_cli_error("Cannot start a thread: %s", strerror(ret));
		speak_of(NULL);
		(void)tell_end(disk, OX_KEPT_FAILED);
	}
	process.running = process.threads;
}

/* The keeper puts into one process only those that say the same of it. */
static int take_sandbox(void)
{
	struct ox_cli_serve_arguments *any = &process.disks->arguments;

	process.has_sandbox = !any->no_sandbox;
	process.sandbox = (struct ox_sandbox){
		.keeper = process.keeper,
		.warn = ox_cli_serve_warn,
		.opaque = any,
	};
	if (any->user && ox_sandbox_user_parse(any->user, &process.sandbox.user) < 0)
		return -EINVAL;
	if (process.has_sandbox)
		ox_sandbox_begin(&process.sandbox);
	return 0;
}

static int lead(void)
{
	int ret = 0;

	await_all();
	if (process.has_sandbox)
		ret = ox_sandbox_enter_process(&process.sandbox);
	if (ret < 0) {
		ox_cli_error("Cannot serve as the user that is stated: %s", strerror(-ret));
		go_on_to(FAILED);
		return ret;
	}
	go_on_to(RIGHTS);
	await_all();
	if (process.has_sandbox) {
		ox_sandbox_enter_thread(&process.sandbox);
		ox_sandbox_close(&process.sandbox);
	}
	ret = ox_cli_log_start();
	if (ret < 0)
		ox_cli_error("Cannot start a thread for messages: %s", strerror(-ret));
	go_on_to(ret < 0 ? FAILED : SERVING);
	return ret;
}

/* A store that hangs keeps the library's close for good. The others are served on. */
static void look_at_deadlines(void)
{
	for (struct disk *disk = process.disks; disk; disk = disk->next) {
		const int64_t deadline_ms = atomic_load(&disk->arguments.close_deadline_ms);

		if (deadline_ms == 0 || ox_serve_now_ms() < deadline_ms || disk->has_ended)
			continue;
		speak_of(disk);
		ox_cli_error("The image's file does not answer: the image is not closed");
		speak_of(NULL);
		if (tell_end(disk, 1))
			process.running--;
	}
}

static void await_threads(void)
{
	pthread_mutex_lock(&process.lock);
	while (process.running > 0) {
		struct timespec until;

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += LOOK_MS * 1000000l;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		(void)pthread_cond_timedwait(&process.changed, &process.lock, &until);
		look_at_deadlines();
	}
	pthread_mutex_unlock(&process.lock);
}

static void make_condition(void)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&process.changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

int ox_cli_serve_shared(int socket)
{
	int ret;

	(void)prctl(PR_SET_NAME, "oxbow"); /* it was executed by a descriptor, without a name */
	ret = take_disks(socket);
	if (ret == 0 && !process.disks)
		ret = -EBADMSG;
	if (ret < 0) {
		ox_cli_error("The keeper cannot be heard: %s", strerror(-ret));
		return ret;
	}
	ox_kept_offer_to_end();
	make_condition();
	parse_each();
	ret = take_sandbox();
	if (ret < 0)
		return ret;
	start_threads();
	ret = lead();
	await_threads();
	ox_cli_log_end();
	_exit(ret < 0 ? OX_KEPT_FAILED : 0); /* what hangs has a thread that is not waited for */
}
