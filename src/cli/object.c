/* SPDX-License-Identifier: MIT */
/* --object: what scripts define for passwords, certificates and who may connect. Mistakes are told;
 * secrets are kept and of no use yet. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* Those of the command line, for the life of the process. */
struct object {
	struct object *next;
	struct ox_cli_options options;
};

static struct object *objects;

const char *ox_cli_object_value(const struct ox_cli_options *options, const char *key)
{
	for (size_t i = 0; i < options->count; i++) {
		if (strcmp(options->items[i].key, key) == 0)
			return options->items[i].value;
	}
	return NULL;
}

const char *ox_cli_object_type(const struct ox_cli_options *options)
{
	const char *type = ox_cli_object_value(options, "qom-type");

	if (type)
		return type;
	return options->items[0].value ? "" : options->items[0].key;
}

static int check(const struct ox_cli_options *options)
{
	static const char *const types[] = {
		"secret",	   "secret_keyring", "tls-creds-anon",
		"tls-creds-psk",   "tls-creds-x509", "authz-list",
		"authz-list-file", "authz-simple",   "authz-pam",
	};
	const char *type = ox_cli_object_type(options);
	bool known = false;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		known = known || strcmp(type, types[i]) == 0;
	if (!*type)
		ox_cli_error("Parameter 'qom-type' is missing");
	else if (!known)
		ox_cli_error("Parameter 'qom-type' does not accept value '%s'", type);
	else if (!ox_cli_object_value(options, "id"))
		ox_cli_error("Parameter 'id' is missing");
	else if (strcmp(type, "secret") == 0 && !ox_cli_object_value(options, "data") &&
		 !ox_cli_object_value(options, "file"))
		ox_cli_error("Either 'file' or 'data' must be provided");
	else if (ox_cli_authz_is(options))
		return ox_cli_authz_check(options);
	else
		return 0;
	return -EINVAL;
}

const struct ox_cli_options *ox_cli_object_find(const char *id)
{
	for (const struct object *object = objects; object; object = object->next) {
		if (strcmp(ox_cli_object_value(&object->options, "id"), id) == 0)
			return &object->options;
	}
	return NULL;
}

static int keep(struct object *object)
{
	const char *id = ox_cli_object_value(&object->options, "id");

	if (ox_cli_object_find(id)) {
		ox_cli_error("attempt to add duplicate property '%s' to object (type 'container')",
			     id);
		return -EEXIST;
	}
	object->next = objects;
	objects = object;
	return 0;
}

int ox_cli_object_take(const char *text)
{
	struct object *object = calloc(1, sizeof(*object));
	int r = object ? ox_cli_options_parse(&object->options, text) : -ENOMEM;

	if (r < 0)
		ox_cli_error("Invalid option list: %s", text);
	else
		r = check(&object->options);
	if (r == 0)
		r = keep(object);
	if (r < 0 && object)
		ox_cli_options_free(&object->options);
	if (r < 0)
		free(object);
	return r;
}
