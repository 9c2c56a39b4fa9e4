/* SPDX-License-Identifier: MIT */
#include "cli/mount/mount.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum long_option {
	OPTION_ALLOW_BACKING = 256,
	OPTION_BACKING_FORMAT,
	OPTION_DISCARD,
	OPTION_L2_CACHE,
	OPTION_NO_SANDBOX,
	OPTION_PID_FILE,
	OPTION_RECOVER,
	OPTION_REFCOUNT_CACHE,
	OPTION_USER,
	OPTION_FOREGROUND,
};

static const struct option long_options[] = {
	{"allow-backing", optional_argument, NULL, OPTION_ALLOW_BACKING},
	{"backing-format", required_argument, NULL, OPTION_BACKING_FORMAT},
	{"cache", required_argument, NULL, 't'},
	{"discard", required_argument, NULL, OPTION_DISCARD},
	{"force-share", no_argument, NULL, 'U'},
	{"foreground", no_argument, NULL, OPTION_FOREGROUND},
	{"format", required_argument, NULL, 'f'},
	{"help", no_argument, NULL, 'h'},
	{"l2-cache-size", required_argument, NULL, OPTION_L2_CACHE},
	{"no-sandbox", no_argument, NULL, OPTION_NO_SANDBOX},
	{"options", required_argument, NULL, 'o'},
	{"pid-file", required_argument, NULL, OPTION_PID_FILE},
	{"quiet", no_argument, NULL, 'q'},
	{"read-only", no_argument, NULL, 'r'},
	{"recover", required_argument, NULL, OPTION_RECOVER},
	{"refcount-cache-size", required_argument, NULL, OPTION_REFCOUNT_CACHE},
	{"user", required_argument, NULL, OPTION_USER},
	{0},
};

const char ox_cli_mount_help[] =
	"usage: oxbow mount [OPTION...] IMAGE DIR\n"
	"Mount the disk in IMAGE as the file DIR/disk, for loop devices, file managers and "
	"whatever\n"
	"else reads files. The command returns once it is there; `umount DIR` ends it.\n"
	"\n"
	"  -f, --format FMT           qcow2 (the default), qed or raw; never guessed\n"
	"  -r, --read-only            the file cannot be written to\n"
	"  -t, --cache MODE           writeback (default), writethrough, none, directsync, unsafe\n"
	"  -o, --options OPT[,OPT...] allow_other: other users may use it, as its mode lets them;\n"
	"                             uid=N, gid=N: whose the file is (default: yours);\n"
	"                             mode=OCTAL: its mode (default: 0600)\n"
	"  --foreground               stay, print the file's path once it is there, and exit with "
	"0 "
	"if\n"
	"                             the image could be closed\n"
	"  --pid-file FILE            FILE holds the process id while it is mounted\n"
	"  --discard=unmap|ignore     whether holes give space back to the host (default: unmap)\n"
	"  --allow-backing[=DIR]      open the backing file that the image names (only if it lies\n"
	"                             under DIR); without this option such an image is refused\n"
	"  --backing-format FMT       format of that backing file, qcow2, qed or raw, if the "
	"image\n"
	"                             does not state it\n"
	"  --l2-cache-size SIZE       memory for L2 tables (default: from the image's size)\n"
	"  --refcount-cache-size SIZE memory for refcount blocks (default: 2M)\n"
	"  --recover MODE             for an image that was not closed: auto (default), wait, "
	"never\n"
	"  --user USER                if root has started it: the user that serves (default: "
	"nobody)\n"
	"  --no-sandbox               let the process that serves keep its rights\n"
	"  -U, --force-share          with -r: ignore others' locks on the image\n"
	"  -q, --quiet                print neither the path nor warnings\n"
	"  -h, --help                 print this text\n"
	"\n"
	"IMAGE may be an NBD server's export: nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH.\n"
	"SIGTERM unmounts, unless the file is in use; a second one detaches it, so that it ends "
	"with\n"
	"its last user; a third one takes it from them.\n";

static int bad_value(const char *option, const char *value, const char *expected)
{
	ox_cli_usage_error("mount", "%s '%s' is not valid; it takes %s", option, value, expected);
	return -EINVAL;
}

