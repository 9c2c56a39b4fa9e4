/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/walk/walk.h"

#define MESSAGE_BYTES 256

enum finding_class { DERIVED, STRUCTURAL, LOSS, UNREADABLE, FACT };

struct finding_row {
	const char *name;
	enum ox_finding_severity severity;
	enum finding_class class;
	const char *lead;
	const char *text;
	const char *fix;
};

static const struct finding_row rows[OX_FOUND_COUNT] = {
#define OX_FINDING(id, name_, severity_, class_, lead_, text_, meaning, fix_)                      \
	[OX_FOUND_##id] = {                                                                        \
		.name = name_,                                                                     \
		.severity = OX_FINDING_##severity_,                                                \
		.class = class_,                                                                   \
		.lead = lead_,                                                                     \
		.text = text_,                                                                     \
		.fix = fix_,                                                                       \
	},
#include "check/findings.def"
#undef OX_FINDING
};

/* Words may be an image's: nothing in them reaches a terminal as a command. */
static int format_word(char *to, size_t room, const char *word)
{
	int length = snprintf(to, room, "%s", word);

	for (char *p = to; room > 0 && *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	return length;
}

/* One placeholder of a row's text; returns how many bytes it took. */
static int format_field(char *to, size_t room, char field, const struct ox_found *what)
{
	switch (field) {
	case 'a':
		return snprintf(to, room, "%" PRIu64, what->a);
	case 'b':
		return snprintf(to, room, "%" PRIu64, what->b);
	case 'c':
		return snprintf(to, room, "%" PRIu64, what->c);
	case 'A':
		return snprintf(to, room, "%" PRIx64, what->a);
	case 'B':
		return snprintf(to, room, "%" PRIx64, what->b);
	case 'C':
		return snprintf(to, room, "%" PRIx64, what->c);
	default:
		return format_word(to, room, what->word ? what->word : "?");
	}
}

static void format_message(char to[MESSAGE_BYTES], const struct finding_row *row, const char *lead,
			   const struct ox_found *what)
{
	size_t used = (size_t)snprintf(to, MESSAGE_BYTES, "%s ", lead);

	for (const char *p = row->text; *p && used + 1 < MESSAGE_BYTES; p++) {
		if (*p == '%')
			used += (size_t)format_field(to + used, MESSAGE_BYTES - used, *++p, what);
		else
			to[used++] = *p;
	}
	used = ox_min_u64(used, MESSAGE_BYTES - 1);
	to[used] = '\0';
	if (what->fate)
		snprintf(to + used, MESSAGE_BYTES - used,
			 "; guest offset 0x%" PRIx64 " length 0x%" PRIx64 " is %s",
			 what->guest_offset, what->guest_length, what->fate);
}

/* Whether a finding is of a field or a record, which a repair leaves only where nothing tells it.
 */
static bool is_of_field(const struct finding_row *row)
{
	return strncmp(row->name, "header-", 7) == 0 || strncmp(row->name, "snapshot-", 9) == 0 ||
	       strncmp(row->name, "bitmap-", 7) == 0 || row == &rows[OX_FOUND_TABLE_PAST_END];
}

static const char *why_not(const struct ox_walk *w, const struct finding_row *row,
			   const struct ox_found *what)
{
	if (w->asked == OX_REPAIR_NONE || row->class == FACT)
		return NULL;
	if (w->asked == OX_REPAIR_LEAKS && row->severity != OX_FINDING_LEAK)
		return "-r leaks frees space and changes nothing else";
	if (row->class == UNREADABLE)
		return "it cannot be read";
	if (strncmp(row->fix, "None: ", 6) == 0)
		return row->fix + 6;
	if (is_of_field(row) && row->class != DERIVED)
		return "nothing in the image tells what it was";
	if (row->class == STRUCTURAL)
		return "it lies on something that nothing tells apart, or what it takes to copy "
		       "it is not there";
	if (row->severity == OX_FINDING_LEAK && ox_salvage_keeps_count(w, what->a))
		return ox_salvage_why_kept(w);
	if (w->structural > 0)
		return "something else cannot be followed, and may be what this belongs to";
	if (w->lost > 0)
		return "it may be what was lost; a later -r leaks frees it";
	return "it could not be repaired";
}

/* What a repair of structural findings goes by. */
static void tally(struct ox_walk *w, enum ox_finding_id id)
{
	switch (id) {
	case OX_FOUND_SNAPSHOT_EXTRA:
	case OX_FOUND_SNAPSHOT_ID:
		w->bad_snapshots++;
		break;
	case OX_FOUND_L1_UNALIGNED:
	case OX_FOUND_L1_RESERVED:
	case OX_FOUND_L2_UNALIGNED:
	case OX_FOUND_L2_RESERVED:
	case OX_FOUND_L1_COPIED_EMPTY:
	case OX_FOUND_L2_COPIED_EMPTY:
	case OX_FOUND_SUBCLUSTERS:
	case OX_FOUND_DATA_FILE_OFFSET:
		w->bad_entries++;
		break;
	case OX_FOUND_PAST_END:
		w->bad_entries++;
		w->past_end++;
		break;
	case OX_FOUND_HEADER_SNAPSHOTS:
	case OX_FOUND_SNAPSHOT_TABLE:
		w->bad_snapshots++;
		w->hides_trees = true;
		break;
	case OX_FOUND_SNAPSHOT_L1_UNALIGNED:
	case OX_FOUND_SNAPSHOT_L1_SIZE:
	case OX_FOUND_UNREADABLE:
		w->hides_trees = true;
		break;
	case OX_FOUND_TABLE_PAST_END:
		w->hides_trees = true;
		w->past_end++;
		break;
	case OX_FOUND_BLOCK_PAST_END:
		w->past_end++;
		break;
	case OX_FOUND_OVERLAP:
	case OX_FOUND_CROSS_LINK:
	case OX_FOUND_CROSS_LINK_L2:
		w->aliases++;
		break;
	default:
		break;
	}
}

/* What the rest of the image tells is no structural matter where it is put right before anything
 * else is judged. */
static bool is_structural(const struct ox_walk *w, const struct finding_row *row,
			  const struct ox_found *what)
{
	if (what->is_apart || (what->is_told && w->asked == OX_REPAIR_ALL && !w->is_last))
		return false;
	return row->class == STRUCTURAL || row->class == UNREADABLE;
}

static void tell(struct ox_walk *w, const struct finding_row *row, bool repaired,
		 const struct ox_found *what)
{
	const char *mended = w->dry_run ? "Would repair" : "Repairing";
	char message[MESSAGE_BYTES];

	format_message(message, row, repaired ? mended : row->lead, what);
	if (!repaired && !w->first_structural && is_structural(w, row, what))
		w->first_structural = strdup(message);
	if (!w->finding || (w->quiet && !repaired))
		return;
	w->finding(w->opaque,
		   &(struct ox_finding){
			   .name = row->name,
			   .severity = row->severity,
			   .message = message,
			   .repaired = repaired,
			   .host_offset = what->host_offset ? what->host_offset : UINT64_MAX,
			   .guest_offset = what->guest_length ? what->guest_offset : UINT64_MAX,
			   .guest_length = what->guest_length,
			   .snapshot = what->tree ? w->trees[what->tree].name : NULL,
			   .fix = row->fix,
			   .fate = what->fate,
			   .why_not = repaired ? NULL : why_not(w, row, what),
		   });
}

void ox_walk_found(struct ox_walk *w, enum ox_finding_id id, struct ox_found what)
{
	const struct finding_row *row = &rows[id];

	if (row->class == UNREADABLE)
		w->result.check_errors++;
	else if (row->severity == OX_FINDING_CORRUPTION)
		w->result.corruptions++;
	else if (row->severity == OX_FINDING_LEAK)
		w->result.leaks++;
	if (is_structural(w, row, &what))
		w->structural++;
	tally(w, id);
	tell(w, row, false, &what);
}

void ox_walk_mended(struct ox_walk *w, enum ox_finding_id id, struct ox_found what)
{
	const struct finding_row *row = &rows[id];

	if (row->severity == OX_FINDING_CORRUPTION)
		w->result.corruptions_fixed++;
	else if (row->severity == OX_FINDING_LEAK)
		w->result.leaks_fixed++;
	tell(w, row, true, &what);
}

void ox_walk_progress(struct ox_walk *w, uint64_t work)
{
	w->work_done = ox_min_u64(w->work_done + work, w->work_total);
	if (w->progress)
		w->progress(w->opaque, w->work_done, w->work_total);
}

int ox_walk_unreadable(struct ox_walk *w, const char *word, uint64_t offset, int error)
{
	if (error == -ENOMEM)
		return error;
	ox_walk_found(
		w, OX_FOUND_UNREADABLE,
		OX_FOUND(.word = word, .a = offset, .b = (uint64_t)-error, .host_offset = offset));
	return 0;
}
