/* SPDX-License-Identifier: MIT */
#include "cli/serve/serve.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/limits.h"

#define MOST_CLIENTS 4096
#define MOST_DRAIN_SECONDS 86400

enum long_option {
	OPTION_CACHE = 't',
	OPTION_EXPORT = 'x',
	OPTION_ALLOCATION_DEPTH = 256,
	OPTION_ALLOW_BACKING,
	OPTION_BACKING_FORMAT,
	OPTION_CONTROL,
	OPTION_CONFIG,
	OPTION_BLOCK_SIZE,
	OPTION_DETECT_ZEROES,
	OPTION_DISCARD,
	OPTION_DRAIN,
	OPTION_FD,
	OPTION_HANG_TIMEOUT,
	OPTION_INSECURE,
	OPTION_KEEPER,
	OPTION_KEPT_AS,
	OPTION_NO_KEEPER,
	OPTION_NO_SANDBOX,
	OPTION_L2_CACHE,
	OPTION_LAZY_IDLE,
	OPTION_LIMIT,
	OPTION_LOW_SPACE,
	OPTION_TABLE_AGE,
	OPTION_MEMORY,
	OPTION_ON_FULL,
	OPTION_NBD,
	OPTION_NUM_QUEUES,
	OPTION_OFFSET,
	OPTION_FILE_LENGTH,
	OPTION_FILE_OFFSET,
	OPTION_QUEUE_SIZE,
	OPTION_SERIAL,
	OPTION_VHOST,
	OPTION_PID_FILE,
	OPTION_RECOVER,
	OPTION_REFCOUNT_CACHE,
	OPTION_SHARED,
	OPTION_SOCKET_GROUP,
	OPTION_SOCKET_MODE,
	OPTION_SOCKET_OWNER,
	OPTION_TLS_AUTHZ,
	OPTION_TLS_CREDS,
	OPTION_TLS_VERIFY_PEER,
	OPTION_USER,
	OPTION_WORKER,
	OPTION_STATE,
};

