/* SPDX-License-Identifier: MIT */
/* oxbow serve: one image, offered over NBD, in the foreground. */
#include "cli/cli.h"
#include "cli/deadline.h"
#include "cli/keeper/keeper.h"
#include "cli/keeper/kept.h"
#include "cli/log.h"
#include "cli/notices.h"
#include "cli/pid_file.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oxbow.h"
#include "serve/serve.h"

#define DEFAULT_CLIENTS 64
#define MOST_CLIENTS 4096
#define DEFAULT_DRAIN_MS 60000
#define MOST_DRAIN_SECONDS 86400

struct arguments {
	const char *format;
	const char *image;
	struct ox_cli_pid_file pid_file;
	struct ox_open_options open;
	struct ox_serve_nbd_options nbd;
	struct ox_cli_progress progress; /* of a recovery before the opening returns */
	struct ox_cli_recovery recovery; /* and after it */
	struct ox_cli_notices notices;
	bool opened;
	bool closing;
	bool memory_stated;
	int fd; /* -1: the image is opened by its name */
	bool keeper;
	enum ox_kept_role role;
	int socket; /* to the keeper, of a role */
	struct ox_kept *kept;
	bool quiet;
	bool verbose;
	bool help;
};

enum long_option {
	OPTION_CACHE = 't',
	OPTION_EXPORT = 'x',
	OPTION_ALLOW_BACKING = 256,
	OPTION_BACKING_FORMAT,
	OPTION_DISCARD,
	OPTION_DRAIN,
	OPTION_FD,
	OPTION_KEEPER,
	OPTION_KEPT_AS,
	OPTION_NO_KEEPER,
	OPTION_L2_CACHE,
	OPTION_LAZY_IDLE,
	OPTION_TABLE_AGE,
	OPTION_MEMORY,
	OPTION_NBD,
	OPTION_PID_FILE,
	OPTION_RECOVER,
	OPTION_REFCOUNT_CACHE,
	OPTION_SHARED,
};

static const struct option long_options[] = {
	{"allow-backing", optional_argument, NULL, OPTION_ALLOW_BACKING},
	{"backing-format", required_argument, NULL, OPTION_BACKING_FORMAT},
	{"cache", required_argument, NULL, OPTION_CACHE},
	{"description", required_argument, NULL, 'D'},
	{"discard", required_argument, NULL, OPTION_DISCARD},
	{"drain", required_argument, NULL, OPTION_DRAIN},
	{"export", required_argument, NULL, OPTION_EXPORT},
	{"export-name", required_argument, NULL, OPTION_EXPORT},
	{"fd", required_argument, NULL, OPTION_FD},
	{"force-share", no_argument, NULL, 'U'},
	{"format", required_argument, NULL, 'f'},
	{"help", no_argument, NULL, 'h'},
	{"keeper", no_argument, NULL, OPTION_KEEPER},
	{"kept-as", required_argument, NULL, OPTION_KEPT_AS},
	{"l2-cache-size", required_argument, NULL, OPTION_L2_CACHE},
	{"lazy-idle", required_argument, NULL, OPTION_LAZY_IDLE},
	{"table-age", required_argument, NULL, OPTION_TABLE_AGE},
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"nbd", required_argument, NULL, OPTION_NBD},
	{"no-keeper", no_argument, NULL, OPTION_NO_KEEPER},
	{"pid-file", required_argument, NULL, OPTION_PID_FILE},
	{"quiet", no_argument, NULL, 'q'},
	{"read-only", no_argument, NULL, 'r'},
	{"recover", required_argument, NULL, OPTION_RECOVER},
	{"refcount-cache-size", required_argument, NULL, OPTION_REFCOUNT_CACHE},
	{"shared", required_argument, NULL, OPTION_SHARED},
	{"verbose", no_argument, NULL, 'v'},
	{0},
};

