/* SPDX-License-Identifier: MIT */
/*
 * oxbow vhost-user-blk: `oxbow serve --vhost-user-blk` by the options that management software
 * knows (specification of vhost-user, "Backend program conventions"). Options of `serve` are handed
 * on.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cli/cli.h"

#define VERB "vhost-user-blk"
/* serve, --vhost-user-blk ADDRESS, --no-keeper, --, IMAGE, NULL */
#define OWN_WORDS 7

static const char help[] =
	"usage: oxbow vhost-user-blk --socket-path=PATH|--fd=N --blk-file=IMAGE [OPTION...]\n"
	"Serve IMAGE as a guest's disk over vhost-user, as management software starts such\n"
	"programs, until SIGTERM.\n"
	"\n"
	"  --socket-path=PATH    the path of the unix socket to listen on\n"
	"  --fd=N                the inherited descriptor N: a unix socket that listens; or one "
	"that\n"
	"                        is connected, whose front end is served until it leaves, by one\n"
	"                        process (--no-keeper)\n"
	"  --blk-file=IMAGE      the image; qcow2, or as -f says, and never guessed\n"
	"  --read-only           the guest cannot write\n"
	"  --print-capabilities  print what this program can do, as JSON, and nothing else\n"
	"  -h, --help            print this text\n"
	"\n"
	"All other options are those of 'oxbow serve'.\n";

static const char capabilities[] = "{\n"
				   "  \"type\": \"block\",\n"
				   "  \"features\": [\n"
				   "    \"read-only\",\n"
				   "    \"blk-file\"\n"
				   "  ]\n"
				   "}\n";

struct words {
	char **argv;
	int count;
	char *socket_path;
	char *fd;
	char *image;
};

static bool has_word(int argc, char **argv, const char *word)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], word) == 0)
			return true;
	return false;
}

/* Whether argv[*i] is this option. Its value, which may be the next word, is put into *ret_value;
 * NULL: it has none. */
static bool take_value(int argc, char **argv, int *i, const char *option, char **ret_value)
{
	const size_t length = strlen(option);
	char *word = argv[*i];

	if (strncmp(word, option, length) != 0 || (word[length] != '=' && word[length] != '\0'))
		return false;
	if (word[length] == '=')
		*ret_value = word + length + 1;
	else
		*ret_value = *i + 1 < argc ? argv[++*i] : NULL;
	return true;
}

/* -EINVAL, having said why. */
static int sort_words(int argc, char **argv, struct words *words)
{
	for (int i = 1; i < argc; i++) {
		const char *option = argv[i];
		char *value = NULL;

		if (take_value(argc, argv, &i, "--socket-path", &value))
			words->socket_path = value;
		else if (take_value(argc, argv, &i, "--fd", &value))
			words->fd = value;
		else if (take_value(argc, argv, &i, "--blk-file", &value))
			words->image = value;
		else
			value = words->argv[words->count++] = argv[i];
		if (!value) {
			ox_cli_usage_error(VERB, "missing argument for option '%s'", option);
			return -EINVAL;
		}
	}
	if (!words->socket_path == !words->fd) {
		ox_cli_usage_error(VERB, words->fd ? "--socket-path and --fd exclude each other"
						   : "Say --socket-path=PATH or --fd=N");
		return -EINVAL;
	}
	return 0;
}

/* -1: it is no number of a descriptor. */
static int number_of(const char *text)
{
	char *end;
	unsigned long number;

	if (text[0] < '0' || text[0] > '9')
		return -1;
	errno = 0;
	number = strtoul(text, &end, 10);
	return errno != 0 || *end != '\0' || number > INT_MAX ? -1 : (int)number;
}

/* 1: it is connected; 0: it listens; -EINVAL: neither, and it has said so. */
static int look_at_fd(const char *text)
{
	int listens = 0;
	int domain = 0;
	socklen_t length = sizeof(int);
	const int fd = number_of(text);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 ||
	    domain != AF_UNIX || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0) {
		ox_cli_usage_error(VERB, "--fd '%s' is no unix socket", text);
		return -EINVAL;
	}
	return !listens;
}

static void add(struct words *words, const char *word)
{
	words->argv[words->count++] = (char *)(uintptr_t)word; /* nobody writes into it */
}

static int serve(struct words *words)
{
	char address[32];
	int connected = words->fd ? look_at_fd(words->fd) : 0;

	if (connected < 0)
		return 1;
	add(words, "--vhost-user-blk");
	if (words->fd)
		snprintf(address, sizeof(address), "fd:%d", number_of(words->fd));
	add(words, words->fd ? address : words->socket_path);
	if (connected)
		add(words, "--no-keeper"); /* which would have nothing to listen on */
	if (words->image) {
		add(words, "--");
		add(words, words->image);
	}
	return ox_cli_serve(words->count, words->argv);
}

int ox_cli_vhost_user_blk(int argc, char **argv)
{
	struct words words = {0};
	int ret;

	/* Whatever else is said: programs ask so. */
	if (has_word(argc, argv, "--print-capabilities")) {
		fputs(capabilities, stdout);
		return ox_cli_finish_output(0);
	}
	if (has_word(argc, argv, "--help") || has_word(argc, argv, "-h")) {
		fputs(help, stdout);
		return ox_cli_finish_output(0);
	}
	words.argv = calloc((size_t)argc + OWN_WORDS, sizeof(*words.argv));
	if (!words.argv) {
		ox_cli_error("%s", strerror(ENOMEM));
		return 1;
	}
	add(&words, "serve");
	ret = sort_words(argc, argv, &words) < 0 ? 1 : serve(&words);
	free(words.argv);
	return ret;
}
