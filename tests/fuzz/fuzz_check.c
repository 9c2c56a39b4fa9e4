/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a file, of a qcow2 or a QED image: checked, repaired in each way, and checked again.
 * A repair of leaks adds nothing wrong, one of everything comes to an end when it is repeated, and
 * an image is marked clean only if a check then finds nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "check/check.h"
#include "fmt/qcow2.h"
#include "fmt/qed.h"
#include "store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MOST_REPAIRS 4
#define MAX_INPUT_BYTES (UINT32_C(1) << 20)
#define QED_FEATURES_AT 16u

struct job {
	struct ox_io *io;
	enum ox_repair repair;
	bool recover;
	bool salvage;
	bool is_qed;
	struct ox_check_result result;
	unsigned of_references; /* findings that make a write unsafe */
	uint64_t kept;		/* tables that a recovery leaves, and all that they name */
	int error;
};

static void note_finding(void *opaque, const struct ox_finding *finding)
{
	static const char *const names[] = {"refcount-",   "leaked-cluster", "copied-",
					    "stale-entry", "cross-link",     "past-end"};
	struct job *job = opaque;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		job->of_references += strncmp(finding->name, names[i], strlen(names[i])) == 0;
}

static void run_job_co(void *arg)
{
	struct job *job = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_error *err = NULL;

	opts.repair = job->repair;
	opts.salvage = job->salvage;
	opts.finding = note_finding;
	opts.opaque = job;
	if (job->is_qed)
		job->error = ox_check_qed_co(job->io, &opts, &job->result, &err);
	else if (job->recover)
		job->error = ox_check_recovery.rebuild_co(job->io, &err, NULL, NULL, &job->kept);
	else
		job->error = ox_check_qcow2_co(job->io, &opts, &job->result, &err);
	ox_assert((job->error < 0) == (err != NULL));
	ox_error_free(err);
}

static struct job run(struct ox_io *io, enum ox_repair repair, bool recover)
{
	struct job job = {.io = io, .repair = repair, .recover = recover};

	ox_assert(ox_reactor_call(the_reactor(), run_job_co, &job) == 0);
	return job;
}

static struct job run_qed(struct ox_io *io, enum ox_repair repair)
{
	struct job job = {.io = io, .repair = repair, .is_qed = true};

	ox_assert(ox_reactor_call(the_reactor(), run_job_co, &job) == 0);
	return job;
}

static bool is_dirty(struct ox_io *io)
{
	struct ox_qcow2_header h;

	ox_assert(ox_qcow2_header_load(ox_io_memory_bytes(io), io->length, &h, NULL) == 0);
	return h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
}

static bool qed_needs_check(struct ox_io *io)
{
	return io->length > QED_FEATURES_AT &&
	       ox_io_memory_bytes(io)[QED_FEATURES_AT] & OX_QED_NEED_CHECK;
}

static bool is_clean(const struct ox_check_result *r)
{
	return r->corruptions == 0 && r->leaks == 0 && r->check_errors == 0;
}

static void feed_repair(const uint8_t *data, size_t size, enum ox_repair repair,
			const struct ox_check_result *before)
{
	struct ox_io *io = open_store(data, size);
	bool dirty = is_dirty(io);
	struct job mended = run(io, repair, false);
	struct job after = run(io, OX_REPAIR_NONE, false);
	struct job again = run(io, repair, false);

	ox_assert(mended.error == 0 && after.error == 0 && again.error == 0);
	/* What was mended may have hidden more: a table that is followed now has entries. */
	ox_assert(after.result.corruptions <= before->corruptions ||
		  (repair == OX_REPAIR_ALL && mended.result.corruptions_fixed > 0));
	ox_assert(after.result.check_errors <= before->check_errors);
	ox_assert(after.result.corruptions == mended.result.corruptions);
	ox_assert(after.result.leaks == mended.result.leaks);
	/* Where something was lost, what may be all that is left of it stays until a later repair:
	 * leaks, and tables that look like data. It ends soon. */
	for (unsigned i = 0; again.result.corruptions_fixed + again.result.leaks_fixed > 0; i++) {
		again = run(io, repair, false);
		ox_assert(again.error == 0 && i < MOST_REPAIRS);
	}
	ox_assert(is_dirty(io) == (dirty && !is_clean(&again.result)));
	ox_io_close(io);
}

