/* SPDX-License-Identifier: MIT */
#include "lib/options.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/error.h"

/* No struct of options gets so long: a size beyond it is no size. */
#define STRUCT_MAX_BYTES 4096

enum kind {
	FLAGS,	/* known: every bit that has a meaning */
	CHOICE, /* known: the last enumerator */
	TRUTH,
};

struct field {
	const char *name;
	size_t offset;
	enum kind kind;
	unsigned known;
};

struct ox_options_type {
	const char *name;
	const char *init; /* the macro that sets it up */
	size_t bytes;
	const struct field *fields;
	size_t field_count;
};

#define FILE_FLAGS (OX_OPEN_FORCE_SHARE | OX_OPEN_LOCKS_HELD | OX_OPEN_URI)

#define OPEN_FLAGS                                                                                 \
	(OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE | OX_OPEN_NO_BACKING | OX_OPEN_NO_DISCARD |       \
	 OX_OPEN_PROBE | OX_OPEN_LOCKS_HELD | OX_OPEN_URI)

static const struct field open_fields[] = {
	{"flags", offsetof(struct ox_open_options, flags), FLAGS, OPEN_FLAGS},
	{"cache", offsetof(struct ox_open_options, cache), CHOICE, OX_CACHE_UNSAFE},
	{"backing_policy", offsetof(struct ox_open_options, backing_policy), CHOICE,
	 OX_BACKING_UNDER},
	{"recover", offsetof(struct ox_open_options, recover), CHOICE, OX_RECOVER_NEVER},
};

static const struct field create_fields[] = {
	{"lazy_refcounts", offsetof(struct ox_create_options, lazy_refcounts), TRUTH, 0},
	{"preallocation", offsetof(struct ox_create_options, preallocation), CHOICE,
	 OX_PREALLOC_FULL},
	{"flags", offsetof(struct ox_create_options, flags), FLAGS, OX_OPEN_URI},
};

static const struct field check_fields[] = {
	{"flags", offsetof(struct ox_check_options, flags), FLAGS, FILE_FLAGS},
	{"cache", offsetof(struct ox_check_options, cache), CHOICE, OX_CACHE_UNSAFE},
	{"repair", offsetof(struct ox_check_options, repair), CHOICE, OX_REPAIR_ALL},
	{"dry_run", offsetof(struct ox_check_options, dry_run), TRUTH, 0},
	{"verify_data", offsetof(struct ox_check_options, verify_data), TRUTH, 0},
	{"salvage", offsetof(struct ox_check_options, salvage), TRUTH, 0},
	{"free_lost_tables", offsetof(struct ox_check_options, free_lost_tables), TRUTH, 0},
};

static const struct field build_fields[] = {
	{"flags", offsetof(struct ox_build_options, flags), FLAGS,
	 OX_BUILD_EXISTING | OX_BUILD_RESUME | OX_BUILD_UNSAFE},
};

static const struct field checksum_fields[] = {
	{"algorithm", offsetof(struct ox_checksum_options, algorithm), CHOICE, OX_CHECKSUM_SHA256},
};

static const struct field compare_fields[] = {
	{"flags", offsetof(struct ox_compare_options, flags), FLAGS, OX_COMPARE_STRICT},
};

#define COPY_FLAGS                                                                                 \
	(OX_COPY_TARGET_IS_NEW | OX_COPY_TARGET_IS_ZERO | OX_COPY_ALLOCATE | OX_COPY_ANY_ORDER |   \
	 OX_COPY_ONE_BY_ONE | OX_COPY_TOP_ONLY | OX_COPY_COMPRESS | OX_COPY_COUNT |                \
	 OX_COPY_KEEP_PAGES)

static const struct field copy_fields[] = {
	{"flags", offsetof(struct ox_copy_options, flags), FLAGS, COPY_FLAGS},
};

static const struct field undo_fields[] = {
	{"force", offsetof(struct ox_undo_options, force), TRUTH, 0},
	{"flags", offsetof(struct ox_undo_options, flags), FLAGS, OX_OPEN_URI},
};

static const struct field layout_fields[] = {
	{"flags", offsetof(struct ox_layout_options, flags), FLAGS, FILE_FLAGS},
};

static const struct field resize_fields[] = {
	{"preallocation", offsetof(struct ox_resize_options, preallocation), CHOICE,
	 OX_PREALLOC_FULL},
};

static const struct field commit_fields[] = {
	{"keep", offsetof(struct ox_commit_options, keep), TRUTH, 0},
	{"dry_run", offsetof(struct ox_commit_options, dry_run), TRUTH, 0},
};

