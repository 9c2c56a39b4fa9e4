/* SPDX-License-Identifier: MIT */
/*
 * Words of a command line: an image as --image-opts, json: and URIs name it, lists of -o, sizes.
 * The first byte says which of them the rest is. What is taken is whole, and what is refused is
 * told.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/create_options.h"
#include "io/nbd/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned messages;

/* ---- what the parsers ask of the rest of the command ---- */

void ox_cli_error(const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	ox_assert(vsnprintf(text, sizeof(text), format, args) >= 0);
	va_end(args);
	messages++;
}

void ox_cli_warn(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
}

void ox_cli_progress_begin(struct ox_cli_progress *progress, bool shown, FILE *stream)
{
	(void)progress;
	(void)shown;
	(void)stream;
}

void ox_cli_progress_report(void *opaque, uint64_t done, uint64_t total)
{
	(void)opaque;
	(void)done;
	(void)total;
}

void ox_cli_progress_end(struct ox_cli_progress *progress, bool ok)
{
	(void)progress;
	(void)ok;
}

bool ox_cli_snapshot_is_set(const struct ox_open_options *open)
{
	return open->snapshot || open->snapshot_id || open->snapshot_name;
}

/* ---- the words ---- */

static void check_uri(const char *uri)
{
	struct ox_nbd_address address;
	struct ox_error *err = NULL;

	if (ox_nbd_address_parse(uri, &address, &err) < 0) {
		ox_assert(*ox_error_message(err));
		ox_error_free(err);
		return;
	}
	ox_assert(!err && address.export_name &&
		  (address.socket || (address.host && address.port)));
	ox_assert(address.connections > 0 && address.connections <= OX_NBD_LINKS_MAX);
	ox_nbd_address_free(&address);
}

static void take_source(const char *text, bool image_opts)
{
	struct ox_cli_source source = OX_CLI_SOURCE_INIT;

	source.image_opts = image_opts;
	if (ox_cli_source_set(&source, text) < 0) {
		ox_assert(messages > 0);
	} else {
		ox_assert(messages == 0 && source.path && *source.path);
		if (source.open.flags & OX_OPEN_URI)
			check_uri(source.path);
	}
	ox_cli_source_free(&source);
}

static int set_all(struct ox_cli_create_values *values, const struct ox_cli_options *options)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < options->count; i++)
		r = ox_cli_create_set(values, "disk", options->items[i].key,
				      options->items[i].value);
	return r;
}

static void take_create(const char *text, const char *format)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_cli_create_values values;
	struct ox_cli_options options = {0};

	ox_assert(!ox_cli_create_values_init(&values, format));
	if (ox_cli_options_parse(&options, text) == 0 &&
	    (set_all(&values, &options) < 0 || ox_cli_create_apply(&values, "disk", &create) < 0))
		ox_assert(messages > 0);
	ox_cli_options_free(&options);
}

static void take_size(const char *text)
{
	char shown[OX_CLI_SIZE_MAX];
	uint64_t bytes = UINT64_MAX;

	if (ox_cli_size_parse(text, &bytes) < 0)
		ox_assert(bytes == UINT64_MAX);
	else
		ox_assert(bytes <= INT64_MAX && *ox_cli_size_text(bytes, shown));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (size == 0)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	ox_assert(text);
	messages = 0;
	switch (data[0]) {
	case 'i':
		take_source(text, true);
		break;
	case 'n':
		take_source(text, false);
		break;
	case 'q':
		take_create(text, "qcow2");
		break;
	case 'e':
		take_create(text, "qed");
		break;
	case 'r':
		take_create(text, "raw");
		break;
	case 's':
		take_size(text);
		break;
	}
	free(text);
	return 0;
}
