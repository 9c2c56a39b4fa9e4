/* SPDX-License-Identifier: MIT */
/*
 * Images under construction (docs/jobs.md, J1 to J3).
 *
 *   target                       on disk meanwhile             published by
 *   qcow2, QED                   first bytes zero (withhold)   writing them
 *   raw, new                     under a name of its own       rename
 *   raw that was there, device   as far as it is filled        nothing
 *   EXISTING                     an image all the time         nothing
 *
 * Without RESUME nothing is synced before all of it is filled: nobody could make use of a part. But
 * what an old file or device was is durably gone before.
 */
#include "lib/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/check.h"
#include "fmt/qed.h"
#include "lib/create.h"
#include "lib/job.h"
#include "lib/options.h"

#define SECTOR_BYTES 512u
#define QED_FEATURES_OFFSET 16u

static bool is_raw(const struct ox_build *b)
{
	return strcmp(b->create.format, "raw") == 0;
}

static bool resumes(const struct ox_build *b)
{
	return b->opts.flags & OX_BUILD_RESUME;
}

static bool exists(const struct ox_build *b)
{
	return b->opts.flags & OX_BUILD_EXISTING;
}

/* ---- the state file ---- */

static int save(struct ox_build *b)
{
	b->state.held_length = b->held.length;
	memcpy(b->state.held, b->held.bytes, b->held.length);
	return ox_build_state_write(b->state_path, &b->state);
}

/* The first bytes are as durable as all else once the state has them. */
static int keep_co(void *opaque)
{
	return save(opaque);
}

OX_EXPORT int ox_build_mark(struct ox_build *b, uint64_t offset)
{
	if (!resumes(b) || offset <= b->state.mark)
		return 0;
	b->state.mark = offset;
	return save(b);
}

/* ---- the file ---- */

/* Beside the path, so that a rename is enough. To be freed. */
static char *name_beside(const char *path, const char *format)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char *ret;

	if (asprintf(&ret, format, (int)(name - path), path, name, (int)getpid()) < 0)
		return NULL;
	return ret;
}

static int choose_names(struct ox_build *b, struct ox_error **err)
{
	struct stat st;

	b->renames = !exists(b) && is_raw(b) && !(b->open.flags & OX_OPEN_URI) &&
		     lstat(b->path, &st) < 0 && errno == ENOENT;
	b->work_path = b->renames && resumes(b) ? name_beside(b->path, "%.*s%s.oxbow-part")
		       : b->renames		? name_beside(b->path, "%.*s.%s.oxbow-%d")
						: strdup(b->path);
	b->state_path = name_beside(b->path, "%.*s%s.oxbow-resume");
	if (!b->work_path || !b->state_path)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	return 0;
}

static int open_store(struct ox_build *b, unsigned flags, struct ox_error **err)
{
	struct ox_source source = ox_source_path(b->work_path);
	struct ox_error *why = NULL;
	int r;

	ox_source_take_flags(&source, b->open.flags);
	flags |= ox_store_flags(&b->open) & ~(unsigned)OX_IO_READ_ONLY;
	r = ox_source_open(b->ctx, &source, flags, &b->below, &why);
	if (r == -EINVAL && (flags & OX_IO_DIRECT)) {
		/* Durable all the same: nothing but the page cache is in the way. */
		ox_error_free(why);
		why = NULL;
		r = ox_source_open(b->ctx, &source, flags & ~(unsigned)OX_IO_DIRECT, &b->below,
				   &why);
	}
	if (r < 0 && err)
		*err = why;
	else
		ox_error_free(why);
	if (r == 0)
		ox_io_file_identity(b->below, &b->state.device, &b->state.inode);
	return r;
}

static int check_new(const struct ox_build *b, struct ox_error **err)
{
	struct ox_source source = ox_source_path(b->work_path);

	ox_source_take_flags(&source, b->open.flags);
	return ox_source_check_new(&source, err);
}

