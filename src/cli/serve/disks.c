/* SPDX-License-Identifier: MIT */
#include "cli/serve/disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/keeper/keeper.h"
#include "cli/serve/config.h"

struct disks;

/* One that stands in the configuration, or did. It is not changed: what is to be served otherwise
 * ends, and the next one begins. */
struct disk {
	struct disk *next;
	struct disks *all;
	struct ox_config_disk config;
	struct ox_config_disk successor; /* name NULL: none */
	struct ox_cli_serve_arguments arguments;
	struct ox_keeper_disk_options options;
	char **words; /* for the children: config.argv but for the verb, and what is added */
	char *user;   /* of words, where it had to be resolved */
	bool runs;    /* with the keeper; else it has failed, or has ended by itself */
};

struct disks {
	struct ox_cli_serve_arguments *server; /* its command line */
	struct ox_keeper *keeper;
	struct disk *first;
	char *pid_file;
	char *pid_file_word;
};

static int begin(struct disks *all, struct ox_config_disk *config);

/* ---- one disk ---- */

static void free_disk(struct disk *disk)
{
	struct disk **at = &disk->all->first;

	while (*at && *at != disk)
		at = &(*at)->next;
	if (*at)
		*at = disk->next;
	ox_config_free_disk(&disk->config);
	ox_config_free_disk(&disk->successor);
	free(disk->user);
	free(disk->words);
	free(disk);
}

/* The keeper has nothing of it any more. */
static void let_go(void *opaque)
{
	struct disk *disk = opaque;
	struct disks *all = disk->all;
	struct ox_config_disk successor = disk->successor;

	disk->runs = false;
	if (!successor.name)
		return; /* it stays known: a reload has it tried again */
	disk->successor = (struct ox_config_disk){0};
	free_disk(disk);
	(void)begin(all, &successor); /* it has said why not */
}

static int ready(void *opaque, const char *uri, const char *vhost_path)
{
	struct disk *disk = opaque;

	return ox_cli_serve_ready(&disk->arguments, uri, vhost_path);
}

static int check(struct disk *disk)
{
	struct ox_cli_serve_arguments *arguments = &disk->arguments;
	int ret;

	ox_cli_serve_init(arguments);
	ox_cli_message_about(disk->config.name);
	ret = ox_cli_serve_parse(disk->config.argc, disk->config.argv, arguments);
	ox_cli_message_about(NULL);
	if (ret < 0)
		return ret;
	arguments->name = disk->config.name;
	arguments->quiet |= disk->all->server->quiet;
	ox_cli_serve_listen(arguments);
	return 0;
}

/* What the keeper has its children told. */
static int make_words(struct disk *disk)
{
	const struct disks *all = disk->all;
	const int count = disk->config.argc;
	int at = 0;

	disk->words = calloc((size_t)count + 4, sizeof(*disk->words));
	if (!disk->words)
		return -ENOMEM;
	if (all->pid_file_word) /* beside which a saved state may lie */
		disk->words[at++] = all->pid_file_word;
	if (all->server->quiet)
		disk->words[at++] = "--quiet";
	if (all->server->verbose)
		disk->words[at++] = "--verbose";
	for (int i = 1; i < count; i++)
		disk->words[at++] = disk->config.argv[i];
	return disk->arguments.user
		       ? ox_cli_serve_resolve_user(&disk->arguments, disk->words, &disk->user)
		       : 0;
}

static int start(struct disk *disk)
{
	int ret = check(disk);

	if (ret == 0)
		ret = make_words(disk);
	if (ret < 0)
		return ret;
	ox_cli_serve_describe(&disk->arguments, disk->words, &disk->options);
	disk->options.pid_file = disk->all->server->pid_file.path;
	disk->options.let_go = let_go;
	disk->options.ready = ready;
	disk->options.opaque = disk;
	disk->runs = true;
	ret = ox_keeper_add(disk->all->keeper, &disk->options);
	if (ret < 0)
		disk->runs = false;
	return ret;
}

/* Takes over what config has. */
static int begin(struct disks *all, struct ox_config_disk *config)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int ret;

	if (!disk) {
		ox_cli_error("Cannot serve '%s': %s", config->name, strerror(ENOMEM));
		ox_config_free_disk(config);
		return -ENOMEM;
	}
	disk->all = all;
	disk->config = *config;
	*config = (struct ox_config_disk){0};
	disk->next = all->first;
	all->first = disk;
	ret = start(disk);
	if (ret < 0)
		free_disk(disk);
	return ret;
}

/* ---- a reload ---- */

