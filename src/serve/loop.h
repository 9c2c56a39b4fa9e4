/* SPDX-License-Identifier: MIT */
/*
 * The loop of all servers. One thread does everything; a turn of the loop is
 *
 *	wait:      epoll, whose events the parts note
 *	serve:     the parts read requests and submit them, and answer
 *	exchange:  the library starts what was submitted and hands back what is complete, which
 *		   the parts answer; again while that made new work, or a part had more
 *
 * so that however many requests are in flight, a turn costs each client a call or two. A part is
 * the server of one protocol. When the process is told to stop, each part drains; the loop ends
 * when all of them are over.
 */
#ifndef OX_SERVE_LOOP_H
#define OX_SERVE_LOOP_H

#include <stdint.h>

#include "serve/clock.h"
#include "serve/full.h"
#include "serve/limit.h"
#include "serve/lines.h"
#include "serve/serve.h"
#include "serve/space.h"

/* A descriptor, in whatever is watched. */
struct ox_watched {
	int fd;
	void (*event)(struct ox_watched *watched, uint32_t events);
};

struct ox_serve_part;

struct ox_serve_part_ops {
	/* After the events of a turn, and after each reap that took something. */
	void (*serve)(struct ox_serve_part *part);
	/* Takes what the library has completed. True: there was something. */
	bool (*reap)(struct ox_serve_part *part);
	/* At the end of a turn. */
	void (*settle)(struct ox_serve_part *part);
	/* There is more to do at once. */
	bool (*is_busy)(const struct ox_serve_part *part);
	/* INT64_MAX: none. */
	int64_t (*deadline_ms)(const struct ox_serve_part *part);
	/* It has come, or another part's. */
	void (*expire)(struct ox_serve_part *part, int64_t now_ms);
	/* Nothing new is taken. Told again: nobody is waited for. */
	void (*drain)(struct ox_serve_part *part);
	/* Requests in the hands of the library. */
	size_t (*pending)(const struct ox_serve_part *part);
	/* While draining: nothing is left to do. */
	bool (*is_over)(const struct ox_serve_part *part);
	void (*free)(struct ox_serve_part *part, bool requests_lost);
};

struct ox_serve_loop {
	const struct ox_serve_options *options;
	struct ox_context *ctx;
	struct ox_image *image;
	int epoll_fd;
	struct ox_watched signals;
	struct ox_watched library;
	struct ox_serve_part *parts[4];
	unsigned part_count;
	struct ox_serve_lines lines;
	struct ox_serve_part *commands; /* one of them; NULL: nobody gives any */
	struct ox_serve_part *nbd;	/* the same */
	struct ox_limit limit;
	struct ox_full full;	/* changes that wait for room */
	struct ox_space *space; /* NULL: nobody asks how much there is */
	struct ox_watched space_news;
	bool low_space;
	struct ox_stats *stats; /* NULL: nothing is counted */
	bool submitted;		/* since the library was last polled */
	bool more;		/* a part has more, once what it submitted is on its way */
	bool draining;
	bool wants_end;		   /* a part has had all that it was there for */
	int64_t stuck_ms;	   /* how long the library may complete nothing at the end */
	int64_t stuck_deadline_ms; /* while draining */
};

/* The first member of each part. */
struct ox_serve_part {
	const struct ox_serve_part_ops *ops;
	struct ox_serve_loop *loop;
};

/* Other limits from now on, in the loop's thread. What was saved up, and what was owed, is
 * forgotten.
 */
void ox_serve_limits_set(struct ox_serve_loop *loop, const struct ox_serve_limits *limits);

/* There may be room again: whatever waits for it is tried, in the next turn. */
void ox_serve_resume(struct ox_serve_loop *loop);

/* Puts how things stand into the statistics, if there are any. */
void ox_serve_publish(struct ox_serve_loop *loop);

/* epoll_ctl(2): 0 or -errno. */
int ox_serve_watch(const struct ox_serve_loop *loop, int operation, struct ox_watched *watched,
		   uint32_t events) OX_CHECKED;

/* The image, for lines of the log. */
static inline const char *ox_serve_name(const struct ox_serve_loop *loop)
{
	return loop->options->name ? loop->options->name : "the disk";
}

/* A line for the log of who comes and goes. */
void ox_serve_tell(const struct ox_serve_loop *loop, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* A line for the user; of a kind that repeats itself not each (lines.h). format is a literal. */
void ox_serve_warn(struct ox_serve_loop *loop, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Puts "what: the errno" into *error, and returns code. */
int ox_serve_fail(struct ox_serve_error *error, int code, const char *what);

/* ---- room.c: the room on the image's host ---- */

/* Once the descriptors are open. */
void ox_serve_room_begin(struct ox_serve_loop *loop);
void ox_serve_room_end(struct ox_serve_loop *loop);
/* For whoever looks at what is counted; each change of how things stand is published at once. */
void ox_serve_room_publish(const struct ox_serve_loop *loop);

/* ---- the parts: each listens, unless it was handed listening sockets ---- */

/* *ret_uri is to be freed; NULL with handed. */
int ox_nbd_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part, char **ret_uri,
		      struct ox_serve_error *error) OX_CHECKED;
/* Other credentials for whoever comes from now on, of what ox_serve_tls_read has made; fd stays the
 * caller's. -errno, having told why: those that there were stay. */
int ox_nbd_server_renew_tls(struct ox_serve_part *part, int fd) OX_CHECKED;
/* *ret_path is the part's; NULL with handed. */
int ox_vhost_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
			const char **ret_path, struct ox_serve_error *error) OX_CHECKED;
/* Of a descriptor that was handed over. */
int ox_fuse_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
		       struct ox_serve_error *error) OX_CHECKED;

#endif
