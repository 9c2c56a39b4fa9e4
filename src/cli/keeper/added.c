/* SPDX-License-Identifier: MIT */
/*
 * Disks that operators have the keeper take on while it runs. Whoever asks has opened and locked
 * the chain, and listens on the sockets; the opener that is started here makes fresh descriptions,
 * as after a death. What the control process says of it counts as hostile: nothing of it is parsed,
 * only options on a list reach the children, and no path is opened, made or removed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/keeper/internal.h"
#include "cli/serve/config.h"
#include "serve/sealed.h"

/* The least that --hang-timeout takes. */
#define HANG_MIN_MS 2000u

/* Neither a user nor a sandbox, nor a file that the keeper would look at. */
static const char *const options_of_disks[] = {
	"allow-backing",
	"backing-format",
	"block-size",
	"cache",
	"description",
	"discard",
	"export",
	"format",
	"force-share",
	"l2-cache-size",
	"lazy-idle",
	"limit",
	"low-space",
	"memory",
	"nbd",
	"num-queues",
	"on-full",
	"queue-size",
	"quiet",
	"read-only",
	"recover",
	"refcount-cache-size",
	"serial",
	"shared",
	"table-age",
	"verbose",
	"vhost-user-blk",
	"drain",
	"hang-timeout",
};

struct added {
	struct ox_keeper_disk_options options;
	struct ox_keeper *keeper;
	uint32_t number;
	struct ox_control_add told;
	char *words[OX_CONTROL_WORDS + 3]; /* of told, "--", the image, NULL */
};

/* ---- what is given ---- */

/* False: it is no socket that listens, or one too many. */
static bool give_socket(struct ox_listeners *listeners, int most, int fd)
{
	struct ox_listeners one = {0};
	struct ox_serve_error error;

	if (listeners->count >= most || ox_listen_adopt(fd, "given", &one, &error) < 0)
		return false;
	if (listeners->count == 0) {
		*listeners = one;
		return true;
	}
	if (one.is_unix || listeners->is_unix) {
		ox_listeners_close(&one);
		return false;
	}
	listeners->fds[listeners->count++] = one.fds[0];
	one.count = 0;
	ox_listeners_close(&one);
	return true;
}

int ox_keeper_added_give(struct ox_keeper_given *given, enum ox_control_given what, int *fds,
			 unsigned *fd_count)
{
	if (*fd_count == 0) { /* of what came before, the rest did not */
		ox_keeper_added_drop(given);
		return 0;
	}
	if (what == OX_CONTROL_CHAIN) {
		if (*fd_count > OX_KEPT_CHAIN_MAX - given->locked_count)
			return -EBADMSG;
		memcpy(given->locked + given->locked_count, fds, *fd_count * sizeof(int));
		given->locked_count += *fd_count;
		*fd_count = 0;
		return 0;
	}
	if (what != OX_CONTROL_NBD && what != OX_CONTROL_VHOST)
		return -EBADMSG;
	for (unsigned i = 0; i < *fd_count; i++) /* which are duplicated */
		given->is_wrong |= what == OX_CONTROL_NBD
					   ? !give_socket(&given->listeners, OX_LISTEN_MAX, fds[i])
					   : !give_socket(&given->vhost_listeners, 1, fds[i]);
	return 0;
}

void ox_keeper_added_drop(struct ox_keeper_given *given)
{
	ox_keeper_close_list(given->locked, &given->locked_count);
	ox_listeners_close(&given->listeners);
	ox_listeners_close(&given->vhost_listeners);
	given->is_wrong = false;
}

/* ---- what is said of it ---- */

static bool ends(const char *text, size_t room)
{
	return memchr(text, '\0', room) != NULL;
}

static bool is_option_of_disks(const char *word)
{
	size_t length;

	if (strncmp(word, "--", 2) != 0)
		return false;
	word += 2;
	length = strcspn(word, "=");
	for (size_t i = 0; i < sizeof(options_of_disks) / sizeof(options_of_disks[0]); i++)
		if (strlen(options_of_disks[i]) == length &&
		    memcmp(options_of_disks[i], word, length) == 0)
			return true;
	return false;
}

