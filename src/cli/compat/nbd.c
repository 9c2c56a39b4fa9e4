/* SPDX-License-Identifier: MIT */
/*
 * Called as qemu-nbd. Its command line is put into words of `oxbow serve`, which does the rest:
 * without -t in one process that ends with its last client, with -t under a keeper.
 */
#include "cli/compat/nbd.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/serve/serve.h"

#define DEFAULT_PORT "10809"
#define DEFAULT_HOST "0.0.0.0"
/* The descriptor that a service manager hands over. */
#define FIRST_HANDED "fd:3"

enum {
	OPTION_CACHE = 256,
	OPTION_AIO,
	OPTION_DISCARD,
	OPTION_DETECT_ZEROES,
	OPTION_OBJECT,
	OPTION_TLS_CREDS,
	OPTION_TLS_AUTHZ,
	OPTION_TLS_HOSTNAME,
	OPTION_IMAGE_OPTS,
	OPTION_FORK,
	OPTION_PID_FILE,
	OPTION_SELINUX_LABEL,
	OPTION_HANDSHAKE_LIMIT,
};

static const char help[] =
	"usage: qemu-nbd [OPTIONS] FILE\n"
	"       qemu-nbd -L [OPTIONS]\n"
	"Serve an image to NBD clients; by oxbow under the name of QEMU's tool.\n"
	"\n"
	"  -L, --list                print what a server exports, which -p, -b or -k names, with\n"
	"                            --object and --tls-creds for a client\n"
	"  --tls-hostname=NAME       with -L: what the server's certificate is to name\n"
	"  -p, --port=PORT           the port to listen on (10809)\n"
	"  -b, --bind=HOST           the address to listen on (0.0.0.0, which is every network)\n"
	"  -k, --socket=PATH         listen on a unix socket instead; its absolute path\n"
	"  -e, --shared=NUM          so many clients at once (1); 0: as many as there are\n"
	"  -t, --persistent          do not end with the last client\n"
	"  -v, --verbose             tell who comes and goes; with --fork, also later\n"
	"  -x, --export-name=NAME    the export's name (the empty one)\n"
	"  -D, --description=TEXT    what clients are told of the export\n"
	"  -A, --allocation-depth    clients can ask in which layer of the chain what is "
	"allocated\n"
	"  -o, --offset=OFFSET       the export begins at that byte\n"
	"  --fork                    return once clients can connect; the server goes on\n"
	"  --pid-file=PATH           PATH holds the server's process id while clients can connect\n"
	"  --handshake-limit=N       accepted and ignored\n"
	"  -f, --format=FORMAT       qcow2, qed or raw; without it, the file tells its format\n"
	"  -r, --read-only           clients cannot write\n"
	"  -l, --load-snapshot=S     serve that internal snapshot, read-only: ID, NAME or\n"
	"                            snapshot.id=ID,snapshot.name=NAME\n"
	"  -s, --snapshot            keep what is written in a temporary file\n"
	"  -n, --nocache             the same as --cache=none\n"
	"  --cache=MODE              writeback (the default), writethrough, none, directsync, "
	"unsafe\n"
	"  --aio=MODE                threads, io_uring or native (which is the default)\n"
	"  --discard=MODE            what trims do: ignore (the default) or unmap\n"
	"  --detect-zeroes=MODE      off (the default), on, or unmap, which needs --discard=unmap\n"
	"  --object ...              tls-creds-x509 or "
	"tls-creds-psk,id=ID,endpoint=server,dir=DIR\n"
	"  --tls-creds=ID            serve over TLS alone, with that object's credentials\n"
	"  --tls-authz=ID            to those alone whom that object names: authz-simple, "
	"authz-list\n"
	"                            or authz-list-file, which SIGHUP has read again\n"
	"  --image-opts              FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -T, --trace ...           accepted and ignored\n"
	"  -h, --help                print this text\n"
	"  -V, --version             print the version\n"
	"\n"
	"Not there: -c and -d (say nbd-client), -B, --selinux-label.\n";

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"bind", required_argument, NULL, 'b'},
	{"port", required_argument, NULL, 'p'},
	{"socket", required_argument, NULL, 'k'},
	{"offset", required_argument, NULL, 'o'},
	{"read-only", no_argument, NULL, 'r'},
	{"allocation-depth", no_argument, NULL, 'A'},
	{"bitmap", required_argument, NULL, 'B'},
	{"connect", required_argument, NULL, 'c'},
	{"disconnect", no_argument, NULL, 'd'},
	{"list", no_argument, NULL, 'L'},
	{"snapshot", no_argument, NULL, 's'},
	{"load-snapshot", required_argument, NULL, 'l'},
	{"nocache", no_argument, NULL, 'n'},
	{"cache", required_argument, NULL, OPTION_CACHE},
	{"aio", required_argument, NULL, OPTION_AIO},
	{"discard", required_argument, NULL, OPTION_DISCARD},
	{"detect-zeroes", required_argument, NULL, OPTION_DETECT_ZEROES},
	{"shared", required_argument, NULL, 'e'},
	{"format", required_argument, NULL, 'f'},
	{"persistent", no_argument, NULL, 't'},
	{"verbose", no_argument, NULL, 'v'},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{"export-name", required_argument, NULL, 'x'},
	{"description", required_argument, NULL, 'D'},
	{"tls-creds", required_argument, NULL, OPTION_TLS_CREDS},
	{"tls-hostname", required_argument, NULL, OPTION_TLS_HOSTNAME},
	{"tls-authz", required_argument, NULL, OPTION_TLS_AUTHZ},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"trace", required_argument, NULL, 'T'},
	{"fork", no_argument, NULL, OPTION_FORK},
	{"pid-file", required_argument, NULL, OPTION_PID_FILE},
	{"selinux-label", required_argument, NULL, OPTION_SELINUX_LABEL},
	{"handshake-limit", required_argument, NULL, OPTION_HANDSHAKE_LIMIT},
	{0},
};

