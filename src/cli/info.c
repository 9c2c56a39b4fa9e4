/* SPDX-License-Identifier: MIT */
/* oxbow info */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

/* As many as the library follows when it opens an image. */
#define CHAIN_MAX 1000
#define NS_PER_SECOND 1000000000ull

static const char help[] =
	"usage: oxbow info [-f FMT] [--output=human|json] [--backing-chain] [--limits]\n"
	"                  [-U] [--image-opts] FILE\n"
	"Say what an image is.\n"
	"\n"
	"  -f, --format FMT    format of the image; without it, the file tells it\n"
	"  --output=human|json text (the default) or JSON\n"
	"  -b, --backing-chain say the same of its backing file, and so on to the last\n"
	"  --limits            also say how requests are best laid out\n"
	"  -U, --force-share   also while another process has the image open for writing\n"
	"  --image-opts        FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help          print this text\n";

enum {
	OPTION_OUTPUT = 256,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
	OPTION_LIMITS,
};

struct layer {
	struct ox_image_info *info;
	dev_t device;
	ino_t inode;
};

struct chain {
	bool whole;	      /* --backing-chain */
	bool limits;	      /* --limits */
	struct layer *layers; /* CHAIN_MAX of them */
	size_t count;
};

static json_t *snapshots_json(const struct ox_image_info *info)
{
	json_t *array = json_array();

	for (size_t i = 0; i < info->snapshot_count; i++) {
		const struct ox_snapshot_info *snapshot = &info->snapshots[i];
		uint64_t clock = snapshot->vm_clock_ns;
		json_t *object = json_object();

		if (snapshot->icount != UINT64_MAX)
			ox_cli_json_set(object, "icount",
					json_integer((json_int_t)snapshot->icount));
		ox_cli_json_set(object, "vm-clock-nsec",
				json_integer((json_int_t)(clock % NS_PER_SECOND)));
		ox_cli_json_set(object, "name", ox_cli_json_string(snapshot->name));
		ox_cli_json_set(object, "date-sec", json_integer(snapshot->date_seconds));
		ox_cli_json_set(object, "date-nsec", json_integer(snapshot->date_nanoseconds));
		ox_cli_json_set(object, "vm-clock-sec",
				json_integer((json_int_t)(clock / NS_PER_SECOND)));
		ox_cli_json_set(object, "id", ox_cli_json_string(snapshot->id));
		ox_cli_json_set(object, "vm-state-size",
				json_integer((json_int_t)snapshot->vm_state_bytes));
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *bitmaps_json(const struct ox_image_info *info)
{
	json_t *array = json_array();

	for (size_t i = 0; i < info->bitmap_count; i++) {
		const struct ox_bitmap_info *bitmap = &info->bitmaps[i];
		json_t *object = json_object(), *flags = json_array();

		if (bitmap->in_use)
			json_array_append_new(flags, json_string("in-use"));
		if (bitmap->automatic)
			json_array_append_new(flags, json_string("auto"));
		ox_cli_json_set(object, "flags", flags);
		ox_cli_json_set(object, "name", ox_cli_json_string(bitmap->name));
		ox_cli_json_set(object, "granularity", json_integer(bitmap->granularity_bytes));
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *specific_json(const struct ox_image_info *info)
{
	json_t *data = json_object(), *object = json_object();
	bool v3 = info->version >= 3;

	ox_cli_json_set(object, "type", json_string(info->format));
	ox_cli_json_set(data, "compat", json_string(v3 ? "1.1" : "0.10"));
	ox_cli_json_set(
		data, "compression-type",
		ox_cli_json_string(info->compression_type ? info->compression_type : "zlib"));
	if (v3)
		ox_cli_json_set(data, "lazy-refcounts", json_boolean(info->lazy_refcounts));
	if (info->bitmap_count)
		ox_cli_json_set(data, "bitmaps", bitmaps_json(info));
	ox_cli_json_set(data, "refcount-bits", json_integer(info->refcount_bits));
	if (info->encryption) {
		json_t *encrypt = json_object();

		ox_cli_json_set(encrypt, "format", json_string(info->encryption));
		ox_cli_json_set(data, "encrypt", encrypt);
	}
	if (info->data_file) {
		ox_cli_json_set(data, "data-file", ox_cli_json_string(info->data_file));
		ox_cli_json_set(data, "data-file-raw", json_boolean(info->data_file_raw));
	}
	if (v3) {
		ox_cli_json_set(data, "corrupt", json_boolean(info->corrupt));
		ox_cli_json_set(data, "extended-l2", json_boolean(info->extended_l2));
	}
	ox_cli_json_set(object, "data", data);
	return object;
}

static json_t *limits_json(const struct ox_image_info *info)
{
	struct ox_cli_block_limit limits[OX_CLI_BLOCK_LIMITS];
	json_t *object = json_object();
	size_t count = ox_cli_info_limits(info, limits);

	for (size_t i = 0; i < count; i++)
		ox_cli_json_set(object, limits[i].name, json_integer(limits[i].value));
	return object;
}

/* The order of the keys is the one that qemu-img's users see. */
static json_t *info_json(const struct ox_image_info *info, bool limits)
{
	json_t *object = json_object();

	if (info->backing_file && info->backing_format)
		ox_cli_json_set(object, "backing-filename-format",
				ox_cli_json_string(info->backing_format));
	if (info->snapshot_count)
		ox_cli_json_set(object, "snapshots", snapshots_json(info));
	if (info->virtual_bytes != UINT64_MAX)
		ox_cli_json_set(object, "virtual-size",
				json_integer((json_int_t)info->virtual_bytes));
	ox_cli_json_set(object, "filename", ox_cli_json_string(info->filename));
	if (info->cluster_bytes)
		ox_cli_json_set(object, "cluster-size", json_integer(info->cluster_bytes));
	ox_cli_json_set(object, "format", json_string(info->format));
	if (info->actual_bytes != UINT64_MAX)
		ox_cli_json_set(object, "actual-size",
				json_integer((json_int_t)info->actual_bytes));
	if (limits)
		ox_cli_json_set(object, "limits", limits_json(info));
	if (strcmp(info->format, "qcow2") == 0)
		ox_cli_json_set(object, "format-specific", specific_json(info));
	if (info->backing_file) {
		ox_cli_json_set(object, "full-backing-filename",
				ox_cli_json_string(info->backing_path ? info->backing_path
								      : info->backing_file));
		ox_cli_json_set(object, "backing-filename", ox_cli_json_string(info->backing_file));
	}
	if (info->encryption)
		ox_cli_json_set(object, "encrypted", json_true());
	ox_cli_json_set(object, "dirty-flag", json_boolean(info->dirty));
	if (info->is_only_recognised)
		ox_cli_json_set(object, "supported", json_false());
	return object;
}

/* oxbow shows what it can of an image with features that nobody here knows, and qemu-img does not:
 * scripts go by its exit status. Features that are known, and not there, are shown by both. */
static int refuse_unknown_features(struct ox_context *ctx, const char *path, const char *text,
				   const struct ox_image_info *info)
{
	static const char unsupported[] = "Unsupported qcow2 feature(s)";
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *err = NULL;
	struct ox_image *image;
	int r;

	if (strcmp(info->format, "qcow2") != 0 || info->extended_l2 || info->data_file ||
	    info->encryption)
		return 0;
	opts.format = info->format;
	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE | OX_OPEN_NO_BACKING;
	r = ox_image_open(ctx, path, &opts, &image, &err);
	if (r == 0)
		return ox_image_close(image, NULL);
	if (strncmp(ox_error_message(err), unsupported, strlen(unsupported)) == 0)
		ox_cli_error("Could not open '%s': %s", text, ox_error_message(err));
	else
		r = 0;
	ox_error_free(err);
	return r;
}

static int read_layer(struct ox_context *ctx, struct chain *chain, const char *path,
		      const char *text, const struct ox_open_options *opts)
{
	struct layer *layer = &chain->layers[chain->count];
	struct ox_error *err = NULL;
	struct stat st;
	int r;

	r = ox_image_info_read(ctx, path, opts, &layer->info, &err);
	if (r < 0) {
		ox_cli_error("Could not open '%s': %s", text,
			     err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		return r;
	}
	chain->count++;
	if (ox_called_by_old_name()) {
		r = refuse_unknown_features(ctx, path, text, layer->info);
		if (r < 0)
			return r;
	}
	if (stat(path, &st) < 0)
		return 0;
	layer->device = st.st_dev;
	layer->inode = st.st_ino;
	for (size_t i = 0; i + 1 < chain->count; i++) {
		if (chain->layers[i].device == st.st_dev && chain->layers[i].inode == st.st_ino) {
			ox_cli_error("Backing file '%s' creates an infinite loop.", text);
			return -ELOOP;
		}
	}
	return 0;
}

/* Every layer below the first, by the names that the images bear. */
static int read_backing(struct ox_context *ctx, struct chain *chain, unsigned flags)
{
	for (;;) {
		const struct ox_image_info *info = chain->layers[chain->count - 1].info;
		struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
		const char *path = info->backing_path ? info->backing_path : info->backing_file;
		int r;

		if (!path)
			return 0;
		if (chain->count == CHAIN_MAX) {
			ox_cli_error("Backing file '%s': the chain is longer than %d files", path,
				     CHAIN_MAX);
			return -ELOOP;
		}
		opts.format = info->backing_format;
		opts.flags = flags & ~(unsigned)(OX_OPEN_PROBE | OX_OPEN_URI);
		if (!opts.format)
			opts.flags |= OX_OPEN_PROBE;
		r = read_layer(ctx, chain, path, path, &opts);
		if (r < 0)
			return r;
	}
}

static void print_chain(const struct chain *chain, enum ox_cli_output output)
{
	json_t *array;

	if (output == OX_CLI_JSON && !chain->whole) {
		ox_cli_json_print(info_json(chain->layers[0].info, chain->limits));
		return;
	}
	if (output == OX_CLI_JSON) {
		array = json_array();
		for (size_t i = 0; i < chain->count; i++)
			json_array_append_new(array,
					      info_json(chain->layers[i].info, chain->limits));
		ox_cli_json_print(array);
		return;
	}
	for (size_t i = 0; i < chain->count; i++) {
		if (i > 0)
			putchar('\n');
		ox_cli_info_print(chain->layers[i].info, chain->limits);
	}
}

static int run(struct ox_cli_source *source, struct chain *chain, enum ox_cli_output output)
{
	struct ox_context *ctx = NULL;
	int r;

	chain->layers = calloc(CHAIN_MAX, sizeof(*chain->layers));
	r = chain->layers ? ox_cli_context_new(source->engine, &ctx) : -ENOMEM;

	if (r == 0)
		r = read_layer(ctx, chain, source->path, source->text, &source->open);
	if (r == 0 && chain->whole)
		r = read_backing(ctx, chain, source->open.flags);
	if (r == 0)
		print_chain(chain, output);
	for (size_t i = 0; i < chain->count; i++)
		ox_image_info_free(chain->layers[i].info);
	ox_context_free(ctx);
	free(chain->layers);
	return r < 0 ? 1 : 0;
}

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"format", required_argument, NULL, 'f'},
	{"output", required_argument, NULL, OPTION_OUTPUT},
	{"limits", no_argument, NULL, OPTION_LIMITS},
	{"backing-chain", no_argument, NULL, 'b'},
	{"force-share", no_argument, NULL, 'U'},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{0},
};

int ox_cli_info(int argc, char **argv)
{
	struct ox_cli_source source = OX_CLI_SOURCE_INIT;
	enum ox_cli_output output = OX_CLI_HUMAN;
	struct chain chain = {0};
	int c, status = 1;

	source.open.flags = OX_OPEN_READ_ONLY;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":hf:bU", longs, NULL)) != -1) {
		switch (c) {
		case 'h':
			ox_called_print_help(help);
			return ox_cli_finish_output(0);
		case 'f':
			source.open.format = optarg;
			break;
		case 'U':
			source.open.flags |= OX_OPEN_FORCE_SHARE;
			break;
		case OPTION_OUTPUT:
			if (ox_cli_output_parse(optarg, &output) < 0)
				return 1;
			break;
		case 'b':
			chain.whole = true;
			break;
		case OPTION_LIMITS:
			chain.limits = true;
			break;
		case OPTION_IMAGE_OPTS:
			source.image_opts = true;
			break;
		case OPTION_OBJECT:
			if (ox_cli_object_take(optarg) < 0)
				return 1;
			break;
		default:
			return ox_cli_option_error("info", c, argv);
		}
	}
	if (optind + 1 != argc)
		return ox_cli_usage_error("info", "Expecting one image file name");
	if (source.image_opts && source.open.format) {
		ox_cli_error("--image-opts and --format are mutually exclusive");
		return 1;
	}
	if (ox_cli_source_set(&source, argv[optind]) == 0)
		status = run(&source, &chain, output);
	ox_cli_source_free(&source);
	return ox_cli_finish_output(status);
}
