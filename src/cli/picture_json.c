/* SPDX-License-Identifier: MIT */
/* The data of the picture, for programs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/picture.h"

static void set_integer(json_t *object, const char *key, uint64_t value)
{
	ox_cli_json_set(object, key, json_integer((json_int_t)value));
}

static void append(json_t *array, json_t *value)
{
	if (json_array_append_new(array, value) == 0)
		return;
	ox_cli_error("%s", strerror(ENOMEM));
	exit(1);
}

/* Kinds that take no space are left out. */
static json_t *kinds_of(const uint64_t bytes[OX_LAYOUT_KINDS])
{
	json_t *object = json_object();

	for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++) {
		const struct ox_cli_kind *row = ox_cli_kind_at(k);

		if (bytes[row->kind])
			set_integer(object, row->key, bytes[row->kind]);
	}
	return object;
}

static json_t *bins_of(const struct ox_image_layout *layout)
{
	json_t *bins = json_array();

	for (size_t i = 0; i < layout->bin_count; i++) {
		json_t *object = json_object();

		set_integer(object, "offset", i * layout->bin_bytes);
		ox_cli_json_set(object, "bytes", kinds_of(layout->bins[i].bytes));
		if (layout->bins[i].findings)
			set_integer(object, "findings", layout->bins[i].findings);
		append(bins, object);
	}
	return bins;
}

static json_t *guest_bins_of(const struct ox_image_layout *layout)
{
	json_t *bins = json_array();

	for (size_t i = 0; i < layout->guest_bin_count; i++) {
		const struct ox_layout_guest_bin *bin = &layout->guest_bins[i];
		json_t *object = json_object();

		set_integer(object, "offset", i * layout->guest_bin_bytes);
		set_integer(object, "data", bin->data_bytes);
		set_integer(object, "compressed", bin->compressed_bytes);
		set_integer(object, "zero", bin->zero_bytes);
		set_integer(object, "pieces", bin->pieces);
		if (bin->host_offset != UINT64_MAX)
			set_integer(object, "host-offset", bin->host_offset);
		if (bin->bad_entries)
			set_integer(object, "bad-entries", bin->bad_entries);
		append(bins, object);
	}
	return bins;
}

void ox_cli_picture_json(const struct ox_cli_picture *picture)
{
	const struct ox_image_layout *layout = picture->layout;
	json_t *object = json_object();

	ox_cli_json_set(object, "filename", ox_cli_json_string(picture->name));
	set_integer(object, "file-length", layout->file_bytes);
	set_integer(object, "virtual-size", layout->virtual_bytes);
	set_integer(object, "cluster-size", layout->cluster_bytes);
	ox_cli_json_set(object, "dirty", json_boolean(layout->dirty));
	ox_cli_json_set(object, "corrupt", json_boolean(layout->corrupt));
	set_integer(object, "corruptions", layout->corruptions);
	set_integer(object, "leaks", layout->leaks);
	set_integer(object, "check-errors", layout->check_errors);
	set_integer(object, "uncounted-clusters", layout->uncounted);
	set_integer(object, "data", layout->data_bytes);
	set_integer(object, "pieces", layout->pieces);
	ox_cli_json_set(object, "bytes", kinds_of(layout->bytes));
	set_integer(object, "bin-length", layout->bin_bytes);
	ox_cli_json_set(object, "bins", bins_of(layout));
	set_integer(object, "guest-bin-length", layout->guest_bin_bytes);
	ox_cli_json_set(object, "guest-bins", guest_bins_of(layout));
	ox_cli_json_print(object);
}