/* ---- the command line ---- */

static int refuse(const char *what)
{
	ox_cli_error("%s is not supported", what);
	return 1;
}

static int take_shared(struct ox_compat_nbd *nbd, const char *text)
{
	char *end;
	long number;

	errno = 0;
	number = strtol(text, &end, 0);
	if (errno || end == text || *end || number < 0 || number > INT_MAX) {
		ox_cli_error("Invalid shared device number '%s'", text);
		return 1;
	}
	nbd->shared = number == 0 || number > OX_COMPAT_NBD_CLIENTS_MAX ? OX_COMPAT_NBD_CLIENTS_MAX
									: (unsigned)number;
	return 0;
}

static int take_offset(struct ox_compat_nbd *nbd, const char *text)
{
	char *end;

	errno = 0;
	nbd->offset = strtoull(text, &end, 0);
	if (errno == 0 && isdigit((unsigned char)text[0]) && !*end && nbd->offset <= INT64_MAX)
		return 0;
	ox_cli_error("Invalid offset '%s'", text);
	return 1;
}

static int take_cache(struct ox_compat_nbd *nbd, const char *mode)
{
	if (nbd->cache) {
		ox_cli_error("-n and --cache can only be specified once");
		return 1;
	}
	nbd->cache = mode;
	if (ox_cache_mode_parse(mode, &nbd->source.open.cache) == 0)
		return 0;
	ox_cli_error("Invalid cache mode `%s'", mode);
	return 1;
}

/* The children of a keeper have the environment too. */
static int take_aio(struct ox_compat_nbd *nbd, const char *mode)
{
	if (nbd->aio) {
		ox_cli_error("--aio can only be specified once");
		return 1;
	}
	nbd->aio = mode;
	if (strcmp(mode, "threads") == 0)
		return setenv("OXBOW_IO", "threads", 1) < 0;
	if (strcmp(mode, "native") == 0 || strcmp(mode, "io_uring") == 0)
		return 0;
	ox_cli_error("Invalid aio mode '%s'", mode);
	return 1;
}

static int take_discard(struct ox_compat_nbd *nbd, const char *mode)
{
	if (nbd->discard) {
		ox_cli_error("--discard can only be specified once");
		return 1;
	}
	nbd->discard = mode;
	if (strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0)
		nbd->unmap = true;
	else if (strcmp(mode, "ignore") != 0 && strcmp(mode, "off") != 0) {
		ox_cli_error("Invalid discard mode `%s'", mode);
		return 1;
	}
	return 0;
}

