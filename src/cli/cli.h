/* SPDX-License-Identifier: MIT */
/*
 * What the verbs of the command share: messages, sizes, option lists, the naming of an image on a
 * command line, progress, JSON. A verb is a function of one file, named in main.c's table; argv[0]
 * is the verb, and the result is the exit status of the process.
 *
 * Texts, option names and exit statuses are those of qemu-img and qemu-io where the facts are the
 * same, because scripts rely on them.
 */
#ifndef OX_CLI_CLI_H
#define OX_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "cli/compat/called.h"
#include "oxbow.h"

/* ---- verbs ---- */

struct ox_cli_verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

/* NULL: there is none of that name. */
const struct ox_cli_verb *ox_cli_verb_find(const char *name);

int ox_cli_convert(int argc, char **argv);
int ox_cli_create(int argc, char **argv);
int ox_cli_dd(int argc, char **argv);
int ox_cli_info(int argc, char **argv);
int ox_cli_check(int argc, char **argv);
int ox_cli_undo(int argc, char **argv);
int ox_cli_map(int argc, char **argv);
int ox_cli_resize(int argc, char **argv);
int ox_cli_commit(int argc, char **argv);
int ox_cli_rebase(int argc, char **argv);
int ox_cli_measure(int argc, char **argv);
int ox_cli_compare(int argc, char **argv);
int ox_cli_checksum(int argc, char **argv);
int ox_cli_bench(int argc, char **argv);
int ox_cli_io(int argc, char **argv);
int ox_cli_serve(int argc, char **argv);
int ox_cli_vhost_user_blk(int argc, char **argv);
int ox_cli_mount(int argc, char **argv);
int ox_cli_ctl(int argc, char **argv);
int ox_cli_help(int argc, char **argv);
int ox_cli_version(int argc, char **argv);

/* ---- message.c ---- */

#define OX_CLI_PRINTF(a, b) __attribute__((format(printf, a, b)))

/* "oxbow: ...", or the name it was called by, and a newline on stderr, after whatever stdout holds.
 */
void ox_cli_error(const char *format, ...) OX_CLI_PRINTF(1, 2);
/* The same for a wrong command line, with a pointer to the verb's help. Returns the exit status. */
int ox_cli_usage_error(const char *verb, const char *format, ...) OX_CLI_PRINTF(2, 3);
/* Of a verb that there is not; where it is one of QEMU's, what there is instead is said. Returns 1.
 */
int ox_cli_unknown_verb(const char *verb);
/* From here on each message of the thread tells that it is about that disk; NULL: it does not. The
 * name stays the caller's. */
void ox_cli_message_about(const char *name);
/* What getopt_long's '?' or ':' result c means; used with opterr = 0 and a leading ':'. */
int ox_cli_option_error(const char *verb, int c, char **argv);
/* For ox_open_options.warn; opaque is not used. */
void ox_cli_warn(void *opaque, const char *message);
/* 0, or 1 and a message when stdout could not be written. */
int ox_cli_finish_output(int status);

/* ---- printable.c: what an image or a server has named, for people ---- */

/* The text with control characters (C0, DEL, C1) and bytes that are no UTF-8 as \xNN; keeps_lines:
 * but for newlines; else but for those in what the library says of a lock. To be freed; NULL:
 * memory is short. */
char *ox_cli_printable(const char *text, bool keeps_lines);
/* Writes name so, and blanks behind it as far as it has fewer bytes than columns. */
void ox_cli_print_name(FILE *to, const char *name, int columns);

/* ---- progress.c ---- */

struct ox_cli_progress {
	FILE *stream; /* NULL: shows nothing */
	bool asked;   /* -p: shown from the start, as whole lines at the end */
	bool json;    /* for programs: an object a line */
	bool shown;
	int hundredths; /* what is on the screen */
	const char *unit;
	struct timespec start; /* of the pass */
	struct timespec last;  /* when something was shown */
	uint64_t first_done;   /* what was done at start */
	uint64_t done;
	uint64_t total;
};

/* With asked, progress goes to `stream` always; else to a terminal on stderr, once the work has
 * lasted long enough for someone to wonder. */
void ox_cli_progress_begin(struct ox_cli_progress *progress, bool asked, FILE *stream);
/* For programs: an object a line, twice a second and at the end, with done, total, unit,
 * per_second and seconds_left. */
void ox_cli_progress_begin_json(struct ox_cli_progress *progress, const char *unit, FILE *stream);
/* For the progress callbacks of oxbow.h; opaque is the struct ox_cli_progress. */
void ox_cli_progress_report(void *opaque, uint64_t done, uint64_t total);
void ox_cli_progress_end(struct ox_cli_progress *progress, bool completed);

