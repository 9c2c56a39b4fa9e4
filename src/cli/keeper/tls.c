/* SPDX-License-Identifier: MIT */
/*
 * Credentials for TLS. The keeper reads the files, as those that serve can open none, and looks at
 * no byte of them: it hands them over in memory. New ones are handed to the worker that serves, and
 * become those of its successors once it has taken them; a worker that refuses them, or dies of
 * them, leaves those that there were.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/keeper/internal.h"
#include "serve/command.h"

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A descriptor, or a negative errno. */
static int read_files(const struct ox_kept_disk *disk, struct ox_serve_error *error)
{
	return ox_serve_tls_read(&disk->options->tls, error);
}

int ox_kept_tls_begin(struct ox_kept_disk *disk)
{
	struct ox_serve_error error = {0};

	if (!disk->options->tls.directory)
		return 0;
	disk->tls.current = read_files(disk, &error);
	if (disk->tls.current >= 0)
		return 0;
	ox_keeper_say("%s", error.message);
	return -1;
}

void ox_kept_tls_free(struct ox_kept_disk *disk)
{
	drop(&disk->tls.current);
	drop(&disk->tls.renewed);
}

bool ox_keeper_has_tls(const struct ox_keeper *keeper)
{
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		if (disk->options->tls.directory)
			return true;
	return false;
}

/* ---- others in their place ---- */

static void tell(struct ox_kept_disk *disk)
{
	const struct ox_serve_command command = {.kind = OX_SERVE_RENEW_TLS, .id = OX_WIRE_TLS_ID};
	int ret;

	if (disk->tls.renewed < 0 || disk->tls.is_told || disk->phase != SERVING ||
	    disk->progress != READY || disk->child.socket < 0)
		return;
	ret = ox_wire_send_bytes(disk->child.socket, &command, sizeof(command), &disk->tls.renewed,
				 1);
	disk->tls.is_told = ret == 0;
	if (ret < 0) {
		ox_keeper_say("The new TLS credentials of '%s' are not taken: %s",
			      disk->options->image, strerror(-ret));
		drop(&disk->tls.renewed);
	}
}

static void renew(struct ox_kept_disk *disk)
{
	struct ox_serve_error error = {0};
	int fd;

	if (!disk->options->tls.directory || disk->ended || disk->stops > 0)
		return;
	if (disk->tls.is_told) {
		disk->tls.again = true;
		return;
	}
	fd = read_files(disk, &error);
	if (fd < 0) {
		ox_keeper_say("%s; the old ones stay", error.message);
		return;
	}
	drop(&disk->tls.renewed);
	disk->tls.renewed = fd;
	tell(disk);
}

void ox_keeper_renew_tls(struct ox_keeper *keeper)
{
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		renew(disk);
}

void ox_kept_tls_ready(struct ox_kept_disk *disk)
{
	tell(disk);
}

int ox_kept_tls_answered(struct ox_kept_disk *disk, int code)
{
	if (!disk->tls.is_told)
		return -EBADMSG;
	disk->tls.is_told = false;
	if (code == 0) { /* else it has said why */
		drop(&disk->tls.current);
		disk->tls.current = disk->tls.renewed;
		disk->tls.renewed = -1;
	}
	drop(&disk->tls.renewed);
	if (disk->tls.again) {
		disk->tls.again = false;
		renew(disk);
	}
	return 0;
}

void ox_kept_tls_worker_died(struct ox_kept_disk *disk)
{
	if (!disk->tls.is_told)
		return;
	disk->tls.is_told = disk->tls.again = false;
	drop(&disk->tls.renewed);
	ox_keeper_say("The new TLS credentials of '%s' are not taken: the process that was to take "
		      "them has died",
		      disk->options->image);
}
