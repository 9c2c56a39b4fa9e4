/* SPDX-License-Identifier: MIT */
/* What a case is about: the image, its options, and the disk below, all drawn from the seed. */
#ifndef SIM_CONFIG_H
#define SIM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk.h"
#include "oxbow.h"

struct sim_format;

struct sim_config {
	const struct sim_format *format;

	/* ---- the image ---- */
	unsigned cluster_bits;
	bool lazy; /* marks itself: refcounts are lazy, or there are none */
	uint64_t sectors;
	uint64_t room_sectors;	 /* the most that the disk grows to */
	bool keeps_size;	 /* it is not resized */
	bool filled;		 /* begins full of data */
	uint64_t backed_sectors; /* 0: no backing file */
	bool extras;		 /* header fields of a later version */

	/* ---- of qcow2 ---- */
	unsigned version;
	unsigned refcount_bits;
	bool prefilled; /* so full that the tables are about to move */
	unsigned snapshots;
	bool compressed;   /* some clusters are */
	bool stale;	   /* COPIED bits are missing */
	bool bitmap;	   /* with extras: a persistent bitmap */
	bool plants_plain; /* an entry without its COPIED bit */

	/* ---- of QED ---- */
	unsigned table_clusters;
	bool left_open;	    /* begins as another program's crash left it */
	bool plants_damage; /* entries that cannot be followed, or name a cluster twice */

	/* ---- what happens to it ---- */
	bool tiny_caches;
	bool plants_stale; /* entries past the file's end, as other programs' crashes leave them */
	bool recover_at_once; /* beside the guest, rather than before it */
	bool faults;
	bool memory_ends; /* allocations fail */
	uint32_t idle_ms; /* lazy_idle_ms */
	uint32_t age_ms;  /* table_age_ms */
	bool keeps_state; /* a death of the process leaves memory that the next one adopts (D10) */
	bool rings;	  /* the guest's disk is one over vhost-user (rings.h) */
	enum ox_cache_mode cache;
	struct sim_disk_options disk;
	unsigned tasks;
	unsigned operations;
	uint64_t hot_clusters;
	uint64_t middle_sector; /* of where most requests fall; 0: anywhere */
	bool keeps_clusters;	/* nothing is zeroed or discarded */
	unsigned quiet_percent;
};

void sim_config_draw(struct sim_config *ret, const struct sim_format *format,
		     struct sim_random *random);
void sim_config_describe(const struct sim_config *c, char *ret, size_t room);

#endif