/* A new file, or the one that is there as it is. */
static int open_fresh(struct ox_build *b, struct ox_error **err)
{
	struct ox_error *why = NULL;
	int r;

	if (b->open.flags & OX_OPEN_URI) {
		r = check_new(b, err);
		return r < 0 ? r : open_store(b, 0, err);
	}
	r = open_store(b, OX_IO_NEW, &why);
	b->made = r == 0;
	if (r < 0 && b->renames) {
		/* By the name that it is to have: whoever asked knows no other. */
		ox_error_free(why);
		return ox_error_set(err, r, "Could not create '%s': %s", b->path, strerror(-r));
	}
	if (r != -EEXIST) {
		if (r < 0 && err)
			*err = why;
		else
			ox_error_free(why);
		return r;
	}
	ox_error_free(why);
	return open_store(b, 0, err);
}

/* ---- making and opening the image. Tasks ---- */

struct begin {
	struct ox_build *build;
	struct ox_error **err;
	bool goes_on;
	int result;
};

/* What stands there must not look like an image while another one is written over it. */
static int hold_back_co(struct ox_build *b, struct ox_error **err)
{
	int r = 0;

	b->held.below = b->below;
	b->held.skip_syncs = !resumes(b);
	if (is_raw(b))
		return 0;
	b->held.length = OX_WITHHOLD_BYTES;
	if (b->below->align_bytes > OX_WITHHOLD_BYTES)
		return ox_error_set(err, -ENOTSUP, "The blocks of '%s' are too large",
				    b->below->name);
	if (b->below->length == 0)
		return 0;
	r = b->below->can_grow
		    ? ox_io_set_length_co(b->below, 0)
		    : ox_io_fill_zero_co(b->below, 0, ox_min_u64(b->held.length, b->below->length));
	if (r == 0)
		r = ox_io_sync_co(b->below);
	return r < 0 ? ox_error_set_errno(err, r, "Could not clear '%s'", b->below->name) : 0;
}

/* The held bytes are zero on disk, sector by sector, or published, as long as nobody else has
 * written there. */
static bool is_ours(const struct ox_build *b, const uint8_t *now)
{
	static const uint8_t zero[SECTOR_BYTES];

	for (uint32_t at = 0; at < b->held.length; at += SECTOR_BYTES) {
		if (memcmp(now + at, zero, SECTOR_BYTES) != 0 &&
		    (b->state.phase != OX_BUILD_PUBLISHING ||
		     memcmp(now + at, b->held.bytes + at, SECTOR_BYTES) != 0))
			return false;
	}
	return true;
}

/* What was in reserve for the one that was killed; a dirty image is recovered when it is opened. */
static int give_back_co(struct ox_build *b, struct ox_error **err)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;
	struct ox_io *io;
	bool qed = strcmp(b->create.format, "qed") == 0;
	int r = ox_withhold_open(&b->held, &io);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not open '%s'", b->below->name);
	opts.format = b->create.format;
	opts.repair = OX_REPAIR_LEAKS;
	opts.free_lost_tables = true; /* what is in them is copied again */
	r = qed ? ox_check_qed_co(io, &opts, &result, err)
		: ox_check_qcow2_co(io, &opts, &result, err);
	ox_io_close(io);
	/* The holes that leaks were made are free clusters to who walks the tables at the opening.
	 */
	if (r == 0 && qed)
		b->held.bytes[QED_FEATURES_OFFSET] |= OX_QED_NEED_CHECK;
	/* The reserve lay at the end, which nobody who opens the image has made. */
	if (r == 0 && b->below->can_grow && result.image_end_offset > 0 &&
	    result.image_end_offset < b->below->length)
		r = ox_io_set_length_co(b->below, result.image_end_offset);
	return r;
}

static int take_up_co(struct ox_build *b, struct ox_error **err)
{
	uint8_t now[OX_WITHHOLD_BYTES] = {0};
	int r;

	b->held.below = b->below;
	b->held.length = b->state.held_length;
	memcpy(b->held.bytes, b->state.held, b->held.length);
	r = ox_io_pread_co(b->below, now, b->held.length, 0);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read '%s'", b->below->name);
	if (!is_ours(b, now))
		return ox_error_set(err, -ESTALE,
				    "'%s' was written by something else since the conversion was "
				    "killed; remove '%s' to begin anew",
				    b->path, b->state_path);
	/* What is being published was closed: nothing has leaked, and its header stays as it is. */
	return is_raw(b) || b->state.phase == OX_BUILD_PUBLISHING ? 0 : give_back_co(b, err);
}

