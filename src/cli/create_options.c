/* SPDX-License-Identifier: MIT */
/* The tables behind -o of `oxbow create`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/create_options.h"

enum option_type {
	TYPE_STRING,
	TYPE_SIZE,
	TYPE_NUMBER,
	TYPE_BOOL,
	TYPE_REFUSED, /* a feature that is not there: any value but off or "" */
};

struct ox_cli_create_option {
	const char *name;
	enum option_type type;
	const char *by_default; /* printed when nothing is given; NULL: left out */
	const char *text;	/* for the help; for TYPE_REFUSED: the feature's name */
};

/* In the order of qemu-img's "Formatting" line. */
static const struct ox_cli_create_option qcow2_options[] = {
	{"encryption", TYPE_REFUSED, NULL, "encryption"},
	{"encrypt.format", TYPE_REFUSED, NULL, "encryption"},
	{"encrypt.key-secret", TYPE_REFUSED, NULL, "encryption"},
	{"cluster_size", TYPE_SIZE, "65536", "bytes of a cluster, a power of two, 512 to 2M"},
	{"extended_l2", TYPE_REFUSED, "off", "extended L2 entries"},
	{"preallocation", TYPE_STRING, NULL, "off, metadata, falloc or full"},
	{"compression_type", TYPE_STRING, "zlib", "zlib or zstd"},
	{"size", TYPE_SIZE, NULL, "bytes of the virtual disk"},
	{"compat", TYPE_STRING, NULL, "format version: 0.10 (v2) or 1.1 (v3, the default)"},
	{"backing_file", TYPE_STRING, NULL, "file that holds what is not written yet (-b)"},
	{"backing_fmt", TYPE_STRING, NULL, "format of the backing file (-F)"},
	{"data_file", TYPE_REFUSED, NULL, "an external data file"},
	{"data_file_raw", TYPE_REFUSED, NULL, "an external data file"},
	{"lazy_refcounts", TYPE_BOOL, "off", "write reference counts when convenient"},
	{"refcount_bits", TYPE_NUMBER, "16", "width of a reference count: 1, 2, 4 ... 64"},
	{"nocow", TYPE_BOOL, NULL, "accepted and ignored"},
	{"extent_size_hint", TYPE_SIZE, NULL, "accepted and ignored"},
};

static const struct ox_cli_create_option qed_options[] = {
	{"size", TYPE_SIZE, NULL, "bytes of the virtual disk"},
	{"backing_file", TYPE_STRING, NULL, "file that holds what is not written yet (-b)"},
	{"backing_fmt", TYPE_STRING, NULL, "format of the backing file (-F)"},
	{"cluster_size", TYPE_SIZE, "65536", "bytes of a cluster, a power of two, 4k to 64M"},
	{"table_size", TYPE_SIZE, NULL, "clusters of an L1 or L2 table: 1, 2, 4, 8 or 16"},
	{"nocow", TYPE_BOOL, NULL, "accepted and ignored"},
	{"extent_size_hint", TYPE_SIZE, NULL, "accepted and ignored"},
};

static const struct ox_cli_create_option raw_options[] = {
	{"size", TYPE_SIZE, NULL, "bytes of the virtual disk"},
	{"nocow", TYPE_BOOL, NULL, "accepted and ignored"},
	{"extent_size_hint", TYPE_SIZE, NULL, "accepted and ignored"},
	{"preallocation", TYPE_STRING, NULL, "off, falloc or full"},
};

const char *ox_cli_create_values_init(struct ox_cli_create_values *values, const char *format)
{
	*values = (struct ox_cli_create_values){0};
	if (strcmp(format, "qcow2") == 0) {
		values->options = qcow2_options;
		values->count = sizeof(qcow2_options) / sizeof(qcow2_options[0]);
	} else if (strcmp(format, "qed") == 0) {
		values->options = qed_options;
		values->count = sizeof(qed_options) / sizeof(qed_options[0]);
	} else if (strcmp(format, "raw") == 0) {
		values->options = raw_options;
		values->count = sizeof(raw_options) / sizeof(raw_options[0]);
	} else {
		return "Unknown file format";
	}
	return NULL;
}

