/* SPDX-License-Identifier: MIT */
/*
 * The oracle's rules for QED can fail: each is broken in an image that is made here by hand, and
 * has to be named. (mutants.py breaks the engine; this needs none.)
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format.h"
#include "image.h"
#include "oracle.h"
#include "planted.h"
#include "trace.h"

#define CLUSTER 4096u
#define L1 CLUSTER
#define TABLE (2 * CLUSTER)	  /* of the first 512 guest clusters */
#define OTHER_TABLE (3 * CLUSTER) /* of the next */
#define DATA (4 * CLUSTER)	  /* six clusters, of guest clusters 0 to 5 */
#define CLUSTERS 10u
#define SECTORS (600 * 8u)

struct scene {
	struct sim_bytes bytes;
	struct sim_bytes durable;
	struct sim_bytes made;
	struct sim_backing backing;
	struct sim_vouched vouched;
	struct sim_expect expect;
};

static void put32(struct sim_bytes *b, uint64_t at, uint32_t value)
{
	sim_bytes_write(b, at, &value, sizeof(value));
}

static void mark(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, SIM_QED_NEED_CHECK);
}

/* A sound image, all of which is durable. */
static void build(struct scene *s)
{
	struct sim_bytes *b = &s->bytes;

	*s = (struct scene){0};
	sim_bytes_write(b, 0, "QED", 4);
	put32(b, 4, CLUSTER);
	put32(b, 8, 1);
	put32(b, 12, 1);
	sim_bytes_put_le64(b, SIM_QED_AT_L1, L1);
	sim_bytes_put_le64(b, SIM_QED_AT_SIZE, SECTORS * 512);
	b->length = TABLE;
	sim_bytes_clone(&s->made, b);
	sim_bytes_put_le64(b, L1, TABLE);
	sim_bytes_put_le64(b, L1 + 8, OTHER_TABLE);
	for (unsigned k = 0; k < 6; k++)
		sim_bytes_put_le64(b, TABLE + k * 8, DATA + k * CLUSTER);
	sim_bytes_put_le64(b, TABLE + 56, SIM_QED_ZERO);
	b->length = CLUSTERS * CLUSTER;
	sim_bytes_clone(&s->durable, b);
	s->expect = (struct sim_expect){
		.backing = &s->backing,
		.model = sim_model_new(SECTORS, SECTORS, 0),
		.durable = &s->durable,
		.made = &s->made,
	};
}

static void vouch(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_AUTOCLEAR, 1 << 9);
	s->vouched.guest.sectors = SECTORS;
	s->vouched.guest.bytes = sim_alloc(SECTORS, SIM_SECTOR_BYTES);
	sim_bytes_clone(&s->vouched.bytes, &s->bytes);
	s->expect.vouched = &s->vouched;
}

/* ---- what is sound ---- */

static void nothing(struct scene *s)
{
	(void)s;
}

static void new_entry_under_the_mark(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->durable, TABLE + 8, 0);
}

static void entry_gone_without_the_mark(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, TABLE + 8, SIM_QED_ZERO);
	s->expect.lost_most = 1;
}

static void stale_entries_under_the_mark(struct scene *s)
{
	mark(s);
	sim_planted_add(&sim_stale, TABLE + 80, CLUSTERS * CLUSTER, 0);
	sim_planted_add(&sim_stale, L1 + 8, (CLUSTERS + 1) * CLUSTER, 0);
	sim_bytes_put_le64(&s->bytes, TABLE + 80, CLUSTERS * CLUSTER);
	sim_bytes_put_le64(&s->bytes, L1 + 8, (CLUSTERS + 1) * CLUSTER);
	s->expect.lost_most = 1;
}

static void damage_under_the_mark(struct scene *s)
{
	mark(s);
	sim_planted_add(&sim_damage, TABLE + 80, DATA, TABLE);
	sim_planted_add(&sim_damage, TABLE + 88, CLUSTER + 512, 0);
	sim_bytes_put_le64(&s->bytes, TABLE + 80, DATA);
	sim_bytes_put_le64(&s->bytes, TABLE + 88, CLUSTER + 512);
	sim_model_make_wild(s->expect.model, 80, 16);
}