const struct option ox_cli_serve_options[] = {
	{"allocation-depth", no_argument, NULL, OPTION_ALLOCATION_DEPTH},
	{"allow-backing", optional_argument, NULL, OPTION_ALLOW_BACKING},
	{"backing-format", required_argument, NULL, OPTION_BACKING_FORMAT},
	{"block-size", required_argument, NULL, OPTION_BLOCK_SIZE},
	{"cache", required_argument, NULL, OPTION_CACHE},
	{"control", required_argument, NULL, OPTION_CONTROL},
	{"config", required_argument, NULL, OPTION_CONFIG},
	{"description", required_argument, NULL, 'D'},
	{"detect-zeroes", required_argument, NULL, OPTION_DETECT_ZEROES},
	{"discard", required_argument, NULL, OPTION_DISCARD},
	{"drain", required_argument, NULL, OPTION_DRAIN},
	{"export", required_argument, NULL, OPTION_EXPORT},
	{"export-name", required_argument, NULL, OPTION_EXPORT},
	{"fd", required_argument, NULL, OPTION_FD},
	{"force-share", no_argument, NULL, 'U'},
	{"format", required_argument, NULL, 'f'},
	{"hang-timeout", required_argument, NULL, OPTION_HANG_TIMEOUT},
	{"help", no_argument, NULL, 'h'},
	{"insecure", no_argument, NULL, OPTION_INSECURE},
	{"keeper", no_argument, NULL, OPTION_KEEPER},
	{"kept-as", required_argument, NULL, OPTION_KEPT_AS},
	{"l2-cache-size", required_argument, NULL, OPTION_L2_CACHE},
	{"lazy-idle", required_argument, NULL, OPTION_LAZY_IDLE},
	{"limit", required_argument, NULL, OPTION_LIMIT},
	{"low-space", required_argument, NULL, OPTION_LOW_SPACE},
	{"table-age", required_argument, NULL, OPTION_TABLE_AGE},
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"nbd", required_argument, NULL, OPTION_NBD},
	{"no-keeper", no_argument, NULL, OPTION_NO_KEEPER},
	{"num-queues", required_argument, NULL, OPTION_NUM_QUEUES},
	{"no-sandbox", no_argument, NULL, OPTION_NO_SANDBOX},
	{"offset", required_argument, NULL, OPTION_OFFSET},
	{"file-length", required_argument, NULL, OPTION_FILE_LENGTH},
	{"file-offset", required_argument, NULL, OPTION_FILE_OFFSET},
	{"on-full", required_argument, NULL, OPTION_ON_FULL},
	{"pid-file", required_argument, NULL, OPTION_PID_FILE},
	{"queue-size", required_argument, NULL, OPTION_QUEUE_SIZE},
	{"quiet", no_argument, NULL, 'q'},
	{"read-only", no_argument, NULL, 'r'},
	{"recover", required_argument, NULL, OPTION_RECOVER},
	{"refcount-cache-size", required_argument, NULL, OPTION_REFCOUNT_CACHE},
	{"serial", required_argument, NULL, OPTION_SERIAL},
	{"shared", required_argument, NULL, OPTION_SHARED},
	{"socket-group", required_argument, NULL, OPTION_SOCKET_GROUP},
	{"socket-mode", required_argument, NULL, OPTION_SOCKET_MODE},
	{"socket-owner", required_argument, NULL, OPTION_SOCKET_OWNER},
	{"user", required_argument, NULL, OPTION_USER},
	{"snapshot", required_argument, NULL, 'l'},
	{"state", required_argument, NULL, OPTION_STATE},
	{"tls-authz", required_argument, NULL, OPTION_TLS_AUTHZ},
	{"tls-creds", required_argument, NULL, OPTION_TLS_CREDS},
	{"tls-verify-peer", no_argument, NULL, OPTION_TLS_VERIFY_PEER},
	{"verbose", no_argument, NULL, 'v'},
	{"worker", required_argument, NULL, OPTION_WORKER},
	{"vhost-user-blk", required_argument, NULL, OPTION_VHOST},
	{0},
};

