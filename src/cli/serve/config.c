/* SPDX-License-Identifier: MIT */
#include "cli/serve/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/serve/serve.h"

struct setting {
	struct setting *next;
	unsigned line;
	char *key;
	char *value;
};

struct section {
	struct section *next;
	unsigned line;
	char *name; /* of a disk; NULL: of the server or the defaults */
	struct setting *settings;
	struct setting **last;
};

struct reader {
	const char *path;
	unsigned line;
	struct section server;
	struct section defaults;
	struct section *disks;
	struct section **last;
	struct section *current; /* NULL: before the first one */
};

/* What a command line has beside these is for the disk that it serves. */
static const char *const not_of_a_disk[] = {
	"config",  "control",	"fd",	    "help",  "keeper",
	"kept-as", "no-keeper", "pid-file", "quiet", "verbose",
};

static int fail(const struct reader *reader, unsigned line, const char *format, ...)
	OX_CLI_PRINTF(3, 4);

static int fail(const struct reader *reader, unsigned line, const char *format, ...)
{
	char *message;
	va_list args;

	va_start(args, format);
	if (vasprintf(&message, format, args) < 0)
		message = NULL;
	va_end(args);
	ox_cli_error("%s:%u: %s", reader->path, line, message ? message : strerror(ENOMEM));
	free(message);
	return -EINVAL;
}

static int no_memory(const struct reader *reader)
{
	ox_cli_error("Cannot read '%s': %s", reader->path, strerror(ENOMEM));
	return -ENOMEM;
}

bool ox_config_is_name(const char *text)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-";
	const size_t length = strlen(text);

	return length > 0 && length <= OX_CONFIG_NAME_MAX && strspn(text, allowed) == length &&
	       isalnum((unsigned char)text[0]);
}

/* ---- lines ---- */

static char *trim(char *text)
{
	char *end;

	text += strspn(text, " \t");
	end = text + strlen(text);
	while (end > text && strchr(" \t\r\n", end[-1]))
		end--;
	*end = '\0';
	return text;
}

static struct section *find_disk(const struct reader *reader, const char *name)
{
	struct section *section = reader->disks;

	while (section && strcmp(section->name, name) != 0)
		section = section->next;
	return section;
}

static int begin_disk(struct reader *reader, const char *name)
{
	const struct section *other = find_disk(reader, name);
	struct section *section;

	if (!ox_config_is_name(name))
		return fail(reader, reader->line,
			    "'%s' is no name of a disk: it has letters, digits, '.', '_' and '-', "
			    "begins with a letter or a digit, and is not longer than %d bytes",
			    name, OX_CONFIG_NAME_MAX);
	if (other)
		return fail(reader, reader->line, "the disk '%s' stands in line %u already", name,
			    other->line);
	section = calloc(1, sizeof(*section));
	if (!section)
		return no_memory(reader);
	section->last = &section->settings;
	section->line = reader->line;
	*reader->last = section;
	reader->last = &section->next;
	reader->current = section;
	section->name = strdup(name);
	return section->name ? 0 : no_memory(reader);
}

static int take_section(struct reader *reader, char *text)
{
	char *end = strchr(text, ']');
	const char *kind;

	if (!end || trim(end + 1)[0] != '\0')
		return fail(reader, reader->line, "a section is written [disk NAME]");
	*end = '\0';
	kind = trim(text + 1);
	if (strcmp(kind, "server") == 0) {
		reader->current = &reader->server;
		return 0;
	}
	if (strcmp(kind, "defaults") == 0) {
		reader->current = &reader->defaults;
		return 0;
	}
	if (strncmp(kind, "disk", 4) == 0 && (kind[4] == ' ' || kind[4] == '\t'))
		return begin_disk(reader, kind + 5 + strspn(kind + 5, " \t"));
	return fail(reader, reader->line,
		    "there is no section [%s]: there are [server], [defaults] and [disk NAME]",
		    kind);
}

static struct setting *find_setting(const struct section *section, const char *key)
{
	struct setting *setting = section->settings;

	while (setting && strcmp(setting->key, key) != 0)
		setting = setting->next;
	return setting;
}