static void damage_mended_and_the_mark_clear(struct scene *s)
{
	damage_under_the_mark(s);
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, 0);
	sim_bytes_put_le64(&s->bytes, TABLE + 88, 0);
	sim_bytes_put_le64(&s->bytes, TABLE, SIM_QED_ZERO);
	sim_bytes_put_le64(&s->durable, TABLE + 80, DATA);
}

/* ---- what is not ---- */

static void two_entries_on_one_cluster(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->bytes, OTHER_TABLE + 16, DATA + CLUSTER);
}

static void two_l1_entries_on_one_table(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->bytes, L1 + 8, TABLE);
}

static void data_on_a_table(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->bytes, TABLE + 40, OTHER_TABLE);
}

static void data_on_l1(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, TABLE + 40, L1);
}

static void unaligned_entry(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->bytes, TABLE + 40, DATA + 512);
}

static void zero_entry_in_l1(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, L1 + 8, SIM_QED_ZERO);
}

static void entry_past_the_end(struct scene *s)
{
	mark(s);
	sim_bytes_put_le64(&s->bytes, TABLE + 80, CLUSTERS * CLUSTER);
}

static void entry_half_past_the_end(struct scene *s)
{
	mark(s);
	s->bytes.length -= 512;
}

static void table_past_the_end(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, L1 + 16, CLUSTERS * CLUSTER);
}

static void new_entry_without_the_mark(struct scene *s)
{
	sim_bytes_put_le64(&s->durable, TABLE + 8, 0);
}

static void new_table_without_the_mark(struct scene *s)
{
	sim_bytes_put_le64(&s->durable, L1 + 8, 0);
}

static void marked_after_a_clean_end(struct scene *s)
{
	mark(s);
	s->expect.clean = true;
}

static void lost_cluster(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, TABLE + 8, SIM_QED_ZERO);
}

static void stale_entry_of_a_longer_file(struct scene *s)
{
	stale_entries_under_the_mark(s);
	sim_bytes_set_length(&s->bytes, s->bytes.length + CLUSTER);
}

static void stale_entry_without_the_mark(struct scene *s)
{
	stale_entries_under_the_mark(s);
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, 0);
}

static void cross_link_without_the_mark(struct scene *s)
{
	damage_under_the_mark(s);
	sim_bytes_clone(&s->durable, &s->bytes);
	sim_bytes_put_le64(&s->bytes, TABLE + 88, 0);
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, 0);
}

static void garbage_without_the_mark(struct scene *s)
{
	damage_under_the_mark(s);
	sim_bytes_put_le64(&s->bytes, TABLE + 80, 0);
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, 0);
}

static void crossed_cluster_handed_out(struct scene *s)
{
	damage_under_the_mark(s);
	sim_bytes_put_le64(&s->bytes, TABLE, SIM_QED_ZERO);
	sim_bytes_put_le64(&s->bytes, OTHER_TABLE, DATA);
}

static void crossed_cluster_written(struct scene *s)
{
	damage_under_the_mark(s);
	sim_bytes_clone(&s->durable, &s->bytes);
	s->expect.sealed = &s->durable;
	sim_bytes_write(&s->bytes, DATA + 512, "x", 1);
}

static void name_of_the_backing_file_gone(struct scene *s)
{
	sim_bytes_write(&s->made, SIM_QED_FIELDS_END, "b", 1);
}

static void feature_that_was_not_there(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, SIM_QED_BACKING_RAW);
}

static void unknown_feature(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_FEATURES, 1 << 5);
}

static void autoclear_bit_that_was_not_there(struct scene *s)
{
	sim_bytes_put_le64(&s->bytes, SIM_QED_AT_AUTOCLEAR, 1);
}

static void compatible_bit_gone(struct scene *s)
{
	sim_bytes_put_le64(&s->made, SIM_QED_AT_COMPATIBLE, 1);
}

static void changed_under_autoclear_bits(struct scene *s)
{
	vouch(s);
	s->vouched.guest.bytes[77] = 1;
}

static void size_under_autoclear_bits(struct scene *s)
{
	vouch(s);
	s->vouched.guest.sectors--;
}