const char ox_cli_serve_help[] =
	"usage: oxbow serve [OPTION...] --nbd ADDRESS IMAGE\n"
	"       oxbow serve [OPTION...] --vhost-user-blk SOCKET IMAGE\n"
	"       oxbow serve [OPTION...] --config FILE\n"
	"Serve IMAGE to NBD clients, as a guest's disk over vhost-user, or both, until SIGTERM,\n"
	"SIGINT or SIGHUP. Once clients can connect, a line with the URI for those of NBD is\n"
	"printed, and one with the socket's path for those of vhost-user.\n"
	"\n"
	"  --nbd ADDRESS              a unix socket's path; or for TCP HOST:PORT, [IPv6]:PORT,\n"
	"                             :PORT (this host alone) or *:PORT (every address of this\n"
	"                             host). Port 0 is any free one. Or systemd:NAME, a socket\n"
	"                             of the service manager's, by its FileDescriptorName=\n"
	"  --tls-creds DIR            NBD over TLS alone, with the credentials in DIR, which have\n"
	"                             QEMU's file names: server-cert.pem, server-key.pem, "
	"ca-cert.pem,\n"
	"                             ca-crl.pem and dh-params.pem, or keys.psk. SIGHUP has them "
	"read\n"
	"                             again\n"
	"  --tls-verify-peer          turn clients away that have no certificate signed by "
	"ca-cert.pem\n"
	"  --tls-authz FILE           and those whose certificates' names the rules in FILE deny, "
	"JSON as\n"
	"                             of QEMU's authz-list-file; or json:TEXT. SIGHUP has it read\n"
	"                             again\n"
	"  --insecure                 serve to other hosts without TLS\n"
	"  --vhost-user-blk SOCKET    the path of a unix socket for a virtual machine: QEMU,\n"
	"                             Firecracker, Cloud Hypervisor, crosvm or libkrun; or\n"
	"                             systemd:NAME\n"
	"  --socket-mode MODE         the rights of the unix sockets, as 0660 (default: by the "
	"umask)\n"
	"  --socket-owner USER        whose they are, and of which group, by name or number\n"
	"  --socket-group GROUP\n"
	"  --num-queues N             at most N queues of that disk, 1 to 64 (default: 4)\n"
	"  --queue-size N             at most N entries in each, a power of two from 2 to 1024\n"
	"                             (default: 256)\n"
	"  --block-size N             its logical blocks: 512 (default), 1024, 2048 or 4096 bytes\n"
	"  --serial TEXT              what the guest is told as its serial number, at most 20 "
	"bytes\n"
	"  -f, --format FMT           qcow2 (the default), qed or raw; never guessed\n"
	"  -t, --cache MODE           writeback (default), writethrough, none, directsync, unsafe\n"
	"  -r, --read-only            clients cannot write\n"
	"  -l, --snapshot SNAPSHOT    serve that internal snapshot, read-only: ID, NAME,\n"
	"                             snapshot.id=ID or snapshot.name=NAME\n"
	"  --file-offset SIZE         the image begins at that byte of its file\n"
	"  --file-length SIZE         and is so long there, and no longer\n"
	"  --discard=unmap|ignore     whether trims give space back to the host (default: unmap)\n"
	"  --detect-zeroes=off|on|unmap\n"
	"                             whether a write of nothing but zeroes makes its range zero\n"
	"                             instead, and with unmap gives its space back to the host\n"
	"                             (default: off; unmap not with --discard=ignore)\n"
	"  --offset SIZE              the export begins at that byte of the disk; NBD alone\n"
	"  --allocation-depth         let clients ask in which layer of the backing chain what is\n"
	"                             allocated, as qemu:allocation-depth; NBD alone\n"
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
	"  --limit LIMIT[,LIMIT...]   what all clients together may do: iops=N and bandwidth=SIZE "
	"a\n"
	"                             second; iops-burst=N and bandwidth-burst=SIZE may be saved "
	"up\n"
	"                             in idle time (default: a tenth of a second's worth)\n"
	"  --on-full=error|pause      what becomes of a write that finds no room on the host: it "
	"fails\n"
	"                             (default), or waits until there is room\n"
	"  --low-space SIZE           tell when less than that is free on the image's file system\n"
	"  --control SOCKET           the path of a unix socket on which `oxbow ctl` is heard\n"
	"  --drain SECONDS            how long the end waits for an image's file that does not\n"
	"                             answer (default: 60)\n"
	"  --fd N                     the image is the inherited descriptor N; IMAGE is its name\n"
	"  --keeper                   another process serves; when it dies the next one serves "
	"on,\n"
	"                             and no answered write is lost (default)\n"
	"  --hang-timeout SECONDS|never\n"
	"                             a serving process that stands still for so long is killed,\n"
	"                             and the next one serves on (default: 30)\n"
	"  --no-keeper                one process for all of it\n"
	"  --worker own|shared        whether the disk is served by a process of its own (default) "
	"or,\n"
	"                             with others of --config, by a thread of one\n"
	"  --user USER                if root has started it: the user that serves, by name, "
	"number\n"
	"                             or UID:GID (default: nobody)\n"
	"  --no-sandbox               let the process that serves keep its rights\n"
	"  --pid-file FILE            FILE holds the process id while clients can connect\n"
	"  --state FILE               adopt what a server saved there when it could not go on\n"
	"  --config FILE              serve the disks of FILE, each of which has these options "
	"as\n"
	"                             its settings; SIGHUP has it read again\n"
	"  -U, --force-share          with -r: ignore others' locks on the image\n"
	"  -q, --quiet                print neither the URI nor warnings\n"
	"  -v, --verbose              report on stderr which clients come and go, and why\n"
	"  -h, --help                 print this text\n"
	"\n"
	"IMAGE may be another NBD server's export (nbd://HOST/EXPORT), which is served without a\n"
	"keeper. Sizes take the suffixes k, M, G, T. A second SIGTERM ends the wait for clients "
	"that do\n"
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

