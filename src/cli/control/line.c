/* SPDX-License-Identifier: MIT */
#include "cli/control/line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/command.h"

struct verb {
	const char *name;
	bool takes_disk;
	/* What else it takes, and these are the members; NULL: nothing. */
	int (*take)(const json_t *object, struct ox_control_line *line, const char **ret_why);
	const char *const *members; /* ended by a NULL */
};

static int fail(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EINVAL;
}

/* A whole number that is not negative. 1: it is there; 0: it is not; -EINVAL. */
static int take_number(const json_t *object, const char *key, uint64_t *ret)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return -EINVAL;
	*ret = (uint64_t)json_integer_value(value);
	return 1;
}

static int take_truth(const json_t *object, const char *key, bool *ret)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return 0;
	if (!json_is_boolean(value))
		return -EINVAL;
	*ret = json_is_true(value);
	return 1;
}

/* ---- what commands take ---- */

static const char *const resize_members[] = {"size", "grow-by", "shrink", NULL};

static int take_resize(const json_t *object, struct ox_control_line *line, const char **ret_why)
{
	uint64_t bytes = 0;
	uint64_t more = 0;
	bool shrinks = false;
	const int has_bytes = take_number(object, "size", &bytes);
	const int has_more = take_number(object, "grow-by", &more);

	if (has_bytes < 0 || has_more < 0)
		return fail(ret_why, "a size is a number of bytes");
	if (has_bytes + has_more != 1)
		return fail(ret_why, "resize takes 'size' or 'grow-by'");
	if (take_truth(object, "shrink", &shrinks) < 0)
		return fail(ret_why, "'shrink' is true or false");
	line->values[0] = has_more ? more : bytes;
	line->values[1] =
		(has_more ? OX_SERVE_RESIZE_MORE : 0) | (shrinks ? OX_SERVE_RESIZE_SHRINKS : 0);
	return 0;
}

static const char *const add_members[] = {
	"name", "image",	  "lock",    "drain-ms",    "hang-ms",
	"nbd",	"vhost-user-blk", "options", "descriptors", NULL,
};

/* In the order of struct ox_serve_limits. */
static const char *const limit_members[] = {"iops", "iops-burst", "bandwidth", "bandwidth-burst",
					    NULL};

static int take_limit(const json_t *object, struct ox_control_line *line, const char **ret_why)
{
	for (size_t i = 0; limit_members[i]; i++)
		if (take_number(object, limit_members[i], &line->values[i]) < 0)
			return fail(ret_why, "a limit is a number, 0 being none");
	return 0;
}

static const struct verb verbs[OX_CONTROL_VERBS] = {
	[OX_CONTROL_STATUS] = {"status", true, NULL, NULL},
	[OX_CONTROL_STATS] = {"stats", true, NULL, NULL},
	[OX_CONTROL_METRICS] = {"metrics", true, NULL, NULL},
	[OX_CONTROL_FLUSH] = {"flush", true, NULL, NULL},
	[OX_CONTROL_RESIZE] = {"resize", true, take_resize, resize_members},
	[OX_CONTROL_LIMIT] = {"limit", true, take_limit, limit_members},
	[OX_CONTROL_RESUME] = {"resume", true, NULL, NULL},
	[OX_CONTROL_STOP_ALL] = {"stop", false, NULL, NULL},
	[OX_CONTROL_ADD_DISK] = {"add", false, ox_control_line_take_add, add_members},
	[OX_CONTROL_REMOVE_DISK] = {"remove", true, NULL, NULL},
};

/* ---- all of it ---- */

static int take_disk(const json_t *object, struct ox_control_line *line, const char **ret_why)
{
	const json_t *value = json_object_get(object, "disk");

	if (!value)
		return 0;
	if (!json_is_string(value) || json_string_length(value) >= sizeof(line->disk) ||
	    strlen(json_string_value(value)) != json_string_length(value))
		return fail(ret_why, "'disk' is a disk's name");
	line->has_disk = true;
	strcpy(line->disk, json_string_value(value));
	return 0;
}

static bool is_member(const struct verb *verb, const char *key)
{
	if (strcmp(key, "command") == 0)
		return true;
	if (strcmp(key, "disk") == 0)
		return verb->takes_disk;
	for (size_t i = 0; verb->members && verb->members[i]; i++)
		if (strcmp(key, verb->members[i]) == 0)
			return true;
	return false;
}

/* None is passed over: it may be what the command was about. */
static int check_members(json_t *object, const struct verb *verb, const char **ret_why)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (!is_member(verb, key))
			return fail(ret_why, "there is a member that this command does not take");
	}
	return 0;
}

static int parse(json_t *object, struct ox_control_line *line, const char **ret_why)
{
	const char *name = json_string_value(json_object_get(object, "command"));
	int ret;

	if (!name)
		return fail(ret_why, "a line is an object with a 'command'");
	for (unsigned i = 0; i < OX_CONTROL_VERBS; i++) {
		if (strcmp(verbs[i].name, name) != 0)
			continue;
		line->verb = (enum ox_control_verb)i;
		ret = check_members(object, &verbs[i], ret_why);
		if (ret == 0)
			ret = take_disk(object, line, ret_why);
		if (ret == 0 && verbs[i].take)
			ret = verbs[i].take(object, line, ret_why);
		return ret;
	}
	return fail(ret_why, "there is no such command");
}

int ox_control_line_parse(const char *text, size_t bytes, struct ox_control_line *ret,
			  const char **ret_why)
{
	struct ox_control_line line = {0};
	json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	int code;

	if (!object)
		return fail(ret_why, "this is no line of JSON");
	code = parse(object, &line, ret_why);
	json_decref(object);
	if (code == 0)
		*ret = line;
	else
		free(line.add);
	return code;
}
