/* SPDX-License-Identifier: MIT */
/*
 * An image that is read by a process which opens no path. The opener has the file system: it opens
 * what lies in one folder, locks it, and hands it over. The reader has the image, whose names and
 * tables may be a stranger's, and asks for each file of its chain.
 *
 *	cc handover.c $(pkg-config --cflags --libs oxbow) -o handover && ./handover . disk.qcow2
 */
#define _GNU_SOURCE
#include <oxbow.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a descriptor, or a negative errno, through a socket ---- */

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static void send_answer(int socket, int answer)
{
	struct iovec iov = {&answer, sizeof(answer)};
	union control control = {0};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (answer >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &answer, sizeof(answer));
	}
	if (sendmsg(socket, &msg, MSG_NOSIGNAL) < 0)
		warn("answer");
}

static int receive_answer(int socket)
{
	int answer;
	struct iovec iov = {&answer, sizeof(answer)};
	union control control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != sizeof(answer))
		return -EPIPE;
	if (answer >= 0 && !CMSG_FIRSTHDR(&msg))
		return -EBADF;
	if (answer >= 0)
		memcpy(&answer, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(answer));
	return answer;
}

/* ---- the reader ---- */

static int ask(void *opaque, const struct ox_file_wanted *wanted)
{
	int socket = *(int *)opaque;

	if (send(socket, wanted->path, strlen(wanted->path) + 1, MSG_NOSIGNAL) < 0)
		return -errno;
	return receive_answer(socket);
}

static int run_reader(int socket, const char *name)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *error = NULL;
	struct ox_context *ctx;
	struct ox_image *image;
	char buf[4096];

	opts.format = "qcow2";
	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_LOCKS_HELD;
	opts.backing_policy = OX_BACKING_ALLOW; /* the opener decides */
	opts.open_file = ask;
	opts.opaque = &socket;
	/* A real one gives up the file system here: chroot, landlock, seccomp. */
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, &error) < 0 ||
	    ox_image_open(ctx, name, &opts, &image, &error) < 0)
		errx(1, "%s", ox_error_message(error));
	if (ox_pread(image, buf, sizeof(buf), 0) < 0 || ox_image_close(image, NULL) < 0)
		errx(1, "the image could not be read");
	ox_context_free(ctx);
	printf("read %zu bytes, the first is 0x%02x\n", sizeof(buf), (unsigned char)buf[0]);
	return 0;
}

/* ---- the opener ---- */

/* What is open stays so, and with it the locks, until the opener ends. */
static int open_for_reader(int folder, const char *path)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
	struct ox_error *error = NULL;
	int fd = (int)syscall(SYS_openat2, folder, path, &how, sizeof(how));
	int r;

	if (fd < 0)
		return -errno;
	r = ox_lock_fd(fd, path, OX_LOCK_NONE, OX_LOCK_READ, &error);
	if (r == 0)
		return fd;
	warnx("%s", ox_error_message(error)); /* names who has it open */
	ox_error_free(error);
	close(fd);
	return r;
}

static void run_opener(int socket, int folder)
{
	char path[4096];
	ssize_t n;

	while ((n = recv(socket, path, sizeof(path), 0)) > 0) {
		path[n - 1] = '\0'; /* whatever the reader may have sent */
		send_answer(socket, open_for_reader(folder, path));
	}
}

int main(int argc, char **argv)
{
	int sockets[2];
	int folder;
	int status;
	pid_t pid;

	if (argc != 3)
		errx(1, "usage: handover FOLDER IMAGE");
	folder = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		err(1, "%s", argv[1]);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		err(1, "socketpair");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		close(sockets[0]);
		close(folder);
		return run_reader(sockets[1], argv[2]);
	}
	close(sockets[1]);
	run_opener(sockets[0], folder);
	if (waitpid(pid, &status, 0) < 0)
		err(1, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
