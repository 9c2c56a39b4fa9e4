/* SPDX-License-Identifier: MIT */
/* Ids and names that no two of a kind may share. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check/walk/walk.h"

struct ox_walk_name {
	char *name;
	uint64_t number;
};

int ox_walk_names_add(struct ox_walk_names *names, char *name, uint64_t number)
{
	if (names->count == names->room) {
		uint64_t room = names->room ? 2 * names->room : 16;
		struct ox_walk_name *more = reallocarray(names->list, room, sizeof(*more));

		if (!more) {
			free(name);
			return -ENOMEM;
		}
		names->list = more;
		names->room = room;
	}
	names->list[names->count++] = (struct ox_walk_name){.name = name, .number = number};
	return 0;
}

static int by_name(const void *left, const void *right)
{
	const struct ox_walk_name *a = left;
	const struct ox_walk_name *b = right;
	int order = strcmp(a->name, b->name);

	return order ? order : (a->number > b->number) - (a->number < b->number);
}

void ox_walk_names_judge(struct ox_walk *w, struct ox_walk_names *names, enum ox_finding_id id)
{
	struct ox_walk_name *list = names->list;

	if (names->count > 0)
		qsort(list, names->count, sizeof(*list), by_name);
	for (uint64_t i = 1; i < names->count; i++) {
		if (strcmp(list[i - 1].name, list[i].name) == 0)
			ox_journal_found(w->j, id,
					 OX_FOUND(.a = list[i - 1].number, .b = list[i].number));
	}
	for (uint64_t i = 0; i < names->count; i++)
		free(list[i].name);
	free(list);
	*names = (struct ox_walk_names){0};
}
