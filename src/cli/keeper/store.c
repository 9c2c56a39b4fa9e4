/* SPDX-License-Identifier: MIT */
#include "cli/keeper/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

/* How long a manager that takes nothing is waited for. */
#define SETTLE_MS 5000
#define NAME_BYTES (OX_STORED_NAME_BYTES + OX_HANDED_DISK_BYTES)

/* ---- putting, and taking out ---- */

static bool is_same_name(const struct ox_stored_name *a, const struct ox_stored_name *b)
{
	return a->kind == b->kind && a->first == b->first && a->second == b->second;
}

/* Of a disk that has a name it ends with that. */
static void print_name(const struct ox_kept_disk *disk, const struct ox_stored_name *name,
		       char *text)
{
	const char *of = disk->options->name;
	size_t length;

	ox_stored_name_print(name, text);
	length = strlen(text);
	if (of[0])
		snprintf(text + length, NAME_BYTES - length, "@%s", of);
}

/* It has hung up while its writers are dead, which is no reason to drop it: FDPOLL=0. */
static void put(struct ox_kept_disk *disk, struct ox_stored_name name, int fd)
{
	char text[NAME_BYTES];

	if (disk->store.count == OX_STORE_MAX)
		return;
	disk->store.names[disk->store.count++] = name;
	print_name(disk, &name, text);
	ox_notify_send(&disk->keeper->notify, fd, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", text);
}

static void take_out_at(struct ox_kept_disk *disk, unsigned i)
{
	char text[NAME_BYTES];

	print_name(disk, &disk->store.names[i], text);
	ox_notify_send(&disk->keeper->notify, -1, "FDSTOREREMOVE=1\nFDNAME=%s", text);
	disk->store.names[i] = disk->store.names[--disk->store.count];
}

void ox_store_empty(struct ox_kept_disk *disk)
{
	while (disk->store.count > 0)
		take_out_at(disk, disk->store.count - 1);
	disk->store.phase = OX_STORE_NOTHING;
}

static void put_witnesses(struct ox_kept_disk *disk, const struct witnesses *witnesses)
{
	for (unsigned i = 0; i < witnesses->count; i++) {
		disk->store.witness_numbers[i] = i;
		put(disk, (struct ox_stored_name){OX_STORED_WITNESS, disk->store.generation, i},
		    witnesses->fds[i]);
	}
}

void ox_store_put_next_witnesses(struct ox_kept_disk *disk)
{
	unsigned old = disk->store.generation;

	disk->store.generation++;
	if (disk->store.phase == OX_STORE_NOTHING)
		return; /* they come with the rest */
	put_witnesses(disk, &disk->next_witnesses);
	for (unsigned i = disk->store.count; i > 0; i--) {
		const struct ox_stored_name *name = &disk->store.names[i - 1];

		if (name->kind == OX_STORED_USED_UP ||
		    (name->kind == OX_STORED_WITNESS && name->first <= old))
			take_out_at(disk, i - 1);
	}
}

/* A store without a witness is not whole, but for this. What it is does not matter. */
static void put_used_up(struct ox_kept_disk *disk)
{
	int fd = memfd_create("oxbow-none", MFD_CLOEXEC);

	if (fd < 0)
		return;
	put(disk, (struct ox_stored_name){.kind = OX_STORED_USED_UP}, fd);
	close(fd);
}

void ox_store_drop_witness(struct ox_kept_disk *disk)
{
	const struct ox_stored_name name = {OX_STORED_WITNESS, disk->store.generation,
					    disk->store.witness_numbers[disk->old.count - 1]};

	if (disk->store.phase == OX_STORE_NOTHING)
		return;
	if (disk->old.count == 1)
		put_used_up(disk);
	for (unsigned i = 0; i < disk->store.count; i++) {
		if (is_same_name(&disk->store.names[i], &name)) {
			take_out_at(disk, i);
			return;
		}
	}
}

void ox_store_fill(struct ox_kept_disk *disk)
{
	if (!disk->writable || disk->keeper->notify.socket < 0)
		return;
	for (unsigned i = 0; i < disk->locked_count; i++)
		put(disk, (struct ox_stored_name){OX_STORED_FILE, i, disk->locked_count},
		    disk->locked[i]);
	put_witnesses(disk, &disk->old);
	put(disk, (struct ox_stored_name){.kind = OX_STORED_BARRIER}, disk->barrier);
	put(disk, (struct ox_stored_name){.kind = OX_STORED_STATE}, disk->state);
	disk->store.phase = OX_STORE_KEPT;
}

void ox_store_settle(struct ox_kept_disk *disk)
{
	if (disk->keeper->notify.socket < 0 && disk->keeper->notify.error == 0)
		return;
	if (disk->store.is_given_up || ox_notify_drain(&disk->keeper->notify, SETTLE_MS))
		return;
	disk->store.is_given_up = true;
	ox_keeper_say(
		"The service manager does not take what is left with it (%s): the death of "
		"all processes of the server would be as a power cut",
		strerror(disk->keeper->notify.error < 0 ? -disk->keeper->notify.error : EAGAIN));
}

/* ---- what was handed over; whoever stored it, it is looked at ---- */

static bool is_of_type(const struct stat *st, int mode, bool for_writing)
{
	return mode >= 0 && (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) &&
	       ((mode & O_ACCMODE) == O_RDWR || ((mode & O_ACCMODE) == O_RDONLY && !for_writing));
}

static bool take_file(struct ox_kept_disk *disk, const struct ox_stored_name *name, int fd,
		      const struct stat *st)
{
	unsigned count = name->second;

	if (name->first >= count || count > OX_KEPT_CHAIN_MAX ||
	    (disk->store.file_count != 0 && disk->store.file_count != count))
		return false;
	if (disk->store.file_count == 0)
		for (unsigned i = 0; i < count; i++)
			disk->locked[i] = -1;
	disk->store.file_count = count;
	if (disk->locked[name->first] >= 0 ||
	    !is_of_type(st, fcntl(fd, F_GETFL), name->first == 0 && disk->writable))
		return false;
	disk->locked[name->first] = fd;
	disk->store.files_seen++;
	return true;
}

/* Of the last generation: one that a worker had got through its sync with comes first. */
static bool take_witness(struct ox_kept_disk *disk, const struct ox_stored_name *name, int fd,
			 const struct stat *st)
{
	if (name->second >= OX_KEPT_WITNESSES || !is_of_type(st, fcntl(fd, F_GETFL), false))
		return false;
	if (disk->old.count > 0 && name->first < disk->store.generation) {
		close(fd);
		return true;
	}
	if (disk->old.count == 0 || name->first > disk->store.generation) {
		for (unsigned i = 0; i < disk->old.count; i++)
			if (disk->old.fds[i] >= 0)
				close(disk->old.fds[i]);
		for (unsigned i = 0; i < OX_KEPT_WITNESSES; i++)
			disk->old.fds[i] = -1;
		disk->old.count = OX_KEPT_WITNESSES;
		disk->store.generation = name->first;
	}
	if (disk->old.fds[name->second] >= 0)
		return false;
	disk->old.fds[name->second] = fd;
	return true;
}

/* A memory file that nobody can cut short; or one that nothing was written to yet. */
static bool is_state(int fd, const struct stat *st)
{
	const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
	int seals = fcntl(fd, F_GET_SEALS); /* no other file has any */

	return seals >= 0 && S_ISREG(st->st_mode) && !(seals & F_SEAL_WRITE) &&
	       (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR &&
	       (st->st_size == 0 ? !(seals & F_SEAL_SEAL) : (seals & wanted) == wanted);
}

static bool take(struct ox_kept_disk *disk, const struct ox_stored_name *name, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || disk->store.count == OX_STORE_MAX)
		return false;
	disk->store.names[disk->store.count++] = *name;
	switch (name->kind) {
	case OX_STORED_STATE:
		if (disk->state >= 0 || !is_state(fd, &st))
			return false;
		disk->state = fd;
		return true;
	case OX_STORED_BARRIER:
		if (disk->barrier >= 0 || !S_ISFIFO(st.st_mode) ||
		    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
			return false;
		disk->barrier = fd;
		return true;
	case OX_STORED_FILE:
		return take_file(disk, name, fd, &st);
	case OX_STORED_WITNESS:
		return take_witness(disk, name, fd, &st);
	case OX_STORED_USED_UP:
		disk->store.is_used_up = true;
		close(fd);
		return true;
	case OX_STORED_FOREIGN:
		break;
	}
	return false;
}

/* Those that a worker was handed are missing. */
static void keep_witnesses(struct ox_kept_disk *disk)
{
	unsigned all = disk->old.count;

	disk->old.count = 0;
	for (unsigned i = 0; i < all; i++) {
		if (disk->old.fds[i] < 0)
			continue;
		disk->store.witness_numbers[disk->old.count] = i;
		disk->old.fds[disk->old.count++] = disk->old.fds[i];
	}
}

static bool witnesses_are_of_image(const struct ox_kept_disk *disk)
{
	struct stat image;
	struct stat st;

	if (fstat(disk->locked[0], &image) < 0)
		return false;
	for (unsigned i = 0; i < disk->old.count; i++)
		if (fstat(disk->old.fds[i], &st) < 0 || st.st_dev != image.st_dev ||
		    st.st_ino != image.st_ino || st.st_rdev != image.st_rdev)
			return false;
	return true;
}

static bool is_whole(const struct ox_kept_disk *disk)
{
	const struct ox_store *store = &disk->store;

	return !store->is_wrong && disk->state >= 0 && disk->barrier >= 0 &&
	       store->file_count > 0 && store->files_seen == store->file_count &&
	       (disk->old.count > 0 || store->is_used_up) && witnesses_are_of_image(disk);
}

/* Those that are missing leave no gap in the list. */
static void keep_files(struct ox_kept_disk *disk)
{
	for (unsigned i = 0; i < disk->store.file_count; i++)
		if (disk->locked[i] >= 0)
			disk->locked[disk->locked_count++] = disk->locked[i];
}

void ox_store_find(struct ox_kept_disk *disk)
{
	const struct ox_handed *handed = &disk->keeper->handed;

	for (unsigned i = 0; i < handed->count; i++) {
		struct ox_handed_fd *one = &handed->fds[i];

		if (one->fd < 0 || one->name.kind == OX_STORED_FOREIGN ||
		    strcmp(one->disk, disk->options->name) != 0)
			continue;
		if (!take(disk, &one->name, one->fd)) {
			disk->store.is_wrong = true;
			close(one->fd);
		}
		one->fd = -1;
	}
	if (disk->store.count == 0)
		return;
	disk->store.has_barrier = disk->barrier >= 0;
	keep_witnesses(disk);
	keep_files(disk);
	if (disk->writable && is_whole(disk)) {
		disk->store.phase = OX_STORE_ADOPTING;
		return;
	}
	disk->store.phase = OX_STORE_LETTING_GO;
	ox_keeper_say("What the last server left with the service manager %s: '%s' is opened as "
		      "after a power cut",
		      disk->writable ? "is not whole" : "is for a server that writes",
		      disk->options->image);
}

/* The dead may still write, whether what they left is adopted or not. */
static void await_barrier(struct ox_kept_disk *disk)
{
	disk->phase = BARRIER;
	disk->deadline_ms = ox_keeper_now_ms() + OX_KEEPER_SLOW_MS;
}

void ox_store_begin(struct ox_kept_disk *disk)
{
	if (disk->store.phase == OX_STORE_NOTHING) {
		ox_keeper_start_opener(disk);
		return;
	}
	disk->chain_is_open = disk->store.phase == OX_STORE_ADOPTING;
	disk->state_is_needed = disk->chain_is_open;
	disk->progress = READY;
	disk->death_ms = ox_keeper_now_ms();
	if (disk->chain_is_open)
		ox_kept_disk_find_mark(disk); /* no opener locks the files anew */
	await_barrier(disk);
}

void ox_store_refuse(struct ox_kept_disk *disk)
{
	disk->store.phase = OX_STORE_LETTING_GO;
	disk->chain_is_open = disk->state_is_needed = false;
	await_barrier(disk);
}

/* The store has the same descriptions. Where no barrier has told that no request goes on they are
 * only closed: the rings of the dead keep the locks as long as is needed. */
static void close_all(struct ox_kept_disk *disk)
{
	for (unsigned i = 0; disk->store.has_barrier && i < disk->locked_count; i++) {
		enum ox_lock have = i == 0 ? OX_LOCK_WRITE : OX_LOCK_READ;

		if (ox_lock_fd(disk->locked[i], disk->options->image, have, OX_LOCK_NONE, NULL) < 0)
			ox_keeper_say("Cannot unlock what '%s' was", disk->options->image);
	}
	ox_keeper_close_list(disk->locked, &disk->locked_count);
	ox_keeper_close_list(disk->old.fds, &disk->old.count);
	if (disk->state >= 0)
		close(disk->state);
	if (disk->barrier >= 0)
		close(disk->barrier);
	disk->state = disk->barrier = -1;
}

void ox_store_let_go(struct ox_kept_disk *disk)
{
	close_all(disk);
	ox_store_empty(disk);
	ox_store_settle(disk);
	disk->death_ms = 0;
	disk->tries = disk->deaths_in_row = 0;
	if (disk->stops > 0)
		ox_keeper_end_disk(disk, 0); /* nothing has been served */
	else if (ox_kept_disk_make_anew(disk) < 0 || ox_keeper_load_state(disk) < 0)
		ox_keeper_end_disk(disk, 1);
	else
		ox_keeper_start_opener(disk);
}
