/* SPDX-License-Identifier: MIT */
/* oxbow check */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cli/check_salvage.h"
#include "cli/cli.h"

static const char help[] =
	"usage: oxbow check [-f FMT] [-r leaks|all [--dry-run | --undo UNDO]] [--data]\n"
	"                   [--header FIELD=NUMBER,...]\n"
	"                   [--salvage[=L1INDEX:HOSTOFFSET | =none]]... [-T CACHE]\n"
	"                   [--output=human|json] [-p | --progress=json] [-q] [-v] [-U]\n"
	"                   [--image-opts] FILE\n"
	"Look for inconsistencies in a qcow2 or QED image, and repair them if told to.\n"
	"\n"
	"  -f, --format FMT    qcow2 or qed; without it, the file tells its format\n"
	"  -r, --repair=leaks|all\n"
	"                      leaks frees space that nothing uses, all repairs what it can\n"
	"  --dry-run           with -r: write nothing; say what the repair would do and leave\n"
	"  --undo UNDO         with -r: keep what the repair overwrites in UNDO, a new file, from\n"
	"                      which 'oxbow undo' puts it back\n"
	"  --data              decompress every compressed cluster too, to see if it can be read\n"
	"  --header FIELD=NUMBER[,...]\n"
	"                      believe these header fields, and not the file's. Their names are\n"
	"                      the specification's: size, cluster_bits, l1_table_offset and so\n"
	"                      on. -r all writes them, and needs --undo or --dry-run then\n"
	"  --salvage           search unused space for L2 tables that nothing names. -r all links\n"
	"                      a table again if exactly one damaged L1 entry can have named it,\n"
	"                      and only it can have been named by that entry; what belongs to\n"
	"                      the other tables is not freed\n"
	"  --salvage=L1INDEX:HOSTOFFSET\n"
	"                      with -r all: link the table at HOSTOFFSET to this L1 entry, which\n"
	"                      may be damaged or empty. May be given many times\n"
	"  --salvage=none      with -r: also free tables that nothing names, and all they lead to\n"
	"  -T, -t, --cache CACHE\n"
	"                      writeback (the default), writethrough, none, directsync or unsafe\n"
	"  --output=human|json text (the default) or JSON\n"
	"  -p                  show progress, also where there is no terminal\n"
	"  --progress=json     progress for programs: a JSON object a line on stderr\n"
	"  -q, --quiet         print no summary; findings still go to stderr\n"
	"  -v, --verbose       of an image that was not closed, list what its next opening sets\n"
	"                      right as well\n"
	"  -U, --force-share   also while another process has the image open for writing\n"
	"  --image-opts        FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help          print this text\n"
	"\n"
	"Exit status: 0 the image is clean, perhaps after a repair; 1 the check could not be\n"
	"completed; 2 the image is corrupt; 3 it has leaked clusters and is otherwise right;\n"
	"63 the format has no check.\n";

enum {
	OPTION_OUTPUT = 256,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
	OPTION_DRY_RUN,
	OPTION_UNDO,
	OPTION_DATA,
	OPTION_PROGRESS,
	OPTION_HEADER,
	OPTION_SALVAGE,
};

/* The most that JSON lists: an image of garbage has one for every cluster. */
#define MAX_FINDINGS ((size_t)65536)
#define FINDINGS_BYTES ((size_t)65536)
#define MAX_TOLD ((size_t)64)

enum {
	STATUS_CLEAN = 0,
	STATUS_FAILED = 1,
	STATUS_CORRUPT = 2,
	STATUS_LEAKS = 3,
	STATUS_NO_CHECK = 63,
};

struct check {
	struct ox_cli_source source;
	enum ox_cli_output output;
	enum ox_repair repair;
	bool progress_asked;
	bool progress_json;
	struct timespec flushed; /* when the findings were last */
	bool quiet;
	bool verbose;
	bool verify_data;
	struct ox_cli_progress progress;
	bool dry_run;
	const char *undo_path;
	const char *header;
	struct ox_cli_salvage salvage;
	struct told {
		const char *name;
		const char *why;
	} told[MAX_TOLD]; /* of what is left */
	size_t told_count;
	json_t *findings; /* NULL until there is one */
	uint64_t findings_left_out;
};

