/* SPDX-License-Identifier: MIT */
#include "cli/keeper/watch.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOKS 8u

int ox_watch_make(struct ox_watch *watch, unsigned hang_ms)
{
	*watch = (struct ox_watch){
		.memory = ox_flight_make(),
		.hang_ms = hang_ms,
		.stat = -1,
		.look_ms = INT64_MAX,
	};
	if (watch->memory < 0)
		return watch->memory;
	return ox_flight_watch(watch->memory, &watch->turns);
}

/* The path is of the keeper's own making, and the process its child, which nobody else reaps. */
static int open_stat(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
}

/* The number is the child's word: whatever it is, the path leads to nothing but its threads. */
void ox_watch_follow_thread(struct ox_watch *watch, pid_t pid, uint32_t thread)
{
	char path[64];

	if (watch->stat < 0)
		return;
	close(watch->stat);
	snprintf(path, sizeof(path), "/proc/%ld/task/%lu/stat", (long)pid, (unsigned long)thread);
	watch->stat = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
}

void ox_watch_begin(struct ox_watch *watch, pid_t pid, int64_t now_ms)
{
	ox_watch_end(watch);
	if (watch->hang_ms == UINT_MAX)
		return;
	watch->stat = open_stat(pid);
	(void)ox_flight_has_turned(&watch->turns);
	watch->looks = 0;
	watch->told = false;
	watch->look_ms = now_ms + watch->hang_ms / LOOKS;
}

void ox_watch_end(struct ox_watch *watch)
{
	if (watch->stat >= 0)
		close(watch->stat);
	watch->stat = -1;
	watch->looks = 0;
	watch->look_ms = INT64_MAX;
}

/* "PID (NAME) STATE ...", of the thread that turns. */
static bool waits_for_disk(const struct ox_watch *watch)
{
	char text[512];
	ssize_t got = watch->stat < 0 ? -1 : pread(watch->stat, text, sizeof(text) - 1, 0);
	const char *name_end;

	if (got <= 0)
		return false;
	text[got] = '\0';
	name_end = strrchr(text, ')');
	return name_end && strncmp(name_end, ") D", 3) == 0;
}

void ox_watch_free(struct ox_watch *watch)
{
	ox_watch_end(watch);
	ox_flight_watch_free(&watch->turns);
	if (watch->memory >= 0)
		close(watch->memory);
	watch->memory = -1;
}

bool ox_watch_stands_still(const struct ox_watch *watch)
{
	return watch->look_ms != INT64_MAX && watch->looks >= LOOKS / 2 && !waits_for_disk(watch);
}

enum ox_watch_verdict ox_watch_look(struct ox_watch *watch, int64_t now_ms)
{
	watch->look_ms = now_ms + watch->hang_ms / LOOKS;
	if (ox_flight_has_turned(&watch->turns)) {
		watch->looks = 0;
		watch->told = false;
		return OX_WATCH_TURNS;
	}
	if (++watch->looks < LOOKS)
		return OX_WATCH_TURNS;
	if (!waits_for_disk(watch))
		return OX_WATCH_HANGS;
	if (watch->told)
		return OX_WATCH_TURNS;
	watch->told = true;
	return OX_WATCH_WAITS_FOR_DISK;
}