static const char help_text[] =
	"usage: oxbow serve [OPTION...] --nbd ADDRESS IMAGE\n"
	"Serve IMAGE to NBD clients until SIGTERM, SIGINT or SIGHUP. Once clients can connect,\n"
	"one line with the URI for them is printed.\n"
	"\n"
	"  --nbd ADDRESS              a unix socket's path; or for TCP HOST:PORT, [IPv6]:PORT,\n"
	"                             :PORT (this host alone) or *:PORT (every address of this\n"
	"                             host). Port 0 is any free one\n"
	"  -f, --format FMT           qcow2 (the default), raw, or qed (with -r); never guessed\n"
	"  -t, --cache MODE           writeback (default), writethrough, none, directsync, unsafe\n"
	"  -r, --read-only            clients cannot write\n"
	"  --discard=unmap|ignore     whether trims give space back to the host (default: unmap)\n"
	"  -x, --export NAME          the export's name (default: the empty one)\n"
	"  -D, --description TEXT     what clients are told of the export\n"
	"  --allow-backing[=DIR]      open the backing file that the image names (only if it lies\n"
	"                             under DIR); without this option such an image is refused\n"
	"  --backing-format FMT       format of that backing file, qcow2, qed or raw, if the "
	"image\n"
	"                             does not state it\n"
	"  --l2-cache-size SIZE       memory for L2 tables (default: from the image's size)\n"
	"  --refcount-cache-size SIZE memory for refcount blocks (default: 2M)\n"
	"  --lazy-idle SECONDS|never  lazy refcounts, QED: commit all and clear the dirty bit "
	"after\n"
	"                             so long without an allocation (default: 5); in other\n"
	"                             images: give back the clusters held in reserve\n"
	"  --table-age SECONDS|never  write a changed table to the host after so long, flushed or\n"
	"                             not (default: 5), so that a killed server loses no older\n"
	"                             write\n"
	"  --recover MODE             for an image that was not closed: auto (default) serves it\n"
	"                             at once and recovers it meanwhile, wait recovers it first,\n"
	"                             never refuses it\n"
	"  --shared N                 at most N clients at once (default: 64)\n"
	"  --memory SIZE              memory for the requests of all clients (default: 256M)\n"
	"  --drain SECONDS            how long the end waits for an image's file that does not\n"
	"                             answer (default: 60)\n"
	"  --fd N                     the image is the inherited descriptor N; IMAGE is its name\n"
	"  --keeper                   another process serves; when it dies the next one serves "
	"on,\n"
	"                             and no answered write is lost\n"
	"  --no-keeper                one process for all of it (default)\n"
	"  --pid-file FILE            FILE holds the process id while clients can connect\n"
	"  -U, --force-share          with -r: ignore others' locks on the image\n"
	"  -q, --quiet                print neither the URI nor warnings\n"
	"  -v, --verbose              report on stderr which clients come and go, and why\n"
	"  -h, --help                 print this text\n"
	"\n"
	"Sizes take the suffixes k, M, G, T. A second SIGTERM ends the wait for clients that do\n"
	"not read their last replies.\n";

/* ---- the command line ---- */

static int parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
	char *end;
	unsigned long long number;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || number > max)
		return -EINVAL;
	*ret_number = number;
	return 0;
}

static int bad_value(const char *option, const char *value, const char *expected)
{
	ox_cli_usage_error("serve", "%s '%s' is not valid; it takes %s", option, value, expected);
	return -EINVAL;
}

static int take_size(const char *option, const char *value, uint64_t *ret_bytes)
{
	if (ox_cli_size_parse(value, ret_bytes) < 0)
		return bad_value(option, value, "a size such as 4M");
	return 0;
}

static int take_count(const char *option, const char *value, uint64_t min, uint64_t max,
		      uint64_t *ret_number)
{
	if (parse_number(value, max, ret_number) < 0 || *ret_number < min) {
		ox_cli_usage_error("serve", "%s '%s' is not valid; it takes %llu to %llu", option,
				   value, (unsigned long long)min, (unsigned long long)max);
		return -EINVAL;
	}
	return 0;
}

