/* SPDX-License-Identifier: MIT */
/*
 * A list of header extensions that cannot be followed. An extension says of itself what it is and
 * how long; where one of the two is wrong the other, its data and the extensions behind it mostly
 * tell. Only a list that then ends as it should is taken for the one that was written.
 */
#include <ctype.h>
#include <string.h>

#include "base/arith.h"
#include "check/view/view.h"

#define HEADER_BYTES 8u /* of an extension: type and length */
#define BITMAPS_BYTES 24u
#define CRYPTO_BYTES 16u
#define FEATURE_BYTES 48u
#define BACKING_AT 8u  /* of the header: offset and size of the name */
#define LENGTH_AT 100u /* header_length */
#define AUTOCLEAR_AT 88u
#define RESERVED_AT 4u /* within the data of the bitmaps' extension */

struct list {
	struct ox_view *v;
	uint8_t *cluster;
	uint64_t end; /* of the area */
};

static uint32_t word_at(const struct list *l, uint64_t at)
{
	struct ox_be32 word;

	memcpy(&word, l->cluster + at, sizeof(word));
	return ox_be32_get(word);
}

static bool is_known(uint32_t type)
{
	return type == OX_QCOW2_EXT_BACKING_FORMAT || type == OX_QCOW2_EXT_FEATURE_NAMES ||
	       type == OX_QCOW2_EXT_BITMAPS || type == OX_QCOW2_EXT_CRYPTO ||
	       type == OX_QCOW2_EXT_DATA_FILE;
}

/* Where the extension at a place ends; 0: past the area. */
static uint64_t next_of(const struct list *l, uint64_t at)
{
	uint64_t length = word_at(l, at + 4);

	if (length > l->end - at - HEADER_BYTES)
		return 0;
	return ox_align_up(at + HEADER_BYTES + length, 8);
}

/*
 * Follows the list from a place on. Returns where the extension is that cannot be followed, or 0
 * where the list comes to its end; *ret_known: how many extensions were known ones.
 */
static uint64_t follow(const struct list *l, uint64_t at, unsigned *ret_known)
{
	*ret_known = 0;
	while (at < l->end && l->end - at >= HEADER_BYTES) {
		uint32_t type = word_at(l, at);
		uint64_t next = next_of(l, at);

		if (next == 0)
			return at;
		if (type == OX_QCOW2_EXT_END)
			return 0;
		*ret_known += is_known(type);
		at = next;
	}
	return 0;
}

static bool ends_well(const struct list *l, uint64_t at)
{
	unsigned known;

	return at < l->end && follow(l, at, &known) == 0;
}

/* ---- how long one is, by its data ---- */

static uint64_t text_length(const struct list *l, uint64_t at)
{
	uint64_t i = at;

	while (i < l->end && isprint(l->cluster[i]))
		i++;
	return i - at;
}

