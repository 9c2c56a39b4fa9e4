/* SPDX-License-Identifier: MIT */
#include "check/journal/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

#define MESSAGE_BYTES 256

static const struct ox_finding_kind kinds[OX_FOUND_COUNT] = {
#define OX_FINDING(id, name_, severity_, class_, lead_, text_, meaning, fix_)                      \
	[OX_FOUND_##id] = {                                                                        \
		.name = name_,                                                                     \
		.severity = OX_FINDING_##severity_,                                                \
		.class = OX_FINDING_##class_,                                                      \
		.lead = lead_,                                                                     \
		.text = text_,                                                                     \
		.fix = fix_,                                                                       \
	},
#include "check/journal/findings.def"
#undef OX_FINDING
};

const struct ox_finding_kind *ox_finding_kind(enum ox_finding_id id)
{
	return &kinds[id];
}

/* Whether neighbours of the kind are told as one: clusters, or entries of L2 tables. */
static bool is_of_clusters(const struct ox_finding_kind *kind)
{
	return kind == &kinds[OX_FOUND_LEAK] || kind == &kinds[OX_FOUND_TOO_LOW] ||
	       kind == &kinds[OX_FOUND_OVERFLOW] || kind == &kinds[OX_FOUND_QED_LEAK];
}

static bool is_of_entries(const struct ox_finding_kind *kind)
{
	return kind == &kinds[OX_FOUND_COPIED_DATA];
}

/* Whether the recovery at the next opening for writing settles it. */
static bool is_recoverable(const struct ox_journal *j, enum ox_finding_id id,
			   const struct ox_found *what)
{
	return j->recovers && (id == OX_FOUND_LEAK || id == OX_FOUND_TOO_LOW ||
			       id == OX_FOUND_STALE_ENTRY || what->lags);
}

/* ---- messages ---- */

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

/* One placeholder of a kind's text; returns how many bytes it took. */
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