static void wrong_content(struct scene *s)
{
	sim_bytes_write(&s->bytes, DATA + CLUSTER + 512, "x", 1);
}

static const struct claim {
	const char *name;
	const char *rule; /* NULL: sound */
	void (*change)(struct scene *s);
} claims[] = {
#define SOUND(name)                                                                                \
	{                                                                                          \
#name, NULL, name                                                                  \
	}
#define BROKEN(name, rule)                                                                         \
	{                                                                                          \
#name, rule, name                                                                  \
	}
	SOUND(nothing),
	SOUND(new_entry_under_the_mark),
	SOUND(entry_gone_without_the_mark),
	SOUND(stale_entries_under_the_mark),
	SOUND(damage_under_the_mark),
	SOUND(damage_mended_and_the_mark_clear),
	SOUND(vouch),
	BROKEN(two_entries_on_one_cluster, "D2"),
	BROKEN(two_l1_entries_on_one_table, "D2"),
	BROKEN(data_on_a_table, "D2"),
	BROKEN(data_on_l1, "D1"),
	BROKEN(unaligned_entry, "D1"),
	BROKEN(zero_entry_in_l1, "D1"),
	BROKEN(entry_past_the_end, "D8"),
	BROKEN(entry_half_past_the_end, "D8"),
	BROKEN(table_past_the_end, "D8"),
	BROKEN(new_entry_without_the_mark, "D5"),
	BROKEN(new_table_without_the_mark, "D5"),
	BROKEN(marked_after_a_clean_end, "D6"),
	BROKEN(lost_cluster, "D6"),
	BROKEN(stale_entry_of_a_longer_file, "D8"),
	BROKEN(stale_entry_without_the_mark, "D8"),
	BROKEN(cross_link_without_the_mark, "D2"),
	BROKEN(garbage_without_the_mark, "D1"),
	BROKEN(crossed_cluster_handed_out, "D2"),
	BROKEN(crossed_cluster_written, "D2"),
	BROKEN(name_of_the_backing_file_gone, "H9"),
	BROKEN(feature_that_was_not_there, "H9"),
	BROKEN(unknown_feature, "H9"),
	BROKEN(autoclear_bit_that_was_not_there, "H9"),
	BROKEN(compatible_bit_gone, "H9"),
	BROKEN(changed_under_autoclear_bits, "D6"),
	BROKEN(size_under_autoclear_bits, "D6"),
	BROKEN(wrong_content, "D7"),
};

/* A rule that is broken ends the process: each claim has one of its own, which says so here. */
static void run_claim(const struct claim *claim, FILE *said)
{
	struct scene s;

	if (dup2(fileno(said), STDOUT_FILENO) < 0)
		_exit(2);
	build(&s);
	claim->change(&s);
	(void)sim_oracle_check(&s.bytes, &s.expect);
	_exit(0);
}

static bool holds(const struct claim *claim)
{
	char expected[32];
	char line[600];
	bool found = false;
	int status;
	FILE *said = tmpfile();
	pid_t pid = said ? fork() : -1;

	if (pid == 0)
		run_claim(claim, said);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	snprintf(expected, sizeof(expected), "FAILED %s:", claim->rule ? claim->rule : "");
	rewind(said);
	while (fgets(line, sizeof(line), said)) {
		found = found || strncmp(line, expected, strlen(expected)) == 0;
		printf("# %s", line);
	}
	fclose(said);
	return WIFEXITED(status) && WEXITSTATUS(status) == (claim->rule ? 1 : 0) &&
	       found == (claim->rule != NULL);
}

int main(void)
{
	const unsigned count = sizeof(claims) / sizeof(claims[0]);
	bool ok = true;

	printf("1..%u\n", count);
	fflush(stdout);
	for (unsigned k = 0; k < count; k++) {
		bool held = holds(&claims[k]);

		printf("%s the_oracle_%s_%s\n", held ? "ok" : "not ok",
		       claims[k].rule ? "refuses" : "allows", claims[k].name);
		fflush(stdout);
		ok = ok && held;
	}
	return ok ? 0 : 1;
}
