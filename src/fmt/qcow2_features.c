/* SPDX-License-Identifier: MIT */
/* What the engine implements, and how a feature that it does not is called by name. */
#include "fmt/qcow2_features.h"

#include <errno.h>
#include <inttypes.h>

#include "fmt/qcow2.h"

_Static_assert(sizeof(struct ox_qcow2_feature) == 48, "as the specification has it");

const struct ox_qcow2_feature ox_qcow2_features[OX_QCOW2_FEATURE_COUNT] = {
	{OX_QCOW2_FEATURE_INCOMPATIBLE, 0, "dirty bit"},
	{OX_QCOW2_FEATURE_INCOMPATIBLE, 1, "corrupt bit"},
	{OX_QCOW2_FEATURE_INCOMPATIBLE, 2, "external data file"},
	{OX_QCOW2_FEATURE_INCOMPATIBLE, 3, "compression type"},
	{OX_QCOW2_FEATURE_INCOMPATIBLE, 4, "extended L2 entries"},
	{OX_QCOW2_FEATURE_COMPATIBLE, 0, "lazy refcounts"},
	{OX_QCOW2_FEATURE_AUTOCLEAR, 0, "bitmaps"},
	{OX_QCOW2_FEATURE_AUTOCLEAR, 1, "raw external data"},
};

#define INCOMPATIBLE_SUPPORTED                                                                     \
	((uint64_t)(OX_QCOW2_INCOMPAT_DIRTY | OX_QCOW2_INCOMPAT_CORRUPT |                          \
		    OX_QCOW2_INCOMPAT_COMPRESSION))

static const struct ox_qcow2_feature *find_incompatible(const struct ox_qcow2_feature *table,
							size_t count, unsigned bit)
{
	for (size_t i = 0; i < count; i++) {
		if (table[i].word == OX_QCOW2_FEATURE_INCOMPATIBLE && table[i].bit == bit &&
		    table[i].name[0] != '\0')
			return &table[i];
	}
	return NULL;
}

/* Our own name comes first; the image's table is asked about bits that are new to us. */
static const struct ox_qcow2_feature *feature_name(const struct ox_qcow2_extensions *ext,
						   unsigned bit)
{
	const struct ox_qcow2_feature *known =
		find_incompatible(ox_qcow2_features, OX_ARRAY_SIZE(ox_qcow2_features), bit);

	if (known || !ext || !ext->feature_names)
		return known;
	return find_incompatible((const struct ox_qcow2_feature *)ext->feature_names,
				 ext->feature_name_count, bit);
}

/* Sixty-four names of 46 bytes, their separators, and one number. */
struct feature_text {
	char text[64 * (OX_QCOW2_FEATURE_NAME_BYTES + 2) + 64];
	size_t used;
};

/* The name is the image's word: control characters must not reach a terminal. */
static void append_name(struct feature_text *t, const struct ox_qcow2_feature *f)
{
	if (t->used) {
		t->text[t->used++] = ',';
		t->text[t->used++] = ' ';
	}
	for (size_t i = 0; i < sizeof(f->name) && f->name[i] != '\0'; i++) {
		bool printable = f->name[i] >= ' ' && f->name[i] <= '~';

		t->text[t->used++] = printable ? f->name[i] : '?';
	}
	t->text[t->used] = '\0';
}

/* Bits that have no name are told together, as one number. */
static int refuse_features(const struct ox_qcow2_extensions *ext, uint64_t bits,
			   struct ox_error **err)
{
	struct feature_text t = {.used = 0};
	uint64_t nameless = 0;

	for (unsigned bit = 0; bit < 64; bit++) {
		const struct ox_qcow2_feature *f;

		if (!(bits >> bit & 1))
			continue;
		f = feature_name(ext, bit);
		if (f)
			append_name(&t, f);
		else
			nameless |= UINT64_C(1) << bit;
	}
	if (!nameless)
		return ox_error_set(err, -ENOTSUP, "Unsupported qcow2 feature(s): %s", t.text);
	return ox_error_set(err, -ENOTSUP,
			    "Unsupported qcow2 feature(s): %s%sUnknown incompatible feature: "
			    "%" PRIx64,
			    t.text, t.used ? ", " : "", nameless);
}

int ox_qcow2_header_check_supported(const struct ox_qcow2_header *h,
				    const struct ox_qcow2_extensions *ext, bool for_write,
				    struct ox_error **err)
{
	uint64_t unsupported = h->incompatible & ~INCOMPATIBLE_SUPPORTED;

	if (unsupported)
		return refuse_features(ext, unsupported, err);
	if (h->crypt_method != OX_QCOW2_CRYPT_NONE)
		return ox_error_set(err, -ENOTSUP, "Unsupported encryption method %u%s",
				    h->crypt_method,
				    h->crypt_method == OX_QCOW2_CRYPT_AES    ? " (AES)"
				    : h->crypt_method == OX_QCOW2_CRYPT_LUKS ? " (LUKS)"
									     : "");
	if (for_write && (h->incompatible & OX_QCOW2_INCOMPAT_CORRUPT))
		return ox_error_set(err, -EACCES,
				    "qcow2: Image is corrupt; cannot be opened read/write");
	return 0;
}