static void format_message(char to[MESSAGE_BYTES], const struct ox_finding_kind *kind,
			   const char *lead, const struct ox_found *what, uint64_t length)
{
	size_t used = (size_t)snprintf(to, MESSAGE_BYTES, "%s ", lead);
	const char *text = kind->text;

	if (length > 1 && is_of_entries(kind)) {
		used += (size_t)snprintf(
			to + used, MESSAGE_BYTES - used,
			"OFLAG_COPIED data clusters: %" PRIu64 " entries, the first: ", length);
		text += strlen("OFLAG_COPIED data cluster: ");
	} else if (length > 1) {
		used += (size_t)snprintf(to + used, MESSAGE_BYTES - used,
					 "clusters %" PRIu64 "-%" PRIu64, what->a,
					 what->a + length - 1);
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

/* What the rest of the image tells is no structural matter where it is put right before anything
 * else is judged. */
static bool is_structural(const struct ox_journal *j, const struct ox_finding_kind *kind,
			  const struct ox_found *what)
{
	if (what->is_apart || (what->is_told && j->mends_told))
		return false;
	return kind->class == OX_FINDING_STRUCTURAL || kind->class == OX_FINDING_UNREADABLE;
}

/* ---- telling ---- */

/* One finding, or a run of length neighbours; whether each of them is a cluster. */
static void tell_one(struct ox_journal *j, const struct ox_journal_run *run,
		     const struct ox_found *what, uint64_t length)
{
	const struct ox_finding_kind *kind = &kinds[run->id];
	const char *mended = j->dry_run ? "Would repair" : "Repairing";
	const bool clusters = is_of_clusters(kind);
	char message[MESSAGE_BYTES];

	format_message(message, kind, run->repaired ? mended : kind->lead, what, length);
	j->finding(j->opaque,
		   &(struct ox_finding){
			   .name = kind->name,
			   .severity = kind->severity,
			   .message = message,
			   .repaired = run->repaired,
			   .host_offset =
				   clusters || what->host_offset ? what->host_offset : UINT64_MAX,
			   .host_length = clusters ? length * j->cluster_bytes : 0,
			   .guest_offset = what->guest_length ? what->guest_offset : UINT64_MAX,
			   .guest_length = what->guest_length,
			   .snapshot = what->snapshot,
			   .fix = kind->fix,
			   .fate = what->fate,
			   .why_not = run->why_not,
			   .recovers = !run->repaired && is_recoverable(j, run->id, what),
		   });
}

void ox_journal_tell_run(struct ox_journal *j)
{
	struct ox_journal_run *run = &j->run;
	uint64_t length = run->length;

	run->length = 0;
	if (length > OX_JOURNAL_MOST_SINGLE) {
		run->what[0].guest_length *= length;
		tell_one(j, run, &run->what[0], length);
		return;
	}
	for (uint64_t i = 0; i < length; i++)
		tell_one(j, run, &run->what[i], 1);
}

/* Whether a finding goes on where the run ends. */
static bool joins_run(const struct ox_journal *j, const struct ox_journal_run *next)
{
	const struct ox_journal_run *run = &j->run;
	const struct ox_found *first = &run->what[0];
	const struct ox_found *what = &next->what[0];

	if (run->length == 0 || run->id != next->id || run->repaired != next->repaired ||
	    run->why_not != next->why_not || first->snapshot != what->snapshot ||
	    first->guest_length != what->guest_length ||
	    first->guest_offset + run->length * first->guest_length != what->guest_offset)
		return false;
	if (is_of_entries(&kinds[run->id]))
		return first->b == what->b && first->lags == what->lags;
	return first->a + run->length == what->a && first->b == what->b && first->c == what->c;
}

/* So many more neighbours, the first of which is what. */
static void extend_run(struct ox_journal *j, const struct ox_found *what, uint64_t length)
{
	struct ox_journal_run *run = &j->run;

	for (uint64_t i = 0; i < length && run->length + i < OX_JOURNAL_MOST_SINGLE; i++) {
		struct ox_found *one = &run->what[run->length + i];

		*one = *what;
		one->a += i;
		one->host_offset += i * j->cluster_bytes;
		one->guest_offset += i * what->guest_length;
	}
	run->length += length;
}

static void note_structural(struct ox_journal *j, const struct ox_finding_kind *kind,
			    const struct ox_found *what)
{
	char message[MESSAGE_BYTES];

	if (j->first_structural || !is_structural(j, kind, what))
		return;
	format_message(message, kind, kind->lead, what, 1);
	j->first_structural = strdup(message);
}

static void tell(struct ox_journal *j, enum ox_finding_id id, bool repaired,
		 const struct ox_found *what, uint64_t length)
{
	struct ox_journal_run one = {.id = id, .repaired = repaired, .what = {*what}};

	if (!j->finding || (j->quiet && !repaired))
		return;
	if (!repaired && j->why_not)
		one.why_not = j->why_not(j->why_arg, id, what);
	if (!is_of_clusters(&kinds[id]) && !is_of_entries(&kinds[id])) {
		ox_journal_tell_run(j);
		tell_one(j, &one, what, 1);
		return;
	}
	if (!joins_run(j, &one)) {
		ox_journal_tell_run(j);
		j->run = one;
	}
	extend_run(j, what, length);
}

/* The same of each of so many neighbours. */
static void found(struct ox_journal *j, enum ox_finding_id id, const struct ox_found *what,
		  uint64_t length)
{
	const struct ox_finding_kind *kind = &kinds[id];

	if (kind->class == OX_FINDING_UNREADABLE)
		j->totals.check_errors += length;
	else if (kind->severity == OX_FINDING_CORRUPTION)
		j->totals.corruptions += length;
	else if (kind->severity == OX_FINDING_LEAK)
		j->totals.leaks += length;
	if (is_recoverable(j, id, what)) {
		if (kind->severity == OX_FINDING_CORRUPTION)
			j->totals.recoverable_corruptions += length;
		else
			j->totals.recoverable_leaks += length;
		if (id == OX_FOUND_TOO_LOW)
			j->totals.uncounted_clusters += length;
	}
	if (is_structural(j, kind, what))
		j->structural++;
	j->seen[id]++;
	note_structural(j, kind, what);
	tell(j, id, false, what, length);
}

void ox_journal_found(struct ox_journal *j, enum ox_finding_id id, struct ox_found what)
{
	found(j, id, &what, 1);
}

void ox_journal_found_run(struct ox_journal *j, enum ox_finding_id id, struct ox_found what,
			  uint64_t clusters)
{
	ox_assert(is_of_clusters(&kinds[id]) && kinds[id].severity == OX_FINDING_LEAK &&
		  clusters > 0);
	found(j, id, &what, clusters);
}

void ox_journal_mended(struct ox_journal *j, enum ox_finding_id id, struct ox_found what)
{
	const struct ox_finding_kind *kind = &kinds[id];

	if (kind->severity == OX_FINDING_CORRUPTION)
		j->totals.corruptions_fixed++;
	else if (kind->severity == OX_FINDING_LEAK)
		j->totals.leaks_fixed++;
	tell(j, id, true, &what, 1);
}

void ox_journal_mended_run(struct ox_journal *j, enum ox_finding_id id, struct ox_found what,
			   uint64_t clusters)
{
	ox_assert(is_of_clusters(&kinds[id]) && kinds[id].severity == OX_FINDING_LEAK &&
		  clusters > 0);
	j->totals.leaks_fixed += clusters;
	tell(j, id, true, &what, clusters);
}

void ox_journal_progress(struct ox_journal *j, uint64_t work)
{
	j->work_done = ox_min_u64(j->work_done + work, j->work_total);
	if (j->progress)
		j->progress(j->opaque, j->work_done, j->work_total);
}

int ox_journal_unreadable(struct ox_journal *j, const char *word, uint64_t offset, int error)
{
	if (error == -ENOMEM)
		return error;
	ox_journal_found(
		j, OX_FOUND_UNREADABLE,
		OX_FOUND(.word = word, .a = offset, .b = (uint64_t)-error, .host_offset = offset));
	return 0;
}

/* ---- beginning and end ---- */

void ox_journal_begin(struct ox_journal *j, uint64_t cluster_bytes)
{
	j->cluster_bytes = cluster_bytes;
}

void ox_journal_recovers(struct ox_journal *j)
{
	j->recovers = true;
}

void ox_journal_hush(struct ox_journal *j)
{
	j->finding = NULL;
}

void ox_journal_expect(struct ox_journal *j, uint64_t work)
{
	j->work_total += work;
}

void ox_journal_sum_up(const struct ox_journal *j, struct ox_check_result *ret)
{
	ret->corruptions = j->totals.corruptions;
	ret->corruptions_fixed = j->totals.corruptions_fixed;
	ret->leaks = j->totals.leaks;
	ret->leaks_fixed = j->totals.leaks_fixed;
	ret->check_errors = j->totals.check_errors;
	ret->recoverable_corruptions = j->totals.recoverable_corruptions;
	ret->recoverable_leaks = j->totals.recoverable_leaks;
	ret->uncounted_clusters = j->totals.uncounted_clusters;
}

void ox_journal_end(struct ox_journal *j)
{
	ox_journal_tell_run(j);
	free(j->first_structural);
	j->first_structural = NULL;
}