/* Seconds, perhaps with a fraction. */
static int take_seconds(const char *option, const char *value, uint32_t *ret_ms)
{
	double seconds;
	char *end;

	if (strcmp(value, "never") == 0) {
		*ret_ms = UINT32_MAX;
		return 0;
	}
	seconds = strtod(value, &end);
	if (end == value || *end != '\0' || !(seconds >= 0.001 && seconds <= 86400))
		return bad_value(option, value, "seconds from 0.001 to 86400, or never");
	*ret_ms = (uint32_t)(seconds * 1000);
	return 0;
}

static int take_discard(const char *value, unsigned *flags)
{
	if (strcmp(value, "unmap") == 0 || strcmp(value, "on") == 0)
		*flags &= ~(unsigned)OX_OPEN_NO_DISCARD;
	else if (strcmp(value, "ignore") == 0 || strcmp(value, "off") == 0)
		*flags |= OX_OPEN_NO_DISCARD;
	else
		return bad_value("--discard", value, "unmap or ignore");
	return 0;
}

/* The options that need more than to be noted. */
static int take_valued_option(struct arguments *arguments, int option, const char *value)
{
	uint64_t number;
	int ret;

	switch (option) {
	case OPTION_CACHE:
		if (ox_cache_mode_parse(value, &arguments->open.cache) < 0)
			return bad_value("--cache", value,
					 "writeback, writethrough, none, directsync or unsafe");
		return 0;
	case OPTION_DISCARD:
		return take_discard(value, &arguments->open.flags);
	case OPTION_DRAIN:
		ret = take_count("--drain", value, 1, MOST_DRAIN_SECONDS, &number);
		if (ret == 0)
			arguments->nbd.drain_ms = (unsigned)number * 1000;
		return ret;
	case OPTION_FD:
		ret = take_count("--fd", value, 0, INT_MAX, &number);
		if (ret == 0)
			arguments->fd = (int)number;
		return ret;
	case OPTION_KEPT_AS: /* said by a keeper to its children */
		if (ox_kept_parse(value, &arguments->role, &arguments->socket) < 0)
			return bad_value("--kept-as", value, "what a keeper says");
		return 0;
	case OPTION_L2_CACHE:
		return take_size("--l2-cache-size", value, &arguments->open.l2_cache_bytes);
	case OPTION_REFCOUNT_CACHE:
		return take_size("--refcount-cache-size", value,
				 &arguments->open.refcount_cache_bytes);
	case OPTION_MEMORY:
		arguments->memory_stated = true;
		return take_size("--memory", value, &arguments->nbd.memory_bytes);
	case OPTION_LAZY_IDLE:
		return take_seconds("--lazy-idle", value, &arguments->open.lazy_idle_ms);
	case OPTION_TABLE_AGE:
		return take_seconds("--table-age", value, &arguments->open.table_age_ms);
	case OPTION_RECOVER:
		if (ox_cli_recover_parse(value, &arguments->open.recover) < 0)
			return bad_value("--recover", value, "auto, wait or never");
		return 0;
	case OPTION_SHARED:
		ret = take_count("--shared", value, 1, MOST_CLIENTS, &number);
		if (ret == 0)
			arguments->nbd.max_clients = (unsigned)number;
		return ret;
	default:
		return -EINVAL;
	}
}