static int open_image_co(struct ox_build *b, struct ox_error **err)
{
	struct ox_open_options opts = b->open;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};
	struct ox_io *io;
	int r = ox_withhold_open(&b->held, &io);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not open '%s'", b->below->name);
	opts.format = b->create.format;
	opts.flags &= OX_OPEN_PROBE; /* of a backing file */
	opts.cache = resumes(b) ? OX_CACHE_WRITEBACK : OX_CACHE_UNSAFE;
	opts.recover = OX_RECOVER_WAIT;
	r = ox_img_open_co(io, &how, &b->image, err);
	if (r < 0) {
		ox_io_close(io);
		return r;
	}
	ox_job_adopt_image(b->ctx, b->image);
	b->image->is_built = true;
	return 0;
}

static int make_co(struct ox_build *b, struct ox_error **err)
{
	struct ox_io *io;
	int r = hold_back_co(b, err);

	if (r < 0)
		return r;
	r = ox_withhold_open(&b->held, &io);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not open '%s'", b->below->name);
	r = ox_create_on_co(io, &b->create, err);
	ox_io_close(io);
	if (r == 0 && resumes(b)) {
		b->held.keep_co = keep_co;
		b->held.opaque = b;
		r = ox_io_sync_co(b->below);
		if (r == 0)
			r = save(b);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not write '%s'", b->state_path);
	}
	return r;
}

static void begin_co(void *arg)
{
	struct begin *begin = arg;
	struct ox_build *b = begin->build;
	int r = begin->goes_on ? take_up_co(b, begin->err) : make_co(b, begin->err);

	if (r == 0 && resumes(b)) {
		b->held.keep_co = keep_co;
		b->held.opaque = b;
	}
	if (r == 0)
		r = open_image_co(b, begin->err);
	if (r == 0 && !begin->goes_on && strcmp(b->create.format, "qcow2") == 0 &&
	    b->create.preallocation != OX_PREALLOC_OFF && b->image->size_bytes > 0) {
		r = ox_qcow2_preallocate_co(b->image, &b->create);
		if (r < 0)
			ox_error_set_errno(begin->err, r, "Could not preallocate the image");
	}
	begin->result = r;
}

/* ---- beginning ---- */