static int take_setting(struct reader *reader, char *text)
{
	char *equals = strchr(text, '=');
	struct section *section = reader->current;
	const struct setting *other;
	struct setting *setting;

	if (!equals)
		return fail(reader, reader->line, "a setting is written KEY = VALUE");
	if (!section)
		return fail(reader, reader->line,
			    "a setting stands in a section: [server], [defaults] or [disk NAME]");
	*equals = '\0';
	text = trim(text);
	other = find_setting(section, text);
	if (other)
		return fail(reader, reader->line, "'%s' stands in line %u already", text,
			    other->line);
	setting = calloc(1, sizeof(*setting));
	if (!setting)
		return no_memory(reader);
	*section->last = setting;
	section->last = &setting->next;
	setting->line = reader->line;
	setting->key = strdup(text);
	setting->value = strdup(trim(equals + 1));
	return setting->key && setting->value ? 0 : no_memory(reader);
}

static int take_line(struct reader *reader, char *line, size_t length)
{
	const char *text;

	reader->line++;
	if (memchr(line, '\0', length))
		return fail(reader, reader->line, "a byte of this line is zero");
	text = line = trim(line);
	if (text[0] == '\0' || text[0] == '#' || text[0] == ';')
		return 0;
	return text[0] == '[' ? take_section(reader, line) : take_setting(reader, line);
}

