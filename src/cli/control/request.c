/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/control/control.h"
#include "cli/keeper/wire.h"
#include "serve/command.h"
#include "serve/sealed.h"

static json_t *error_of(const char *code, const char *message)
{
	return json_pack("{s:{s:s,s:s}}", "error", "code", code, "message", message);
}

static json_t *done(json_t *value)
{
	return json_pack("{s:o}", "return", value);
}

/* ---- what is answered at once ---- */

static json_t *show_all(const struct ox_control *control, const struct ox_control_disk *only,
			bool all)
{
	json_t *disks = json_array();

	for (unsigned i = 0; disks && i < control->disk_count; i++)
		if (!only || only == &control->disks[i])
			(void)json_array_append_new(disks,
						    ox_control_show(&control->disks[i], all));
	return done(json_pack("{s:s,s:o}", "version", ox_version(), "disks", disks));
}

static json_t *show_metrics(const struct ox_control *control, const struct ox_control_disk *only)
{
	size_t bytes;
	char *text = ox_control_metrics(control, only, &bytes);
	json_t *value = text ? json_stringn(text, bytes) : NULL;

	free(text);
	return done(value);
}

/* ---- what the keeper is asked ---- */

static uint32_t command_of(enum ox_control_verb verb)
{
	switch (verb) {
	case OX_CONTROL_FLUSH:
		return OX_SERVE_FLUSH;
	case OX_CONTROL_RESIZE:
		return OX_SERVE_RESIZE;
	case OX_CONTROL_LIMIT:
		return OX_SERVE_LIMIT;
	case OX_CONTROL_RESUME:
		return OX_SERVE_RESUME;
	default:
		return 0;
	}
}

/* The keeper reads what it is told at once. */
#define KEEPER_MS 1000

static int tell_keeper(const struct ox_control *control, const struct ox_control_ask *ask,
		       const int *fds, unsigned fd_count)
{
	struct pollfd polled = {.fd = control->keeper, .events = POLLOUT};
	int ret;

	do {
		ret = ox_wire_send_bytes(control->keeper, ask, sizeof(*ask), fds, fd_count);
	} while (ret == -EAGAIN && poll(&polled, 1, KEEPER_MS) == 1);
	return ret;
}

/* What came with the line, in its order. */
static int give(const struct ox_control *control, const struct ox_control_client *client)
{
	const struct ox_control_ask anew = {.kind = OX_CONTROL_GIVE};
	unsigned at = 0;
	/* What was given for one that could not be asked for is no part of this one. */
	int ret = tell_keeper(control, &anew, NULL, 0);

	for (unsigned what = OX_CONTROL_CHAIN; what <= OX_CONTROL_VHOST; what++) {
		const struct ox_control_ask ask = {.kind = OX_CONTROL_GIVE, .disk = what};
		unsigned left = (unsigned)client->asked.values[what];

		while (ret == 0 && left > 0) {
			const unsigned part = left < OX_WIRE_FDS ? left : OX_WIRE_FDS;

			ret = tell_keeper(control, &ask, client->fds + at, part);
			at += part;
			left -= part;
		}
	}
	return ret;
}

/* The memory that says what is to be added; or -errno. */
static int make_record(const struct ox_control_add *add)
{
	int fd = ox_sealed_make("oxbow-add", sizeof(*add));

	if (fd >= 0 && pwrite(fd, add, sizeof(*add), 0) != (ssize_t)sizeof(*add)) {
		close(fd);
		return -EIO;
	}
	return fd;
}

static int ask_with_disk(const struct ox_control *control, const struct ox_control_client *client,
			 const struct ox_control_ask *ask)
{
	const uint64_t *values = client->asked.values;
	int record;
	int ret;

	if (client->fd_count != values[0] + values[1] + values[2])
		return -EINVAL;
	record = make_record(client->asked.add);
	if (record < 0)
		return record;
	ret = give(control, client);
	if (ret == 0)
		ret = tell_keeper(control, ask, &record, 1);
	close(record);
	return ret;
}

static enum ox_control_ask_kind kind_of(enum ox_control_verb verb)
{
	switch (verb) {
	case OX_CONTROL_STOP_ALL:
		return OX_CONTROL_STOP;
	case OX_CONTROL_REMOVE_DISK:
		return OX_CONTROL_REMOVE;
	case OX_CONTROL_ADD_DISK:
		return OX_CONTROL_ADD;
	default:
		return OX_CONTROL_COMMAND;
	}
}

