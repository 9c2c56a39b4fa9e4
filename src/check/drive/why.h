/* SPDX-License-Identifier: MIT */
/* Why a repair leaves what is found. */
#ifndef OX_CHECK_WHY_H
#define OX_CHECK_WHY_H

#include "check/drive/keeper.h"
#include "check/journal/journal.h"
#include "fmt/qcow2.h"

struct ox_why {
	enum ox_repair asked;
	const struct ox_journal *j;
	const struct ox_qcow2_header *h; /* NULL: of another format */
	const struct ox_keeper *keeper;
	uint64_t lost;		/* what earlier walks of the repair took away */
	const char *leak_stays; /* the reason, of the leak that is told; NULL: another one */
};

/* For a journal, with a struct ox_why. */
const char *ox_why_not(const void *arg, enum ox_finding_id id, const struct ox_found *what);

#endif
