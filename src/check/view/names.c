/* SPDX-License-Identifier: MIT */
/* Ids and names that no two of a kind may share. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/grow.h"
#include "check/view/view.h"

struct ox_name {
	char *name;
	uint64_t number;
};

int ox_names_add(struct ox_names *names, char *name, uint64_t number)
{
	if (ox_grow(names->list, names->count, names->room, 16) < 0) {
		free(name);
		return -ENOMEM;
	}
	names->list[names->count++] = (struct ox_name){.name = name, .number = number};
	return 0;
}

static int by_name(const void *left, const void *right)
{
	const struct ox_name *a = left;
	const struct ox_name *b = right;
	int order = strcmp(a->name, b->name);

	return order ? order : (a->number > b->number) - (a->number < b->number);
}

void ox_names_judge(struct ox_names *names, struct ox_journal *j, enum ox_finding_id id)
{
	struct ox_name *list = names->list;

	if (names->count > 0)
		qsort(list, names->count, sizeof(*list), by_name);
	for (uint64_t i = 1; i < names->count; i++) {
		if (strcmp(list[i - 1].name, list[i].name) == 0)
			ox_journal_found(j, id,
					 OX_FOUND(.a = list[i - 1].number, .b = list[i].number));
	}
	for (uint64_t i = 0; i < names->count; i++)
		free(list[i].name);
	free(list);
	*names = (struct ox_names){0};
}