static void ask(struct ox_control *control, struct ox_control_client *client,
		const struct ox_control_disk *disk)
{
	const struct ox_control_line *line = &client->asked;
	struct ox_control_ask ask = {
		.kind = kind_of(line->verb),
		.disk = disk ? disk->number : 0,
		.command = command_of(line->verb),
	};
	int ret;

	if (++control->last_id == 0)
		control->last_id = 1;
	ask.id = control->last_id;
	memcpy(ask.values, line->values, sizeof(ask.values));
	ret = line->add ? ask_with_disk(control, client, &ask)
			: tell_keeper(control, &ask, NULL, 0);
	free(client->asked.add);
	client->asked.add = NULL;
	if (ret == -EINVAL)
		ox_control_client_answer(
			client, error_of("EINVAL", "other descriptors came than were said to"));
	else if (ret < 0)
		ox_control_client_answer(client,
					 error_of("EAGAIN", "the keeper does not listen now"));
	else
		client->id = ask.id;
}

/* ---- a line ---- */

static bool is_of_all(enum ox_control_verb verb)
{
	return verb <= OX_CONTROL_METRICS || verb == OX_CONTROL_STOP_ALL ||
	       verb == OX_CONTROL_ADD_DISK;
}

static json_t *no_disk(const struct ox_control *control, const struct ox_control_line *line)
{
	char text[160];

	if (line->has_disk)
		snprintf(text, sizeof(text), "there is no disk '%s'", line->disk);
	else
		snprintf(text, sizeof(text), "there are %u disks: say which", control->disk_count);
	return error_of("ENOENT", text);
}

void ox_control_request(struct ox_control *control, struct ox_control_client *client,
			const char *text, size_t bytes)
{
	const struct ox_control_disk *disk = NULL;
	struct ox_control_line *line = &client->asked;
	const char *why = "";

	if (ox_control_line_parse(text, bytes, line, &why) < 0) {
		ox_control_client_answer(client, error_of("EINVAL", why));
		return;
	}
	if (line->has_disk || !is_of_all(line->verb)) {
		disk = ox_control_disk_find(control, line->has_disk ? line->disk : NULL);
		if (!disk) {
			ox_control_client_answer(client, no_disk(control, line));
			return;
		}
	}
	switch (line->verb) {
	case OX_CONTROL_STATUS:
	case OX_CONTROL_STATS:
		ox_control_client_answer(client,
					 show_all(control, disk, line->verb == OX_CONTROL_STATS));
		break;
	case OX_CONTROL_METRICS:
		ox_control_client_answer(client, show_metrics(control, disk));
		break;
	default:
		ask(control, client, disk);
	}
}

/* ---- what the keeper says ---- */

static const struct {
	int code;
	const char *name;
	const char *message;
} failures[] = {
	{-EAGAIN, "EAGAIN", "the disk is not served now: its process begins or ends"},
	{-EBUSY, "EBUSY", "the disk has as much to do as it can take; try again"},
	{-ECONNRESET, "ECONNRESET", "the process that serves the disk died over it"},
	{-EFBIG, "EFBIG", "no disk is as large as that"},
	{-EEXIST, "EEXIST", "there is a disk of that name already"},
	{-EINVAL, "EINVAL", "these values make no sense"},
	{-EIO, "EIO", "it failed; the server's log says why"},
	{-ENOENT, "ENOENT", "there is no such disk any more"},
	{-ENOSPC, "ENOSPC", "there is no room for it on the host"},
	{-ENOTSUP, "ENOTSUP", "the image's format cannot do that"},
	{-EPERM, "EPERM",
	 "the disk would become smaller, and what is behind its end be lost; say "
	 "that it may shrink"},
	{-EROFS, "EROFS", "the disk is read-only"},
	{-ESHUTDOWN, "ESHUTDOWN", "the server of the disk ends"},
};

static json_t *failure(int code)
{
	const char *name = strerrorname_np(-code);
	char text[128];

	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++)
		if (failures[i].code == code)
			return error_of(failures[i].name, failures[i].message);
	snprintf(text, sizeof(text), "it failed: %s; the server's log may say more",
		 strerrordesc_np(-code) ? strerrordesc_np(-code) : "an unknown error");
	return error_of(name ? name : "EIO", text);
}

/* How the disk is now. */
static json_t *success(const struct ox_control *control, const struct ox_control_line *line)
{
	const struct ox_control_disk *disk =
		ox_control_disk_find(control, line->has_disk ? line->disk : NULL);

	if (disk && line->verb < OX_CONTROL_STOP_ALL)
		return done(ox_control_show(disk, false));
	return done(json_object());
}

void ox_control_answered(struct ox_control *control, struct ox_control_client *client, int code)
{
	client->id = 0;
	ox_control_client_answer(client,
				 code == 0 ? success(control, &client->asked) : failure(code));
}