/* A format that programs write; what else stands there is not taken for one. */
static uint64_t format_length(const struct list *l, uint64_t at)
{
	static const char *const names[] = {"raw", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc"};
	uint64_t length = text_length(l, at);

	for (size_t i = 0; i < OX_ARRAY_SIZE(names); i++) {
		if (strlen(names[i]) == length && memcmp(l->cluster + at, names[i], length) == 0)
			return length;
	}
	return 0;
}

/* Records of a type, a bit and a name; none is without a name. */
static uint64_t feature_length(const struct list *l, uint64_t at)
{
	uint64_t i = at;

	while (l->end - i >= FEATURE_BYTES && l->cluster[i] <= 2 && l->cluster[i + 1] < 64 &&
	       isprint(l->cluster[i + 2]))
		i += FEATURE_BYTES;
	return i - at;
}

/* 0: it cannot be told. */
static uint64_t length_by_data(const struct list *l, uint32_t type, uint64_t data)
{
	switch (type) {
	case OX_QCOW2_EXT_BITMAPS:
		return BITMAPS_BYTES;
	case OX_QCOW2_EXT_CRYPTO:
		return CRYPTO_BYTES;
	case OX_QCOW2_EXT_FEATURE_NAMES:
		return feature_length(l, data);
	case OX_QCOW2_EXT_BACKING_FORMAT:
		return format_length(l, data);
	case OX_QCOW2_EXT_DATA_FILE:
		return text_length(l, data);
	default:
		return 0;
	}
}

/* ---- what is put right ---- */

static void set_words(struct list *l, const char *error, uint64_t at, uint32_t type,
		      uint64_t length)
{
	struct ox_be32 words[2] = {ox_be32(type), ox_be32((uint32_t)length)};

	ox_view_patch(l->v, OX_FOUND_EXTENSIONS, OX_FOUND(.word = error), at, words, sizeof(words));
	memcpy(l->cluster + at, words, sizeof(words));
}

/* Whether a known extension can stand anywhere from a place on. *ret_at: where the first does. */
static bool find_known(const struct list *l, uint64_t at, uint64_t *ret_at)
{
	for (at = ox_align_up(at, 8); at < l->end && l->end - at >= HEADER_BYTES; at += 8) {
		if (is_known(word_at(l, at))) {
			*ret_at = at;
			return true;
		}
	}
	return false;
}

/* Where the first of a type is in the list, as far as it can be followed; 0: there is none. */
static uint64_t find_type(const struct list *l, uint32_t type)
{
	uint64_t at = l->v->h.header_length;

	while (at != 0 && at < l->end && l->end - at >= HEADER_BYTES && word_at(l, at) != type) {
		if (word_at(l, at) == OX_QCOW2_EXT_END)
			return 0;
		at = next_of(l, at);
	}
	return at < l->end && l->end - at >= HEADER_BYTES ? at : 0;
}

/* One of which neither type nor length say anything. */
static bool mend_unknown(struct list *l, const char *error, uint64_t at)
{
	uint64_t length = format_length(l, at + HEADER_BYTES);
	const struct ox_qcow2_header *h = &l->v->h;
	uint64_t next;

	if (find_known(l, at + HEADER_BYTES, &next)) {
		if (!ends_well(l, next))
			return false;
		set_words(l, error, at, word_at(l, at), next - at - HEADER_BYTES);
		return true;
	}
	if (length > 0 && ends_well(l, ox_align_up(at + HEADER_BYTES + length, 8))) {
		set_words(l, error, at, OX_QCOW2_EXT_BACKING_FORMAT, length);
		return true;
	}
	/* The end of the list, where nothing is in it that the image cannot do without: a backing
	 * file whose format is lost would be probed. */
	if (l->v->has_data_file || h->crypt_method == OX_QCOW2_CRYPT_LUKS ||
	    l->v->faults.found[OX_QCOW2_FAULT_BACKING] ||
	    (h->backing_offset != 0 && find_type(l, OX_QCOW2_EXT_BACKING_FORMAT) == 0))
		return false;
	set_words(l, error, at, OX_QCOW2_EXT_END, 0);
	return true;
}

static bool mend_at(struct list *l, const char *error, uint64_t at)
{
	uint32_t type = word_at(l, at);
	uint64_t length;

	if (type == OX_QCOW2_EXT_END) {
		set_words(l, error, at, type, 0);
		return true;
	}
	if (!is_known(type))
		return mend_unknown(l, error, at);
	length = length_by_data(l, type, at + HEADER_BYTES);
	if (length == 0 || !ends_well(l, ox_align_up(at + HEADER_BYTES + length, 8)))
		return false;
	set_words(l, error, at, type, length);
	return true;
}

/* Whether the list means something with this header. */
static bool decodes(const struct list *l, const struct ox_qcow2_header *h)
{
	struct ox_qcow2_extensions ext;

	if (ox_qcow2_extensions_decode(h, l->cluster, l->v->cluster_bytes, &ext, NULL) < 0)
		return false;
	ox_qcow2_extensions_free(&ext);
	return true;
}

/* What is reserved is zero, or else the bitmaps are not vouched for any more. */
static bool mend_bitmap_fields(struct list *l, const char *error, uint64_t data)
{
	struct ox_qcow2_header without = l->v->h;
	struct ox_be32 zero = ox_be32(0);
	struct ox_be32 reserved;
	struct ox_be64 autoclear;

	memcpy(&reserved, l->cluster + data + RESERVED_AT, sizeof(reserved));
	memcpy(l->cluster + data + RESERVED_AT, &zero, sizeof(zero));
	if (decodes(l, &l->v->h)) {
		ox_view_patch(l->v, OX_FOUND_EXTENSIONS, OX_FOUND(.word = error),
			      data + RESERVED_AT, &zero, sizeof(zero));
		return true;
	}
	memcpy(l->cluster + data + RESERVED_AT, &reserved, sizeof(reserved));
	without.autoclear &= ~(uint64_t)OX_QCOW2_AUTOCLEAR_BITMAPS;
	if (!decodes(l, &without))
		return false;
	l->v->h.autoclear = without.autoclear;
	autoclear = ox_be64(without.autoclear);
	ox_view_patch(l->v, OX_FOUND_EXTENSIONS, OX_FOUND(.word = error), AUTOCLEAR_AT, &autoclear,
		      sizeof(autoclear));
	return true;
}

static bool mend_bitmaps(struct list *l, const char *error)
{
	uint64_t at = find_type(l, OX_QCOW2_EXT_BITMAPS);

	if (at == 0 || l->end - at < HEADER_BYTES + BITMAPS_BYTES)
		return false;
	if (word_at(l, at + 4) != BITMAPS_BYTES) {
		if (!ends_well(l, at + HEADER_BYTES + BITMAPS_BYTES))
			return false;
		set_words(l, error, at, OX_QCOW2_EXT_BITMAPS, BITMAPS_BYTES);
		return true;
	}
	if (!(l->v->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		return false;
	return mend_bitmap_fields(l, error, at + HEADER_BYTES);
}

static struct list list_of(struct ox_view *v, uint8_t *cluster)
{
	return (struct list){
		.v = v,
		.cluster = cluster,
		.end = v->h.backing_offset ? v->h.backing_offset : v->cluster_bytes,
	};
}

bool ox_view_mend_extensions(struct ox_view *v, uint8_t *cluster, const char *error)
{
	struct list l = list_of(v, cluster);
	unsigned known;
	uint64_t at = follow(&l, v->h.header_length, &known);

	return at != 0 ? mend_at(&l, error, at) : mend_bitmaps(&l, error);
}

uint64_t ox_view_find_extension(struct ox_view *v, uint8_t *cluster, uint32_t type)
{
	struct list l = list_of(v, cluster);
	uint64_t at = find_type(&l, type);

	return at != 0 ? at + HEADER_BYTES : 0;
}

uint64_t ox_view_find_length(struct ox_view *v, uint8_t *cluster, uint32_t bytes, uint64_t from)
{
	struct list l = list_of(v, cluster);
	uint64_t at = v->h.header_length;

	while (at != 0 && at < l.end && l.end - at >= HEADER_BYTES) {
		if (at >= from && !is_known(word_at(&l, at)) && word_at(&l, at + 4) == bytes &&
		    l.end - at >= HEADER_BYTES + bytes)
			return at + HEADER_BYTES;
		if (word_at(&l, at) == OX_QCOW2_EXT_END)
			return 0;
		at = next_of(&l, at);
	}
	return 0;
}

void ox_view_judge_list_end(struct ox_view *v, uint8_t *cluster, uint64_t end_offset)
{
	struct list l = list_of(v, cluster);
	struct ox_be32 length = ox_be32(0);

	/* Other programs refuse an image for that. */
	if (end_offset != 0 && next_of(&l, end_offset) == 0)
		ox_view_patch(v, OX_FOUND_EXTENSIONS,
			      OX_FOUND(.word = "the one that ends the list is too large",
				       .is_apart = true),
			      end_offset + 4, &length, sizeof(length));
}

/* Whether nothing but zeroes follows, up to the end of the cluster. */
static bool is_blank(const struct list *l, uint64_t at)
{
	while (at < l->v->cluster_bytes && l->cluster[at] == 0)
		at++;
	return at == l->v->cluster_bytes;
}

/* A name stands behind the list of extensions. */
bool ox_view_mend_backing(struct ox_view *v, uint8_t *cluster,
			  const struct ox_qcow2_extensions *ext)
{
	struct list l = list_of(v, cluster);
	uint64_t at = ext->end_offset + HEADER_BYTES;
	uint64_t length = ext->end_offset != 0 ? text_length(&l, at) : 0;
	struct {
		struct ox_be64 offset;
		struct ox_be32 size;
	} __attribute__((packed)) name = {ox_be64(at), ox_be32((uint32_t)length)};

	if (ext->end_offset == 0 || length > OX_QCOW2_MAX_BACKING_NAME)
		return false;
	if (length == 0) {
		if (ext->backing_format || !is_blank(&l, at))
			return false;
		name.offset = ox_be64(0);
	} else if (at + length >= l.end || cluster[at + length] != 0 ||
		   (!ext->backing_format && word_at(&l, BACKING_AT + 8) != length)) {
		return false;
	}
	ox_view_patch(v, OX_FOUND_HEADER_BACKING,
		      OX_FOUND(.word = v->faults.text[OX_QCOW2_FAULT_BACKING],
			       .guest_length = v->h.size_bytes),
		      BACKING_AT, &name, sizeof(name));
	return true;
}

/* The lengths that programs write: one with the compression type, and one without. */
bool ox_view_mend_header_length(struct ox_view *v, uint8_t *cluster)
{
	static const uint32_t lengths[] = {112, OX_QCOW2_HEADER_V3_BYTES};
	struct list l = list_of(v, cluster);
	uint32_t found = 0;
	struct ox_be32 length;
	unsigned most = 0;

	for (size_t i = 0; i < OX_ARRAY_SIZE(lengths); i++) {
		unsigned known;

		if (follow(&l, lengths[i], &known) != 0 || (found != 0 && known <= most))
			continue;
		/* Of none that is known, only a list that has none at all says something. */
		if (known == 0 && (word_at(&l, OX_QCOW2_HEADER_V3_BYTES) != OX_QCOW2_EXT_END ||
				   word_at(&l, lengths[i]) != OX_QCOW2_EXT_END))
			continue;
		found = lengths[i];
		most = known;
	}
	if (found == 0)
		return false;
	v->h.header_length = found;
	length = ox_be32(found);
	ox_view_patch(v, OX_FOUND_HEADER_LENGTH,
		      OX_FOUND(.word = v->faults.text[OX_QCOW2_FAULT_LENGTH]), LENGTH_AT, &length,
		      sizeof(length));
	return true;
}
