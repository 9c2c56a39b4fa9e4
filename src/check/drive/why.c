/* SPDX-License-Identifier: MIT */
/* Why a repair leaves what is found. */
#include "check/drive/why.h"

#include <string.h>

#include "check/counts/counts.h"

/* Whether a finding is of a field or a record, which a repair leaves only where nothing tells it.
 */
static bool is_of_field(const struct ox_finding_kind *kind)
{
	return strncmp(kind->name, "header-", 7) == 0 || strncmp(kind->name, "snapshot-", 9) == 0 ||
	       strncmp(kind->name, "bitmap-", 7) == 0 ||
	       kind == ox_finding_kind(OX_FOUND_TABLE_PAST_END);
}

/* Why counts are not made wider. */
static const char *why_narrow(const struct ox_why *y, const struct ox_found *what)
{
	if (y->h->version < 3)
		return "the counts of version 2 always have 16 bits: copy the image to a new one";
	if (what->c == OX_COUNT_MAX)
		return "it is named more often than this program can count";
	if (y->j->structural > y->j->seen[OX_FOUND_OVERFLOW])
		return "something else cannot be followed, and has to be repaired first";
	return "there is no room for wider counts";
}

const char *ox_why_not(const void *arg, enum ox_finding_id id, const struct ox_found *what)
{
	const struct ox_finding_kind *kind = ox_finding_kind(id);
	const struct ox_why *y = arg;

	if (kind->class == OX_FINDING_FACT)
		return NULL;
	if (y->asked == OX_REPAIR_LEAKS && kind->severity != OX_FINDING_LEAK)
		return "-r leaks frees space and changes nothing else";
	if (kind->class == OX_FINDING_UNREADABLE)
		return "it cannot be read";
	if (strncmp(kind->fix, "None: ", 6) == 0)
		return kind->fix + 6;
	if (id == OX_FOUND_OVERFLOW)
		return why_narrow(y, what);
	if (is_of_field(kind) && kind->class != OX_FINDING_DERIVED)
		return "nothing in the image tells what it was";
	if (kind->class == OX_FINDING_STRUCTURAL)
		return "nothing in the image tells what is right here, or a copy that is needed "
		       "cannot be made";
	if (kind->severity == OX_FINDING_LEAK && ox_keeper_keeps_count(y->keeper, what->a))
		return y->keeper->why_kept(y->keeper);
	if (y->j->structural > 0)
		return "something else cannot be followed, and may have named this";
	if (y->lost > 0)
		return "it may belong to what was lost; a later -r leaks frees it";
	if (kind->severity == OX_FINDING_LEAK && y->leak_stays)
		return y->leak_stays;
	return "it could not be repaired";
}