static const char *severity_name(enum ox_finding_severity severity)
{
	static const char *const names[] = {
		[OX_FINDING_LEAK] = "leak",
		[OX_FINDING_CORRUPTION] = "corruption",
		[OX_FINDING_NOTE] = "note",
	};

	return names[severity];
}

static void set_place(json_t *object, const char *key, uint64_t value)
{
	if (value <= INT64_MAX)
		ox_cli_json_set(object, key, json_integer((json_int_t)value));
}

static json_t *finding_json(const struct ox_finding *f)
{
	json_t *object = json_object();

	ox_cli_json_set(object, "name", json_string(f->name));
	ox_cli_json_set(object, "severity", json_string(severity_name(f->severity)));
	ox_cli_json_set(object, "message", ox_cli_json_string(f->message));
	ox_cli_json_set(object, "repaired", json_boolean(f->repaired));
	set_place(object, "host-offset", f->host_offset);
	if (f->host_length > 0)
		set_place(object, "host-length", f->host_length);
	set_place(object, "guest-offset", f->guest_offset);
	if (f->guest_offset <= INT64_MAX)
		set_place(object, "guest-length", f->guest_length);
	if (f->snapshot)
		ox_cli_json_set(object, "snapshot", ox_cli_json_string(f->snapshot));
	if (f->fix)
		ox_cli_json_set(object, "fix", json_string(f->fix));
	if (f->fate)
		ox_cli_json_set(object, "fate", json_string(f->fate));
	if (f->why_not)
		ox_cli_json_set(object, "why-not", json_string(f->why_not));
	if (f->recovers)
		ox_cli_json_set(object, "recovers", json_true());
	return object;
}

/* Why a finding is left, once a kind and reason. */
static void tell_why(struct check *check, const struct ox_finding *finding)
{
	for (size_t i = 0; i < check->told_count; i++) {
		if (strcmp(check->told[i].name, finding->name) == 0 &&
		    strcmp(check->told[i].why, finding->why_not) == 0)
			return;
	}
	if (check->told_count == MAX_TOLD)
		return;
	/* Both live as long as the program. */
	check->told[check->told_count].name = finding->name;
	check->told[check->told_count].why = finding->why_not;
	check->told_count++;
	fprintf(stderr, "  not repaired: %s\n", finding->why_not);
}

static void take_finding(void *opaque, const struct ox_finding *finding)
{
	struct check *check = opaque;

	/* The summary says once what is so of an image that was not closed. */
	if (!finding->recovers || check->verbose)
		fprintf(stderr, "%s\n", finding->message);
	if (finding->why_not)
		tell_why(check, finding);
	if (check->output != OX_CLI_JSON)
		return;
	if (!check->findings)
		check->findings = json_array();
	if (json_array_size(check->findings) >= MAX_FINDINGS)
		check->findings_left_out++;
	else if (json_array_append_new(check->findings, finding_json(finding)) < 0)
		check->findings_left_out++;
}

static void take_lost_table(void *opaque, const struct ox_lost_table *table)
{
	struct check *check = opaque;

	if (check->output == OX_CLI_JSON)
		ox_cli_salvage_list(&check->salvage, table);
}

/*
 * An image may have millions of findings: they go to a file or a pipe in large pieces, but no later
 * than a reader would wonder. Over before anything else is printed, so that all stays in order.
 */
static void gather_findings(bool gather)
{
	if (isatty(STDERR_FILENO))
		return;
	fflush(stderr);
	setvbuf(stderr, NULL, gather ? _IOFBF : _IONBF, gather ? FINDINGS_BYTES : 0);
}

static void flush_findings(struct check *check)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec == check->flushed.tv_sec)
		return;
	fflush(stderr);
	check->flushed = now;
}

static void report_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct check *check = opaque;

	flush_findings(check);
	ox_cli_progress_report(&check->progress, done, total);
}

