/* SPDX-License-Identifier: MIT */
/*
 * A disk is added with the rights of whoever asks: its chain is opened and locked here, its sockets
 * are made here, and the server is given descriptors. It needs no right to any path.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/ctl/ctl.h"
#include "cli/keeper/control_wire.h"
#include "cli/keeper/kept.h"
#include "cli/serve/config.h"
#include "cli/serve/serve.h"
#include "serve/listen/listen.h"

struct adding {
	const char *name;
	struct ox_cli_serve_arguments arguments;
	json_t *options; /* for the server's processes */
	char *address;	 /* of NBD, with an absolute path; NULL: none */
	char *vhost_path;
	struct ox_listeners listeners;
	struct ox_listeners vhost_listeners;
	struct ox_kept kept; /* the chain */
};

/* ---- the command line ---- */

/* What is the server's, or the operator's who has started it. */
static const char *const not_to_add[] = {
	"config",	   "control",	 "fd",	     "help",  "keeper",	   "kept-as",
	"no-keeper",	   "no-sandbox", "pid-file", "state", "tls-authz", "tls-creds",
	"tls-verify-peer", "user",	 "worker",
};

/* What is seen to here. */
static const char *const done_here[] = {
	"insecure", "nbd", "vhost-user-blk", "socket-group", "socket-mode", "socket-owner",
};

