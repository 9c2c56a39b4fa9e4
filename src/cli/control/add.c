/* SPDX-License-Identifier: MIT */
/* A line that adds a disk: what it says becomes a record of fixed size, for the keeper. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/control/line.h"

static const char *const descriptors[] = {
	[OX_CONTROL_CHAIN] = "chain",
	[OX_CONTROL_NBD] = "nbd",
	[OX_CONTROL_VHOST] = "vhost-user-blk",
};

/* False: it is no text, or longer than there is room for. */
static bool take_text(const json_t *value, char *to, size_t room)
{
	const size_t length = json_string_length(value);

	if (!json_is_string(value) || length >= room || strlen(json_string_value(value)) != length)
		return false;
	memcpy(to, json_string_value(value), length + 1);
	return true;
}

static bool take_optional_text(const json_t *value, char *to, size_t room)
{
	return !value || take_text(value, to, room);
}

static bool take_ms(const json_t *value, uint32_t *ret)
{
	const json_int_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < 0 || number > UINT32_MAX)
		return false;
	*ret = (uint32_t)number;
	return true;
}

static bool take_lock(const json_t *value, uint32_t *ret)
{
	static const char *const names[] = {
		[OX_LOCK_SHARE] = "share",
		[OX_LOCK_READ] = "read",
		[OX_LOCK_WRITE] = "write",
	};

	for (uint32_t i = OX_LOCK_SHARE; i <= OX_LOCK_WRITE; i++)
		if (json_is_string(value) && strcmp(json_string_value(value), names[i]) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

/* "cache=none" becomes "--cache=none". */
static bool take_options(const json_t *value, struct ox_control_add *add)
{
	size_t at = 0;

	if (!json_is_array(value) || json_array_size(value) > OX_CONTROL_WORDS)
		return false;
	for (size_t i = 0; i < json_array_size(value); i++) {
		if (sizeof(add->words) - at < 3)
			return false;
		memcpy(add->words + at, "--", 2);
		at += 2;
		if (!take_text(json_array_get(value, i), add->words + at, sizeof(add->words) - at))
			return false;
		at += strlen(add->words + at) + 1;
		add->word_count++;
	}
	return true;
}

static bool take_descriptors(const json_t *value, struct ox_control_line *line)
{
	uint64_t count = 0;

	if (!json_is_object(value) || json_object_size(value) != 3)
		return false;
	for (unsigned i = 0; i < 3; i++) {
		const json_t *one = json_object_get(value, descriptors[i]);

		if (!json_is_integer(one) || json_integer_value(one) < 0 ||
		    json_integer_value(one) > OX_CONTROL_DESCRIPTORS)
			return false;
		line->values[i] = (uint64_t)json_integer_value(one);
		count += line->values[i];
	}
	return count <= OX_CONTROL_DESCRIPTORS;
}

static const char *what_is_wrong(const json_t *object, struct ox_control_line *line)
{
	struct ox_control_add *add = line->add;

	if (!take_text(json_object_get(object, "name"), add->name, OX_CONTROL_NAME_BYTES))
		return "'name' is a disk's name";
	if (!take_text(json_object_get(object, "image"), add->image, sizeof(add->image)))
		return "'image' is the image's name, for messages";
	if (!take_lock(json_object_get(object, "lock"), &add->lock))
		return "'lock' is write, read or share";
	if (!take_ms(json_object_get(object, "drain-ms"), &add->drain_ms) ||
	    !take_ms(json_object_get(object, "hang-ms"), &add->hang_ms))
		return "'drain-ms' and 'hang-ms' are numbers";
	if (!take_optional_text(json_object_get(object, "nbd"), add->nbd, sizeof(add->nbd)) ||
	    !take_optional_text(json_object_get(object, "vhost-user-blk"), add->vhost,
				sizeof(add->vhost)))
		return "'nbd' and 'vhost-user-blk' are addresses, for messages";
	if (!take_options(json_object_get(object, "options"), add))
		return "'options' is a list of options of oxbow serve, without their dashes";
	if (!take_descriptors(json_object_get(object, "descriptors"), line))
		return "'descriptors' tells how many come for 'chain', 'nbd' and 'vhost-user-blk'";
	return NULL;
}

int ox_control_line_take_add(const json_t *object, struct ox_control_line *line,
			     const char **ret_why)
{
	const char *why;

	line->add = calloc(1, sizeof(*line->add));
	why = line->add ? what_is_wrong(object, line) : "memory is short";
	if (!why)
		return 0;
	*ret_why = why;
	return -EINVAL;
}
