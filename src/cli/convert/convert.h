/* SPDX-License-Identifier: MIT */
/*
 * oxbow convert, and what oxbow dd has from it. options.c knows what the command line says,
 * target.c how the image is made and published, pipe.c how standard output is written, stdin.c how
 * standard input is read; convert.c goes from the one to the other.
 */
#ifndef OX_CLI_CONVERT_H
#define OX_CLI_CONVERT_H

#include "cli/cli.h"
#include "cli/create_options.h"

struct ox_cli_convert {
	const char **names; /* of the sources, then of the target */
	size_t source_count;
	const char *target;
	const char *format;	   /* -f */
	const char *target_format; /* -O */
	struct ox_cli_options options;
	struct ox_cli_create_values values;
	const char *backing;	    /* -B */
	const char *backing_format; /* -F */
	struct ox_open_options at;  /* -l: the snapshot's fields */
	enum ox_cache_mode cache;   /* -t */
	enum ox_cache_mode source_cache;
	bool cache_set;
	bool image_opts;
	bool target_image_opts;
	bool compress;
	int compression_level; /* 0: the usual one */
	bool copy_range;       /* -C */
	bool no_create;	       /* -n */
	bool sparse_set;       /* -S */
	bool any_order;	       /* -W */
	bool show_progress;
	bool progress_json;
	bool quiet;
	bool force_share;
	bool salvage;
	bool target_is_zero;
	bool bitmaps;
	bool skip_broken;
	bool resume;
	bool verify;
	bool from_stdin;
	bool to_pipe; /* the target is standard output */
	uint64_t sparse_bytes;
	uint64_t rate_bytes;
	uint64_t memory_bytes;
	unsigned tasks;
	/* At work: */
	struct ox_context *ctx;
	struct ox_cli_source *sources;
	struct ox_image **images; /* of the sources; NULL: not open */
	struct ox_cli_source target_source;
	struct ox_build *build;
	struct ox_cli_progress progress;
	uint64_t total_bytes; /* of the target's disk */
	uint64_t copy_bytes;  /* of the sources; the rest is zeroes */
	uint64_t source_offset;
	/* dd: has the open sources; sets the three above. NULL: all is copied. */
	void (*choose_part)(struct ox_cli_convert *convert);
	bool warned_of_bitmaps;
};

/* Fills it from the command line. -1: to go on; else the exit status. */
int ox_cli_convert_parse(struct ox_cli_convert *convert, int argc, char **argv);
void ox_cli_convert_free(struct ox_cli_convert *convert);

/* With status -1 all that the fields say; else that is the exit status already. Returns it, and
 * releases what the fields hold. */
int ox_cli_convert_run(struct ox_cli_convert *convert, int status);

/* Makes or opens the target; prints what is wrong. */
int ox_cli_convert_begin(struct ox_cli_convert *convert) OX_CHECKED;
/* Nothing of the target is synced. */
static inline bool ox_cli_convert_is_unsafe(const struct ox_cli_convert *convert)
{
	return convert->cache_set && convert->cache == OX_CACHE_UNSAFE && !convert->resume;
}

bool ox_cli_convert_is_pipe(const char *target);
/* What the command line may not say for it; NULL: nothing is wrong. */
const char *ox_cli_convert_refuse_pipe(const struct ox_cli_convert *convert);
/* Writes all that the open sources hold; prints what is wrong. */
int ox_cli_convert_to_pipe(struct ox_cli_convert *convert) OX_CHECKED;

bool ox_cli_convert_is_stdin(const char *source);
const char *ox_cli_convert_refuse_stdin(const struct ox_cli_convert *convert);
/* Fills the target, which has been begun without a length; prints what is wrong. */
int ox_cli_convert_from_stdin(struct ox_cli_convert *convert) OX_CHECKED;

#endif