static struct ox_config_disk *find_config(const struct ox_config *config, const char *name)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (config->disks[i].name && strcmp(config->disks[i].name, name) == 0)
			return &config->disks[i];
	return NULL;
}

/* What config has of it is taken out: it goes on, or is followed. */
static void compare(struct disk *disk, struct ox_config *config)
{
	struct ox_config_disk *wanted = find_config(config, disk->config.name);

	if (!disk->runs) {
		free_disk(disk); /* as a new one, if it still stands there */
		return;
	}
	ox_config_free_disk(&disk->successor);
	if (wanted && ox_keeper_goes_on(disk->all->keeper, disk->config.name) &&
	    ox_config_disk_equals(wanted, &disk->config)) {
		ox_config_free_disk(wanted);
		return;
	}
	if (wanted) {
		disk->successor = *wanted;
		*wanted = (struct ox_config_disk){0};
	}
	ox_keeper_remove(disk->all->keeper, disk->config.name);
}

static void take_config(struct disks *all, struct ox_config *config)
{
	struct disk *next;

	for (struct disk *disk = all->first; disk; disk = next) {
		next = disk->next;
		compare(disk, config);
	}
	for (unsigned i = 0; i < config->disk_count; i++)
		if (config->disks[i].name)
			(void)begin(all, &config->disks[i]); /* it has said why not */
}

/* Each command line, before any of them is served: a file is taken as a whole. */
static int check_config(const struct ox_config *config)
{
	for (unsigned i = 0; i < config->disk_count; i++) {
		struct ox_cli_serve_arguments arguments;
		int ret;

		ox_cli_serve_init(&arguments);
		ox_cli_message_about(config->disks[i].name);
		ret = ox_cli_serve_parse(config->disks[i].argc, config->disks[i].argv, &arguments);
		ox_cli_message_about(NULL);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static void reload(void *opaque, struct ox_keeper *keeper)
{
	struct disks *all = opaque;
	struct ox_config config;
	int ret = ox_config_read(all->server->config, &config);

	(void)keeper;
	if (ret == 0)
		ret = check_config(&config);
	if (ret == 0)
		take_config(all, &config);
	else
		ox_cli_error("'%s' is not taken: all disks are served as before",
			     all->server->config);
	ox_config_free(&config);
}

/* ---- the server ---- */

static int ready_all(void *opaque)
{
	const struct disks *all = opaque;
	struct ox_cli_pid_file *pid_file = &all->server->pid_file;

	return pid_file->path ? ox_cli_pid_file_write(pid_file) : 0;
}

/* What the server itself is told: the command line comes before the file. */
static int take_server(struct disks *all, struct ox_cli_serve_arguments *arguments,
		       struct ox_config *config)
{
	if (!arguments->pid_file.path) {
		all->pid_file = config->pid_file;
		config->pid_file = NULL;
		arguments->pid_file.path = all->pid_file;
	}
	if (arguments->pid_file.path &&
	    asprintf(&all->pid_file_word, "--pid-file=%s", arguments->pid_file.path) < 0) {
		all->pid_file_word = NULL;
		ox_cli_error("Cannot serve '%s': %s", arguments->config, strerror(ENOMEM));
		return -ENOMEM;
	}
	return ox_cli_pid_file_open(&arguments->pid_file);
}

static int serve(struct disks *all, struct ox_config *config)
{
	char *const no_arguments[] = {NULL};
	const struct ox_keeper_options options = {
		.goes_on = true,
		.ready = ready_all,
		.reload = reload,
		.opaque = all,
		.control_path = all->server->control ? all->server->control : config->control,
		.control_arguments = no_arguments,
	};
	int ret = 0;

	all->keeper = ox_keeper_new(&options);
	if (!all->keeper)
		return -EIO; /* it has said why */
	take_config(all, config);
	if (ox_keeper_run(all->keeper) != 0)
		ret = -EIO;
	while (all->first)
		free_disk(all->first);
	return ret;
}

int ox_cli_serve_config(struct ox_cli_serve_arguments *arguments)
{
	struct disks all = {.server = arguments};
	struct ox_config config;
	int ret = ox_config_read(arguments->config, &config);

	if (ret < 0)
		return ret;
	ret = check_config(&config);
	if (ret == 0)
		ret = take_server(&all, arguments, &config);
	if (ret == 0) {
		ret = serve(&all, &config);
		ox_cli_pid_file_remove(&arguments->pid_file);
	}
	ox_config_free(&config);
	free(all.pid_file_word);
	free(all.pid_file);
	return ret;
}