void ox_cli_create_print_help(const struct ox_cli_create_values *values, const char *format)
{
	static const char *const types[] = {
		[TYPE_STRING] = "<str>",
		[TYPE_SIZE] = "<size>",
		[TYPE_NUMBER] = "<num>",
		[TYPE_BOOL] = "<bool (on/off)>",
	};

	printf("Supported %s options:\n", format);
	for (size_t i = 0; i < values->count; i++) {
		const struct ox_cli_create_option *option = &values->options[i];
		char left[64];

		if (option->type == TYPE_REFUSED)
			continue;
		snprintf(left, sizeof(left), "%s=%s", option->name, types[option->type]);
		printf("  %-22s - %s\n", left, option->text);
	}
}

static ssize_t find(const struct ox_cli_create_values *values, const char *key, size_t length)
{
	for (size_t i = 0; i < values->count; i++) {
		const char *name = values->options[i].name;

		if (strlen(name) == length && memcmp(name, key, length) == 0)
			return (ssize_t)i;
	}
	return -1;
}

static int check_type(const struct ox_cli_create_option *option, const char *file,
		      const char *value)
{
	const char *digits;
	uint64_t bytes;
	bool on;

	switch (option->type) {
	case TYPE_SIZE:
		if (ox_cli_size_parse(value, &bytes) == 0)
			return 0;
		if (ox_cli_size_is_negative(value)) {
			ox_cli_error("%s: Value '%s' is out of range for parameter '%s'", file,
				     value, option->name);
			return -EINVAL;
		}
		ox_cli_error("%s: Parameter '%s' expects a non-negative number below 2^64\n"
			     "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
			     "peta-\nand exabytes, respectively.",
			     file, option->name);
		return -EINVAL;
	case TYPE_NUMBER:
		/* A negative one is a number, and too large. */
		digits = value + (*value == '-');
		if (*digits && strspn(digits, "0123456789") == strlen(digits) &&
		    strlen(digits) < 10)
			return 0;
		ox_cli_error("%s: Parameter '%s' expects a number", file, option->name);
		return -EINVAL;
	case TYPE_BOOL:
		if (ox_cli_bool_parse(value, &on) == 0)
			return 0;
		ox_cli_error("%s: Parameter '%s' expects 'on' or 'off'", file, option->name);
		return -EINVAL;
	case TYPE_REFUSED:
		if (!*value || (ox_cli_bool_parse(value, &on) == 0 && !on))
			return 0;
		ox_cli_error("%s: Option '%s': creating images with %s is not supported", file,
			     option->name, option->text);
		return -EINVAL;
	default:
		return 0;
	}
}

int ox_cli_create_set(struct ox_cli_create_values *values, const char *file, const char *key,
		      const char *value)
{
	ssize_t i;

	if (strcmp(key, "version") == 0)
		key = "compat";
	i = find(values, key, strlen(key));
	/* "nolazy_refcounts" is how the field also says "lazy_refcounts=off". */
	if (i < 0 && !value && key[0] == 'n' && key[1] == 'o') {
		i = find(values, key + 2, strlen(key + 2));
		value = "off";
	}
	if (i < 0 && strncmp(key, "encrypt.", 8) == 0)
		i = find(values, "encryption", strlen("encryption"));
	if (i < 0) {
		ox_cli_error("%s: Invalid parameter '%s'", file, key);
		return -EINVAL;
	}
	if (!value)
		value = "on";
	values->given[i] = value;
	return check_type(&values->options[i], file, value);
}

int ox_cli_create_replace(struct ox_cli_create_values *values, const char *key, const char *value)
{
	ssize_t i = find(values, key, strlen(key));

	if (i < 0)
		return -ENOENT;
	values->given[i] = value;
	return 0;
}

const char *ox_cli_create_get(const struct ox_cli_create_values *values, const char *key)
{
	ssize_t i = find(values, key, strlen(key));

	return i < 0 ? NULL : values->given[i];
}

static void print_escaped(const char *value)
{
	for (; *value; value++) {
		if (*value == ',')
			putchar(',');
		putchar(*value);
	}
}

