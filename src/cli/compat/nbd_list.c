/* SPDX-License-Identifier: MIT */
/* qemu-nbd --list: what a server exports, in the words and the order of QEMU's tool. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/compat/nbd.h"

static void print_flags(unsigned flags)
{
	static const char *const names[] = {
		[1] = "readonly", [2] = "flush",  [3] = "fua",	      [4] = "rotational",
		[5] = "trim",	  [6] = "zeroes", [7] = "df",	      [8] = "multi",
		[9] = "resize",	  [10] = "cache", [11] = "fast-zero", [12] = "block-status-payload",
	};

	printf("  flags: 0x%x (", flags);
	for (size_t bit = 0; bit < sizeof(names) / sizeof(names[0]); bit++) {
		if (names[bit] && flags & (1u << bit))
			printf(" %s", names[bit]);
	}
	printf(" )\n");
}

static void print_block(const char *name, uint32_t bytes)
{
	if (bytes)
		printf("  %s block: %" PRIu32 "\n", name, bytes);
}

static void print_name(const char *before, const char *name, const char *after)
{
	fputs(before, stdout);
	ox_cli_print_name(stdout, name, 0);
	puts(after);
}

static void print_export(const struct ox_export_info *one, unsigned length_bits)
{
	print_name(" export: '", one->name, "'");
	if (one->description)
		print_name("  description: ", one->description, "");
	if (!one->is_known)
		return;
	printf("  size:  %" PRIu64 "\n", one->size_bytes);
	print_flags(one->flags);
	print_block("min", one->block_min_bytes);
	print_block("opt", one->block_preferred_bytes);
	print_block("max", one->block_max_bytes);
	if (length_bits)
		printf("  transaction size: %u-bit\n", length_bits);
	if (one->context_count)
		printf("  available meta contexts: %zu\n", one->context_count);
	for (size_t i = 0; i < one->context_count; i++)
		print_name("   ", one->contexts[i], "");
}

static int print_exports(const char *uri)
{
	struct ox_error *err = NULL;
	struct ox_exports *exports;
	int r = ox_exports_read(uri, &exports, &err);

	if (r < 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		return 1;
	}
	printf("exports available: %zu\n", exports->count);
	for (size_t i = 0; i < exports->count; i++)
		print_export(&exports->list[i], exports->length_bits);
	ox_exports_free(exports);
	return 0;
}

static bool has_disk_settings(const struct ox_compat_nbd *nbd)
{
	const struct ox_open_options *open = &nbd->source.open;

	return *nbd->export_name || nbd->description || nbd->offset || nbd->allocation_depth ||
	       nbd->cache || nbd->aio || nbd->discard || open->format ||
	       ox_cli_snapshot_is_set(open);
}

int ox_compat_nbd_list(const struct ox_compat_nbd *nbd, int arguments)
{
	struct ox_cli_nbd server = {
		.host = nbd->host,
		.port = nbd->port,
		.path = nbd->socket,
		.tls_creds = nbd->tls_creds,
		.tls_hostname = nbd->tls_hostname,
	};
	char *uri;
	int status;

	if (arguments > 0)
		ox_cli_error("List mode is incompatible with a file name");
	else if (has_disk_settings(nbd))
		ox_cli_error("List mode is incompatible with per-device settings");
	else if (nbd->fork)
		ox_cli_error("List mode is incompatible with forking");
	else if (nbd->tls_authz && !nbd->tls_creds)
		ox_cli_error("--tls-authz is not permitted without --tls-creds");
	else if (nbd->tls_authz)
		ox_cli_error("TLS authorization is incompatible with export list");
	else {
		if (!server.host && !server.path)
			server.host = "localhost";
		if (ox_cli_nbd_uri(&server, &uri) < 0)
			return 1;
		status = print_exports(uri);
		free(uri);
		return status;
	}
	return 1;
}