/* What is no damage, but work that a program left behind which did not close the image. */
static void print_recoverable(const struct check *check, const struct ox_check_result *res)
{
	const uint64_t corruptions = res->corruptions - res->recoverable_corruptions;

	printf("\nThe image was not closed: its reference counts lag behind.\n");
	if (res->uncounted_clusters)
		printf("%" PRIu64 " %s still to be counted.\n", res->uncounted_clusters,
		       res->uncounted_clusters == 1 ? "cluster is" : "clusters are");
	if (res->recoverable_leaks)
		printf("%" PRIu64 " %s to be given back.\n", res->recoverable_leaks,
		       res->recoverable_leaks == 1 ? "cluster is" : "clusters are");
	if (!corruptions && !res->check_errors)
		printf("No data are harmed. The next opening for writing sets this right, and so "
		       "does "
		       "-r all.\n");
	else
		printf("That alone harms no data, but the damage below is to be repaired first.\n");
	if (!check->verbose)
		printf("-v lists the clusters.\n");
}

static void print_summary(const struct check *check, const struct ox_check_result *res)
{
	const uint64_t corruptions = res->corruptions - res->recoverable_corruptions;
	const uint64_t leaks = res->leaks - res->recoverable_leaks;

	if (!res->corruptions && !res->leaks && !res->check_errors) {
		printf("No errors were found on the image.\n");
		return;
	}
	if (res->recoverable_corruptions || res->recoverable_leaks)
		print_recoverable(check, res);
	if (corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n",
		       corruptions);
	if (leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n",
		       leaks);
	if (res->check_errors)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
		       res->check_errors);
}

static void print_text(const struct check *check, const struct ox_check_result *res)
{
	if (res->corruptions_fixed || res->leaks_fixed) {
		printf("The following inconsistencies %s:\n\n"
		       "    %" PRIu64 " leaked clusters\n"
		       "    %" PRIu64 " corruptions\n\n"
		       "%s\n",
		       check->dry_run ? "would be repaired" : "were found and repaired",
		       res->leaks_fixed, res->corruptions_fixed,
		       check->dry_run ? "Nothing was written. After the repair:"
				      : "Double checking the fixed image now...");
	} else if (check->dry_run) {
		printf("Nothing would be repaired.\n");
	}
	print_summary(check, res);
	ox_cli_salvage_print(&check->salvage, res, check->dry_run);
	if (res->total_clusters && res->allocated_clusters) {
		double allocated = (double)res->allocated_clusters;

		printf("%" PRIu64 "/%" PRIu64
		       " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
		       res->allocated_clusters, res->total_clusters,
		       allocated * 100.0 / (double)res->total_clusters,
		       (double)res->fragmented_clusters * 100.0 / allocated,
		       (double)res->compressed_clusters * 100.0 / allocated);
	}
	if (res->image_end_offset)
		printf("Image end offset: %" PRIu64 "\n", res->image_end_offset);
}

static void set_count(json_t *object, const char *key, uint64_t value)
{
	if (value)
		ox_cli_json_set(object, key, json_integer((json_int_t)value));
}

/* Counts of zero are left out, but for check-errors; the order is the one of qemu-img. */
static void print_json(const struct check *check, const struct ox_check_result *res)
{
	json_t *object = json_object();

	set_count(object, "image-end-offset", res->image_end_offset);
	set_count(object, "compressed-clusters", res->compressed_clusters);
	set_count(object, "total-clusters", res->total_clusters);
	set_count(object, "corruptions", res->corruptions);
	set_count(object, "corruptions-fixed", res->corruptions_fixed);
	ox_cli_json_set(object, "check-errors", json_integer((json_int_t)res->check_errors));
	set_count(object, "leaks", res->leaks);
	set_count(object, "leaks-fixed", res->leaks_fixed);
	set_count(object, "allocated-clusters", res->allocated_clusters);
	ox_cli_json_set(object, "filename", ox_cli_json_string(check->source.text));
	ox_cli_json_set(object, "format", json_string(res->format));
	set_count(object, "fragmented-clusters", res->fragmented_clusters);
	set_count(object, "damaged-l1-entries", res->damaged_l1_entries);
	set_count(object, "recoverable-corruptions", res->recoverable_corruptions);
	set_count(object, "recoverable-leaks", res->recoverable_leaks);
	set_count(object, "uncounted-clusters", res->uncounted_clusters);
	if (check->dry_run)
		ox_cli_json_set(object, "dry-run", json_true());
	ox_cli_salvage_set_json(&check->salvage, object);
	if (check->findings)
		ox_cli_json_set(object, "findings", json_incref(check->findings));
	set_count(object, "findings-left-out", check->findings_left_out);
	ox_cli_json_print(object);
}