static bool is_among(const char *name, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

#define AMONG(name, names) is_among(name, names, sizeof(names) / sizeof((names)[0]))

static const struct option *find_option(int value)
{
	const struct option *option = ox_cli_serve_options;

	while (option->name && option->val != value)
		option++;
	return option;
}

static int add_word(json_t *options, const char *name, const char *value)
{
	json_t *word = value ? json_sprintf("%s=%s", name, value) : json_string(name);

	if (word)
		return json_array_append_new(options, word) == 0 ? 0 : -ENOMEM;
	ox_cli_error("--%s '%s' cannot be told to the server: it is no UTF-8", name,
		     value ? value : "");
	return -EINVAL;
}

/* It was parsed before, and is sound. */
static int collect_options(struct adding *adding, int argc, char **argv)
{
	int option;
	int ret = 0;

	optind = 0;
	while (ret == 0 && (option = getopt_long(argc, argv, ":f:t:rx:D:Uqvh", ox_cli_serve_options,
						 NULL)) != -1) {
		const struct option *found = find_option(option);

		if (!found->name || AMONG(found->name, not_to_add)) {
			ox_cli_error("--%s is not said of a disk that is added",
				     found->name ? found->name : "?");
			return -EINVAL;
		}
		if (!AMONG(found->name, done_here))
			ret = add_word(adding->options, found->name, optarg);
	}
	return ret;
}

static int parse(struct adding *adding, char **arguments, int count)
{
	static char verb[] = "serve";
	char **argv = calloc((size_t)count + 1, sizeof(*argv));
	int ret;

	if (!argv)
		return -ENOMEM;
	adding->name = arguments[0];
	argv[0] = verb;
	memcpy(argv + 1, arguments + 1, ((size_t)count - 1) * sizeof(*argv));
	ox_cli_serve_init(&adding->arguments);
	ret = collect_options(adding, count, argv);
	if (ret == 0)
		ret = ox_cli_serve_parse(count, argv, &adding->arguments);
	free(argv);
	if (ret == 0 && !ox_config_is_name(adding->name)) {
		ox_cli_error("'%s' is no name of a disk: it has letters, digits, '.', '_' and '-', "
			     "and begins with a letter or a digit",
			     adding->name);
		ret = -EINVAL;
	}
	return ret;
}

/* ---- sockets ---- */

/* The server has another working directory. To be freed; NULL: memory is short. */
static char *absolute(const char *prefix, const char *path)
{
	char *directory = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
	char *whole = NULL;

	while (strncmp(path, "./", 2) == 0)
		path += 2;

	if (directory &&
	    asprintf(&whole, "%s%s%s%s", prefix, directory, directory[0] ? "/" : "", path) < 0)
		whole = NULL;
	free(directory);
	return whole;
}

/* NULL: it is an address of TCP, or none. */
static const char *path_of(const char *address)
{
	if (strncmp(address, "unix:", 5) == 0)
		return address + 5;
	return strchr(address, '/') ? address : NULL;
}

/* Where port 0 was stated it is any. */
static int take_port(struct adding *adding)
{
	free(adding->address);
	if (asprintf(&adding->address, "%s:%u", adding->listeners.host, adding->listeners.port) >=
	    0)
		return 0;
	adding->address = NULL;
	return -ENOMEM;
}

static int listen_to_nbd(struct adding *adding)
{
	const char *address = adding->arguments.serve.nbd.address;
	struct ox_serve_error error;
	int ret;

	if (!address)
		return 0;
	if (strncmp(address, "systemd:", 8) == 0 || (!strchr(address, ':') && !path_of(address))) {
		ox_cli_error("--nbd '%s' of a disk that is added is HOST:PORT, or a path with a "
			     "slash",
			     address);
		return -EINVAL;
	}
	adding->address = path_of(address) ? absolute("unix:", path_of(address)) : strdup(address);
	if (!adding->address)
		return -ENOMEM;
	ret = ox_listen(adding->address, &adding->arguments.serve.rights, &adding->listeners,
			&error);
	if (ret == 0)
		ret = ox_listen_check(&adding->listeners, &adding->arguments.serve.nbd, &error);
	if (ret < 0)
		ox_cli_error("%s", error.message);
	return ret == 0 && !adding->listeners.is_unix ? take_port(adding) : ret;
}

static int listen_to_vhost(struct adding *adding)
{
	const char *path = adding->arguments.serve.vhost.path;
	struct ox_serve_error error;
	int ret;

	if (!path)
		return 0;
	if (strncmp(path, "systemd:", 8) == 0) {
		ox_cli_error("--vhost-user-blk of a disk that is added is a path");
		return -EINVAL;
	}
	adding->vhost_path = absolute("", path);
	if (!adding->vhost_path)
		return -ENOMEM;
	ret = ox_listen_path(adding->vhost_path, &adding->arguments.serve.rights,
			     &adding->vhost_listeners, &error);
	if (ret < 0)
		ox_cli_error("%s", error.message);
	return ret;
}

/* ---- what the server is told ---- */

static json_t *request(const struct adding *adding)
{
	static const char *const locks[] = {
		[OX_LOCK_SHARE] = "share",
		[OX_LOCK_READ] = "read",
		[OX_LOCK_WRITE] = "write",
	};
	const struct ox_cli_serve_arguments *arguments = &adding->arguments;
	const unsigned hang_ms = arguments->hang_ms;
	json_t *line = json_pack(
		"{s:s,s:s,s:s,s:I,s:I,s:O,s:{s:I,s:i,s:i}}", "command", "add", "name", adding->name,
		"lock", locks[ox_kept_lock_of(&arguments->open)], "drain-ms",
		(json_int_t)arguments->serve.drain_ms, "hang-ms", (json_int_t)hang_ms, "options",
		adding->options, "descriptors", "chain", (json_int_t)adding->kept.locked_count,
		"nbd", adding->listeners.count, "vhost-user-blk", adding->vhost_listeners.count);

	if (!line)
		return NULL;
	ox_cli_json_set(line, "image", ox_cli_json_string(arguments->image));
	if (adding->address) {
		ox_cli_json_set(line, "nbd", ox_cli_json_string(adding->address));
		if (add_word(adding->options, "nbd", adding->address) < 0)
			return json_decref(line), NULL;
	}
	if (adding->vhost_path) {
		ox_cli_json_set(line, "vhost-user-blk", ox_cli_json_string(adding->vhost_path));
		if (add_word(adding->options, "vhost-user-blk", adding->vhost_path) < 0)
			return json_decref(line), NULL;
	}
	return line;
}

static int give(int fd, const struct adding *adding)
{
	int ret = ox_ctl_give(fd, adding->kept.locked, adding->kept.locked_count);

	if (ret == 0)
		ret = ox_ctl_give(fd, adding->listeners.fds, (unsigned)adding->listeners.count);
	if (ret == 0)
		ret = ox_ctl_give(fd, adding->vhost_listeners.fds,
				  (unsigned)adding->vhost_listeners.count);
	if (ret < 0)
		ox_cli_error("Cannot hand descriptors to the server: %s", strerror(-ret));
	return ret;
}

/* ---- all of it ---- */

static int open_all(struct adding *adding)
{
	int ret;

	ox_cli_serve_listen(&adding->arguments);
	ret = ox_kept_lock_chain(&adding->kept, adding->arguments.image, &adding->arguments.open);
	if (ret == 0)
		ret = listen_to_nbd(adding);
	return ret == 0 ? listen_to_vhost(adding) : ret;
}

static void print_addresses(const struct adding *adding)
{
	char *uri = NULL;

	if (adding->arguments.quiet)
		return;
	if (adding->address)
		uri = ox_listeners_uri(&adding->listeners, adding->arguments.serve.nbd.export_name,
				       false);
	if (uri)
		printf("%s\n", uri);
	free(uri);
	if (adding->vhost_path)
		printf("%s\n", adding->vhost_path);
}

/* Their names are the server's from now on. */
static void leave_sockets(struct ox_listeners *listeners)
{
	free(listeners->path);
	listeners->path = NULL;
}

static int tell(int fd, struct adding *adding)
{
	json_t *line = request(adding);
	json_t *returned = NULL;

	if (line && give(fd, adding) == 0)
		returned = ox_ctl_ask(fd, line);
	else
		json_decref(line);
	if (!returned)
		return 1;
	json_decref(returned);
	print_addresses(adding);
	leave_sockets(&adding->listeners);
	leave_sockets(&adding->vhost_listeners);
	return ox_cli_finish_output(0);
}

int ox_ctl_add(int fd, char **arguments, int count)
{
	static struct adding adding; /* the chain is long */
	int status = 1;

	adding.kept.given = -1;
	adding.options = json_array();
	if (adding.options && parse(&adding, arguments, count) == 0 && open_all(&adding) == 0)
		status = tell(fd, &adding);
	ox_listeners_close(&adding.listeners); /* and removes those that nobody serves on */
	ox_listeners_close(&adding.vhost_listeners);
	while (adding.kept.locked_count > 0)
		close(adding.kept.locked[--adding.kept.locked_count]);
	free(adding.address);
	free(adding.vhost_path);
	json_decref(adding.options);
	return status;
}

/* Nobody listens there any more: who takes the name removes it at the end. */
static void remove_socket(const char *path)
{
	const struct ox_serve_socket_rights rights = {0};
	struct ox_listeners listeners;
	struct ox_serve_error error;

	if (access(path, F_OK) == 0 && ox_listen_path(path, &rights, &listeners, &error) == 0)
		ox_listeners_close(&listeners);
}

void ox_ctl_remove_sockets(const json_t *disk)
{
	const char *nbd = json_string_value(json_object_get(disk, "nbd"));
	const char *vhost = json_string_value(json_object_get(disk, "vhost-user-blk"));

	if (!json_is_true(json_object_get(disk, "added")))
		return;
	if (nbd && path_of(nbd))
		remove_socket(path_of(nbd));
	if (vhost)
		remove_socket(vhost);
}
