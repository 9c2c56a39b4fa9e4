/* SPDX-License-Identifier: MIT */
/*
 * A part of a file, as a block-device description names it. The driver raw has offset= and size=,
 * over a file or below another format:
 *
 *   driver=raw,offset=1M,size=10G,file.filename=disk.raw
 *   driver=qcow2,file.driver=raw,file.offset=1536,file.size=4M,file.file.filename=archive.tar
 *
 * size= is null-co's as well: whose it is shows when all of the description is known.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

int ox_cli_part_option(struct ox_cli_part *part, const char *key, const char *value)
{
	const struct {
		const char *key;
		const char **place;
	} keys[] = {
		{"offset", &part->of_disk.offset},	{"size", &part->of_disk.size},
		{"file.offset", &part->of_file.offset}, {"file.size", &part->of_file.size},
		{"file.file.filename", &part->path},
	};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (strcmp(keys[i].key, key) == 0) {
			*keys[i].place = value;
			return 0;
		}
	}
	return -ENOENT;
}

static int invalid(const char *key)
{
	ox_cli_error("Invalid parameter '%s'", key);
	return -EINVAL;
}

static int take_size(const char *key, const char *value, uint64_t *ret)
{
	if (ox_cli_size_parse(value, ret) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects a size", key);
	return -EINVAL;
}

/* offset_key and size_key name the two in messages. */
static int take_range(struct ox_cli_source *source, const struct ox_cli_range *range,
		      const char *offset_key, const char *size_key)
{
	int r = 0;

	if (range->offset)
		r = take_size(offset_key, range->offset, &source->open.file_offset);
	if (r == 0 && range->size) {
		r = take_size(size_key, range->size, &source->open.file_length);
		if (r == 0 && source->open.file_length == 0) {
			ox_cli_error("Parameter '%s' is 0: there is no such disk", size_key);
			r = -EINVAL;
		}
	}
	return r;
}

/* null-co's size, or nobody's. */
static int leave_size(struct ox_cli_source *source, const char *key, const char *value)
{
	return value ? ox_cli_null_option(&source->null, key, value) : 0;
}

int ox_cli_part_settle(struct ox_cli_source *source)
{
	const struct ox_cli_part *part = &source->part;
	int r;

	if (part->of_disk.offset && (!part->is_raw || part->file_is_raw))
		return invalid("offset");
	if (part->of_file.offset && !part->file_is_raw)
		return invalid("file.offset");
	if (part->path && !part->file_is_raw)
		return invalid("file.file.filename");
	if (part->path)
		source->path = part->path;
	if (part->file_is_raw) {
		r = part->of_disk.size ? invalid("size") : 0;
		return r < 0 ? r : take_range(source, &part->of_file, "file.offset", "file.size");
	}
	r = leave_size(source, "file.size", part->of_file.size);
	if (r == 0 && !part->is_raw)
		r = leave_size(source, "size", part->of_disk.size);
	else if (r == 0)
		r = take_range(source, &part->of_disk, "offset", "size");
	if (r == 0 && part->is_raw && source->open.file_length % 512) {
		ox_cli_error("Specified size is not multiple of 512");
		r = -EINVAL;
	}
	return r;
}

int ox_cli_source_refuse_part(const struct ox_cli_source *source, const char *what)
{
	if (!source->open.file_offset && !source->open.file_length)
		return 0;
	ox_cli_error("Could not open '%s': %s takes a whole file, no part of one", source->text,
		     what);
	return -ENOTSUP;
}