static int take_detect_zeroes(struct ox_compat_nbd *nbd, const char *mode)
{
	if (strcmp(mode, "off") != 0 && strcmp(mode, "on") != 0 && strcmp(mode, "unmap") != 0) {
		ox_cli_error("Failed to parse detect_zeroes mode: invalid parameter value: %s",
			     mode);
		return 1;
	}
	nbd->detect_zeroes = mode;
	return 0;
}

static void print_version(void)
{
	printf("qemu-nbd " OX_CALLED_VERSION " (oxbow %s)\n", ox_version());
}

/* What is not there is refused by its name. */
static int take_missing(int c)
{
	switch (c) {
	case 'c':
		return refuse("-c: a device of the kernel (say nbd-client)");
	case 'd':
		return refuse("-d: a device of the kernel (say nbd-client -d)");
	case 'B':
		return refuse("-B: exporting a dirty bitmap");
	default:
		return refuse("--selinux-label");
	}
}

static int take_image_option(struct ox_compat_nbd *nbd, int c)
{
	switch (c) {
	case 'f':
		nbd->source.open.format = optarg;
		return 0;
	case 'l':
		nbd->source.open.flags |= OX_OPEN_READ_ONLY;
		return ox_cli_snapshot_set(&nbd->source.open, optarg) < 0;
	case 'r':
		nbd->source.open.flags |= OX_OPEN_READ_ONLY;
		return 0;
	case 's':
		nbd->temporary = true;
		return 0;
	case 'n':
		return take_cache(nbd, "none");
	case OPTION_CACHE:
		return take_cache(nbd, optarg);
	case OPTION_AIO:
		return take_aio(nbd, optarg);
	case OPTION_DISCARD:
		return take_discard(nbd, optarg);
	case OPTION_DETECT_ZEROES:
		return take_detect_zeroes(nbd, optarg);
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_TLS_CREDS:
		nbd->tls_creds = optarg;
		return 0;
	case OPTION_TLS_AUTHZ:
		nbd->tls_authz = optarg;
		return 0;
	case OPTION_TLS_HOSTNAME:
		nbd->tls_hostname = optarg;
		return 0;
	case OPTION_IMAGE_OPTS:
		nbd->source.image_opts = true;
		return 0;
	default:
		return take_missing(c);
	}
}

/* 0 to go on, -1 when all is done, else the exit status. */
static int take_option(struct ox_compat_nbd *nbd, int c, char **argv)
{
	switch (c) {
	case 'h':
		fputs(help, stdout);
		return -1;
	case 'V':
		print_version();
		return -1;
	case 'b':
		nbd->host = optarg;
		return 0;
	case 'p':
		nbd->port = optarg;
		return 0;
	case 'k':
		nbd->socket = optarg;
		return 0;
	case 'e':
		return take_shared(nbd, optarg);
	case 't':
		nbd->persistent = true;
		return 0;
	case 'v':
		nbd->verbose = true;
		return 0;
	case 'x':
		nbd->export_name = optarg;
		return 0;
	case 'D':
		nbd->description = optarg;
		return 0;
	case 'o':
		return take_offset(nbd, optarg);
	case 'L':
		nbd->list = true;
		return 0;
	case 'A':
		nbd->allocation_depth = true;
		return 0;
	case 'T':
	case OPTION_HANDSHAKE_LIMIT:
		return 0;
	case OPTION_FORK:
		nbd->fork = true;
		return 0;
	case OPTION_PID_FILE:
		nbd->pid_file = optarg;
		return 0;
	case '?':
	case ':':
		return ox_cli_option_error(NULL, c, argv);
	default:
		return take_image_option(nbd, c);
	}
}

/* A socket that a service manager has handed to this process. Its variables end here. */
static int find_activation(struct ox_compat_nbd *nbd)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	const bool is_ours = pid && count && atol(pid) == (long)getpid();
	const long fds = is_ours ? atol(count) : 0;

	if (!is_ours)
		return 0;
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
	if (fds == 0)
		return 0;
	if (fds > 1)
		ox_cli_error("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
	else if (nbd->socket)
		ox_cli_error("Unix socket can't be set when using socket activation");
	else if (nbd->host)
		ox_cli_error("The interface can't be set when using socket activation");
	else if (nbd->port)
		ox_cli_error("TCP port number can't be set when using socket activation");
	else {
		nbd->activated = true;
		return 0;
	}
	return 1;
}

