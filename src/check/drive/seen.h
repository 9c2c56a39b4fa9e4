/* SPDX-License-Identifier: MIT */
/* What repairs go by, of what a journal has seen. */
#ifndef OX_CHECK_SEEN_H
#define OX_CHECK_SEEN_H

#include "check/journal/journal.h"

/* Entries, and tables, that name places past the end of the file. */
static inline uint64_t ox_seen_past_end(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_PAST_END] + j->seen[OX_FOUND_TABLE_PAST_END] +
	       j->seen[OX_FOUND_BLOCK_PAST_END] + j->seen[OX_FOUND_TABLE_CUT];
}

/* Entries that cannot be followed. */
static inline uint64_t ox_seen_bad_entries(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_L1_UNALIGNED] + j->seen[OX_FOUND_L1_RESERVED] +
	       j->seen[OX_FOUND_L1_COPIED_EMPTY] + j->seen[OX_FOUND_L2_UNALIGNED] +
	       j->seen[OX_FOUND_L2_RESERVED] + j->seen[OX_FOUND_L2_COPIED_EMPTY] +
	       j->seen[OX_FOUND_SUBCLUSTERS] + j->seen[OX_FOUND_DATA_FILE_OFFSET] +
	       j->seen[OX_FOUND_QED_L1] + j->seen[OX_FOUND_QED_L2] + j->seen[OX_FOUND_PAST_END];
}

static inline uint64_t ox_seen_cross_links(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_CROSS_LINK] + j->seen[OX_FOUND_CROSS_LINK_L2];
}

/* Cross-links and overlaps. */
static inline uint64_t ox_seen_aliases(const struct ox_journal *j)
{
	return ox_seen_cross_links(j) + j->seen[OX_FOUND_OVERLAP];
}

/* Whether the file was cut within its tables, or before them: nothing is given up. */
static inline bool ox_seen_cut(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_TABLE_CUT] > 0;
}

/* Damage in the snapshot table. */
static inline uint64_t ox_seen_bad_snapshots(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_SNAPSHOT_EXTRA] + j->seen[OX_FOUND_SNAPSHOT_ID] +
	       j->seen[OX_FOUND_HEADER_SNAPSHOTS] + j->seen[OX_FOUND_SNAPSHOT_TABLE];
}

/* Whether snapshots may share what seems to be the disk's alone. */
static inline bool ox_seen_hides_trees(const struct ox_journal *j)
{
	return j->seen[OX_FOUND_HEADER_SNAPSHOTS] + j->seen[OX_FOUND_SNAPSHOT_TABLE] +
		       j->seen[OX_FOUND_SNAPSHOT_L1_UNALIGNED] +
		       j->seen[OX_FOUND_SNAPSHOT_L1_SIZE] + j->seen[OX_FOUND_UNREADABLE] +
		       j->seen[OX_FOUND_TABLE_PAST_END] + j->seen[OX_FOUND_TABLE_CUT] >
	       0;
}

#endif
