/* SPDX-License-Identifier: MIT */
#include "salvaging.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cut_io.h"

static struct ox_reactor *reactor;

const struct shape shapes[SHAPES] = {
	{.cluster_bits = 9, .version = 3, .refcount_order = 4},
	{.cluster_bits = 9, .version = 3, .refcount_order = 4, .snapshot = true},
	{.cluster_bits = 9, .version = 2},
	{.cluster_bits = 12, .version = 3, .refcount_order = 1, .snapshot = true},
	{.cluster_bits = 16, .version = 3, .refcount_order = 6},
	{.cluster_bits = 16, .version = 2, .snapshot = true},
};

int salvaging_setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

int salvaging_teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

struct ox_reactor *salvaging_reactor(void)
{
	return reactor;
}

static void note_table(void *opaque, const struct ox_lost_table *table)
{
	struct run *run = opaque;

	if (run->table_count < MAX_TABLES)
		run->tables[run->table_count] = *table;
	run->table_count++;
}

static void note_finding(void *opaque, const struct ox_finding *f)
{
	struct run *run = opaque;

	if (f->repaired && f->fate && strcmp(f->fate, "in doubt") == 0)
		run->in_doubt_bytes += f->guest_length;
}

static void run_co(void *arg)
{
	struct run *run = arg;

	run->error = ox_check_qcow2_co(run->io, &run->opts, &run->result, &run->err);
}

static struct run run_with(struct ox_io *io, const struct ox_check_options *opts)
{
	struct run run = {.io = io, .opts = *opts};

	run.opts.finding = note_finding;
	run.opts.lost_table = note_table;
	run.opts.opaque = &run;
	assert_int_equal(ox_reactor_call(reactor, run_co, &run), 0);
	if (run.error == 0)
		assert_null(run.err);
	return run;
}

static struct ox_check_options salvage_options(enum ox_repair repair,
					       const struct ox_table_link *links, size_t link_count)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.repair = repair;
	opts.salvage = true;
	opts.links = links;
	opts.link_count = link_count;
	return opts;
}

struct run run_on(struct ox_io *io, enum ox_repair repair, const struct ox_table_link *links,
		  size_t link_count)
{
	struct ox_check_options opts = salvage_options(repair, links, link_count);

	return run_with(io, &opts);
}

static struct run run_disk(struct disk *d, const struct ox_check_options *opts)
{
	struct cut cut = {0};
	struct ox_io *io = cut_open(reactor, &cut, d->bytes, d->length);
	struct run run = run_with(io, opts);

	assert_false(cut_is_unsynced(io));
	assert_true(io->length <= d->room_bytes);
	d->length = io->length;
	memcpy(d->bytes, cut_bytes(io), d->length);
	ox_io_close(io);
	return run;
}

struct run run_links(struct disk *d, enum ox_repair repair, const struct ox_table_link *links,
		     size_t link_count)
{
	struct ox_check_options opts = salvage_options(repair, links, link_count);

	return run_disk(d, &opts);
}

struct run repair_plainly(struct disk *d, enum ox_repair repair, bool free_lost_tables)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct run run;

	opts.repair = repair;
	opts.free_lost_tables = free_lost_tables;
	run = run_disk(d, &opts);
	assert_int_equal(run.error, 0);
	return run;
}

struct run salvage(struct disk *d, enum ox_repair repair)
{
	struct run run = run_links(d, repair, NULL, 0);

	assert_int_equal(run.error, 0);
	return run;
}

uint64_t wrong(const struct run *run)
{
	return run->result.corruptions + run->result.leaks + run->result.check_errors;
}

void check_guest(const struct disk *d, const struct guest *expected, const char *what)
{
	struct guest now = guest_of(d, d->bytes, d->length);

	if (memcmp(&now, expected, sizeof(now)) != 0)
		fail_msg("%s: the guest reads something else", what);
}

void set_victim(struct disk *d, uint64_t raw)
{
	disk_set_word(d, L1, VICTIM, raw);
}

void fill_random(struct disk *d, uint64_t cluster, unsigned seed)
{
	uint8_t *bytes = disk_cluster(d, cluster);

	for (uint64_t i = 0; i < d->cluster_bytes; i++)
		bytes[i] = (uint8_t)(rand_r(&seed) >> 7);
}

void fill_words(struct disk *d, uint64_t cluster, uint64_t first, uint64_t step, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		disk_set_word(d, cluster, i, first + i * step);
}
