/* SPDX-License-Identifier: MIT */
#include "cli/ctl/ctl.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "cli/limits.h"

static const char help[] =
	"usage: oxbow ctl [OPTION...] SOCKET COMMAND [ARGUMENT...]\n"
	"Ask a server that runs (oxbow serve --control SOCKET) how its disks are, or tell it what\n"
	"to do. DISK is a disk's name; it may be left out where there is one disk.\n"
	"\n"
	"  status [DISK]              each disk: who serves it, its clients, what is amiss\n"
	"  stats [DISK]               the same, with what was counted since it is kept\n"
	"  flush [DISK]               make durable what was written, as a client's flush does\n"
	"  resize [DISK] [+]SIZE      give it another size; +SIZE: so much more\n"
	"  limit [DISK] LIMITS        other limits, as --limit of oxbow serve has them, or none\n"
	"  resume [DISK]              there is room on the host again: try what waits for it\n"
	"  add DISK [OPTION...] IMAGE serve IMAGE as well, under this name: the options are those "
	"of\n"
	"                             oxbow serve. It is opened with the rights of the caller\n"
	"  remove DISK                serve it no longer: its image is closed\n"
	"  stop                       end the server, as SIGTERM does, and wait for its end\n"
	"\n"
	"  --output FMT               of status and stats: human (the default) or json, of stats\n"
	"                             prometheus as well\n"
	"  --shrink                   of resize: the disk may become smaller, and what is behind\n"
	"                             its end be lost\n"
	"  -h, --help                 print this text\n";

enum output {
	HUMAN,
	JSON,
	PROMETHEUS,
};

struct command {
	const char *name;
	int least; /* arguments */
	int most;
	bool shows; /* takes --output */
	int (*run)(int fd, const struct command *command, char **arguments, int count);
	void (*print)(const json_t *returned); /* of those that show */
};

struct options {
	enum output output;
	bool output_stated;
	bool shrink;
};

static struct options options;

static json_t *request(const char *command, const char *disk)
{
	return disk ? json_pack("{s:s,s:o}", "command", command, "disk", ox_cli_json_string(disk))
		    : json_pack("{s:s}", "command", command);
}

/* Asks, and has nothing to show. */
static int ask(int fd, json_t *line)
{
	json_t *returned = ox_ctl_ask(fd, line);

	json_decref(returned);
	return returned ? 0 : 1;
}

/* ---- commands ---- */

static int show(int fd, const struct command *command, char **arguments, int count)
{
	const char *disk = count > 0 ? arguments[0] : NULL;
	json_t *returned = ox_ctl_ask(
		fd, request(options.output == PROMETHEUS ? "metrics" : command->name, disk));

	if (!returned)
		return 1;
	if (options.output == JSON) {
		ox_cli_json_print(returned);
		return ox_cli_finish_output(0);
	}
	if (options.output == PROMETHEUS)
		fputs(json_is_string(returned) ? json_string_value(returned) : "", stdout);
	else
		command->print(returned);
	json_decref(returned);
	return ox_cli_finish_output(0);
}

static int plain(int fd, const struct command *command, char **arguments, int count)
{
	return ask(fd, request(command->name, count > 0 ? arguments[0] : NULL));
}

/* Whoever has added a disk has made its sockets. */
static int remove_disk(int fd, const struct command *command, char **arguments, int count)
{
	json_t *shown = ox_ctl_ask(fd, request("status", arguments[0]));
	int ret = shown ? plain(fd, command, arguments, count) : 1;

	if (ret == 0)
		ox_ctl_remove_sockets(json_array_get(json_object_get(shown, "disks"), 0));
	json_decref(shown);
	return ret;
}

static int add(int fd, const struct command *command, char **arguments, int count)
{
	(void)command;
	return ox_ctl_add(fd, arguments, count);
}

static int resize(int fd, const struct command *command, char **arguments, int count)
{
	const char *text = arguments[count - 1];
	const char *key = text[0] == '+' ? "grow-by" : "size";
	json_t *line;
	uint64_t bytes;

	if (ox_cli_size_parse(text, &bytes) < 0)
		return ox_cli_usage_error("ctl", "'%s' is no size; it is written 10G or +1G", text);
	line = request(command->name, count > 1 ? arguments[0] : NULL);
	ox_cli_json_set(line, key, json_integer((json_int_t)bytes));
	ox_cli_json_set(line, "shrink", json_boolean(options.shrink));
	return ask(fd, line);
}