/* ---- create_chain.c ---- */

/* The backing file as the finished image will find it. To be freed; NULL: no memory. */
char *ox_cli_backing_path(const char *file, const char *backing);
/* -EINVAL: the target is the file that path names. text: as it was given; it has said so. */
int ox_cli_refuse_same_file(const char *text, const char *target, const char *path) OX_CHECKED;
/* -ELOOP: the target is among the images below its own backing file, so that the chain would have
 * no end, and would lose what those above need; it has said so. A chain that cannot be read to its
 * end is for others to refuse. */
int ox_cli_refuse_loop(struct ox_context *ctx, const char *text, const char *target,
		       const char *path, const char *format) OX_CHECKED;

/* ---- recover.c ---- */

/* The argument of --recover. -EINVAL for another text than auto, wait, never. */
int ox_cli_recover_parse(const char *text, enum ox_recover_mode *ret_mode) OX_CHECKED;
/* For the progress callback of an image that is in use meanwhile: a line on stderr now and then. */
struct ox_cli_recovery {
	struct timespec told; /* when a line was last written; zero: never */
};
void ox_cli_recovery_report(struct ox_cli_recovery *recovery, uint64_t done, uint64_t total);

/* ---- size.c ---- */

/* A size in bytes with an optional suffix (b k M G T P E, any case, powers of 1024), in decimal,
 * perhaps with a fraction, or in hexadecimal. -EINVAL: not a size; -ERANGE: above INT64_MAX. */
int ox_cli_size_parse(const char *text, uint64_t *ret_bytes) OX_CHECKED;

/* Whether it is "-" and a number of bytes, which no size can be. */
bool ox_cli_size_is_negative(const char *text);

#define OX_CLI_SIZE_MAX 32

/* "1.5 GiB", three digits, as qemu-img prints sizes. Returns buf. */
const char *ox_cli_size_text(uint64_t bytes, char buf[OX_CLI_SIZE_MAX]);

/* ---- options.c ---- */

struct ox_cli_option {
	char *key;
	char *value; /* NULL: the key stood alone */
};

/* "a=b,c=d", ",," being a comma within a value. */
struct ox_cli_options {
	struct ox_cli_option *items;
	size_t count;
};

/* Appends what text holds. -EINVAL: empty, or an empty part; -ENOMEM. */
int ox_cli_options_parse(struct ox_cli_options *options, const char *text) OX_CHECKED;
/* Appends one. value may be NULL. -ENOMEM. */
int ox_cli_options_add(struct ox_cli_options *options, const char *key,
		       const char *value) OX_CHECKED;
void ox_cli_options_free(struct ox_cli_options *options);
/* Whether "help" or "?" stands among the parts. */
bool ox_cli_options_want_help(const struct ox_cli_options *options);
/* on, off, yes, no, true, false, y, n; a key alone is on. -EINVAL: none of them. */
int ox_cli_bool_parse(const char *value, bool *ret_value) OX_CHECKED;

/* ---- name.c ---- */

struct ox_cli_name {
	const char *path;  /* what to open */
	unsigned flags;	   /* OX_OPEN_URI or none */
	char protocol[32]; /* what stood before the colon, for messages */
};

/* A file argument. -EPROTONOSUPPORT: it begins with the name of a protocol that is not known, which
 * the caller tells ("Unknown protocol '%s'"); a path with a colon is written ./a:b. */
int ox_cli_name_parse(const char *text, struct ox_cli_name *ret) OX_CHECKED;

/* Whether the argument is the URI of an export, as below, and of nothing else. */
bool ox_cli_name_is_export(const char *text);
/* Whether the argument is the URI of an export (of which "nbd:" without slashes is none, as it may
 * be a file); then says that it cannot be done, as "served". */
bool ox_cli_name_refuse_uri(const char *text, const char *done);
/* Whether it is the URI of a disk that holds nothing. */
bool ox_cli_name_is_null(const char *text);

/* ---- source_nbd.c ---- */

/* The keys of a description with driver=nbd; NULL: not given. */
struct ox_cli_nbd {
	const char *first_key; /* for messages */
	const char *type;
	const char *host;
	const char *port;
	const char *path;
	const char *export_name;
	const char *tls_creds; /* the id of an object */
	const char *tls_certificates;
	const char *tls_psk_file;
	const char *tls_username;
	const char *tls_hostname;
	const char *tls_verify_peer;
	const char *reconnect_delay;
	const char *open_timeout;
};

