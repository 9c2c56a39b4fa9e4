/* SPDX-License-Identifier: MIT */
/* What a case's QED image looks like. */
#include <stdio.h>

#include "base/arith.h"
#include "qed/qed.h"

/* What a slice of the metadata cache maps, 4096 bytes of entries, with clusters of 4 KiB. */
#define SLICE_SECTORS 4096u

static unsigned draw_cluster_bits(struct sim_random *random)
{
	static const unsigned choices[] = {12, 12, 12, 12, 12, 12, 13, 13, 14, 16};

	/* one cluster may be the disk */
	if (sim_random_percent(random, 2))
		return (unsigned)sim_random_between(random, 17, 20);
	return choices[sim_random_below(random, OX_ARRAY_SIZE(choices))];
}

/* Tables of one cluster make many of them; those of 16 have many slices, and are long to place. */
static unsigned draw_table_clusters(struct sim_random *random)
{
	static const unsigned choices[] = {1, 1, 1, 1, 2, 2, 4, 16};

	return choices[sim_random_below(random, OX_ARRAY_SIZE(choices))];
}

static uint64_t draw_sectors(struct sim_config *c, struct sim_random *random)
{
	uint64_t per_cluster = UINT64_C(1) << (c->cluster_bits - 9);
	uint64_t clusters = sim_random_between(random, 4, 100);
	uint64_t sectors;

	if (c->cluster_bits > 16)
		return sim_random_between(random, 8, ox_min_u64(per_cluster * 3, 1500));
	/* two slices of one table, or two tables, and now and then some more */
	if (c->cluster_bits == 12 && sim_random_percent(random, 50)) {
		c->middle_sector = SLICE_SECTORS;
		return sim_random_between(random, SLICE_SECTORS + 300,
					  sim_random_percent(random, 30) ? 14000 : 5500);
	}
	sectors = ox_min_u64(clusters, 4 + 3000 / per_cluster) * per_cluster;
	/* a disk need not end with a cluster */
	if (sim_random_percent(random, 30))
		sectors -= sim_random_below(random, per_cluster);
	return sectors;
}

void sim_qed_draw_image(struct sim_config *c, struct sim_random *random)
{
	c->lazy = true;
	c->cluster_bits = draw_cluster_bits(random);
	c->table_clusters = draw_table_clusters(random);
	c->sectors = draw_sectors(c, random);
	if (sim_random_percent(random, 35))
		c->backed_sectors = sim_random_percent(random, 40)
					    ? c->sectors
					    : sim_random_between(random, 1, c->sectors);
	c->extras = sim_random_percent(random, 15);
	c->left_open = sim_random_percent(random, 20);
	c->plants_damage = sim_random_percent(random, 12);
	c->keeps_clusters = sim_random_percent(random, 15);
}

void sim_qed_draw_rest(struct sim_config *c, struct sim_random *random)
{
	if (sim_random_percent(random, 15)) /* what is used again is not zero */
		c->disk.can_punch = c->disk.can_zero = false;
	/* so much that freeing it all is worth a commit of its own */
	c->filled = c->sectors > 600 && sim_random_percent(random, 10);
}

int sim_qed_describe(const struct sim_config *c, char *ret, size_t room)
{
	return snprintf(ret, room, "tables of %u%s%s%s%s", c->table_clusters,
			c->extras ? ", extras" : "", c->left_open ? ", left open" : "",
			c->plants_damage ? ", damage" : "",
			c->keeps_clusters ? ", nothing freed" : "");
}