static int fail_tls(const char *words, const char *id)
{
	ox_cli_error("Failed to get TLS creds: %s '%s'", words, id);
	return 1;
}

/* What --tls-creds names, once all objects are known. */
static int find_credentials(struct ox_compat_nbd *nbd)
{
	const struct ox_cli_options *object;
	const char *endpoint, *verify;
	bool is_x509;

	if (!nbd->tls_creds)
		return 0;
	object = ox_cli_object_find(nbd->tls_creds);
	if (!object)
		return fail_tls("No TLS credentials with id", nbd->tls_creds);
	is_x509 = strcmp(ox_cli_object_type(object), "tls-creds-x509") == 0;
	if (!is_x509 && strcmp(ox_cli_object_type(object), "tls-creds-psk") != 0) {
		ox_cli_error("Object with id '%s' is not TLS credentials", nbd->tls_creds);
		return 1;
	}
	endpoint = ox_cli_object_value(object, "endpoint");
	if (!endpoint || strcmp(endpoint, "server") != 0) {
		ox_cli_error("Expecting TLS credentials with a server endpoint");
		return 1;
	}
	nbd->tls_directory = ox_cli_object_value(object, "dir");
	if (!nbd->tls_directory)
		return fail_tls("Missing 'dir' property value of", nbd->tls_creds);
	nbd->tls_verify_peer = is_x509;
	verify = ox_cli_object_value(object, "verify-peer");
	if (is_x509 && verify && ox_cli_bool_parse(verify, &nbd->tls_verify_peer) < 0) {
		ox_cli_error("Parameter 'verify-peer' expects 'on' or 'off'");
		return 1;
	}
	return 0;
}

/* What --tls-authz names, of certificates that are looked at. QEMU's lets anybody in where they are
 * not. */
static int find_rules(struct ox_compat_nbd *nbd)
{
	const struct ox_cli_options *object;

	if (!nbd->tls_authz)
		return 0;
	object = ox_cli_object_find(nbd->tls_authz);
	if (!object)
		ox_cli_error("--tls-authz: no object has the id '%s'", nbd->tls_authz);
	else if (!ox_cli_authz_is(object))
		ox_cli_error("--tls-authz: object '%s' does not say who may connect",
			     nbd->tls_authz);
	else if (!nbd->tls_verify_peer)
		ox_cli_error("--tls-authz: '%s' asks clients for no certificate", nbd->tls_creds);
	else
		return ox_cli_authz_word(object, &nbd->rules) < 0;
	return 1;
}

/* Words that need others. */
static int check_tls(struct ox_compat_nbd *nbd)
{
	if (nbd->tls_hostname && !nbd->tls_creds)
		ox_cli_error("--tls-hostname is not permitted without --tls-creds");
	else if (nbd->tls_hostname)
		ox_cli_error("TLS hostname is only supported with export list");
	else if (nbd->tls_authz && !nbd->tls_creds)
		ox_cli_error("--tls-authz is not permitted without --tls-creds");
	else
		return find_credentials(nbd) || find_rules(nbd);
	return 1;
}

static int check_arguments(struct ox_compat_nbd *nbd)
{
	if (nbd->source.image_opts && nbd->source.open.format)
		ox_cli_error("--image-opts and -f are mutually exclusive");
	else if (nbd->detect_zeroes && strcmp(nbd->detect_zeroes, "unmap") == 0 && !nbd->unmap)
		ox_cli_error("setting detect-zeroes to unmap is not allowed without setting "
			     "discard operation to unmap");
	else if (nbd->socket && nbd->socket[0] != '/')
		ox_cli_error("socket path must be absolute");
	else if (strlen(nbd->export_name) > 4096)
		ox_cli_error("export name '%s' too long", nbd->export_name);
	else if (nbd->description && strlen(nbd->description) > 4096)
		ox_cli_error("description '%s' too long", nbd->description);
	else
		return check_tls(nbd) || find_activation(nbd);
	return 1;
}

