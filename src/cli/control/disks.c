/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/control/control.h"

static struct ox_control_disk *find_number(const struct ox_control *control, uint32_t number)
{
	for (unsigned i = 0; i < control->disk_count; i++)
		if (control->disks[i].number == number)
			return &control->disks[i];
	return NULL;
}

/* In the order of the names. NULL: memory is short. */
static struct ox_control_disk *add(struct ox_control *control, const struct ox_control_told *told)
{
	struct ox_control_disk *disks =
		realloc(control->disks, (control->disk_count + 1) * sizeof(*disks));
	unsigned at = 0;

	if (!disks)
		return NULL;
	control->disks = disks;
	while (at < control->disk_count && strcmp(disks[at].told.name, told->name) < 0)
		at++;
	memmove(&disks[at + 1], &disks[at], (control->disk_count - at) * sizeof(*disks));
	control->disk_count++;
	disks[at] = (struct ox_control_disk){.number = told->number};
	return &disks[at];
}

void ox_control_disk_told(struct ox_control *control, const struct ox_control_told *told, int fd)
{
	struct ox_control_disk *disk = find_number(control, told->number);

	if (!disk)
		disk = add(control, told);
	if (disk)
		disk->told = *told;
	if (disk && fd >= 0 && !disk->memory && ox_stats_map(fd, &disk->memory) < 0)
		disk->memory = NULL; /* then it has counted nothing */
	if (fd >= 0)
		close(fd);
}

void ox_control_disk_forget(struct ox_control *control, uint32_t number)
{
	struct ox_control_disk *disk = find_number(control, number);
	size_t after;

	if (!disk)
		return;
	ox_stats_unmap(disk->memory);
	after = (size_t)(control->disks + control->disk_count - (disk + 1));
	memmove(disk, disk + 1, after * sizeof(*disk));
	control->disk_count--;
}

const struct ox_control_disk *ox_control_disk_find(const struct ox_control *control,
						   const char *name)
{
	if (!name)
		return control->disk_count == 1 ? &control->disks[0] : NULL;
	for (unsigned i = 0; i < control->disk_count; i++)
		if (strcmp(control->disks[i].told.name, name) == 0)
			return &control->disks[i];
	return NULL;
}

void ox_control_disk_look(const struct ox_control_disk *disk, struct ox_stats_values *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (disk->memory)
		ox_stats_load(disk->memory, ret);
	if (disk->told.pid != 0)
		return;
	/* The dead one has nobody any more. */
	memset(ret->in_flight, 0, sizeof(ret->in_flight));
	memset(ret->clients, 0, sizeof(ret->clients));
	ret->room.waiting = ret->room.since_ms = 0;
}

const char *ox_control_state_name(uint32_t state)
{
	static const char *const names[] = {
		[OX_CONTROL_STARTING] = "starting",	[OX_CONTROL_SERVING] = "serving",
		[OX_CONTROL_RESTARTING] = "restarting", [OX_CONTROL_SAVING] = "saving",
		[OX_CONTROL_ENDING] = "ending",
	};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}