static int read_state(struct ox_build *b, bool *ret_goes_on, struct ox_error **err)
{
	struct ox_build_state state;
	const char *identity = b->opts.identity ? b->opts.identity : "none";
	int r;

	*ret_goes_on = false;
	if (strlen(identity) >= sizeof(b->state.identity) || strchr(identity, '\n'))
		return ox_error_set(err, -EINVAL, "The identity is too long");
	snprintf(b->state.identity, sizeof(b->state.identity), "%s", identity);
	if (!resumes(b))
		return 0;
	r = ox_build_state_read(b->state_path, &state, err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (strcmp(state.identity, b->state.identity) != 0)
		return ox_error_set(err, -ESTALE,
				    "The source or the options have changed since the conversion "
				    "was killed; remove '%s' to begin anew",
				    b->state_path);
	b->state = state;
	*ret_goes_on = true;
	return 0;
}

static int refuse_other_file(const struct ox_build *b, const char *path, struct ox_error **err)
{
	return ox_error_set(
		err, -ESTALE,
		"'%s' is not the file that the conversion was killed on; remove '%s' to "
		"begin anew",
		path, b->state_path);
}

/* The file that the state speaks of: under its own name, or, where a kill came between the rename
 * and the end of the state, under the final one. */
static int open_again(struct ox_build *b, struct ox_error **err)
{
	uint64_t device = b->state.device;
	uint64_t inode = b->state.inode;
	struct ox_error *why = NULL;
	int r = open_store(b, 0, &why);

	if (r == -ENOENT && is_raw(b) && strcmp(b->work_path, b->path) == 0) {
		/* The final name is not there: it was not given yet. */
		free(b->work_path);
		b->work_path = name_beside(b->path, "%.*s%s.oxbow-part");
		b->renames = true;
		ox_error_free(why);
		why = NULL;
		r = b->work_path ? open_store(b, 0, &why) : -ENOMEM;
	}
	if (r == 0 && (b->state.device != device || b->state.inode != inode))
		r = refuse_other_file(b, b->work_path, &why);
	if (r < 0 && err)
		*err = why;
	else
		ox_error_free(why);
	return r;
}

static int begin_new(struct ox_build *b, struct ox_error **err)
{
	struct begin begin = {.build = b, .err = err};
	int r = ox_create_check(&b->create, err);

	if (r == 0)
		r = choose_names(b, err);
	if (r == 0)
		r = read_state(b, &begin.goes_on, err);
	if (r == 0)
		r = begin.goes_on ? open_again(b, err) : open_fresh(b, err);
	if (r < 0)
		return r;
	b->opened = true;
	b->is_new = b->below->can_grow || !is_raw(b);
	r = ox_reactor_call(b->ctx->reactor, begin_co, &begin);
	if (r < 0)
		return ox_error_set_errno(err, r, "The I/O engine failed");
	return begin.result;
}

static int begin_existing(struct ox_build *b, struct ox_error **err)
{
	bool goes_on = false;
	int r = choose_names(b, err);

	if (r == 0)
		r = read_state(b, &goes_on, err);
	if (r == 0)
		r = ox_image_open(b->ctx, b->path, &b->open, &b->image, err);
	if (r == -EINVAL && b->open.cache != OX_CACHE_WRITEBACK &&
	    (ox_store_flags(&b->open) & OX_IO_DIRECT)) {
		b->open.cache =
			b->open.cache == OX_CACHE_NONE ? OX_CACHE_WRITEBACK : OX_CACHE_WRITETHROUGH;
		if (err) {
			ox_error_free(*err);
			*err = NULL;
		}
		r = ox_image_open(b->ctx, b->path, &b->open, &b->image, err);
	}
	if (r < 0)
		return r;
	b->image->is_built = true;
	if (goes_on &&
	    (b->state.device != b->image->io->device || b->state.inode != b->image->io->inode))
		return refuse_other_file(b, b->path, err);
	b->state.device = b->image->io->device;
	b->state.inode = b->image->io->inode;
	return 0;
}

static int take_options(struct ox_build *b, const struct ox_build_options *given,
			struct ox_error **err)
{
	int r = ox_options_take(&ox_build_options_type, given, &b->opts, err);

	if (r == 0)
		r = ox_options_take(&ox_open_options_type, b->opts.open, &b->open, err);
	if (r < 0 || exists(b))
		return r;
	if (!b->opts.create)
		return ox_error_set(err, -EINVAL, "It is not said what is to be made");
	if (b->open.file_offset || b->open.file_length)
		return ox_error_set(err, -EINVAL, "An image is made in a whole file alone");
	if (resumes(b) && (b->open.flags & OX_OPEN_URI))
		return ox_error_set(err, -ENOTSUP,
				    "A target that is no file has no place for a state beside it");
	return ox_options_take(&ox_create_options_type, b->opts.create, &b->create, err);
}

OX_EXPORT int ox_build_begin(struct ox_context *ctx, const char *path,
			     const struct ox_build_options *opts, struct ox_build **ret_build,
			     struct ox_error **err)
{
	struct ox_build *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	b->ctx = ctx;
	b->path = strdup(path);
	r = b->path ? take_options(b, opts, err) : ox_error_set(err, -ENOMEM, "Out of memory");
	if (r == 0)
		r = exists(b) ? begin_existing(b, err) : begin_new(b, err);
	if (r < 0)
		ox_build_abandon(b);
	else
		*ret_build = b;
	return r;
}

OX_EXPORT struct ox_image *ox_build_image(const struct ox_build *b)
{
	return b->image;
}

OX_EXPORT bool ox_build_is_new(const struct ox_build *b)
{
	return b->is_new;
}

OX_EXPORT uint64_t ox_build_start(const struct ox_build *b)
{
	return b->state.mark;
}

/* ---- its end ---- */

struct finish {
	struct ox_build *build;
	struct ox_error **err;
	bool publish;
	int result;
};

static int publish_co(struct ox_build *b, struct ox_error **err)
{
	int r = 0;

	if (resumes(b)) {
		r = ox_io_sync_co(b->below);
		b->state.phase = OX_BUILD_PUBLISHING;
		b->state.mark = UINT64_MAX;
		if (r == 0)
			r = save(b);
	}
	if (r == 0 && (b->opts.flags & OX_BUILD_UNSAFE))
		r = ox_io_pwrite_co(b->below, b->held.bytes,
				    ox_min_u64(b->held.length, b->below->length), 0, 0);
	else if (r == 0)
		r = ox_withhold_publish_co(&b->held);
	return r < 0 ? ox_error_set_errno(err, r, "Could not write '%s'", b->path) : 0;
}

static void finish_co(void *arg)
{
	struct finish *f = arg;
	struct ox_build *b = f->build;
	int r = 0;

	if (b->image)
		r = ox_img_close_co(b->image, f->err);
	b->image = NULL;
	if (r == 0 && f->publish)
		r = publish_co(b, f->err);
	else if (b->opened && !f->publish && !b->made && !resumes(b) && b->below->can_grow)
		r = ox_io_set_length_co(b->below, 0);
	f->result = r;
}

static void detach_image(struct ox_build *b)
{
	if (!b->image)
		return;
	b->image->is_built = false;
	ox_queues_detach(b->image);
	b->ctx->images--;
}

static int finish(struct ox_build *b, bool publish, struct ox_error **err)
{
	struct finish f = {.build = b, .err = err, .publish = publish};
	int r;

	detach_image(b);
	r = ox_reactor_call(b->ctx->reactor, finish_co, &f);
	if (r < 0)
		return ox_error_set_errno(err, r, "The I/O engine failed");
	return f.result;
}

/* Removes the file that was made, if its name still names it. */
static void remove_made(const struct ox_build *b)
{
	struct stat st;

	if (b->made && !resumes(b) && lstat(b->work_path, &st) == 0 &&
	    st.st_dev == b->state.device && st.st_ino == b->state.inode)
		unlink(b->work_path);
}

static void build_free(struct ox_build *b)
{
	free(b->path);
	free(b->work_path);
	free(b->state_path);
	free(b);
}

static int give_name(const struct ox_build *b, struct ox_error **err)
{
	int r = renameat2(AT_FDCWD, b->work_path, AT_FDCWD, b->path, RENAME_NOREPLACE);

	if (r < 0 && (errno == EINVAL || errno == ENOSYS))
		r = rename(b->work_path, b->path);
	if (r < 0)
		return ox_error_set_errno(err, -errno, "Could not rename '%s' to '%s'",
					  b->work_path, b->path);
	return 0;
}

/* The name in the folder, and the end of the state. */
static int publish_name(const struct ox_build *b, struct ox_error **err)
{
	int r = 0;

	if (b->renames)
		r = give_name(b, err);
	if (r == 0 && b->renames && !(b->opts.flags & OX_BUILD_UNSAFE)) {
		r = ox_io_file_sync_directory(b->path);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not sync the folder of '%s'", b->path);
	}
	if (r == 0 && resumes(b)) {
		r = ox_build_state_remove(b->state_path);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not remove '%s'", b->state_path);
	}
	return r;
}

static int publish_existing(struct ox_build *b, struct ox_error **err)
{
	int r;

	b->image->is_built = false;
	r = ox_image_close(b->image, err);
	b->image = NULL;
	if (r == 0)
		r = publish_name(b, err);
	return r;
}

OX_EXPORT int ox_build_publish(struct ox_build *b, struct ox_error **err)
{
	int r;

	if (b->image->jobs > 0 || !ox_queues_are_idle(b->image))
		return ox_error_set(err, -EBUSY, "Requests on '%s' are pending", b->path);
	if (exists(b)) {
		r = publish_existing(b, err);
		build_free(b);
		return r;
	}
	r = finish(b, true, err);
	if (r == 0)
		r = publish_name(b, err);
	if (r < 0) {
		ox_build_abandon(b);
		return r;
	}
	ox_io_close(b->below);
	build_free(b);
	return 0;
}

OX_EXPORT void ox_build_abandon(struct ox_build *b)
{
	int r = 0;

	if (!b)
		return;
	if (exists(b) && b->image) {
		b->image->is_built = false;
		r = ox_image_close(b->image, NULL);
	} else if (!exists(b) && b->below) {
		r = finish(b, false, NULL);
		ox_io_close(b->below);
		remove_made(b);
	}
	(void)r; /* there is nothing left that it could be told of */
	build_free(b);
}