static int limit(int fd, const struct command *command, char **arguments, int count)
{
	const char *text = arguments[count - 1];
	struct ox_serve_limits limits;
	json_t *line;

	if (ox_cli_limits_parse(text, &limits) < 0)
		return ox_cli_usage_error("ctl",
					  "'%s' is not valid; it takes iops=N, iops-burst=N, "
					  "bandwidth=SIZE and bandwidth-burst=SIZE, a burst with "
					  "its rate, or none",
					  text);
	line = request(command->name, count > 1 ? arguments[0] : NULL);
	ox_cli_json_set(line, "iops", json_integer((json_int_t)limits.iops));
	ox_cli_json_set(line, "iops-burst", json_integer((json_int_t)limits.iops_burst));
	ox_cli_json_set(line, "bandwidth", json_integer((json_int_t)limits.bandwidth));
	ox_cli_json_set(line, "bandwidth-burst", json_integer((json_int_t)limits.bandwidth_burst));
	return ask(fd, line);
}

static int stop(int fd, const struct command *command, char **arguments, int count)
{
	int ret = plain(fd, command, arguments, count);

	if (ret == 0)
		ox_ctl_await_end(fd);
	return ret;
}

static const struct command commands[] = {
	{"status", 0, 1, true, show, ox_ctl_print_status},
	{"stats", 0, 1, true, show, ox_ctl_print_stats},
	{"flush", 0, 1, false, plain, NULL},
	{"resize", 1, 2, false, resize, NULL},
	{"limit", 1, 2, false, limit, NULL},
	{"resume", 0, 1, false, plain, NULL},
	{"add", 2, INT_MAX, false, add, NULL},
	{"remove", 1, 1, false, remove_disk, NULL},
	{"stop", 0, 0, false, stop, NULL},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* ---- the command line ---- */

static int take_output(const char *text)
{
	options.output_stated = true;
	if (strcmp(text, "human") == 0)
		options.output = HUMAN;
	else if (strcmp(text, "json") == 0)
		options.output = JSON;
	else if (strcmp(text, "prometheus") == 0)
		options.output = PROMETHEUS;
	else
		return ox_cli_usage_error("ctl",
					  "--output '%s' is not valid; it takes human, json "
					  "or prometheus",
					  text);
	return 0;
}

static int run(const char *path, const struct command *command, char **arguments, int count)
{
	int ret;
	int fd;

	if (count < command->least || count > command->most)
		return ox_cli_usage_error("ctl",
					  count < command->least ? "%s needs another argument"
								 : "%s takes no further argument",
					  command->name);
	if ((options.output_stated && !command->shows) ||
	    (options.output == PROMETHEUS && command->print != ox_ctl_print_stats))
		return ox_cli_usage_error("ctl", "%s does not take this --output", command->name);
	if (options.shrink && command->run != resize)
		return ox_cli_usage_error("ctl", "--shrink goes with resize alone");
	fd = ox_ctl_connect(path);
	if (fd < 0)
		return 1;
	ret = command->run(fd, command, arguments, count);
	close(fd);
	return ret;
}

/* Options up to the first word that is none ("+"), or all of them. 0; 1: help was printed; -EINVAL,
 * having said why. */
static int take_options(int argc, char **argv, const char *short_options)
{
	static const struct option long_options[] = {
		{"help", no_argument, NULL, 'h'},
		{"output", required_argument, NULL, 'o'},
		{"shrink", no_argument, NULL, 's'},
		{0},
	};
	int option;

	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return 1;
		}
		if (option == 's')
			options.shrink = true;
		else if (option != 'o' && ox_cli_option_error("ctl", option, argv) != 0)
			return -EINVAL;
		else if (take_output(optarg) != 0)
			return -EINVAL;
	}
	return 0;
}

int ox_cli_ctl(int argc, char **argv)
{
	const struct command *command;
	const char *path;
	int ret = take_options(argc, argv, "+:h");

	if (ret != 0)
		return ret > 0 ? ox_cli_finish_output(0) : 1;
	if (argc - optind < 2)
		return ox_cli_usage_error("ctl", argc == optind ? "No socket is given"
								: "No command is given");
	path = argv[optind];
	argc -= optind + 1;
	argv += optind + 1;
	command = find_command(argv[0]);
	if (!command)
		return ox_cli_usage_error("ctl", "There is no command '%s'", argv[0]);
	if (command->run == add) /* whose options are others */
		return run(path, command, argv + 1, argc - 1);
	ret = take_options(argc, argv, ":h");
	if (ret != 0)
		return ret > 0 ? ox_cli_finish_output(0) : 1;
	return run(path, command, argv + optind, argc - optind);
}
