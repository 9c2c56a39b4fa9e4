/* SPDX-License-Identifier: MIT */
/* What an NBD server exports: a part of oxbow.h, which is what programs include. */
#ifndef OXBOW_EXPORTS_H
#define OXBOW_EXPORTS_H

/* ---- exports of a server ---- */

struct ox_export_info {
	const char *name;
	const char *description; /* NULL: none */
	/* The server tells no more of some exports than their names: then all of this is 0. */
	bool is_known;
	uint64_t size_bytes;
	unsigned flags;		  /* as the protocol numbers the flags of transmission */
	uint32_t block_min_bytes; /* 0: not stated */
	uint32_t block_preferred_bytes;
	uint32_t block_max_bytes;
	size_t context_count;
	const char *const *contexts; /* names of metadata contexts */
};

struct ox_exports {
	size_t count;
	const struct ox_export_info *list;
	/* Of the lengths in the requests that server and client agree on: 32 or 64; 0: there are no
	 * structured replies. */
	unsigned length_bits;
};

/*
 * Asks the server of an NBD URI what it exports; the URI's own export does not matter. Blocks, for
 * the URI's open-timeout for each answer. -ENOTSUP: there is no libnbd, or the server has no lists;
 * else what kept it from being asked.
 */
int ox_exports_read(const char *uri, struct ox_exports **ret_exports,
		    struct ox_error **err) OX_CHECKED;
/* NULL is allowed. */
void ox_exports_free(struct ox_exports *exports);

#endif
