/* SPDX-License-Identifier: MIT */
#include "format.h"

#include "check/check.h"
#include "img/img.h"
#include "planted.h"
#include "qcow2/qcow2.h"
#include "run.h"

static bool parse(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why)
{
	if (!sim_qcow2_parse(bytes, &ret->qcow2, ret_why))
		return false;
	ret->cluster_bytes = ret->qcow2.cluster_bytes;
	ret->size_bytes = ret->qcow2.size_bytes;
	ret->marked = ret->qcow2.incompatible & SIM_DIRTY;
	return true;
}

static void read_sector(const struct sim_image *i, const struct sim_backing *backing,
			uint64_t guest, uint8_t *ret)
{
	sim_qcow2_read(&i->qcow2, i->qcow2.l1_offset, i->qcow2.l1_entries, backing, guest, ret);
}

static void name_place(const struct sim_image *i, uint64_t offset, char *ret, size_t room)
{
	sim_qcow2_name(&i->qcow2, offset, ret, room);
}

/* A bitmap that lost its bit is a leak. A power cut may bring one back that a dead process had
 * cleared. */
static void watch_bitmap(struct sim_case *c, const struct sim_image *i)
{
	bool kept = i->qcow2.autoclear & SIM_BITMAPS;

	if (c->bitmap_kept && !kept)
		c->may_leak = true;
	c->bitmap_kept = kept;
}

static void forget_stale(const struct sim_image *durable)
{
	/* One that has been dropped may be set anew, to the same value, while the mark is still
	 * set.
	 */
	for (unsigned k = sim_stale.count; k-- > 0;)
		if (!durable->marked || sim_bytes_be64(durable->bytes, sim_stale.entries[k].at) !=
						sim_stale.entries[k].entry)
			sim_planted_drop(&sim_stale, k);
}

static bool tables_moved(const struct sim_image *before, const struct sim_image *now)
{
	return before->qcow2.l1_offset != now->qcow2.l1_offset ||
	       before->qcow2.reftable_offset != now->qcow2.reftable_offset;
}

const struct sim_format sim_qcow2_format = {
	.name = "qcow2",
	.magic = "QFI\xfb",
	.draw_image = sim_qcow2_draw_image,
	.draw_rest = sim_qcow2_draw_rest,
	.describe = sim_qcow2_describe,
	.fill_create = sim_qcow2_fill_create,
	.create_co = ox_qcow2_create_co,
	.check_co = ox_check_qcow2_co,
	.make = sim_qcow2_make,
	.plant = sim_qcow2_plant,
	.notice = watch_bitmap,
	.parse = parse,
	.read = read_sector,
	.name_place = name_place,
	.audit = sim_qcow2_audit,
	.forget_stale = forget_stale,
	.tables_moved = tables_moved,
};