/* -ENOENT: it is none of these keys. */
int ox_cli_nbd_option(struct ox_cli_nbd *nbd, const char *key, const char *value) OX_CHECKED;
/* To be freed. Prints what is wrong. */
int ox_cli_nbd_uri(const struct ox_cli_nbd *nbd, char **ret) OX_CHECKED;

/* ---- source_null.c ---- */

/* The keys of a disk that holds nothing (driver=null-co), as they were given. */
struct ox_cli_null {
	const char *first_key; /* for messages */
	const char *size;
	const char *read_zeroes;
};

/* -ENOENT: it is none of these keys. */
int ox_cli_null_option(struct ox_cli_null *null, const char *key, const char *value) OX_CHECKED;
/* To be freed. Prints what is wrong. */
int ox_cli_null_uri(const struct ox_cli_null *null, char **ret) OX_CHECKED;

/* ---- source_part.c ---- */

struct ox_cli_range {
	const char *offset; /* as stated; NULL: they are not */
	const char *size;
};

/* What a block-device description says of a part of a file. */
struct ox_cli_part {
	bool is_raw;		     /* driver=raw, which of_disk is for */
	bool file_is_raw;	     /* file.driver=raw, which the others are for */
	struct ox_cli_range of_disk; /* offset, size */
	struct ox_cli_range of_file; /* file.offset, file.size */
	const char *path;	     /* file.file.filename */
};

struct ox_cli_source;

/* -ENOENT: it is none of these keys. */
int ox_cli_part_option(struct ox_cli_part *part, const char *key, const char *value) OX_CHECKED;
/* When all of the description is known: sets the part in source->open. Prints what is wrong. */
int ox_cli_part_settle(struct ox_cli_source *source) OX_CHECKED;
/* For what works on whole files alone; what: its name, for the message that is printed. */
int ox_cli_source_refuse_part(const struct ox_cli_source *source, const char *what) OX_CHECKED;

/* ---- object.c ---- */

/* The argument of --object; prints what is wrong with it. */
int ox_cli_object_take(const char *text) OX_CHECKED;
/* The one with that id; NULL: there is none. Lives as long as the process. */
const struct ox_cli_options *ox_cli_object_find(const char *id);
/* Of such a list. The type stands first, with or without its key. */
const char *ox_cli_object_type(const struct ox_cli_options *options);
/* NULL: there is none of that key. */
const char *ox_cli_object_value(const struct ox_cli_options *options, const char *key);

/* ---- authz.c ---- */

/* Whether it is an object that says who may connect. */
bool ox_cli_authz_is(const struct ox_cli_options *options);
/* Of such an object; prints what is wrong with it. */
int ox_cli_authz_check(const struct ox_cli_options *options) OX_CHECKED;
/* The value of `oxbow serve --tls-authz` for it, to be freed. Prints what is wrong. */
int ox_cli_authz_word(const struct ox_cli_options *options, char **ret) OX_CHECKED;

/* ---- json_name.c ---- */

/* Whether an argument is a description, "json:{...}". */
bool ox_cli_json_name_is(const char *text);
/* Appends its settings. Prints what is wrong. */
int ox_cli_json_name_parse(const char *text, struct ox_cli_options *options) OX_CHECKED;

/* ---- source.c ---- */

/* An image as the command line names it. Outlives the image that is opened from it, which may
 * report progress again when it is reopened. */
struct ox_cli_source {
	const char *text; /* the argument, for messages */
	const char *path;
	bool image_opts;
	struct ox_open_options open;
	enum ox_engine engine;
	bool direct_set; /* cache.direct= and cache.no-flush= override the mode of -t */
	bool direct;
	bool no_flush;
	bool locking_off;
	unsigned caches_stated;	   /* of l2-cache-size and refcount-cache-size */
	bool all_caches_stated;	   /* cache-size */
	uint64_t cache_bytes;	   /* its value */
	uint64_t l2_entry_bytes;   /* l2-cache-entry-size; 0: not stated */
	const char *fault;	   /* why it cannot be opened; NULL: nothing is known yet */
	bool is_nbd;		   /* driver=nbd: nbd says where */
	const char *detect_zeroes; /* "on", "unmap" or NULL: of io's writes, and of a server's */
	bool is_null;		   /* driver=null-co: null says how large */
	struct ox_cli_nbd nbd;
	struct ox_cli_null null;
	struct ox_cli_part part;
	char *uri; /* made of it */
	struct ox_cli_progress progress;
	struct ox_cli_options options; /* owns what path and open point at under --image-opts */
};

#define OX_CLI_SOURCE_INIT                                                                         \
	{                                                                                          \
		.open = OX_OPEN_OPTIONS_INIT                                                       \
	}

