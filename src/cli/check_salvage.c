/* SPDX-License-Identifier: MIT */
#include "cli/check_salvage.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Digits, 0x and digits: no sign, no blank. */
static int take_number(const char **text, char end, uint64_t *ret)
{
	char *stop = NULL;

	if (!isdigit((unsigned char)**text))
		return -EINVAL;
	errno = 0;
	*ret = strtoull(*text, &stop, 0);
	if (errno || *stop != end)
		return -EINVAL;
	*text = stop + (end != '\0');
	return 0;
}

int ox_cli_salvage_take(struct ox_cli_salvage *s, const char *text)
{
	struct ox_table_link link = {0};
	struct ox_table_link *more;
	const char *at = text;

	if (text && strcmp(text, "none") == 0) {
		s->none = true;
		return 0;
	}
	s->asked = true;
	if (!text)
		return 0;
	if (take_number(&at, ':', &link.l1_index) < 0 ||
	    take_number(&at, '\0', &link.host_offset) < 0)
		return ox_cli_usage_error("check",
					  "--salvage takes L1INDEX:HOSTOFFSET, or none: %s", text);
	more = reallocarray(s->links, s->link_count + 1, sizeof(*more));
	if (!more) {
		ox_cli_error("Out of memory");
		return EXIT_FAILURE;
	}
	s->links = more;
	s->links[s->link_count++] = link;
	return 0;
}

void ox_cli_salvage_free(struct ox_cli_salvage *s)
{
	free(s->links);
	json_decref(s->tables);
}

static void set_number(json_t *object, const char *key, uint64_t value)
{
	ox_cli_json_set(object, key, json_integer((json_int_t)value));
}

void ox_cli_salvage_list(struct ox_cli_salvage *s, const struct ox_lost_table *table)
{
	json_t *object = json_object();

	set_number(object, "host-offset", table->host_offset);
	set_number(object, "guest-clusters", table->guest_clusters);
	set_number(object, "compressed-clusters", table->compressed);
	set_number(object, "zero-clusters", table->zero_clusters);
	set_number(object, "unshared", table->unshared);
	set_number(object, "counted", table->counted);
	set_number(object, "taken", table->taken);
	set_number(object, "copied", table->copied);
	set_number(object, "runs", table->runs);
	set_number(object, "damaged", table->damaged);
	ox_cli_json_set(object, "is-counted", json_boolean(table->is_counted));
	ox_cli_json_set(object, "is-sure", json_boolean(table->is_sure));
	set_number(object, "fits", table->fits);
	if (table->l1_index != UINT64_MAX)
		set_number(object, "l1-index", table->l1_index);
	if (table->snapshot)
		ox_cli_json_set(object, "snapshot", ox_cli_json_string(table->snapshot));
	ox_cli_json_set(object, "linked", json_boolean(table->linked));
	if (!s->tables)
		s->tables = json_array();
	if (json_array_append_new(s->tables, object) < 0) {
		ox_cli_error("Out of memory");
		exit(EXIT_FAILURE);
	}
}

static const char *of_number(uint64_t number, const char *one, const char *more)
{
	return number == 1 ? one : more;
}

static void print_hint(const struct ox_check_result *res)
{
	uint64_t count = res->damaged_l1_entries;

	if (res->lost_tables > 0) {
		const char *it = of_number(res->lost_tables, "it", "them");

		printf("\nThe leaks hold %" PRIu64 " L2 %s that nothing names. A part of the "
		       "guest's data may depend on\n%s, so a repair keeps %s. --salvage says more "
		       "of %s, and links %s with -r all;\n-r leaks --salvage=none frees %s.\n",
		       res->lost_tables, of_number(res->lost_tables, "table", "tables"), it, it, it,
		       it, it);
	}
	if (count == 0 || (res->corruptions == 0 && res->leaks == 0))
		return;
	printf("\n%" PRIu64 " L1 %s damaged. What %s may still be in the file: --salvage looks for "
	       "it.\n",
	       count, of_number(count, "entry was", "entries were"),
	       of_number(count, "it named", "they named"));
}

void ox_cli_salvage_print(const struct ox_cli_salvage *s, const struct ox_check_result *res,
			  bool dry_run)
{
	const char *done = dry_run ? "would be" : of_number(res->linked_tables, "was", "were");

	if (!s->asked) {
		print_hint(res);
		return;
	}
	if (res->linked_tables)
		printf("\n%" PRIu64 " L2 %s that nothing named %s linked again.\n",
		       res->linked_tables, of_number(res->linked_tables, "table", "tables"), done);
	if (res->lost_tables)
		printf("\nNothing names %" PRIu64 " L2 %s of the file.\n"
		       "-r all --salvage links a table if exactly one damaged L1 entry can have "
		       "named it;\n"
		       "-r all --salvage=L1INDEX:HOSTOFFSET links the table that you state.\n",
		       res->lost_tables, of_number(res->lost_tables, "table", "tables"));
	else if (!res->linked_tables)
		printf("\nThere is no L2 table that nothing names.\n");
}

void ox_cli_salvage_set_json(const struct ox_cli_salvage *s, json_t *object)
{
	if (s->asked || s->tables)
		ox_cli_json_set(object, "lost-tables",
				s->tables ? json_incref(s->tables) : json_array());
}
