/* SPDX-License-Identifier: MIT */
#include "format.h"

#include "base/arith.h"
#include "check/check.h"
#include "img/img.h"
#include "planted.h"
#include "qed/qed.h"

static bool parse(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why)
{
	if (!sim_qed_parse(bytes, &ret->qed, ret_why))
		return false;
	ret->cluster_bytes = ret->qed.cluster_bytes;
	ret->size_bytes = ret->qed.size_bytes;
	ret->marked = ret->qed.features & SIM_QED_NEED_CHECK;
	return true;
}

static void read_sector(const struct sim_image *i, const struct sim_backing *backing,
			uint64_t guest, uint8_t *ret)
{
	sim_qed_read(&i->qed, backing, guest, ret);
}

static void name_place(const struct sim_image *i, uint64_t offset, char *ret, size_t room)
{
	sim_qed_name(&i->qed, offset, ret, room);
}

/* No fence stands in the header: what a recovery has durably dropped is over, and the same entry
 * may come again with a meaning. */
static void forget_stale(const struct sim_image *durable)
{
	for (unsigned k = sim_stale.count; k-- > 0;)
		if (!durable->marked || sim_bytes_le64(durable->bytes, sim_stale.entries[k].at) !=
						sim_stale.entries[k].entry)
			sim_planted_drop(&sim_stale, k);
}

static uint64_t count_needed(const struct sim_image *i, uint64_t size_bytes)
{
	const struct sim_qed *q = &i->qed;
	uint64_t data = ox_div_up(size_bytes, q->cluster_bytes);
	uint64_t tables = 1 + ox_div_up(data, q->table_entries);

	return (q->header_bytes + tables * q->table_bytes) / q->cluster_bytes + data;
}

const struct sim_format sim_qed_format = {
	.name = "qed",
	.magic = "QED",
	.draw_image = sim_qed_draw_image,
	.draw_rest = sim_qed_draw_rest,
	.describe = sim_qed_describe,
	.fill_create = sim_qed_fill_create,
	.create_co = ox_qed_create_co,
	.check_co = ox_check_qed_co,
	.make = sim_qed_make,
	.plant = sim_qed_plant,
	.parse = parse,
	.read = read_sector,
	.name_place = name_place,
	.audit = sim_qed_audit,
	.forget_stale = forget_stale,
	.count_lost = sim_qed_count_lost,
	.count_needed = count_needed,
};
