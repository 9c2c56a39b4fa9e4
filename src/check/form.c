/* SPDX-License-Identifier: MIT */
#include "check/form.h"

#include <errno.h>
#include <string.h>

#include "check/mend/round.h"
#include "check/undo/edit.h"

#define VERSION_AT 4u
#define BITS_AT 20u
#define LENGTH_AT 100u
#define MOST_VERSION 255u
/* The header's length, as programs write it in version 3. */
#define LENGTH_UNTYPED 104u
#define LENGTH_TYPED 112u
/* One value is taken if under every other there is so much more that contradicts itself. */
#define FACTOR 4u
#define LEAST_MORE 16u

struct form {
	struct ox_io *io;
	uint8_t sector[OX_FORM_BYTES];
	uint64_t least; /* that contradicts itself, under the best value so far, */
	uint64_t next;	/* and under the next best */
	uint32_t bits;
};

static uint32_t word_at(const uint8_t *sector, size_t at)
{
	struct ox_be32 word;

	memcpy(&word, sector + at, sizeof(word));
	return ox_be32_get(word);
}

static void set_word(uint8_t *sector, size_t at, uint32_t value)
{
	struct ox_be32 word = ox_be32(value);

	memcpy(sector + at, &word, sizeof(word));
}

static bool is_version(uint32_t version)
{
	return version == 2 || version == 3;
}

/* Another version of the format may have such a number, and mean something else by what follows. */
static bool may_be_another(uint32_t version)
{
	return !is_version(version) && version != 0 && version <= MOST_VERSION;
}

static bool is_bits(uint32_t bits)
{
	return bits >= OX_QCOW2_MIN_CLUSTER_BITS && bits <= OX_QCOW2_MAX_CLUSTER_BITS;
}

/* Whether the tables can be where the header says, with clusters of this size. */
static bool is_plausible(const uint8_t *sector)
{
	static const enum ox_qcow2_fault needed[] = {
		OX_QCOW2_FAULT_REFTABLE,  OX_QCOW2_FAULT_L1_SIZE,	 OX_QCOW2_FAULT_L1_OFFSET,
		OX_QCOW2_FAULT_L1_SMALL,  OX_QCOW2_FAULT_REFCOUNT_ORDER, OX_QCOW2_FAULT_SIZE,
		OX_QCOW2_FAULT_SNAPSHOTS, OX_QCOW2_FAULT_EXTENDED_L2,
	};
	struct ox_qcow2_faults faults = {0};
	struct ox_qcow2_header h;

	if (ox_qcow2_header_load(sector, OX_FORM_BYTES, &h, NULL) < 0 ||
	    ox_qcow2_header_judge(&h, OX_FORM_BYTES, &faults, NULL) < 0)
		return false;
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		if (faults.found[needed[i]])
			return false;
	}
	return h.l1_entries > 0;
}

/* How much contradicts itself, under a header that is laid over the image. 0 or a negative errno.
 */
static int weigh_co(struct ox_io *io, const uint8_t *sector, uint64_t *ret)
{
	struct ox_round round = {.j = {.quiet = true, .mends_told = true}};
	struct ox_io *layer;
	int r = ox_edit_open(io, NULL, &layer);

	if (r < 0)
		return r;
	ox_round_begin(&round, OX_REPAIR_NONE, 0, NULL);
	r = ox_io_pwrite_co(layer, sector, OX_FORM_BYTES, 0, 0);
	if (r == 0)
		r = ox_walk_open_co(&round.w, layer, NULL);
	if (r == 0)
		r = ox_round_look_co(&round);
	*ret = round.j.totals.corruptions + round.j.totals.check_errors + round.g.too_low +
	       round.g.copied_wrong;
	ox_round_end(&round);
	ox_io_close(layer);
	/* What cannot be read under this header speaks against it alone. */
	if (r < 0 && r != -ENOMEM)
		*ret = UINT64_MAX;
	return r == -ENOMEM ? r : 0;
}

static int try_bits_co(struct form *f, uint32_t bits)
{
	uint64_t weight;
	int r;

	set_word(f->sector, BITS_AT, bits);
	if (!is_plausible(f->sector))
		return 0;
	r = weigh_co(f->io, f->sector, &weight);
	if (r < 0)
		return r;
	if (weight < f->least) {
		f->next = f->least;
		f->least = weight;
		f->bits = bits;
	} else if (weight < f->next) {
		f->next = weight;
	}
	return 0;
}

static int try_all_co(struct form *f)
{
	uint32_t stated = word_at(f->sector, BITS_AT);
	uint32_t first = is_bits(stated) ? stated : OX_QCOW2_MIN_CLUSTER_BITS;
	uint32_t last = is_bits(stated) ? stated : OX_QCOW2_MAX_CLUSTER_BITS;
	int r = 0;

	for (uint32_t bits = first; bits <= last && r == 0; bits++)
		r = try_bits_co(f, bits);
	return r;
}

int ox_form_find_co(struct ox_io *io, uint8_t ret_sector[OX_FORM_BYTES], const char **ret_word)
{
	struct form f = {.io = io, .least = UINT64_MAX, .next = UINT64_MAX};
	uint32_t version, length;
	int r;

	*ret_word = NULL;
	if (io->length < OX_FORM_BYTES || ox_io_pread_co(io, f.sector, OX_FORM_BYTES, 0) < 0 ||
	    !ox_qcow2_probe(f.sector, OX_FORM_BYTES))
		return 0;
	version = word_at(f.sector, VERSION_AT);
	length = word_at(f.sector, LENGTH_AT);
	if (may_be_another(version) || (is_version(version) && is_bits(word_at(f.sector, BITS_AT))))
		return 0;
	*ret_word = is_version(version) ? "no image has such a cluster size"
					: "no image has such a version";
	if (!is_version(version))
		set_word(f.sector, VERSION_AT,
			 length == LENGTH_UNTYPED || length == LENGTH_TYPED ? 3 : 2);
	r = try_all_co(&f);
	if (r < 0 || f.least == UINT64_MAX || f.least > (UINT64_MAX - LEAST_MORE) / FACTOR ||
	    f.next <= FACTOR * f.least + LEAST_MORE)
		*ret_word = NULL;
	set_word(f.sector, BITS_AT, f.bits);
	memcpy(ret_sector, f.sector, OX_FORM_BYTES);
	return r;
}