/* A healthy server turns once a second. */
static int take_hang_timeout(const char *value, unsigned *ret_ms)
{
	uint64_t seconds;
	int ret;

	if (strcmp(value, "never") == 0) {
		*ret_ms = UINT_MAX;
		return 0;
	}
	ret = take_count("--hang-timeout", value, 2, MOST_DRAIN_SECONDS, &seconds);
	if (ret == 0)
		*ret_ms = (unsigned)seconds * 1000;
	return ret;
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

static int take_detect_zeroes(const char *value, enum ox_serve_detect_zeroes *ret)
{
	if (strcmp(value, "off") == 0)
		*ret = OX_SERVE_ZEROES_WRITE;
	else if (strcmp(value, "on") == 0)
		*ret = OX_SERVE_ZEROES_KEEP;
	else if (strcmp(value, "unmap") == 0)
		*ret = OX_SERVE_ZEROES_UNMAP;
	else
		return bad_value("--detect-zeroes", value, "off, on or unmap");
	return 0;
}

/* Of the exact form each part is an option of its own. */
static int take_snapshot(const char *value, struct ox_open_options *open)
{
	static const char id[] = "snapshot.id=", name[] = "snapshot.name=";

	open->flags |= OX_OPEN_READ_ONLY;
	if (strncmp(value, "snapshot.", 9) != 0)
		open->snapshot = value;
	else if (!strchr(value, ',') && strncmp(value, id, strlen(id)) == 0)
		open->snapshot_id = value + strlen(id);
	else if (!strchr(value, ',') && strncmp(value, name, strlen(name)) == 0)
		open->snapshot_name = value + strlen(name);
	else
		return bad_value("--snapshot", value,
				 "an ID, a name, snapshot.id=ID or snapshot.name=NAME");
	return 0;
}

static int take_queue_size(const char *value, unsigned *ret_size)
{
	uint64_t size;

	if (parse_number(value, OX_SERVE_VHOST_RING_MAX, &size) < 0 || size < 2 ||
	    (size & (size - 1)) != 0)
		return bad_value("--queue-size", value, "a power of two from 2 to 1024");
	*ret_size = (unsigned)size;
	return 0;
}

static int take_on_full(const char *value, enum ox_serve_on_full *ret)
{
	if (strcmp(value, "pause") == 0)
		*ret = OX_SERVE_FULL_PAUSE;
	else if (strcmp(value, "error") == 0)
		*ret = OX_SERVE_FULL_ERROR;
	else
		return bad_value("--on-full", value, "error or pause");
	return 0;
}

static int take_rights(int option, const char *value, struct ox_serve_socket_rights *ret)
{
	if (option == OPTION_SOCKET_MODE && ox_cli_socket_mode_parse(value, ret) < 0)
		return bad_value("--socket-mode", value, "an octal number from 0 to 0777");
	if (option == OPTION_SOCKET_OWNER && ox_cli_socket_owner_parse(value, ret) < 0)
		return bad_value("--socket-owner", value, "a user's name or number");
	if (option == OPTION_SOCKET_GROUP && ox_cli_socket_group_parse(value, ret) < 0)
		return bad_value("--socket-group", value, "a group's name or number");
	return 0;
}

static int take_limits(const char *value, struct ox_serve_limits *ret)
{
	return ox_cli_limits_parse(value, ret) < 0
		       ? bad_value("--limit", value,
				   "iops=N, iops-burst=N, bandwidth=SIZE and bandwidth-burst=SIZE, "
				   "a burst with its rate, or none")
		       : 0;
}

static int take_tls_option(struct ox_cli_serve_arguments *arguments, int option, const char *value)
{
	struct ox_serve_nbd_options *nbd = &arguments->serve.nbd;

	switch (option) {
	case OPTION_INSECURE:
		nbd->is_insecure = true;
		return 0;
	case OPTION_TLS_CREDS:
		arguments->tls_directory = value;
		nbd->tls.is_required = true;
		return 0;
	case OPTION_TLS_AUTHZ:
		arguments->tls_authz = value;
		nbd->tls.has_rules = true;
		return 0;
	case OPTION_TLS_VERIFY_PEER:
		nbd->tls.verify_peer = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* What clients may take of the host, and what is done when it has no more. */
static int take_host_option(struct ox_cli_serve_arguments *arguments, int option, const char *value)
{
	switch (option) {
	case OPTION_LIMIT:
		return take_limits(value, &arguments->serve.limits);
	case OPTION_DETECT_ZEROES:
		return take_detect_zeroes(value, &arguments->serve.nbd.detect_zeroes);
	case OPTION_ALLOCATION_DEPTH:
		arguments->serve.nbd.allocation_depth = true;
		return 0;
	case 'l':
		return take_snapshot(value, &arguments->open);
	case OPTION_OFFSET:
		return take_size("--offset", value, &arguments->serve.nbd.offset);
	case OPTION_FILE_OFFSET:
		return take_size("--file-offset", value, &arguments->open.file_offset);
	case OPTION_FILE_LENGTH:
		return take_size("--file-length", value, &arguments->open.file_length);
	case OPTION_LOW_SPACE:
		return take_size("--low-space", value, &arguments->serve.low_space_bytes);
	case OPTION_ON_FULL:
		return take_on_full(value, &arguments->serve.on_full);
	default:
		return take_tls_option(arguments, option, value);
	}
}

static int take_block_size(const char *value, unsigned *ret_bytes)
{
	uint64_t bytes;

	if (parse_number(value, OX_SERVE_VHOST_BLOCK_MAX, &bytes) < 0 ||
	    bytes < OX_SERVE_VHOST_BLOCK_MIN || (bytes & (bytes - 1)) != 0)
		return bad_value("--block-size", value, "512, 1024, 2048 or 4096");
	*ret_bytes = (unsigned)bytes;
	return 0;
}

/* What the guest of a disk over vhost-user finds. */
static int take_guest_option(struct ox_cli_serve_arguments *arguments, int option,
			     const char *value)
{
	uint64_t number;
	int ret;

	switch (option) {
	case OPTION_NUM_QUEUES:
		ret = take_count("--num-queues", value, 1, OX_SERVE_VHOST_QUEUES_MAX, &number);
		if (ret == 0)
			arguments->serve.vhost.queues = (unsigned)number;
		return ret;
	case OPTION_BLOCK_SIZE:
		return take_block_size(value, &arguments->serve.vhost.block_bytes);
	case OPTION_QUEUE_SIZE:
		return take_queue_size(value, &arguments->serve.vhost.queue_size);
	case OPTION_SERIAL:
		if (strlen(value) > OX_SERVE_VHOST_SERIAL_BYTES)
			return bad_value("--serial", value, "at most 20 bytes");
		arguments->serve.vhost.serial = value;
		return 0;
	default:
		return take_host_option(arguments, option, value);
	}
}

/* The options that need more than to be noted. */
static int take_valued_option(struct ox_cli_serve_arguments *arguments, int option,
			      const char *value)
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
			arguments->serve.drain_ms = (unsigned)number * 1000;
		return ret;
	case OPTION_FD:
		ret = take_count("--fd", value, 0, INT_MAX, &number);
		if (ret == 0)
			arguments->fd = (int)number;
		return ret;
	case OPTION_HANG_TIMEOUT:
		return take_hang_timeout(value, &arguments->hang_ms);
	case OPTION_KEPT_AS: /* said by a keeper to its children */
		if (ox_kept_parse(value, &arguments->role, &arguments->socket, &arguments->name) <
		    0)
			return bad_value("--kept-as", value, "what a keeper says");
		ox_cli_message_about(arguments->name);
		return 0;
	case OPTION_L2_CACHE:
		return take_size("--l2-cache-size", value, &arguments->open.l2_cache_bytes);
	case OPTION_REFCOUNT_CACHE:
		return take_size("--refcount-cache-size", value,
				 &arguments->open.refcount_cache_bytes);
	case OPTION_MEMORY:
		arguments->memory_stated = true;
		return take_size("--memory", value, &arguments->serve.nbd.memory_bytes);
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
			arguments->serve.nbd.max_clients = (unsigned)number;
		return ret;
	case OPTION_WORKER:
		arguments->shares = strcmp(value, "shared") == 0;
		if (!arguments->shares && strcmp(value, "own") != 0)
			return bad_value("--worker", value, "own or shared");
		return 0;
	case OPTION_SOCKET_GROUP:
	case OPTION_SOCKET_MODE:
	case OPTION_SOCKET_OWNER:
		return take_rights(option, value, &arguments->serve.rights);
	default:
		return take_guest_option(arguments, option, value);
	}
}

static int take_option(struct ox_cli_serve_arguments *arguments, int option, const char *value)
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
		arguments->serve.nbd.description = value;
		break;
	case OPTION_EXPORT:
		arguments->serve.nbd.export_name = value;
		break;
	case OPTION_NBD:
		arguments->serve.nbd.address = value;
		break;
	case OPTION_VHOST:
		arguments->serve.vhost.path = value;
		break;
	case OPTION_KEEPER:
		arguments->keeper = arguments->keeper_stated = true;
		break;
	case OPTION_NO_KEEPER:
		arguments->keeper = false;
		break;
	case OPTION_NO_SANDBOX:
		arguments->no_sandbox = true;
		break;
	case OPTION_USER:
		arguments->user = value;
		break;
	case OPTION_STATE:
		arguments->state = value;
		break;
	case OPTION_CONTROL:
		arguments->control = value;
		break;
	case OPTION_PID_FILE:
		arguments->pid_file.path = value;
		break;
	case OPTION_CONFIG:
		arguments->config = value;
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

static int check_user(const struct ox_cli_serve_arguments *arguments)
{
	if (!arguments->user || arguments->role != OX_KEPT_NOT ||
	    (arguments->keeper && !arguments->no_sandbox))
		return 0;
	ox_cli_usage_error("serve", "--user and --no-%s exclude each other",
			   arguments->keeper ? "sandbox" : "keeper");
	return -EINVAL;
}

static bool is_of_server(int option)
{
	return option == OPTION_CONFIG || option == OPTION_CONTROL || option == OPTION_PID_FILE ||
	       option == 'q' || option == 'v' || option == 'h';
}

/* Only a keeper looks at what a service manager hands over. */
static bool wants_handed(const struct ox_cli_serve_arguments *arguments)
{
	const char *const addresses[] = {arguments->serve.nbd.address, arguments->serve.vhost.path};

	for (int i = 0; i < 2; i++)
		if (addresses[i] && strncmp(addresses[i], "systemd:", 8) == 0)
			return true;
	return false;
}

static int check_tls(const struct ox_cli_serve_arguments *arguments)
{
	const struct ox_serve_nbd_options *nbd = &arguments->serve.nbd;

	if (nbd->tls.verify_peer && !nbd->tls.is_required)
		ox_cli_usage_error("serve", "--tls-verify-peer needs --tls-creds");
	else if (nbd->tls.has_rules && !nbd->tls.verify_peer)
		ox_cli_usage_error("serve", "--tls-authz needs --tls-creds and --tls-verify-peer");
	else if (nbd->tls.is_required && nbd->is_insecure)
		ox_cli_usage_error("serve", "--tls-creds and --insecure exclude each other");
	else
		return 0;
	return -EINVAL;
}

static int check_arguments(struct ox_cli_serve_arguments *arguments, int images)
{
	int ret;

	if (arguments->config && (arguments->says_disk || images > 0)) {
		ox_cli_usage_error("serve", "--config: what is said of a disk stands in that file");
		return -EINVAL;
	}
	if (arguments->config || arguments->role == OX_KEPT_SHARED)
		return 0;
	if (images != 1) {
		ox_cli_usage_error("serve", images == 0 ? "No image is given"
							: "Only one image can be served");
		return -EINVAL;
	}
	ret = ox_cli_serve_take_export(arguments);
	if (ret < 0)
		return ret;
	if (!arguments->serve.nbd.address && !arguments->serve.vhost.path) {
		ox_cli_usage_error("serve",
				   "No address: say --nbd PATH (a unix socket) or --nbd HOST:PORT");
		return -EINVAL;
	}
	if (strlen(arguments->serve.nbd.export_name) > 4096 ||
	    (arguments->serve.nbd.description && strlen(arguments->serve.nbd.description) > 4096)) {
		ox_cli_usage_error("serve",
				   "An export's name and description have at most 4096 bytes");
		return -EINVAL;
	}
	if (arguments->serve.nbd.detect_zeroes == OX_SERVE_ZEROES_UNMAP &&
	    (arguments->open.flags & OX_OPEN_NO_DISCARD)) {
		ox_cli_usage_error("serve",
				   "--detect-zeroes=unmap and --discard=ignore exclude each other");
		return -EINVAL;
	}
	if (arguments->memory_stated &&
	    arguments->serve.nbd.memory_bytes <
		    ox_serve_nbd_memory_min(arguments->serve.nbd.max_clients)) {
		ox_cli_usage_error("serve",
				   "--memory: %u clients (--shared) need at least %llu KiB",
				   arguments->serve.nbd.max_clients,
				   (unsigned long long)ox_serve_nbd_memory_min(
					   arguments->serve.nbd.max_clients) >>
					   10);
		return -EINVAL;
	}
	if (arguments->control && !arguments->keeper) {
		ox_cli_usage_error("serve", "--control and --no-keeper exclude each other");
		return -EINVAL;
	}
	if (!arguments->keeper && wants_handed(arguments)) {
		ox_cli_usage_error("serve", "--no-keeper takes no socket of systemd's");
		return -EINVAL;
	}
	if (arguments->state &&
	    (!arguments->keeper || (arguments->open.flags & OX_OPEN_READ_ONLY))) {
		ox_cli_usage_error("serve",
				   "--state goes neither with --no-keeper nor with --read-only");
		return -EINVAL;
	}
	if ((arguments->open.flags & OX_OPEN_FORCE_SHARE) &&
	    !(arguments->open.flags & OX_OPEN_READ_ONLY)) {
		ox_cli_usage_error(
			"serve", "-U needs -r: an image that others may write cannot be served for "
				 "writing");
		return -EINVAL;
	}
	return check_tls(arguments) < 0 ? -EINVAL : check_user(arguments);
}

int ox_cli_serve_parse(int argc, char **argv, struct ox_cli_serve_arguments *arguments)
{
	int option;
	int ret;

	opterr = 0;
	optind = 0; /* from the beginning, whatever was parsed before */
	while ((option = getopt_long(argc, argv, ":f:t:l:rx:D:Uqvh", ox_cli_serve_options, NULL)) !=
	       -1) {
		if (option == '?' || option == ':') {
			ox_cli_option_error("serve", option, argv);
			return -EINVAL;
		}
		arguments->says_disk |= !is_of_server(option);
		ret = take_option(arguments, option, optarg);
		if (ret < 0)
			return ret;
	}
	if (arguments->help || arguments->role == OX_KEPT_CONTROL)
		return 0;
	arguments->image = argv[optind];
	arguments->serve.name = arguments->image;
	arguments->open.format = arguments->format;
	return check_arguments(arguments, argc - optind);
}
