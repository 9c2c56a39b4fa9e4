/* SPDX-License-Identifier: MIT */
/*
 * What was found: told, neighbours as one, and counted by kind. One journal a walk, of a qcow2 or a
 * QED image. It knows nothing of repairs: who leads the walk says why something is left, and
 * whether what the image itself tells is about to be put right.
 */
#ifndef OX_CHECK_JOURNAL_H
#define OX_CHECK_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "oxbow.h"

enum ox_finding_id {
#define OX_FINDING(id, name, severity, class, lead, text, meaning, fix) OX_FOUND_##id,
#include "check/journal/findings.def"
#undef OX_FINDING
	OX_FOUND_COUNT
};

enum ox_finding_class {
	OX_FINDING_DERIVED,
	OX_FINDING_STRUCTURAL,
	OX_FINDING_LOSS,
	OX_FINDING_UNREADABLE,
	OX_FINDING_FACT,
};

/* A row of findings.def. */
struct ox_finding_kind {
	const char *name;
	enum ox_finding_severity severity;
	enum ox_finding_class class;
	const char *lead;
	const char *text;
	const char *fix;
};

const struct ox_finding_kind *ox_finding_kind(enum ox_finding_id id);

/* What a finding's message is made of, and where it is. */
struct ox_found {
	const char *word;
	uint64_t a, b, c;
	uint64_t host_offset; /* 0: none */
	uint64_t guest_offset;
	uint64_t guest_length; /* 0: no guest range */
	const char
		*snapshot; /* whose range it is, to live as long as the journal; NULL: the disk's */
	const char *fate;  /* of it after a repair: "lost", "in doubt"; or NULL */
	bool is_told;	   /* the rest of the image tells what is right */
	bool is_apart;	   /* and no reference hangs on it */
	bool loses;	   /* a repair of it gives something up, which may look like leaks */
	bool lags;	   /* the entry is right, and only its cluster's count is behind */
};

#define OX_FOUND(...) ((struct ox_found){__VA_ARGS__})

/* Neighbours that are told one by one, as qemu-img does; more are told as one. */
#define OX_JOURNAL_MOST_SINGLE 16

/* Neighbouring clusters, or entries of L2 tables, of which the same is to be told. */
struct ox_journal_run {
	enum ox_finding_id id;
	bool repaired;
	uint64_t length;			      /* clusters or entries; 0: there is none */
	struct ox_found what[OX_JOURNAL_MOST_SINGLE]; /* of the first ones */
	const char *why_not;
};

/* Of a check's result, what is counted here. */
struct ox_journal_totals {
	uint64_t corruptions;
	uint64_t corruptions_fixed;
	uint64_t leaks;
	uint64_t leaks_fixed;
	uint64_t check_errors;
	/* Of the above: what the recovery at the next opening settles, of an image that was not
	 * closed. */
	uint64_t recoverable_corruptions;
	uint64_t recoverable_leaks;
	uint64_t uncounted_clusters;
};

struct ox_journal {
	/* For the one who leads the walk to set, before anything is found. */
	void (*finding)(void *opaque, const struct ox_finding *finding); /* NULL: nobody listens */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* Why what is found is left. NULL: nothing is to be repaired. */
	const char *(*why_not)(const void *arg, enum ox_finding_id id, const struct ox_found *what);
	const void *why_arg;
	bool quiet;	 /* findings are counted and not told: a repair comes first */
	bool dry_run;	 /* says what would be repaired */
	bool mends_told; /* what the image tells is put right before anything else is judged */

	/* What was found, for anyone to read. */
	uint64_t seen[OX_FOUND_COUNT];
	uint64_t structural;	/* STRUCTURAL and UNREADABLE findings */
	char *first_structural; /* its message */
	struct ox_journal_totals totals;

	/* Its own. */
	bool recovers; /* ox_journal_recovers */
	uint64_t cluster_bytes;
	struct ox_journal_run run; /* what is still to be told */
	uint64_t work_done;
	uint64_t work_total;
};

/* Before anything is found of clusters. */
void ox_journal_begin(struct ox_journal *j, uint64_t cluster_bytes);
/* Tells what is still to be told, and ends it. */
void ox_journal_end(struct ox_journal *j);

/* The image was not closed: its next opening counts clusters anew. */
void ox_journal_recovers(struct ox_journal *j);

/* Something is wrong and stays so. */
void ox_journal_found(struct ox_journal *j, enum ox_finding_id id, struct ox_found what);
/* The same of so many neighbouring clusters, of a finding that is told of clusters. */
void ox_journal_found_run(struct ox_journal *j, enum ox_finding_id id, struct ox_found what,
			  uint64_t clusters);
/* A table that cannot be read is a finding, and the walk goes on: 0. Want of memory says nothing of
 * the image, and ends it: -ENOMEM. */
int ox_journal_unreadable(struct ox_journal *j, const char *word, uint64_t offset, int error);
/* Something was wrong and has been mended on disk. */
void ox_journal_mended(struct ox_journal *j, enum ox_finding_id id, struct ox_found what);
/* The same of so many neighbouring clusters, that leaked. */
void ox_journal_mended_run(struct ox_journal *j, enum ox_finding_id id, struct ox_found what,
			   uint64_t clusters);
/* Findings of neighbouring clusters are held back, to be told as one: tells them. */
void ox_journal_tell_run(struct ox_journal *j);
/* Nobody is told from here on; it is all counted. */
void ox_journal_hush(struct ox_journal *j);

/* Whether somebody is told of what is found. */
static inline bool ox_journal_listens(const struct ox_journal *j)
{
	return j->finding && !j->quiet;
}

/* More is to be done, and so much is. */
void ox_journal_expect(struct ox_journal *j, uint64_t work);
void ox_journal_progress(struct ox_journal *j, uint64_t work);

/* Puts what was counted into a result. */
void ox_journal_sum_up(const struct ox_journal *j, struct ox_check_result *ret);

#endif