static int verdict(const struct ox_check_result *res)
{
	if (res->check_errors)
		return STATUS_FAILED;
	if (res->corruptions)
		return STATUS_CORRUPT;
	return res->leaks ? STATUS_LEAKS : STATUS_CLEAN;
}

static void fill_options(struct check *check, struct ox_check_options *opts)
{
	opts->format = check->source.open.format;
	opts->flags = check->source.open.flags & (OX_OPEN_FORCE_SHARE | OX_OPEN_URI);
	opts->cache = check->source.open.cache;
	opts->repair = check->repair;
	opts->verify_data = check->verify_data;
	opts->finding = take_finding;
	opts->progress = report_progress;
	opts->opaque = check;
	opts->dry_run = check->dry_run;
	opts->undo_path = check->undo_path;
	opts->header = check->header;
	opts->salvage = check->salvage.asked;
	opts->free_lost_tables = check->salvage.none;
	opts->lost_table = take_lost_table;
	opts->links = check->salvage.links;
	opts->link_count = check->salvage.link_count;
}

static int run(struct check *check)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result res = {0};
	struct ox_context *ctx;
	struct ox_error *err = NULL;
	int r;

	if (ox_cli_context_new(check->source.engine, &ctx) < 0)
		return STATUS_FAILED;
	fill_options(check, &opts);
	/* On stdout as users know it, unless it would tear the JSON. */
	if (check->progress_json)
		ox_cli_progress_begin_json(&check->progress, "tables", stderr);
	else
		ox_cli_progress_begin(&check->progress, check->progress_asked,
				      check->output == OX_CLI_JSON ? stderr : stdout);
	gather_findings(true);
	r = ox_image_check(ctx, check->source.path, &opts, &res, &err);
	ox_cli_progress_end(&check->progress, r == 0);
	gather_findings(false);
	ox_context_free(ctx);
	if (r == -ENOTSUP) {
		ox_cli_error("This image format does not support checks");
	} else if (r < 0) {
		ox_cli_error("Could not open '%s': %s", check->source.text,
			     err ? ox_error_message(err) : strerror(-r));
	}
	ox_error_free(err);
	if (r < 0)
		return r == -ENOTSUP ? STATUS_NO_CHECK : STATUS_FAILED;
	if (!check->quiet && check->output == OX_CLI_JSON)
		print_json(check, &res);
	else if (!check->quiet)
		print_text(check, &res);
	return verdict(&res);
}

static int parse_repair(struct check *check, const char *text)
{
	if (strcmp(text, "leaks") == 0)
		check->repair = OX_REPAIR_LEAKS;
	else if (strcmp(text, "all") == 0)
		check->repair = OX_REPAIR_ALL;
	else
		return ox_cli_usage_error(
			"check", "Unknown option value for -r (expecting 'leaks' or 'all'): %s",
			text);
	return 0;
}

