/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/walk/walk.h"

#define MESSAGE_BYTES 256
#define MOST_SINGLE 16 /* neighbours that are told one by one, as qemu-img does */

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
			   const struct ox_found *what, uint64_t clusters)
{
	size_t used = (size_t)snprintf(to, MESSAGE_BYTES, "%s ", lead);
	const char *text = row->text;

	if (clusters > 1) {
		used += (size_t)snprintf(to + used, MESSAGE_BYTES - used,
					 "clusters %" PRIu64 "-%" PRIu64, what->a,
					 what->a + clusters - 1);
		text += strlen("cluster %a");
	}
	for (const char *p = text; *p && used + 1 < MESSAGE_BYTES; p++) {
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

/* Why counts are not made wider. */
static const char *why_narrow(const struct ox_walk *w, const struct ox_found *what)
{
	if (w->h.version < 3)
		return "the counts of version 2 always have 16 bits: copy the image to a new one";
	if (what->c == OX_COUNT_MAX)
		return "it is named more often than this program counts";
	if (w->structural > w->overflows)
		return "something else cannot be followed, and is to be repaired first";
	return "there is no room for wider counts";
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
	if (row == &rows[OX_FOUND_OVERFLOW])
		return why_narrow(w, what);
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
	case OX_FOUND_QED_L1:
	case OX_FOUND_QED_L2:
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
	case OX_FOUND_CROSS_LINK:
	case OX_FOUND_CROSS_LINK_L2:
		w->aliases++;
		w->cross_links++;
		break;
	case OX_FOUND_OVERLAP:
		w->aliases++;
		break;
	case OX_FOUND_OVERFLOW:
		w->overflows++;
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

/* ---- telling ---- */

static void tell_clusters(struct ox_walk *w, const struct finding_row *row, bool repaired,
			  const struct ox_found *what, uint64_t clusters, const char *why)
{
	const char *mended = w->dry_run ? "Would repair" : "Repairing";
	char message[MESSAGE_BYTES];

	format_message(message, row, repaired ? mended : row->lead, what, clusters);
	w->finding(w->opaque,
		   &(struct ox_finding){
			   .name = row->name,
			   .severity = row->severity,
			   .message = message,
			   .repaired = repaired,
			   .host_offset =
				   clusters || what->host_offset ? what->host_offset : UINT64_MAX,
			   .host_length = clusters * w->cluster_bytes,
			   .guest_offset = what->guest_length ? what->guest_offset : UINT64_MAX,
			   .guest_length = what->guest_length,
			   .snapshot = what->tree ? w->trees[what->tree].name : NULL,
			   .fix = row->fix,
			   .fate = what->fate,
			   .why_not = why,
		   });
}

void ox_walk_tell_run(struct ox_walk *w)
{
	struct ox_walk_run run = w->run;
	uint64_t guest_length = run.what.guest_length;

	w->run.length = 0;
	if (run.length > MOST_SINGLE) {
		run.what.guest_length *= run.length;
		tell_clusters(w, &rows[run.id], run.repaired, &run.what, run.length, run.why_not);
		return;
	}
	for (; run.length > 0; run.length--) {
		tell_clusters(w, &rows[run.id], run.repaired, &run.what, 1, run.why_not);
		run.what.a++;
		run.what.host_offset += w->cluster_bytes;
		run.what.guest_offset += guest_length;
	}
}

/* Whether a finding goes on where the run ends. */
static bool joins_run(const struct ox_walk *w, const struct ox_walk_run *next)
{
	const struct ox_walk_run *run = &w->run;
	const struct ox_found *first = &run->what;
	const struct ox_found *what = &next->what;

	return run->length > 0 && run->id == next->id && run->repaired == next->repaired &&
	       run->why_not == next->why_not && first->a + run->length == what->a &&
	       first->b == what->b && first->c == what->c && first->tree == what->tree &&
	       first->guest_length == what->guest_length &&
	       first->guest_offset + run->length * first->guest_length == what->guest_offset;
}

static bool is_of_clusters(enum ox_finding_id id)
{
	return id == OX_FOUND_LEAK || id == OX_FOUND_TOO_LOW || id == OX_FOUND_OVERFLOW ||
	       id == OX_FOUND_QED_LEAK;
}

static void note_structural(struct ox_walk *w, const struct finding_row *row,
			    const struct ox_found *what)
{
	char message[MESSAGE_BYTES];

	if (w->first_structural || !is_structural(w, row, what))
		return;
	format_message(message, row, row->lead, what, 1);
	w->first_structural = strdup(message);
}

static void tell(struct ox_walk *w, enum ox_finding_id id, bool repaired,
		 const struct ox_found *what)
{
	struct ox_walk_run one = {.id = id, .repaired = repaired, .what = *what};

	if (!w->finding || (w->quiet && !repaired))
		return;
	one.why_not = repaired ? NULL : why_not(w, &rows[id], what);
	if (!is_of_clusters(id)) {
		ox_walk_tell_run(w);
		tell_clusters(w, &rows[id], repaired, what, 0, one.why_not);
		return;
	}
	if (!joins_run(w, &one)) {
		ox_walk_tell_run(w);
		w->run = one;
	}
	w->run.length++;
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
	note_structural(w, row, &what);
	tell(w, id, false, &what);
}

void ox_walk_found_run(struct ox_walk *w, enum ox_finding_id id, struct ox_found what,
		       uint64_t clusters)
{
	ox_assert(is_of_clusters(id) && rows[id].severity == OX_FINDING_LEAK && clusters > 0);
	ox_walk_found(w, id, what);
	w->result.leaks += clusters - 1;
	if (w->run.length > 0)
		w->run.length += clusters - 1;
}

void ox_walk_mended(struct ox_walk *w, enum ox_finding_id id, struct ox_found what)
{
	const struct finding_row *row = &rows[id];

	if (row->severity == OX_FINDING_CORRUPTION)
		w->result.corruptions_fixed++;
	else if (row->severity == OX_FINDING_LEAK)
		w->result.leaks_fixed++;
	tell(w, id, true, &what);
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
