/* SPDX-License-Identifier: MIT */
/* oxbow map */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/picture.h"

static const char help[] =
	"usage: oxbow map [-f FMT] [-s OFFSET] [-l LENGTH] [--output=human|json] [-U]\n"
	"                 [--image-opts] FILE\n"
	"       oxbow map --picture|--image=OUT.svg [-f FMT] [--output=human|json] [-U]\n"
	"                 [--image-opts] FILE\n"
	"List where the data of an image and of its backing files is, or draw what its own file\n"
	"holds.\n"
	"\n"
	"  -f, --format FMT          format of the image; without it, the file tells it\n"
	"  -s, --start-offset=OFFSET begin at this byte of the virtual disk\n"
	"  -l, --max-length=LENGTH   look at no more than this\n"
	"  --output=human|json       text (the default: data alone), or JSON (every range)\n"
	"  --picture                 draw the file of a qcow2 image: data, tables, leaks, damage\n"
	"                            and fragmentation; with --output=json, the figures behind it\n"
	"  --image=OUT.svg           write that picture as SVG\n"
	"  -U, --force-share         also while another process has the image open for writing\n"
	"  --image-opts              FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help                print this text\n"
	"\n"
	"In JSON, depth 0 is the image itself and 1 its backing file. 'data' says that bytes have\n"
	"a place, 'zero' that they read as zeroes, 'present' that some file of the chain has "
	"them.\n"
	"Both 'data' and 'zero': a hole of the file. A picture needs no backing file, and shows\n"
	"dirty and damaged images too. Letters stand for its colours where NO_COLOR is set and\n"
	"where there is no terminal.\n";

enum {
	OPTION_OUTPUT = 256,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
	OPTION_PICTURE,
	OPTION_IMAGE,
};

struct map {
	struct ox_cli_source source;
	enum ox_cli_output output;
	struct ox_cli_picture_wish picture;
	bool partial; /* -s or -l */
	uint64_t start;
	uint64_t length;
	bool first;
};

static const char *yes(unsigned flag)
{
	return flag ? "true" : "false";
}

static void print_json(struct map *map, const struct ox_extent *e)
{
	printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
	       ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s"
	       ", \"compressed\": %s",
	       map->first ? "[" : ",\n", e->offset, e->length, e->depth,
	       yes(e->flags & OX_EXTENT_PRESENT), yes(e->flags & OX_EXTENT_ZERO),
	       yes(e->flags & OX_EXTENT_DATA), yes(e->flags & OX_EXTENT_COMPRESSED));
	if (e->flags & OX_EXTENT_HAS_OFFSET)
		printf(", \"offset\": %" PRIu64, e->host_offset);
	putchar('}');
	map->first = false;
}

static int print_text(const struct ox_extent *e)
{
	if (!(e->flags & OX_EXTENT_DATA) || (e->flags & OX_EXTENT_ZERO))
		return 0;
	if (!(e->flags & OX_EXTENT_HAS_OFFSET)) {
		ox_cli_error("File contains external, encrypted or compressed clusters.");
		return -ENOTSUP;
	}
	printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64, e->offset, e->length, e->host_offset);
	ox_cli_print_name(stdout, e->filename ? e->filename : "", 0);
	putchar('\n');
	return 0;
}

static int print_extent(struct map *map, const struct ox_extent *e)
{
	if (map->output == OX_CLI_HUMAN)
		return print_text(e);
	print_json(map, e);
	return 0;
}

/* Whether b goes on where a ends, in the same way and (where it has one) the same place. */
static bool continues(const struct ox_extent *a, const struct ox_extent *b)
{
	const unsigned kinds = OX_EXTENT_DATA | OX_EXTENT_ZERO | OX_EXTENT_PRESENT |
			       OX_EXTENT_COMPRESSED | OX_EXTENT_HAS_OFFSET;

	if ((a->flags & kinds) != (b->flags & kinds) || a->depth != b->depth)
		return false;
	if (!(a->flags & OX_EXTENT_HAS_OFFSET))
		return true;
	if (a->host_offset + a->length != b->host_offset)
		return false;
	return a->filename && b->filename ? strcmp(a->filename, b->filename) == 0
					  : a->filename == b->filename;
}