static void feed_recovery(const uint8_t *data, size_t size)
{
	struct ox_io *io = open_store(data, size);
	struct job mended = run(io, OX_REPAIR_NONE, true);
	struct job after;

	/* Nothing is written where not everything can be mended. */
	if (mended.error < 0) {
		ox_assert(io->length == size && memcmp(ox_io_memory_bytes(io), data, size) == 0);
	} else {
		after = run(io, OX_REPAIR_NONE, false);
		/* Fields that mean nothing, and snapshots whose bytes are lost, are left so. */
		ox_assert(after.error == 0 && (after.of_references == 0 || mended.kept > 0));
	}
	ox_io_close(io);
}

/* What is no table is not linked, and what was linked is not lost again. */
static void feed_salvage(const uint8_t *data, size_t size)
{
	struct ox_io *io = open_store(data, size);
	struct job mended = {.io = io, .repair = OX_REPAIR_ALL, .salvage = true};
	struct job after;

	ox_assert(ox_reactor_call(the_reactor(), run_job_co, &mended) == 0);
	after = run(io, OX_REPAIR_NONE, false);
	ox_assert(mended.error == 0 && after.error == 0);
	ox_assert(after.result.corruptions == mended.result.corruptions);
	ox_assert(after.result.leaks == mended.result.leaks);
	ox_io_close(io);
}

/* A store in memory cannot tell holes: what was given back looks like a leak again. */
static void feed_qed_repair(const uint8_t *data, size_t size, enum ox_repair repair,
			    const struct ox_check_result *before)
{
	struct ox_io *io = open_store(data, size);
	bool was_marked = qed_needs_check(io);
	struct job mended = run_qed(io, repair);
	struct job after = run_qed(io, OX_REPAIR_NONE);
	struct job again = run_qed(io, repair);
	bool is_right = after.result.corruptions + after.result.check_errors == 0;

	ox_assert(mended.error == 0 && after.error == 0 && again.error == 0);
	ox_assert(is_right || before->corruptions + before->check_errors > 0);
	ox_assert(after.result.corruptions == mended.result.corruptions);
	ox_assert(after.result.leaks >= mended.result.leaks &&
		  after.result.leaks <= mended.result.leaks + mended.result.leaks_fixed);
	ox_assert(is_right || mended.result.leaks_fixed == 0);
	ox_assert(again.result.corruptions_fixed == 0);
	ox_assert(qed_needs_check(io) == (was_marked && !is_right));
	ox_io_close(io);
}

static int feed_qed(const uint8_t *data, size_t size)
{
	struct ox_io *io = open_store(data, size);
	struct job before = run_qed(io, OX_REPAIR_NONE);

	ox_assert(memcmp(ox_io_memory_bytes(io), data, size) == 0);
	ox_io_close(io);
	if (before.error < 0)
		return 0;
	feed_qed_repair(data, size, OX_REPAIR_ALL, &before.result);
	feed_qed_repair(data, size, OX_REPAIR_LEAKS, &before.result);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ox_io *io;
	struct job before;

	if (size == 0 || size > MAX_INPUT_BYTES)
		return 0;
	if (ox_qed_probe(data, size))
		return feed_qed(data, size);
	io = open_store(data, size);
	before = run(io, OX_REPAIR_NONE, false);
	ox_assert(memcmp(ox_io_memory_bytes(io), data, size) == 0);
	ox_io_close(io);
	if (before.error < 0)
		return 0;
	feed_repair(data, size, OX_REPAIR_ALL, &before.result);
	feed_repair(data, size, OX_REPAIR_LEAKS, &before.result);
	feed_salvage(data, size);
	feed_recovery(data, size);
	return 0;
}