static int take_lines(struct reader *reader)
{
	FILE *file = fopen(reader->path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	int ret = 0;

	if (!file) {
		ret = -errno;
		ox_cli_error("Cannot read '%s': %s", reader->path, strerror(errno));
		return ret;
	}
	while (ret == 0 && (length = getline(&line, &room, file)) >= 0)
		ret = take_line(reader, line, (size_t)length);
	if (ret == 0 && (ferror(file) || !feof(file))) {
		ret = -EIO;
		ox_cli_error("Cannot read '%s': %s", reader->path, strerror(errno));
	}
	free(line);
	fclose(file);
	return ret;
}

/* ---- command lines ---- */

static const struct option *find_option(const char *key)
{
	for (size_t i = 0; i < sizeof(not_of_a_disk) / sizeof(not_of_a_disk[0]); i++)
		if (strcmp(not_of_a_disk[i], key) == 0)
			return NULL;
	for (const struct option *option = ox_cli_serve_options; option->name; option++)
		if (strcmp(option->name, key) == 0)
			return option;
	return NULL;
}

/* *ret NULL: nothing stands for it. */
static int make_word(const struct reader *reader, const struct setting *setting, char **ret)
{
	const struct option *option = find_option(setting->key);
	bool on;
	int code;

	*ret = NULL;
	if (!option)
		return fail(reader, setting->line, "a disk has no setting '%s'", setting->key);
	if (option->has_arg != required_argument && ox_cli_bool_parse(setting->value, &on) == 0) {
		if (!on)
			return 0;
		code = asprintf(ret, "--%s", setting->key);
	} else if (option->has_arg == no_argument) {
		return fail(reader, setting->line, "'%s' is yes or no", setting->key);
	} else {
		code = asprintf(ret, "--%s=%s", setting->key, setting->value);
	}
	if (code >= 0)
		return 0;
	*ret = NULL;
	return no_memory(reader);
}

static int add_words(const struct reader *reader, struct ox_config_disk *disk,
		     const struct section *section, const struct section *instead)
{
	for (const struct setting *setting = section->settings; setting; setting = setting->next) {
		char *word;
		int ret;

		if (strcmp(setting->key, "image") == 0 ||
		    (instead && find_setting(instead, setting->key)))
			continue;
		ret = make_word(reader, setting, &word);
		if (ret < 0)
			return ret;
		if (word)
			disk->argv[disk->argc++] = word;
	}
	return 0;
}

static size_t count_settings(const struct section *section)
{
	size_t count = 0;

	for (const struct setting *setting = section->settings; setting; setting = setting->next)
		count++;
	return count;
}

static int make_disk(const struct reader *reader, struct section *section,
		     struct ox_config_disk *ret)
{
	const struct setting *image = find_setting(section, "image");
	const size_t most = count_settings(section) + count_settings(&reader->defaults);
	int code;

	if (!image)
		return fail(reader, section->line, "the disk '%s' has no image", section->name);
	*ret = (struct ox_config_disk){
		.name = strdup(section->name),
		.line = section->line,
		.argv = calloc(most + 4, sizeof(*ret->argv)), /* the verb, "--", image, NULL */
	};
	if (!ret->name || !ret->argv)
		return no_memory(reader);
	ret->argv[ret->argc++] = strdup("serve");
	code = ret->argv[0] ? add_words(reader, ret, &reader->defaults, section) : -ENOMEM;
	if (code == 0)
		code = add_words(reader, ret, section, NULL);
	if (code < 0)
		return code;
	ret->argv[ret->argc++] = strdup("--");
	ret->argv[ret->argc++] = strdup(image->value);
	return ret->argv[ret->argc - 2] && ret->argv[ret->argc - 1] ? 0 : no_memory(reader);
}

/* Of the server. */
static int copy_value(const struct reader *reader, const char *key, char **ret)
{
	const struct setting *setting = find_setting(&reader->server, key);

	if (!setting)
		return 0;
	*ret = strdup(setting->value);
	return *ret ? 0 : no_memory(reader);
}

static int make_config(const struct reader *reader, struct ox_config *ret)
{
	size_t count = 0;
	int code = 0;

	for (const struct setting *s = reader->server.settings; s; s = s->next)
		if (strcmp(s->key, "pid-file") != 0 && strcmp(s->key, "control") != 0)
			return fail(reader, s->line, "the server has no setting '%s'", s->key);
	if (copy_value(reader, "pid-file", &ret->pid_file) < 0 ||
	    copy_value(reader, "control", &ret->control) < 0)
		return -ENOMEM;
	for (const struct section *section = reader->disks; section; section = section->next)
		count++;
	ret->disks = calloc(count + 1, sizeof(*ret->disks));
	if (!ret->disks)
		return no_memory(reader);
	for (struct section *section = reader->disks; section && code == 0; section = section->next)
		code = make_disk(reader, section, &ret->disks[ret->disk_count++]);
	return code;
}

/* ---- all of it ---- */

static void free_settings(struct section *section)
{
	while (section->settings) {
		struct setting *setting = section->settings;

		section->settings = setting->next;
		free(setting->key);
		free(setting->value);
		free(setting);
	}
}

static void free_sections(struct reader *reader)
{
	free_settings(&reader->server);
	free_settings(&reader->defaults);
	while (reader->disks) {
		struct section *section = reader->disks;

		reader->disks = section->next;
		free_settings(section);
		free(section->name);
		free(section);
	}
}

int ox_config_read(const char *path, struct ox_config *ret)
{
	struct reader reader = {.path = path};
	int code;

	*ret = (struct ox_config){0};
	reader.server.last = &reader.server.settings;
	reader.defaults.last = &reader.defaults.settings;
	reader.last = &reader.disks;
	code = take_lines(&reader);
	if (code == 0)
		code = make_config(&reader, ret);
	free_sections(&reader);
	if (code < 0)
		ox_config_free(ret);
	return code;
}

void ox_config_free_disk(struct ox_config_disk *disk)
{
	for (int i = 0; i < disk->argc; i++)
		free(disk->argv[i]);
	free(disk->argv);
	free(disk->name);
	*disk = (struct ox_config_disk){0};
}

void ox_config_free(struct ox_config *config)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		ox_config_free_disk(&config->disks[i]);
	free(config->disks);
	free(config->pid_file);
	free(config->control);
	*config = (struct ox_config){0};
}

bool ox_config_disk_equals(const struct ox_config_disk *a, const struct ox_config_disk *b)
{
	if (a->argc != b->argc || strcmp(a->name, b->name) != 0)
		return false;
	for (int i = 0; i < a->argc; i++)
		if (strcmp(a->argv[i], b->argv[i]) != 0)
			return false;
	return true;
}