static int parse_progress(struct check *check, const char *text)
{
	if (strcmp(text, "json") != 0)
		return ox_cli_usage_error("check", "--progress must be used with json: %s", text);
	check->progress_json = true;
	return 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct check *check, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		check->source.open.format = optarg;
		return 0;
	case 'r':
		return parse_repair(check, optarg);
	case 'T':
	case 't':
		return ox_cli_cache_parse("source ", optarg, &check->source.open.cache) < 0
			       ? STATUS_FAILED
			       : 0;
	case 'p':
		check->progress_asked = true;
		return 0;
	case 'q':
		check->quiet = true;
		return 0;
	case 'v':
		check->verbose = true;
		return 0;
	case 'U':
		check->source.open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_DATA:
		check->verify_data = true;
		return 0;
	case OPTION_OUTPUT:
		return ox_cli_output_parse(optarg, &check->output) < 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		check->source.image_opts = true;
		return 0;
	case OPTION_DRY_RUN:
		check->dry_run = true;
		return 0;
	case OPTION_PROGRESS:
		return parse_progress(check, optarg);
	case OPTION_HEADER:
		check->header = optarg;
		return 0;
	case OPTION_SALVAGE:
		return ox_cli_salvage_take(&check->salvage, optarg);
	case OPTION_UNDO:
		check->undo_path = optarg;
		return 0;
	default:
		return ox_cli_option_error("check", c, argv);
	}
}

static int refuse_combination(const struct check *check)
{
	if (check->source.image_opts && check->source.open.format)
		ox_cli_error("--image-opts and --format are mutually exclusive");
	else if (check->dry_run && check->repair == OX_REPAIR_NONE)
		ox_cli_error("--dry-run needs -r leaks or -r all, and shows what that would do");
	else if (check->undo_path && check->repair == OX_REPAIR_NONE)
		ox_cli_error("--undo needs -r leaks or -r all, and keeps what that overwrites");
	else if (check->salvage.asked && check->salvage.none)
		ox_cli_error("--salvage and --salvage=none are mutually exclusive");
	else if (check->salvage.link_count > 0 && check->repair != OX_REPAIR_ALL)
		ox_cli_error("--salvage=L1INDEX:HOSTOFFSET needs -r all");
	else if (check->progress_asked && check->progress_json)
		ox_cli_error("-p and --progress=json are mutually exclusive");
	else if (check->undo_path && check->dry_run)
		ox_cli_error(
			"--dry-run and --undo are mutually exclusive: a dry run writes nothing");
	else
		return 0;
	return -EINVAL;
}

/* -1 where there is nothing more to do, else the exit status so far. */
static int take_arguments(struct check *check, int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"repair", required_argument, NULL, 'r'},
		{"cache", required_argument, NULL, 'T'},
		{"quiet", no_argument, NULL, 'q'},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"progress", required_argument, NULL, OPTION_PROGRESS},
		{"verbose", no_argument, NULL, 'v'},
		{"force-share", no_argument, NULL, 'U'},
		{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{"dry-run", no_argument, NULL, OPTION_DRY_RUN},
		{"header", required_argument, NULL, OPTION_HEADER},
		{"salvage", optional_argument, NULL, OPTION_SALVAGE},
		{"undo", required_argument, NULL, OPTION_UNDO},
		{"data", no_argument, NULL, OPTION_DATA},
		{0},
	};
	int c, status = 0;

	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:r:T:t:pqvU", longs, NULL)) != -1)
		status = take_option(check, c, argv);
	if (status != 0)
		return status;
	if (optind + 1 != argc)
		return ox_cli_usage_error("check", "Expecting one image file name");
	if (check->repair == OX_REPAIR_NONE || check->dry_run)
		check->source.open.flags |= OX_OPEN_READ_ONLY;
	return refuse_combination(check) < 0 ? STATUS_FAILED : 0;
}

int ox_cli_check(int argc, char **argv)
{
	struct check check = {.source = OX_CLI_SOURCE_INIT};
	int status = take_arguments(&check, argc, argv);

	if (status == 0 && (ox_cli_source_set(&check.source, argv[optind]) < 0 ||
			    ox_cli_source_refuse_part(&check.source, "check") < 0))
		status = STATUS_FAILED;
	else if (status == 0)
		status = run(&check);
	ox_cli_source_free(&check.source);
	ox_cli_salvage_free(&check.salvage);
	json_decref(check.findings);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