/* One KEY=VALUE of a block-device description (driver=, file.filename=, cache.direct=, ...). Prints
 * what is wrong with it. */
int ox_cli_source_option(struct ox_cli_source *source, const char *key,
			 const char *value) OX_CHECKED;
/* A cache mode as -t and -T name it; what: of which, for the message ("source "). Prints what is
 * wrong. */
int ox_cli_cache_parse(const char *what, const char *text, enum ox_cache_mode *ret) OX_CHECKED;
/* --compression-level; the image judges how high there is. Prints what is wrong. */
int ox_cli_level_parse(const char *text, int *ret) OX_CHECKED;
/* Completes source from the file argument. Prints what is wrong. */
int ox_cli_source_set(struct ox_cli_source *source, const char *text) OX_CHECKED;
/* After an option of one that was completed has changed. */
void ox_cli_source_settle(struct ox_cli_source *source);
/* The argument of -l: an ID, else a name; or snapshot.id=ID,snapshot.name=NAME. It is cut up, and
 * has to live as long as the options. Prints what is wrong with it. */
int ox_cli_snapshot_set(struct ox_open_options *open, char *text) OX_CHECKED;
bool ox_cli_snapshot_is_set(const struct ox_open_options *open);
/* How large the source is as a verb copies it: where a snapshot is set, as large as its image is
 * now, behind which zeroes are or the snapshot's end is left out, with a warning; else the image's
 * size. Prints what is wrong. */
int ox_cli_snapshot_disk_bytes(struct ox_context *ctx, const struct ox_cli_source *source,
			       const struct ox_image *image, uint64_t *ret) OX_CHECKED;
void ox_cli_source_free(struct ox_cli_source *source);
/* Why it could not be opened: a snapshot that is not there, else "Could not open ...". */
void ox_cli_source_tell(const struct ox_cli_source *source, const struct ox_error *err, int r);
/* A context for the verb; prints why there is none. */
int ox_cli_context_new(enum ox_engine engine, struct ox_context **ret_ctx) OX_CHECKED;
#define OX_CLI_FAULT_MAX 160

/* Whether the options go together; on failure message says why not. */
int ox_cli_source_check(struct ox_context *ctx, const struct ox_cli_source *source,
			char message[OX_CLI_FAULT_MAX]) OX_CHECKED;
/* Opens read-only or as source->open says; prints "Could not open ..." on failure. */
int ox_cli_source_open(struct ox_context *ctx, struct ox_cli_source *source,
		       struct ox_image **ret_image) OX_CHECKED;

/* ---- work.c ---- */

/* Opens the image of a command line, has work do something with it, and closes it: success is told
 * after that, as what was written is durable then. Prints every message; ends the process where a
 * signal asked for it. 0, or what work returned, or a negative errno. */
int ox_cli_work_on(struct ox_cli_source *source, const char *text,
		   int (*work)(struct ox_image *image, void *arg), void *arg) OX_CHECKED;

/* ---- temporary.c ---- */

/* Has source be a new overlay of what it was, *ret_path, which is to be dropped. Prints what is
 * wrong. */
int ox_cli_temporary_make(struct ox_cli_source *source, char **ret_path) OX_CHECKED;
/* Removes it, which does no harm to an image that is open. *path NULL: there is none. */
void ox_cli_temporary_drop(char **path);

/* ---- json.c ---- */

enum ox_cli_output {
	OX_CLI_HUMAN,
	OX_CLI_JSON,
};

/* The argument of --output; prints what is wrong. */
int ox_cli_output_parse(const char *text, enum ox_cli_output *ret_output) OX_CHECKED;
/* A string, whatever its bytes: those that are no UTF-8 become U+FFFD. */
json_t *ox_cli_json_string(const char *text);
/* Adds value (taken over) to object; a missing value (no memory) ends the process. */
void ox_cli_json_set(json_t *object, const char *key, json_t *value);
/* Prints it on stdout, indented, and releases it. */
void ox_cli_json_print(json_t *value);

/* ---- info_text.c ---- */

/* "Format specific information:" and its lines; nothing where the format has none. */
void ox_cli_info_print_specific(const struct ox_image_info *info);
void ox_cli_info_print(const struct ox_image_info *info, bool limits);

/* One of the limits of requests to an image. */
struct ox_cli_block_limit {
	const char *name;
	uint32_t value;
};

#define OX_CLI_BLOCK_LIMITS 6

/* Fills the array; returns how many there are. */
size_t ox_cli_info_limits(const struct ox_image_info *info,
			  struct ox_cli_block_limit ret[OX_CLI_BLOCK_LIMITS]);

#endif