/* ---- where it listens ---- */

static bool is_loopback(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6);
	return strcmp(host, "localhost") == 0;
}

/* *ret_address is to be freed. */
static int choose_address(const struct ox_compat_nbd *nbd, char **ret_address)
{
	const char *host = nbd->host ? nbd->host : DEFAULT_HOST;
	const char *port = nbd->port ? nbd->port : DEFAULT_PORT;
	int r;

	if (nbd->activated)
		r = asprintf(ret_address, FIRST_HANDED);
	else if (nbd->socket)
		r = asprintf(ret_address, "unix:%s", nbd->socket);
	else
		r = asprintf(ret_address, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	if (r < 0) {
		*ret_address = NULL;
		ox_cli_error("%s", strerror(ENOMEM));
		return 1;
	}
	if (!nbd->activated && !nbd->socket && !nbd->tls_directory && !is_loopback(host))
		ox_cli_error("warning: whoever can reach %s:%s may read%s this disk: it is served "
			     "without TLS",
			     host, port,
			     nbd->source.open.flags & OX_OPEN_READ_ONLY ? "" : " and write");
	return 0;
}

/* ---- words of oxbow serve ---- */

static void add(struct ox_compat_nbd *nbd, const char *word)
{
	if (word && nbd->word_count < OX_COMPAT_NBD_WORDS)
		nbd->words[nbd->word_count] = strdup(word);
	if (!word || !nbd->words[nbd->word_count++]) {
		ox_cli_error("%s", strerror(ENOMEM));
		exit(1);
	}
}

static void add_value(struct ox_compat_nbd *nbd, const char *option, const char *value)
{
	char *word;

	if (asprintf(&word, "--%s=%s", option, value) < 0)
		word = NULL;
	add(nbd, word);
	free(word);
}

static void add_number(struct ox_compat_nbd *nbd, const char *option, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	add_value(nbd, option, text);
}

static void add_snapshot(struct ox_compat_nbd *nbd)
{
	const struct ox_open_options *open = &nbd->source.open;

	if (open->snapshot)
		add_value(nbd, "snapshot", open->snapshot);
	if (open->snapshot_id)
		add_value(nbd, "snapshot=snapshot.id", open->snapshot_id);
	if (open->snapshot_name)
		add_value(nbd, "snapshot=snapshot.name", open->snapshot_name);
}

static bool is_export(const struct ox_compat_nbd *nbd)
{
	return nbd->source.open.flags & OX_OPEN_URI;
}

static void make_words(struct ox_compat_nbd *nbd, const char *address)
{
	const struct ox_open_options *open = &nbd->source.open;

	add(nbd, "serve");
	if (!nbd->persistent || nbd->temporary || is_export(nbd))
		add(nbd, "--no-keeper");
	add_value(nbd, "nbd", address);
	add_value(nbd, "format", nbd->probes ? "raw" : open->format);
	add_value(nbd, "cache", ox_cache_mode_name(open->cache));
	add_value(nbd, "discard", nbd->unmap ? "unmap" : "ignore");
	add_value(nbd, "recover", "auto");
	add_number(nbd, "shared", nbd->shared);
	add_value(nbd, "export-name", nbd->export_name);
	if (open->file_offset)
		add_number(nbd, "file-offset", open->file_offset);
	if (open->file_length)
		add_number(nbd, "file-length", open->file_length);
	if (!(open->flags & OX_OPEN_NO_BACKING))
		add(nbd, "--allow-backing");
	if (open->backing_format)
		add_value(nbd, "backing-format", open->backing_format);
	if (nbd->description)
		add_value(nbd, "description", nbd->description);
	if (nbd->detect_zeroes)
		add_value(nbd, "detect-zeroes", nbd->detect_zeroes);
	if (nbd->allocation_depth)
		add(nbd, "--allocation-depth");
	add_snapshot(nbd);
	if (nbd->offset)
		add_number(nbd, "offset", nbd->offset);
	if (open->flags & OX_OPEN_READ_ONLY)
		add(nbd, "--read-only");
	if (open->flags & OX_OPEN_FORCE_SHARE)
		add(nbd, "--force-share");
	if (open->l2_cache_bytes)
		add_number(nbd, "l2-cache-size", open->l2_cache_bytes);
	if (open->refcount_cache_bytes)
		add_number(nbd, "refcount-cache-size", open->refcount_cache_bytes);
	if (nbd->tls_directory)
		add_value(nbd, "tls-creds", nbd->tls_directory);
	else
		add(nbd, "--insecure"); /* and warned of */
	if (nbd->tls_verify_peer)
		add(nbd, "--tls-verify-peer");
	if (nbd->rules)
		add_value(nbd, "tls-authz", nbd->rules);
	if (nbd->pid_file)
		add_value(nbd, "pid-file", nbd->pid_file);
	if (nbd->verbose)
		add(nbd, "--verbose");
	add(nbd, "--");
	add(nbd, nbd->source.path);
}

/* What no word says: that nbd:HOST:PORT, which could be a path, is none, and that the image tells
 * its format. */
static void take_export(const struct ox_compat_nbd *nbd, struct ox_cli_serve_arguments *arguments)
{
	arguments->open.flags |= OX_OPEN_URI;
	if (!nbd->probes)
		return;
	arguments->open.flags |= OX_OPEN_PROBE;
	arguments->open.format = NULL;
}

static int serve(struct ox_compat_nbd *nbd)
{
	struct ox_cli_serve_arguments arguments;
	char *address = NULL;
	int status = choose_address(nbd, &address);

	if (status == 0) {
		make_words(nbd, address);
		ox_cli_serve_init(&arguments);
		arguments.takes_exports = true;
		if (ox_cli_serve_parse(nbd->word_count, nbd->words, &arguments) < 0)
			status = 1;
	}
	if (status == 0 && is_export(nbd))
		take_export(nbd, &arguments);
	if (status == 0) {
		arguments.serve.nbd.ends_with_clients = !nbd->persistent;
		arguments.listening = ox_compat_nbd_listening;
		arguments.listening_opaque = nbd;
		status = ox_cli_serve_run(&arguments, nbd->words + 1);
	}
	ox_cli_temporary_drop(&nbd->overlay);
	free(address);
	return status;
}

static int run(struct ox_compat_nbd *nbd, const char *file)
{
	int status = 1;

	if (ox_cli_source_set(&nbd->source, file) < 0)
		return 1;
	if (!nbd->detect_zeroes)
		nbd->detect_zeroes = nbd->source.detect_zeroes;
	if (nbd->fork) {
		status = ox_compat_nbd_fork(nbd);
		if (status >= 0)
			return status;
	}
	if (is_export(nbd) && !nbd->source.open.format)
		nbd->probes = true; /* at the opening: some servers end with their first client */
	else if (ox_compat_nbd_find_format(nbd) < 0)
		return 1;
	if (nbd->temporary && ox_cli_temporary_make(&nbd->source, &nbd->overlay) < 0)
		return 1;
	return serve(nbd);
}

int ox_compat_nbd(int argc, char **argv)
{
	struct ox_compat_nbd nbd = {
		.source = OX_CLI_SOURCE_INIT, .shared = 1, .export_name = "", .ready_fd = -1};
	int c, status = 0;

	/* A keeper says so to its children. */
	if (argc > 2 && strcmp(argv[1], "serve") == 0 && strncmp(argv[2], "--kept-as=", 10) == 0)
		return ox_cli_serve(argc - 1, argv + 1);
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hVb:o:p:k:e:f:tl:x:T:D:AB:LrsnP:c:dv",
					       longs, NULL)) != -1)
		status = take_option(&nbd, c, argv);
	if (status == 0 && nbd.list)
		status = ox_compat_nbd_list(&nbd, argc - optind) ? 1 : -1;
	if (status == 0 && argc - optind != 1)
		status = ox_cli_usage_error(NULL, "Invalid number of arguments");
	if (status == 0)
		status = check_arguments(&nbd);
	if (status == 0)
		status = run(&nbd, argv[optind]);
	for (int i = 0; i < nbd.word_count; i++)
		free(nbd.words[i]);
	free(nbd.rules);
	ox_cli_source_free(&nbd.source);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