static const struct field rebase_fields[] = {
	{"unsafe", offsetof(struct ox_rebase_options, unsafe), TRUTH, 0},
	{"dry_run", offsetof(struct ox_rebase_options, dry_run), TRUTH, 0},
	{"compress", offsetof(struct ox_rebase_options, compress), TRUTH, 0},
	{"share", offsetof(struct ox_rebase_options, share), TRUTH, 0},
	{"cache", offsetof(struct ox_rebase_options, cache), CHOICE, OX_CACHE_UNSAFE},
};

#define TYPE(type, init, fields)                                                                   \
	{                                                                                          \
		"struct " #type, #init, sizeof(struct type), fields, OX_ARRAY_SIZE(fields)         \
	}

const struct ox_options_type ox_open_options_type =
	TYPE(ox_open_options, OX_OPEN_OPTIONS_INIT, open_fields);
const struct ox_options_type ox_create_options_type =
	TYPE(ox_create_options, OX_CREATE_OPTIONS_INIT, create_fields);
const struct ox_options_type ox_check_options_type =
	TYPE(ox_check_options, OX_CHECK_OPTIONS_INIT, check_fields);
const struct ox_options_type ox_build_options_type =
	TYPE(ox_build_options, OX_BUILD_OPTIONS_INIT, build_fields);
const struct ox_options_type ox_checksum_options_type =
	TYPE(ox_checksum_options, OX_CHECKSUM_OPTIONS_INIT, checksum_fields);
const struct ox_options_type ox_compare_options_type =
	TYPE(ox_compare_options, OX_COMPARE_OPTIONS_INIT, compare_fields);
const struct ox_options_type ox_copy_options_type =
	TYPE(ox_copy_options, OX_COPY_OPTIONS_INIT, copy_fields);
const struct ox_options_type ox_undo_options_type =
	TYPE(ox_undo_options, OX_UNDO_OPTIONS_INIT, undo_fields);
const struct ox_options_type ox_layout_options_type =
	TYPE(ox_layout_options, OX_LAYOUT_OPTIONS_INIT, layout_fields);

const struct ox_options_type ox_resize_options_type =
	TYPE(ox_resize_options, OX_RESIZE_OPTIONS_INIT, resize_fields);
const struct ox_options_type ox_commit_options_type =
	TYPE(ox_commit_options, OX_COMMIT_OPTIONS_INIT, commit_fields);
const struct ox_options_type ox_rebase_options_type =
	TYPE(ox_rebase_options, OX_REBASE_OPTIONS_INIT, rebase_fields);

/* Whether what a longer struct has behind ours is all zero: a newer program that asks for nothing
 * new. */
static bool is_zero_behind(const char *given, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (given[i] != 0)
			return false;
	return true;
}

static int check_size(const struct ox_options_type *type, const void *given, size_t bytes,
		      struct ox_error **err)
{
	if (bytes < sizeof(size_t))
		return ox_error_set(err, -EINVAL, "The struct_size of %s is %zu: set it up with %s",
				    type->name, bytes, type->init);
	if (bytes > STRUCT_MAX_BYTES)
		return ox_error_set(err, -E2BIG,
				    "The struct_size of %s is %zu, which no version has",
				    type->name, bytes);
	if (!is_zero_behind(given, type->bytes, bytes))
		return ox_error_set(err, -E2BIG,
				    "%s has fields that this version of the library (%s) does not "
				    "know, and they are not zero",
				    type->name, ox_version());
	return 0;
}

static int check_field(const struct ox_options_type *type, const struct field *field,
		       const char *options, struct ox_error **err)
{
	unsigned char truth;
	unsigned value;

	if (field->kind == TRUTH) {
		memcpy(&truth, options + field->offset, sizeof(truth));
		if (truth > 1)
			return ox_error_set(err, -EINVAL, "%s of %s is neither true nor false",
					    field->name, type->name);
		return 0;
	}
	memcpy(&value, options + field->offset, sizeof(value));
	if (field->kind == FLAGS && (value & ~field->known))
		return ox_error_set(err, -EINVAL, "%s of %s has unknown bits: 0x%x", field->name,
				    type->name, value & ~field->known);
	if (field->kind == CHOICE && value > field->known)
		return ox_error_set(err, -EINVAL, "%s of %s is %d, which has no meaning",
				    field->name, type->name, (int)value);
	return 0;
}

int ox_options_take(const struct ox_options_type *type, const void *given, void *ret,
		    struct ox_error **err)
{
	size_t bytes;
	int r;

	memset(ret, 0, type->bytes);
	if (!given)
		return 0;
	memcpy(&bytes, given, sizeof(bytes)); /* each struct begins with struct_size */
	r = check_size(type, given, bytes, err);
	if (r < 0)
		return r;
	memcpy(ret, given, ox_min_u64(type->bytes, bytes));
	for (size_t i = 0; i < type->field_count && r == 0; i++)
		r = check_field(type, &type->fields[i], ret, err);
	return r;
}
