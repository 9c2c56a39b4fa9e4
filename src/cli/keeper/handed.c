/* SPDX-License-Identifier: MIT */
#include "cli/keeper/handed.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_FD 3
#define FDS_MAX 65536

static bool parse_number(const char *text, long max, long *ret)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*ret = strtol(text, &end, 10);
	return errno == 0 && *end == '\0' && *ret <= max;
}

static long count_names(const char *names)
{
	long count = 1;

	for (; *names; names++)
		count += *names == ':';
	return count;
}

int ox_handed_each(const struct ox_handed_words *words, long own_pid,
		   void (*take)(void *opaque, int fd, const char *name, size_t length),
		   void *opaque)
{
	const char *name = words->names;
	long count;
	long pid;

	if (!words->pid || !words->fds)
		return 0;
	if (!parse_number(words->pid, LONG_MAX, &pid))
		return -EINVAL;
	if (pid != own_pid) /* they are somebody else's, who has executed us */
		return 0;
	if (!parse_number(words->fds, FDS_MAX, &count))
		return -EINVAL;
	if (count > 0 && name && count_names(name) != count)
		return -EINVAL;
	for (long i = 0; i < count; i++) {
		size_t length = name ? strcspn(name, ":") : 0;

		take(opaque, FIRST_FD + (int)i, name ? name : "", length);
		if (name)
			name += length + (name[length] == ':');
	}
	return 0;
}

/* ---- names ---- */

static const char *const prefixes[] = {
	[OX_STORED_STATE] = "oxbow-state",	[OX_STORED_BARRIER] = "oxbow-barrier",
	[OX_STORED_FILE] = "oxbow-file-",	[OX_STORED_USED_UP] = "oxbow-witness-none",
	[OX_STORED_WITNESS] = "oxbow-witness-",
};

static bool has_numbers(enum ox_stored_kind kind)
{
	return kind == OX_STORED_FILE || kind == OX_STORED_WITNESS;
}

void ox_stored_name_print(const struct ox_stored_name *name, char *text)
{
	if (has_numbers(name->kind))
		snprintf(text, OX_STORED_NAME_BYTES, "%s%u.%u", prefixes[name->kind], name->first,
			 name->second);
	else
		snprintf(text, OX_STORED_NAME_BYTES, "%s", prefixes[name->kind]);
}

/* What it makes of the numbers says whether they were written so. */
static bool is_name(const char *text, struct ox_stored_name *name)
{
	char again[OX_STORED_NAME_BYTES];

	if (has_numbers(name->kind) && sscanf(text + strlen(prefixes[name->kind]), "%9u.%9u",
					      &name->first, &name->second) != 2)
		return false;
	ox_stored_name_print(name, again);
	return strcmp(text, again) == 0;
}

struct ox_stored_name ox_stored_name_parse(const char *text, size_t length)
{
	char copy[OX_STORED_NAME_BYTES];

	if (length < sizeof(copy)) {
		memcpy(copy, text, length);
		copy[length] = '\0';
		for (int kind = OX_STORED_STATE; kind <= OX_STORED_WITNESS; kind++) {
			struct ox_stored_name name = {.kind = (enum ox_stored_kind)kind};

			if (strncmp(copy, prefixes[kind], strlen(prefixes[kind])) == 0 &&
			    is_name(copy, &name))
				return name;
		}
	}
	return (struct ox_stored_name){.kind = OX_STORED_FOREIGN};
}

/* ---- all of them ---- */

static void take(void *opaque, int fd, const char *text, size_t length)
{
	struct ox_handed *handed = opaque;
	const char *at = memchr(text, '@', length);
	size_t front = at ? (size_t)(at - text) : length;
	size_t back = at ? length - front - 1 : 0;
	struct ox_handed_fd *taken = handed->fds + handed->count;

	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return; /* there is none: what it stands for is missing */
	*taken = (struct ox_handed_fd){.fd = fd};
	snprintf(taken->text, sizeof(taken->text), "%.*s", (int)length, text);
	if (back < sizeof(taken->disk) && (!at || back > 0)) {
		taken->name = ox_stored_name_parse(text, front);
		memcpy(taken->disk, at ? at + 1 : "", back);
	}
	handed->count++;
}

static void count(void *opaque, int fd, const char *text, size_t length)
{
	unsigned *ret = opaque;

	(void)fd;
	(void)text;
	(void)length;
	(*ret)++;
}

void ox_handed_find(struct ox_handed *ret)
{
	const struct ox_handed_words words = {
		.pid = getenv("LISTEN_PID"),
		.fds = getenv("LISTEN_FDS"),
		.names = getenv("LISTEN_FDNAMES"),
	};
	unsigned all = 0;

	*ret = (struct ox_handed){0};
	ret->is_wrong = ox_handed_each(&words, (long)getpid(), count, &all) < 0;
	if (all > 0)
		ret->fds = calloc(all, sizeof(*ret->fds));
	if (ret->fds)
		ret->is_wrong = ox_handed_each(&words, (long)getpid(), take, ret) < 0;
	else if (all > 0)
		ret->is_wrong = true;
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
}

void ox_handed_free(struct ox_handed *handed)
{
	free(handed->fds);
	*handed = (struct ox_handed){0};
}