static int take_option(struct arguments *arguments, int option, const char *value)
{
	switch (option) {
	case 'f':
		arguments->format = value;
		break;
	case 'r':
		arguments->open.flags |= OX_OPEN_READ_ONLY;
		break;
	case 'U':
		arguments->open.flags |= OX_OPEN_FORCE_SHARE;
		break;
	case 'q':
		arguments->quiet = true;
		break;
	case 'v':
		arguments->verbose = true;
		break;
	case 'h':
		arguments->help = true;
		break;
	case 'D':
		arguments->nbd.description = value;
		break;
	case OPTION_EXPORT:
		arguments->nbd.export_name = value;
		break;
	case OPTION_NBD:
		arguments->nbd.address = value;
		break;
	case OPTION_KEEPER:
		arguments->keeper = true;
		break;
	case OPTION_NO_KEEPER:
		arguments->keeper = false;
		break;
	case OPTION_PID_FILE:
		arguments->pid_file.path = value;
		break;
	case OPTION_BACKING_FORMAT:
		arguments->open.backing_format = value;
		break;
	case OPTION_ALLOW_BACKING:
		arguments->open.backing_policy = value ? OX_BACKING_UNDER : OX_BACKING_ALLOW;
		arguments->open.backing_dir = value;
		break;
	default:
		return take_valued_option(arguments, option, value);
	}
	return 0;
}

static int check_arguments(const struct arguments *arguments, int images)
{
	if (images != 1) {
		ox_cli_usage_error("serve", images == 0 ? "No image is given"
							: "Only one image can be served");
		return -EINVAL;
	}
	if (!arguments->nbd.address) {
		ox_cli_usage_error("serve",
				   "No address: say --nbd PATH (a unix socket) or --nbd HOST:PORT");
		return -EINVAL;
	}
	if (strlen(arguments->nbd.export_name) > 4096 ||
	    (arguments->nbd.description && strlen(arguments->nbd.description) > 4096)) {
		ox_cli_usage_error("serve",
				   "An export's name and description have at most 4096 bytes");
		return -EINVAL;
	}
	if (arguments->memory_stated &&
	    arguments->nbd.memory_bytes < ox_serve_nbd_memory_min(arguments->nbd.max_clients)) {
		ox_cli_usage_error(
			"serve", "--memory: %u clients (--shared) need at least %llu KiB",
			arguments->nbd.max_clients,
			(unsigned long long)ox_serve_nbd_memory_min(arguments->nbd.max_clients) >>
				10);
		return -EINVAL;
	}
	if ((arguments->open.flags & OX_OPEN_FORCE_SHARE) &&
	    !(arguments->open.flags & OX_OPEN_READ_ONLY)) {
		ox_cli_usage_error(
			"serve", "-U needs -r: an image that others may write cannot be served for "
				 "writing");
		return -EINVAL;
	}
	return 0;
}

static int parse(int argc, char **argv, struct arguments *arguments)
{
	int option;
	int ret;

	opterr = 0;
	while ((option = getopt_long(argc, argv, ":f:t:rx:D:Uqvh", long_options, NULL)) != -1) {
		if (option == '?' || option == ':') {
			ox_cli_option_error("serve", option, argv);
			return -EINVAL;
		}
		ret = take_option(arguments, option, optarg);
		if (ret < 0)
			return ret;
	}
	if (arguments->help)
		return 0;
	arguments->image = argv[optind];
	arguments->open.format = arguments->format;
	return check_arguments(arguments, argc - optind);
}

/* ---- serving ---- */

static void on_warning(void *opaque, const char *message)
{
	const struct arguments *arguments = opaque;

	if (!arguments->quiet)
		ox_cli_warn(NULL, message);
}

static void on_log(void *opaque, const char *message)
{
	(void)opaque;
	ox_cli_error("%s", message);
}

static int on_ready(void *opaque, const char *uri)
{
	struct arguments *arguments = opaque;

	if (arguments->role == OX_KEPT_WORKER)
		return ox_kept_ready(arguments->kept);
	if (arguments->pid_file.path) {
		int ret = ox_cli_pid_file_write(&arguments->pid_file);

		if (ret < 0)
			return ret;
	}
	if (arguments->quiet)
		return 0;
	if (printf("%s\n", uri) < 0 || fflush(stdout) != 0)
		ox_cli_error("Cannot print the URI: %s", strerror(errno));
	return 0;
}

