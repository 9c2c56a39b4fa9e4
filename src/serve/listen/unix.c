/* SPDX-License-Identifier: MIT */
/*
 * A unix socket has no owner: whether a server stands behind a name is known only by connecting,
 * and between bind and listen a new server looks like one that is gone. So all of it, from the look
 * at the name to the listening, is done with the directory locked (flock), which leaves no lock
 * file behind. Two servers that are started at once on one name do this one after the other.
 */
#include "serve/listen/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Others need the lock for a moment; a stranger who keeps it cannot keep us from serving. */
#define LOCK_TRIES 500
#define LOCK_PAUSE_MS 10
/* A server of another kind may be between bind and listen when it is first looked at. */
#define SECOND_LOOK_MS 50

static void pause_ms(long ms)
{
	const struct timespec duration = {.tv_nsec = ms * 1000000};

	(void)nanosleep(&duration, NULL);
}

/* A descriptor that holds the lock until it is closed; -1: there is none to be had, as where the
 * directory cannot be read. */
static int lock_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	free(directory);
	if (fd < 0)
		return -1;
	for (int i = 0; i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			break;
		pause_ms(LOCK_PAUSE_MS);
	}
	return fd;
}

static int unix_socket(const char *path, struct sockaddr_un *ret_address,
		       struct ox_serve_error *error)
{
	int fd;

	if (strlen(path) == 0 || strlen(path) >= sizeof(ret_address->sun_path))
		return ox_listen_fail(error, -ENAMETOOLONG,
				      "Socket path '%s' must have 1 to %zu bytes", path,
				      sizeof(ret_address->sun_path) - 1);
	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	strcpy(ret_address->sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ox_listen_fail(error, -errno, "Cannot make a socket: %s", strerror(errno));
	return fd;
}

/* 0: somebody listens; -ECONNREFUSED: nobody does. *error is filled where it cannot be known. */
static int try_to_connect(const char *path, struct ox_serve_error *error)
{
	struct sockaddr_un address;
	int fd = unix_socket(path, &address, error);
	int ret;

	if (fd < 0)
		return fd;
	ret = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	close(fd);
	if (ret == -EAGAIN) /* so many wait to be accepted */
		ret = 0;
	if (ret < 0 && ret != -ECONNREFUSED)
		ox_listen_fail(error, ret, "Cannot tell whether '%s' is in use: %s", path,
			       strerror(-ret));
	return ret;
}

/* Removes a socket that a server which is gone has left; anything else stays. */
static int remove_stale(const char *path, struct ox_serve_error *error)
{
	struct stat st;
	int ret;

	if (lstat(path, &st) < 0)
		return 0; /* nothing there, or bind will say what is wrong */
	if (!S_ISSOCK(st.st_mode))
		return ox_listen_fail(error, -EEXIST, "'%s' exists and is not a socket", path);
	ret = try_to_connect(path, error);
	if (ret == -ECONNREFUSED) {
		pause_ms(SECOND_LOOK_MS);
		ret = try_to_connect(path, error);
	}
	if (ret == 0)
		return ox_listen_fail(error, -EADDRINUSE, "Another server listens on '%s'", path);
	if (ret != -ECONNREFUSED)
		return ret;
	if (unlink(path) < 0 && errno != ENOENT)
		return ox_listen_fail(error, -errno, "Cannot remove the stale socket '%s': %s",
				      path, strerror(errno));
	return 0;
}

/* The working directory of a client may be another one. */
static char *absolute_path(const char *path)
{
	char *directory;
	char *absolute;

	if (path[0] == '/')
		return strdup(path);
	directory = getcwd(NULL, 0);
	if (!directory)
		return NULL;
	if (asprintf(&absolute, "%s/%s", directory, path) < 0)
		absolute = NULL;
	free(directory);
	return absolute;
}

/* Nobody can connect yet. */
static int set_rights(const char *path, const struct ox_serve_socket_rights *rights)
{
	const uid_t owner = rights->has_owner ? rights->owner : (uid_t)-1;
	const gid_t group = rights->has_group ? rights->group : (gid_t)-1;

	if ((rights->has_owner || rights->has_group) && lchown(path, owner, group) < 0)
		return -errno;
	return rights->has_mode && chmod(path, rights->mode) < 0 ? -errno : 0;
}

static int bind_and_listen(const char *path, const struct ox_serve_socket_rights *rights,
			   struct ox_listeners *listeners, struct ox_serve_error *error)
{
	int ret;

	struct sockaddr_un address;
	struct stat st;
	int fd = unix_socket(path, &address, error);

	if (fd < 0)
		return fd;
	listeners->is_unix = true;
	listeners->fds[listeners->count++] = fd;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || stat(path, &st) < 0)
		return ox_listen_fail(error, -errno, "Cannot make the socket '%s': %s", path,
				      strerror(errno));
	listeners->path_dev = st.st_dev;
	listeners->path_ino = st.st_ino;
	listeners->path = absolute_path(path);
	if (!listeners->path) {
		unlink(path);
		return ox_listen_fail(error, -ENOMEM, "Cannot tell where '%s' is: %s", path,
				      strerror(errno));
	}
	ret = set_rights(path, rights);
	if (ret < 0)
		return ox_listen_fail(error, ret, "Cannot set whose the socket '%s' is: %s", path,
				      strerror(-ret));
	if (listen(fd, SOMAXCONN) < 0)
		return ox_listen_fail(error, -errno, "Cannot listen on '%s': %s", path,
				      strerror(errno));
	return 0;
}

int ox_listen_unix(const char *path, const struct ox_serve_socket_rights *rights,
		   struct ox_listeners *listeners, struct ox_serve_error *error)
{
	const int lock_fd = lock_directory(path);
	int ret = remove_stale(path, error);

	if (ret == 0)
		ret = bind_and_listen(path, rights, listeners, error);
	if (lock_fd >= 0)
		close(lock_fd);
	return ret;
}
