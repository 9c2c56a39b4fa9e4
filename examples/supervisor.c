/* SPDX-License-Identifier: MIT */
/*
 * An image that outlives the process which works on it. The supervisor has the file, its locks and
 * the state, and does nothing with them. The worker does the work: when it dies the next one adopts
 * the state, and nothing is lost that a worker answered, flushed or not.
 *
 * Standard input has a number a line; the worker writes that block of 64 KiB and says so.
 *
 *	cc supervisor.c $(pkg-config --cflags --libs oxbow) -o supervisor
 *	seq 0 2 99 | ./supervisor disk.qcow2
 */
#define _GNU_SOURCE
#include <oxbow.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 65536
#define WITNESSES 4

/* What a worker is handed. */
struct hand {
	const char *name;
	int locked;  /* the image: its locks are on this description */
	int fresh;   /* the image: the worker reads and writes by this one */
	int witness; /* as ox_open_options has it */
	int state;
	int barrier; /* the write end of a pipe */
};

/* ---- the worker ---- */

/* Only the image itself: handover.c shows how to hand over a chain. */
static int give(void *opaque, const struct ox_file_wanted *wanted)
{
	const struct hand *hand = opaque;

	return wanted->depth == 0 ? hand->fresh : -ENOENT;
}

/* The witness has served. Without that word it counts as used up. */
static void tell_synced(void *opaque)
{
	const struct hand *hand = opaque;

	if (write(hand->barrier, "s", 1) < 0)
		warn("barrier");
}

/* Byte for byte: what is in a buffer dies with the process. */
static int read_number(unsigned *ret_number)
{
	char line[16];
	size_t length = 0;

	while (length < sizeof(line) - 1 && read(STDIN_FILENO, line + length, 1) == 1)
		if (line[length++] == '\n') {
			line[length] = '\0';
			return sscanf(line, "%u", ret_number) == 1 ? 0 : -1;
		}
	return -1;
}

static int work(struct hand *hand)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *error = NULL;
	struct ox_context *ctx;
	struct ox_image *image;
	static char block[BLOCK];
	unsigned number;

	opts.format = "qcow2";
	opts.flags = OX_OPEN_LOCKS_HELD;
	opts.open_file = give;
	opts.state_fd = hand->state;
	opts.witness_fd = hand->witness;
	opts.synced = tell_synced;
	opts.opaque = hand;
	/* What the context holds stays open until the kernel has ended the worker's last request:
	 * the barrier, so that the supervisor waits for that, and the locks, should it die too. */
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, &error) < 0 ||
	    ox_context_hold(ctx, hand->barrier, &error) < 0 ||
	    ox_context_hold(ctx, hand->locked, &error) < 0 ||
	    ox_image_open(ctx, hand->name, &opts, &image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	printf("worker %d\n", getpid());
	while (read_number(&number) == 0) {
		memset(block, (int)(number % 255 + 1), BLOCK);
		if (ox_pwrite(image, block, BLOCK, (uint64_t)number * BLOCK, 0) < 0)
			errx(1, "block %u could not be written", number);
		printf("wrote %u\n", number);
	}
	if (ox_image_close(image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	ox_context_free(ctx);
	return 0;
}

/* ---- the supervisor ---- */

/* Another description of the same file, wherever its name leads by now. Linux tells an error of a
 * write-back once for each description, and the dead worker may have been told on its own. */
static int open_again(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

/* A real one executes its own program anew, so that the next worker has other addresses. */
static pid_t start(struct hand *hand)
{
	pid_t supervisor = getpid();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid > 0)
		return pid;
	/* Nobody works unsupervised. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != supervisor)
		_exit(1);
	exit(work(hand));
}

/* Runs one worker to its end, which is that of its last request: until then a dead one still
 * writes. Whether its witness has served. */
static bool run(struct hand *hand, int *ret_status)
{
	bool synced = false;
	int ends[2];
	pid_t pid;
	char told;

	if (pipe2(ends, O_CLOEXEC) < 0)
		err(1, "pipe2");
	hand->barrier = ends[1];
	hand->fresh = open_again(hand->locked);
	pid = start(hand);
	close(hand->barrier);
	close(hand->fresh);
	while (read(ends[0], &told, 1) == 1) /* until the end of file */
		synced = true;
	close(ends[0]);
	if (waitpid(pid, ret_status, 0) < 0)
		err(1, "waitpid");
	return synced;
}

/* Of two sets the older one was made before the first write of which no witness has told that it is
 * durable, and the newer one before the present worker's first. Each worker uses one up. */
static int supervise(struct hand *hand)
{
	int older[WITNESSES], newer[WITNESSES];
	int left = WITNESSES;
	int status;

	for (int i = 0; i < WITNESSES; i++)
		older[i] = open_again(hand->locked);
	for (hand->witness = 0;; hand->witness = left > 0 ? older[--left] : -1) {
		bool synced;

		for (int i = 0; i < WITNESSES; i++)
			newer[i] = open_again(hand->locked);
		synced = run(hand, &status);
		if (WIFEXITED(status)) /* it is done, or has said why it cannot go on */
			return WEXITSTATUS(status);
		if (hand->witness > 0)
			close(hand->witness);
		while (synced && left > 0)
			close(older[--left]);
		for (int i = 0; i < WITNESSES; i++)
			if (synced)
				older[left++] = newer[i];
			else
				close(newer[i]);
		/* A real one waits here if workers die one after another. */
	}
}

int main(int argc, char **argv)
{
	struct ox_error *error = NULL;
	struct hand hand = {0};

	if (argc != 2)
		errx(1, "usage: supervisor IMAGE");
	setvbuf(stdout, NULL, _IOLBF, 0);
	hand.name = argv[1];
	hand.locked = open(hand.name, O_RDWR | O_CLOEXEC);
	if (hand.locked < 0)
		err(1, "%s", hand.name);
	/* They are held without a gap, whoever works. */
	if (ox_lock_fd(hand.locked, hand.name, OX_LOCK_NONE, OX_LOCK_WRITE, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	hand.state = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (hand.state < 0)
		err(1, "memfd_create");
	return supervise(&hand);
}