/* A store that hangs keeps the library's close for good, and the process with it. */
static void begin_close_deadline(const struct arguments *arguments)
{
	ox_cli_deadline_begin(arguments->nbd.drain_ms,
			      "oxbow: The image's file does not answer: the image is not closed\n");
}

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct arguments *arguments = opaque;

	if (arguments->closing) /* a recovery comes first, which takes its time */
		begin_close_deadline(arguments);
	if (!arguments->opened)
		ox_cli_progress_report(&arguments->progress, done, total);
	else if (!arguments->quiet)
		ox_cli_recovery_report(&arguments->recovery, done, total);
}

static int on_open_file(void *opaque, const struct ox_file_wanted *wanted)
{
	struct arguments *arguments = opaque;

	return ox_kept_file(arguments->kept, wanted);
}

/* The keeper has the locks, and its opener has opened the files. */
static void open_by_keeper(struct arguments *arguments)
{
	arguments->fd = -1;
	arguments->open.flags |= OX_OPEN_LOCKS_HELD;
	if (arguments->open.backing_policy == OX_BACKING_UNDER)
		arguments->open.backing_policy = OX_BACKING_ALLOW; /* and saw to where they lie */
	arguments->open.open_file = on_open_file;
	ox_kept_set_state(arguments->kept, &arguments->open);
}

static int open_image(struct ox_context *ctx, struct arguments *arguments,
		      struct ox_image **ret_image)
{
	struct ox_error *error = NULL;
	int ret;

	if (!arguments->quiet)
		ox_cli_progress_begin(&arguments->progress, false, stderr);
	if (arguments->fd >= 0)
		ret = ox_image_open_fd(ctx, arguments->fd, arguments->image, &arguments->open,
				       ret_image, &error);
	else
		ret = ox_image_open(ctx, arguments->image, &arguments->open, ret_image, &error);
	ox_cli_progress_end(&arguments->progress, ret == 0);
	arguments->opened = ret == 0;
	if (ret < 0) {
		ox_cli_error("Could not open '%s': %s", arguments->image, ox_error_message(error));
		ox_error_free(error);
	}
	return ret;
}

static int close_image(struct ox_image *image, struct arguments *arguments)
{
	struct ox_error *error = NULL;
	int ret;

	arguments->closing = true;
	begin_close_deadline(arguments);
	ret = ox_image_close(image, &error);
	ox_cli_deadline_end();
	if (ret < 0) {
		ox_cli_error("Could not close '%s' cleanly: %s", arguments->image,
			     ox_error_message(error));
		ox_error_free(error);
	}
	return ret;
}

/* 1: the server is to end before it has begun. */
static int await_keeper(struct arguments *arguments)
{
	int ret = ox_kept_await_listeners(arguments->kept);

	if (ret == 0)
		arguments->nbd.handed = &arguments->kept->handed;
	if (ret < 0)
		ox_cli_error("The keeper cannot be heard: %s", strerror(-ret));
	return ret;
}

static int serve_clients(struct ox_context *ctx, struct ox_image *image,
			 struct arguments *arguments, bool *ret_lost)
{
	struct ox_serve_error error;
	int ret;

	if (arguments->role == OX_KEPT_WORKER) {
		ret = await_keeper(arguments);
		if (ret != 0)
			return ret < 0 ? ret : 0;
	}
	ox_cli_notices_init(&arguments->notices);
	ox_image_set_notice(image, ox_cli_notices_take, &arguments->notices);
	ret = ox_serve_nbd(ctx, image, &arguments->nbd, &error);
	ox_cli_notices_end(&arguments->notices);
	if (ret < 0 && error.message[0])
		ox_cli_error("%s", error.message);
	*ret_lost = ret < 0 && error.requests_lost;
	return ret;
}