static int parse_number(const char *text, int base, unsigned long max, unsigned long *ret)
{
	char *end;

	if (!text || text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	*ret = strtoul(text, &end, base);
	return errno == 0 && *end == '\0' && *ret <= max ? 0 : -EINVAL;
}

static int take_mount_option(struct ox_cli_mount *mount, const char *key, const char *value)
{
	struct ox_serve_fuse_options *fuse = &mount->serve.serve.fuse;
	unsigned long number = 0;

	if (strcmp(key, "allow_other") == 0 && !value)
		mount->allow_other = true;
	else if (strcmp(key, "uid") == 0 && parse_number(value, 10, UINT_MAX - 1, &number) == 0)
		fuse->uid = (uid_t)number;
	else if (strcmp(key, "gid") == 0 && parse_number(value, 10, UINT_MAX - 1, &number) == 0)
		fuse->gid = (gid_t)number;
	else if (strcmp(key, "mode") == 0 && parse_number(value, 8, 0666, &number) == 0)
		fuse->mode = (mode_t)number;
	else
		return bad_value("-o", key, "allow_other, uid=N, gid=N and mode=OCTAL, to 0666");
	return 0;
}

static int take_mount_options(struct ox_cli_mount *mount, const char *text)
{
	struct ox_cli_options options = {0};
	int ret = ox_cli_options_parse(&options, text);

	if (ret == -EINVAL)
		ret = bad_value("-o", text, "a list of options");
	for (size_t i = 0; ret == 0 && i < options.count; i++)
		ret = take_mount_option(mount, options.items[i].key, options.items[i].value);
	ox_cli_options_free(&options);
	return ret;
}

static int take_size(const char *option, const char *value, uint64_t *ret_bytes)
{
	if (ox_cli_size_parse(value, ret_bytes) < 0)
		return bad_value(option, value, "a size such as 4M");
	return 0;
}

static int take_discard(const char *value, unsigned *flags)
{
	if (strcmp(value, "unmap") == 0)
		*flags &= ~(unsigned)OX_OPEN_NO_DISCARD;
	else if (strcmp(value, "ignore") == 0)
		*flags |= OX_OPEN_NO_DISCARD;
	else
		return bad_value("--discard", value, "unmap or ignore");
	return 0;
}

/* The options that need more than to be noted. */
static int take_valued(struct ox_cli_mount *mount, int option, const char *value)
{
	struct ox_open_options *open = &mount->serve.open;

	switch (option) {
	case 't':
		if (ox_cache_mode_parse(value, &open->cache) < 0)
			return bad_value("--cache", value,
					 "writeback, writethrough, none, directsync or unsafe");
		return 0;
	case 'o':
		return take_mount_options(mount, value);
	case OPTION_DISCARD:
		return take_discard(value, &open->flags);
	case OPTION_L2_CACHE:
		return take_size("--l2-cache-size", value, &open->l2_cache_bytes);
	case OPTION_REFCOUNT_CACHE:
		return take_size("--refcount-cache-size", value, &open->refcount_cache_bytes);
	case OPTION_RECOVER:
		if (ox_cli_recover_parse(value, &open->recover) < 0)
			return bad_value("--recover", value, "auto, wait or never");
		return 0;
	default:
		return -EINVAL;
	}
}

static int take(struct ox_cli_mount *mount, int option, const char *value)
{
	struct ox_cli_serve_arguments *arguments = &mount->serve;

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
	case 'h':
		arguments->help = true;
		break;
	case OPTION_FOREGROUND:
		mount->foreground = true;
		break;
	case OPTION_NO_SANDBOX:
		arguments->no_sandbox = true;
		break;
	case OPTION_USER:
		arguments->user = value;
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
		return take_valued(mount, option, value);
	}
	return 0;
}

static int check(const struct ox_cli_mount *mount)
{
	const unsigned flags = mount->serve.open.flags;

	if ((flags & OX_OPEN_FORCE_SHARE) && !(flags & OX_OPEN_READ_ONLY))
		ox_cli_usage_error("mount", "-U needs -r: an image that others may write cannot be "
					    "mounted for writing");
	else if (mount->serve.user && mount->serve.no_sandbox)
		ox_cli_usage_error("mount", "--user and --no-sandbox exclude each other");
	else
		return 0;
	return -EINVAL;
}

int ox_cli_mount_parse(int argc, char **argv, struct ox_cli_mount *mount)
{
	int option;

	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, ":f:rt:o:Uqh", long_options, NULL)) != -1) {
		if (option == '?' || option == ':') {
			ox_cli_option_error("mount", option, argv);
			return -EINVAL;
		}
		if (take(mount, option, optarg) < 0)
			return -EINVAL;
	}
	if (mount->serve.help)
		return 0;
	if (argc - optind != 2) {
		ox_cli_usage_error("mount", argc == optind ? "No image is given"
					    : argc - optind == 1
						    ? "No folder is given"
						    : "One image is mounted on one folder");
		return -EINVAL;
	}
	if (ox_cli_name_is_export(argv[optind]))
		mount->serve.open.flags |= OX_OPEN_URI;
	else if (ox_cli_name_refuse_uri(argv[optind], "mounted"))
		return -ENOTSUP;
	mount->serve.image = argv[optind];
	mount->serve.serve.name = argv[optind];
	mount->serve.open.format = mount->serve.format;
	mount->directory = argv[optind + 1];
	return check(mount);
}
