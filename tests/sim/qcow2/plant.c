/* SPDX-License-Identifier: MIT */
/* What the crashes of other programs leave in a qcow2 image. */
#include "base/arith.h"
#include "base/endian.h"
#include "planted.h"
#include "qcow2/qcow2.h"
#include "run.h"

/* One entry past the file's end, where the guest's cluster has none. */
static void plant_one(struct sim_case *c, struct sim_bytes *bytes, const struct sim_qcow2 *i)
{
	uint64_t per_table = i->cluster_bytes / 8;
	uint64_t clusters = (i->size_bytes + i->cluster_bytes - 1) / i->cluster_bytes;
	uint64_t cluster = sim_random_below(&c->random, clusters);
	uint64_t l1 = sim_bytes_be64(bytes, i->l1_offset + cluster / per_table * 8);
	uint64_t at = (l1 & SIM_OFFSET_MASK) + cluster % per_table * 8;
	uint64_t end = ox_align_up(bytes->length, i->cluster_bytes);
	uint64_t entry;

	if (!(l1 & SIM_COPIED) || sim_bytes_be64(bytes, at) != 0)
		return;
	entry = SIM_COPIED | (end + sim_random_below(&c->random, 30) * i->cluster_bytes);
	sim_planted_add(&sim_stale, at, entry, 0);
	sim_bytes_put_be64(bytes, at, entry);
}

/* What a program leaves that lets its entries reach the disk before the file's length. Not once a
 * recovery of ours has begun: nobody else was at the image since. */
static void plant_stale(struct sim_case *c, struct sim_bytes *bytes)
{
	struct sim_qcow2 image;
	const char *why;

	if (!c->config.plants_stale || c->config.disk.fixed_bytes > 0 || c->recovering ||
	    sim_stale.count > 0 || !sim_is_dirty(bytes) || !sim_qcow2_parse(bytes, &image, &why))
		return;
	for (unsigned i = 0; i < SIM_PLANTED_MOST; i++)
		plant_one(c, bytes, &image);
}

/* An entry whose COPIED bit was lost, as other programs leave it: a recovery beside the guest has
 * to halt it. */
static void plant_plain(struct sim_case *c, struct sim_bytes *bytes)
{
	uint64_t per_table;
	struct sim_qcow2 image;
	const char *why;

	if (!c->config.plants_plain || !sim_is_dirty(bytes) ||
	    !sim_qcow2_parse(bytes, &image, &why))
		return;
	per_table = image.cluster_bytes / 8;
	for (unsigned n = 0; n < 40; n++) {
		uint64_t cluster =
			sim_random_below(&c->random, image.size_bytes / image.cluster_bytes + 1);
		uint64_t l1 =
			cluster / per_table < image.l1_entries
				? sim_bytes_be64(bytes, image.l1_offset + cluster / per_table * 8)
				: 0;
		uint64_t at = (l1 & SIM_OFFSET_MASK) + cluster % per_table * 8;
		uint64_t entry = l1 & SIM_COPIED ? sim_qcow2_entry(&image, at) : 0;
		struct ox_be64 disk = ox_be64(entry & ~SIM_COPIED);

		if (!(entry & SIM_COPIED))
			continue;
		sim_bytes_write(bytes, at, &disk, sizeof(disk));
		return;
	}
}

void sim_qcow2_plant(struct sim_case *c, struct sim_bytes *bytes)
{
	plant_stale(c, bytes);
	plant_plain(c, bytes);
}