static int serve(struct ox_context *ctx, struct arguments *arguments)
{
	struct ox_image *image;
	bool lost = false;
	int close_ret;
	int ret;

	ret = open_image(ctx, arguments, &image);
	if (ret < 0) {
		ox_context_free(ctx);
		return ret;
	}
	ret = serve_clients(ctx, image, arguments, &lost);
	if (lost)
		return ret;
	close_ret = close_image(image, arguments);
	ox_context_free(ctx);
	return ret < 0 ? ret : close_ret;
}

/* In this process: all of it, or the worker's part. */
static int run(struct arguments *arguments)
{
	struct ox_context *ctx;
	int ret = ox_cli_log_start();

	if (ret < 0)
		ox_cli_error("Cannot start a thread for messages: %s", strerror(-ret));
	if (ret == 0)
		ret = ox_cli_context_new(OX_ENGINE_DEFAULT, &ctx);
	if (ret == 0 && arguments->role == OX_KEPT_WORKER) {
		ret = ox_kept_start(arguments->kept, ctx, arguments->image, &arguments->open);
		if (ret < 0)
			ox_context_free(ctx);
	}
	if (ret == 0)
		ret = serve(ctx, arguments);
	return ret;
}

static int keep(struct arguments *arguments, char **argv)
{
	const struct ox_keeper_options options = {
		.image = arguments->image,
		.given = arguments->fd,
		.lock = ox_kept_lock_of(&arguments->open),
		.address = arguments->nbd.address,
		.export_name = arguments->nbd.export_name,
		.drain_ms = arguments->nbd.drain_ms,
		.arguments = argv + 1,
		.ready = on_ready,
		.opaque = arguments,
	};

	return ox_keeper_run(&options) == 0 ? 0 : -EIO; /* it has said why */
}

/* As a child of a keeper's. */
static int run_kept(struct arguments *arguments)
{
	static struct ox_kept kept;
	int ret = ox_kept_begin(&kept, arguments->socket);

	if (ret < 0) {
		ox_cli_error("There is no keeper behind --kept-as: %s", strerror(-ret));
		return ret;
	}
	arguments->kept = &kept;
	if (arguments->role == OX_KEPT_OPENER)
		return ox_kept_open(&kept, arguments->image, &arguments->open);
	open_by_keeper(arguments);
	return run(arguments);
}

int ox_cli_serve(int argc, char **argv)
{
	struct arguments arguments = {
		.format = "qcow2",
		.fd = -1,
		.open = OX_OPEN_OPTIONS_INIT,
		.nbd = {.export_name = "",
			.max_clients = DEFAULT_CLIENTS,
			.drain_ms = DEFAULT_DRAIN_MS},
	};
	int ret;

	arguments.open.backing_policy = OX_BACKING_DENY; /* until --allow-backing */
	if (parse(argc, argv, &arguments) < 0)
		return 1;
	if (arguments.help) {
		fputs(help_text, stdout);
		return ox_cli_finish_output(0);
	}
	arguments.open.warn = on_warning;
	arguments.open.progress = on_progress;
	arguments.open.opaque = &arguments;
	arguments.nbd.ready = on_ready;
	arguments.nbd.warn = on_warning;
	arguments.nbd.log = arguments.verbose ? on_log : NULL;
	arguments.nbd.opaque = &arguments;
	/* Before the library has threads, so that none of them takes the signals. */
	ox_serve_block_signals();
	if (arguments.role == OX_KEPT_NOT && ox_cli_pid_file_open(&arguments.pid_file) < 0)
		return 1;
	if (arguments.role != OX_KEPT_NOT)
		ret = run_kept(&arguments);
	else
		ret = arguments.keeper ? keep(&arguments, argv) : run(&arguments);
	if (arguments.role == OX_KEPT_NOT)
		ox_cli_pid_file_remove(&arguments.pid_file);
	ox_cli_log_end();
	if (ret < 0)
		return arguments.role == OX_KEPT_WORKER ? OX_KEPT_FAILED : 1;
	return 0;
}