/* Nothing else is among the words that the children are started with. */
static int take_words(struct added *added)
{
	char *at = added->told.words;
	char *end = at + sizeof(added->told.words);
	uint32_t count = 0;

	if (added->told.word_count > OX_CONTROL_WORDS)
		return -EINVAL;
	for (; count < added->told.word_count; count++) {
		if (at >= end || !ends(at, (size_t)(end - at)) || !is_option_of_disks(at))
			return -EINVAL;
		added->words[count] = at;
		at += strlen(at) + 1;
	}
	added->words[count++] = (char *)"--";
	added->words[count++] = added->told.image;
	return 0;
}

static int check(struct added *added, const struct ox_keeper_given *given)
{
	const struct ox_control_add *told = &added->told;

	if (!ends(told->name, sizeof(told->name)) || !ends(told->image, sizeof(told->image)) ||
	    !ends(told->nbd, sizeof(told->nbd)) || !ends(told->vhost, sizeof(told->vhost)) ||
	    !ox_config_is_name(told->name))
		return -EINVAL;
	if (told->lock != OX_LOCK_SHARE && told->lock != OX_LOCK_READ &&
	    told->lock != OX_LOCK_WRITE)
		return -EINVAL;
	if (told->hang_ms < HANG_MIN_MS) /* a healthy worker turns once a second */
		return -EINVAL;
	if (given->is_wrong || given->locked_count == 0 ||
	    (told->nbd[0] != '\0') != (given->listeners.count > 0) ||
	    (told->vhost[0] != '\0') != (given->vhost_listeners.count > 0) ||
	    (given->vhost_listeners.count > 0 && !given->vhost_listeners.is_unix) ||
	    (given->listeners.count == 0 && given->vhost_listeners.count == 0))
		return -EINVAL;
	return take_words(added);
}

/* ---- its life ---- */

static int ready(void *opaque, const char *uri, const char *vhost_path)
{
	const struct added *added = opaque;

	(void)uri;
	(void)vhost_path;
	ox_keeper_control_added(added->keeper, added->number);
	return 0;
}

static void describe(struct added *added)
{
	const struct ox_control_add *told = &added->told;

	added->options = (struct ox_keeper_disk_options){
		.name = told->name,
		.image = told->image,
		.given = -1,
		.lock = (enum ox_lock)told->lock,
		.address = told->nbd[0] ? told->nbd : NULL,
		.vhost_path = told->vhost[0] ? told->vhost : NULL,
		.export_name = "",
		.drain_ms = told->drain_ms,
		.hang_ms = told->hang_ms,
		.arguments = added->words,
		.ready = ready,
		.let_go = free,
		.opaque = added,
	};
}

/* A copy: whoever has written it may go on. */
static int copy(int memory, struct ox_control_add *ret)
{
	void *mapped;
	int code = ox_sealed_map(memory, sizeof(*ret), PROT_READ, &mapped);

	if (code < 0)
		return code == -EINVAL ? -EBADMSG : code;
	memcpy(ret, mapped, sizeof(*ret));
	munmap(mapped, sizeof(*ret));
	return 0;
}

int ox_keeper_added_begin(struct ox_keeper *keeper, int memory, uint32_t *ret_number)
{
	struct ox_keeper_given *given = &keeper->control.given;
	struct added *added = calloc(1, sizeof(*added));
	struct ox_kept_disk *disk;
	int ret;

	if (!added)
		return -ENOMEM;
	ret = copy(memory, &added->told);
	if (ret == 0)
		ret = check(added, given);
	if (ret == 0 && ox_keeper_find(keeper, added->told.name))
		ret = -EEXIST;
	if (ret < 0) {
		free(added);
		return ret;
	}
	describe(added);
	added->keeper = keeper;
	disk = ox_keeper_add_given(keeper, &added->options, given);
	if (!disk) {
		free(added);
		return -ENOMEM;
	}
	added->number = *ret_number = disk->number;
	return 0;
}