static int print_map(struct map *map, struct ox_image *image)
{
	uint64_t size = ox_image_size(image);
	uint64_t end = map->length < INT64_MAX - map->start ? map->start + map->length : size;
	uint64_t at = map->start;
	struct ox_extent run = {.offset = map->start}, next;
	int r;

	if (end > size)
		end = size;
	while (at < end) {
		r = ox_extent_at(image, at, end - at, &next);
		if (r < 0) {
			ox_cli_error("Failed to read image metadata: %s", strerror(-r));
			return r;
		}
		at = next.offset + next.length;
		if (run.length > 0 && continues(&run, &next)) {
			run.length += next.length;
			continue;
		}
		if (run.length > 0) {
			r = print_extent(map, &run);
			if (r < 0)
				return r;
		}
		run = next;
	}
	r = print_extent(map, &run);
	if (r == 0 && map->output == OX_CLI_JSON)
		printf("]\n");
	return r;
}

static int list(struct ox_image *image, void *arg)
{
	struct map *map = arg;

	if (map->output == OX_CLI_HUMAN)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	return print_map(map, image);
}

static int parse_position(const char *what, const char *text, uint64_t *ret)
{
	if (ox_cli_size_parse(text, ret) == 0)
		return 0;
	ox_cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
	ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	return 1;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct map *map, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		map->source.open.format = optarg;
		return 0;
	case 's':
		map->partial = true;
		return parse_position("start offset", optarg, &map->start);
	case 'l':
		map->partial = true;
		return parse_position("max length", optarg, &map->length);
	case 'U':
		map->source.open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_OUTPUT:
		return ox_cli_output_parse(optarg, &map->output) < 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		map->source.image_opts = true;
		return 0;
	case OPTION_PICTURE:
		map->picture.text = true;
		return 0;
	case OPTION_IMAGE:
		map->picture.svg = optarg;
		return 0;
	default:
		return ox_cli_option_error("map", c, argv);
	}
}

static int refuse_options(const struct map *map)
{
	if (map->source.image_opts && map->source.open.format) {
		ox_cli_error("--image-opts and --format are mutually exclusive");
		return 1;
	}
	if (map->picture.text && map->picture.svg)
		return ox_cli_usage_error("map", "Choose one of --picture and --image");
	if (map->partial && (map->picture.text || map->picture.svg))
		return ox_cli_usage_error("map",
					  "A picture shows the whole file, without -s and -l");
	return 0;
}

static int draw(struct map *map, const char *name)
{
	int status = 1;

	map->picture.output = map->output;
	if (ox_cli_source_set(&map->source, name) == 0 &&
	    ox_cli_source_refuse_part(&map->source, "a picture") == 0)
		status = ox_cli_map_picture(&map->source, &map->picture);
	ox_cli_source_free(&map->source);
	return status;
}

static int run(struct map *map, const char *name)
{
	if (map->picture.text || map->picture.svg)
		return draw(map, name);
	return ox_cli_work_on(&map->source, name, list, map) < 0 ? 1 : 0;
}

int ox_cli_map(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"start-offset", required_argument, NULL, 's'},
		{"max-length", required_argument, NULL, 'l'},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"force-share", no_argument, NULL, 'U'},
		{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{"picture", no_argument, NULL, OPTION_PICTURE},
		{"image", required_argument, NULL, OPTION_IMAGE},
		{0},
	};
	struct map map = {.source = OX_CLI_SOURCE_INIT, .length = INT64_MAX, .first = true};
	int c, status = 0;

	map.source.open.flags = OX_OPEN_READ_ONLY;
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:s:l:U", longs, NULL)) != -1)
		status = take_option(&map, c, argv);
	if (status != 0)
		return ox_cli_finish_output(status < 0 ? 0 : status);
	if (optind + 1 != argc)
		return ox_cli_usage_error("map", "Expecting one image file name");
	status = refuse_options(&map);
	if (status == 0)
		status = run(&map, argv[optind]);
	return ox_cli_finish_output(status);
}
