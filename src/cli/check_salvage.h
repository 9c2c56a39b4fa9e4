/* SPDX-License-Identifier: MIT */
/* oxbow check --salvage: its argument, and what it says. */
#ifndef OX_CLI_CHECK_SALVAGE_H
#define OX_CLI_CHECK_SALVAGE_H

#include "cli/cli.h"

struct ox_cli_salvage {
	bool asked;
	bool none; /* what could be salvaged is freed */
	struct ox_table_link *links;
	size_t link_count;
	json_t *tables; /* what JSON lists; NULL until there is one */
};

/* Takes --salvage with its argument, L1INDEX:HOSTOFFSET, none or NULL. 0, or the exit status. */
int ox_cli_salvage_take(struct ox_cli_salvage *s, const char *text);
void ox_cli_salvage_free(struct ox_cli_salvage *s);
/* A table for the JSON. */
void ox_cli_salvage_list(struct ox_cli_salvage *s, const struct ox_lost_table *table);

/* What is said of tables after the summary. */
void ox_cli_salvage_print(const struct ox_cli_salvage *s, const struct ox_check_result *res,
			  bool dry_run);
void ox_cli_salvage_set_json(const struct ox_cli_salvage *s, json_t *object);

#endif