void ox_cli_create_print(const struct ox_cli_create_values *values, uint64_t size_bytes)
{
	const char *separator = "";

	for (size_t i = 0; i < values->count; i++) {
		const struct ox_cli_create_option *option = &values->options[i];
		const char *value = values->given[i] ? values->given[i] : option->by_default;
		uint64_t bytes = size_bytes;

		if (!value && strcmp(option->name, "size") != 0)
			continue;
		printf("%s%s=", separator, option->name);
		separator = " ";
		if (option->type != TYPE_SIZE)
			print_escaped(value);
		else if (strcmp(option->name, "size") == 0 || ox_cli_size_parse(value, &bytes) == 0)
			printf("%llu", (unsigned long long)bytes);
	}
}

/* The index of the word that is given, 0 if none is, -EINVAL and a message for another one. */
static int choose(const struct ox_cli_create_values *values, const char *file, const char *key,
		  const char *const *words, int count)
{
	const char *given = ox_cli_create_get(values, key);

	if (!given)
		return 0;
	for (int i = 0; i < count; i++) {
		if (strcmp(given, words[i]) == 0)
			return i;
	}
	ox_cli_error("%s: Parameter '%s' does not accept value '%s'", file,
		     strcmp(key, "compat") == 0 ? "version" : key, given);
	return -EINVAL;
}

/* A size that is not 0, which is how the library is told nothing, and fits. */
static int take_size32(const struct ox_cli_create_values *values, const char *file, const char *key,
		       const char *refusal, uint32_t *ret)
{
	const char *given = ox_cli_create_get(values, key);
	uint64_t bytes;

	if (!given)
		return 0;
	if (ox_cli_size_parse(given, &bytes) < 0 || bytes == 0 || bytes > UINT32_MAX) {
		ox_cli_error("%s: %s", file, refusal);
		return -EINVAL;
	}
	*ret = (uint32_t)bytes;
	return 0;
}

static int take_sizes(const struct ox_cli_create_values *values, const char *file,
		      struct ox_create_options *ret_create)
{
	bool is_qed = values->options == qed_options;
	int r = take_size32(values, file, "cluster_size",
			    is_qed ? "QED cluster size must be within range [4096, 67108864] and "
				     "power of 2"
				   : "Cluster size must be a power of two between 512 and 2048k",
			    &ret_create->cluster_bytes);

	return r < 0 ? r
		     : take_size32(values, file, "table_size",
				   "QED table size must be within range [1, 16] and power of 2",
				   &ret_create->table_clusters);
}

int ox_cli_create_apply(const struct ox_cli_create_values *values, const char *file,
			struct ox_create_options *ret_create)
{
	static const char *const versions[] = {"1.1", "v3", "3", "0.10", "v2", "2"};
	static const char *const preallocations[] = {
		[OX_PREALLOC_OFF] = "off",
		[OX_PREALLOC_METADATA] = "metadata",
		[OX_PREALLOC_FALLOC] = "falloc",
		[OX_PREALLOC_FULL] = "full",
	};
	const char *bits = ox_cli_create_get(values, "refcount_bits");
	const char *lazy = ox_cli_create_get(values, "lazy_refcounts");
	int version = choose(values, file, "compat", versions, 6);
	int preallocation =
		version < 0 ? version : choose(values, file, "preallocation", preallocations, 4);
	int r;

	if (preallocation < 0)
		return preallocation;
	r = take_sizes(values, file, ret_create);
	if (r < 0)
		return r;
	if (bits && strtoul(bits, NULL, 10) == 0) {
		ox_cli_error("%s: Refcount width must be a power of two and may not exceed 64 bits",
			     file);
		return -EINVAL;
	}
	ret_create->version = version < 3 ? 3 : 2;
	ret_create->preallocation = (enum ox_preallocation)preallocation;
	ret_create->refcount_bits = bits ? (unsigned)strtoul(bits, NULL, 10) : 0;
	if (lazy && ox_cli_bool_parse(lazy, &ret_create->lazy_refcounts) < 0)
		return -EINVAL;
	ret_create->compression_type = ox_cli_create_get(values, "compression_type");
	return 0;
}
