/* SPDX-License-Identifier: MIT */
/* Lines of operators: what is taken of them is within its bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cli/control/line.h"
#include "serve/command.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool ends(const char *text, size_t room)
{
	return memchr(text, '\0', room) != NULL;
}

static void check_added(const struct ox_control_line *line)
{
	const struct ox_control_add *add = line->add;
	const char *at = add->words;

	ox_assert(ends(add->name, OX_CONTROL_NAME_BYTES) && ends(add->image, sizeof(add->image)));
	ox_assert(ends(add->nbd, sizeof(add->nbd)) && ends(add->vhost, sizeof(add->vhost)));
	ox_assert(add->word_count <= OX_CONTROL_WORDS);
	ox_assert(line->values[0] + line->values[1] + line->values[2] <= OX_CONTROL_DESCRIPTORS);
	for (uint32_t i = 0; i < add->word_count; i++) {
		const size_t left = sizeof(add->words) - (size_t)(at - add->words);

		ox_assert(left > 2 && ends(at, left) && strncmp(at, "--", 2) == 0);
		at += strlen(at) + 1;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ox_control_line line;
	const char *why = NULL;

	if (ox_control_line_parse((const char *)data, size, &line, &why) < 0) {
		ox_assert(why && why[0]);
		return 0;
	}
	ox_assert(line.verb < OX_CONTROL_VERBS);
	ox_assert(ends(line.disk, sizeof(line.disk)) && (line.has_disk || !line.disk[0]));
	ox_assert((line.verb == OX_CONTROL_ADD_DISK) == (line.add != NULL));
	if (line.add)
		check_added(&line);
	free(line.add);
	return 0;
}
