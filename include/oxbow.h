/* SPDX-License-Identifier: MIT */
/*
 * oxbow: virtual-disk images (qcow2, raw) as a library.
 *
 * A context is one I/O reactor and belongs to the thread that made it; every call on it and on its
 * images is made from that thread. A process may have as many contexts as it likes. An image is
 * used through synchronous calls (ox_pread and its kin, which turn the reactor until the call is
 * done) or through a queue (ox_queue_submit, ox_queue_reap), whose descriptor becomes readable
 * when there is something to do, for programs with an event loop of their own. Opening, closing,
 * reopening and resizing can be left to such a loop as well, as jobs.
 *
 * Mistakes of the program that the library cannot answer with an error stop it, with a message and
 * abort(3): calls from another thread than the context's; turning the reactor (polling, waiting,
 * any synchronous call) from within a callback; freeing a context with open images or jobs, or a
 * queue with requests; ending a job that is not done; submitting to a queue whose image was closed.
 * Pointers are not NULL unless that is said to be allowed.
 *
 * Conventions: functions that can fail return 0 or a negative errno. "ret_" outputs are untouched
 * on failure. A struct ox_error ** may be NULL; where it is not, it must point at NULL, and on
 * failure receives a message to be freed with ox_error_free. Offsets and lengths are bytes. The
 * library never prints, never exits, and installs no signal handlers. Option structs begin with
 * their size and are set up by their _INIT macro, so that fields can be added later: an older
 * program's shorter struct means zero for what it lacks, a newer one's longer struct is refused
 * with -E2BIG unless what this library does not know is zero. Zero is the safe choice of every
 * option. A value or flag that has no meaning is refused with -EINVAL.
 */
#ifndef OXBOW_H
#define OXBOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OX_VERSION_MAJOR 0
#define OX_VERSION_MINOR 1
#define OX_VERSION_PATCH 0

#define OX_CHECKED __attribute__((warn_unused_result))

/* "0.1.0" of the library that is linked in. */
const char *ox_version(void);

/* ---- errors ---- */

struct ox_error;

/* The message, without a newline; valid as long as err. "" for NULL. */
const char *ox_error_message(const struct ox_error *err);
void ox_error_free(struct ox_error *err);

/* ---- contexts ---- */

struct ox_context;

enum ox_engine {
	OX_ENGINE_DEFAULT, /* io_uring, else threads; the environment's OXBOW_IO decides first */
	OX_ENGINE_IO_URING,
	OX_ENGINE_THREAD_POOL,
};

int ox_context_new(enum ox_engine engine, struct ox_context **ret_ctx,
		   struct ox_error **err) OX_CHECKED;
/* Every image of the context must be closed, and every job ended. NULL is allowed. */
void ox_context_free(struct ox_context *ctx);
/* "io_uring" or "threads". */
const char *ox_context_engine_name(const struct ox_context *ctx);
/*
 * For poll(2) and its kin alone: readable while ox_context_poll has work (something was submitted,
 * is complete or due), and while completed requests or jobs wait to be taken. It may be readable
 * for nothing; ox_context_poll makes it silent then. With io_uring an eventfd, with threads an
 * epoll set.
 */
int ox_context_fd(const struct ox_context *ctx);
/*
 * For programs that, before each sleep, call ox_context_poll and take every result, again where
 * that made new work: with polled true the descriptor does not tell them of what they know
 * themselves (what they submitted, and left to be taken), which saves system calls. Nor is it read
 * then: it may stay readable, and is to be watched for edges (EPOLLET). It is false at first.
 */
void ox_context_set_polled(struct ox_context *ctx, bool polled);
/* Runs whatever is ready, without waiting. 0 or a negative errno of the I/O engine. */
int ox_context_poll(struct ox_context *ctx) OX_CHECKED;
/* As ox_context_poll, but sleeps until something is ready, unless results wait to be taken. */
int ox_context_wait(struct ox_context *ctx) OX_CHECKED;

/*
 * Keeps a duplicate of fd open until the context is freed. Should the process die before, it stays
 * open until the kernel has ended every request of the context, which may be later than waitpid(2)
 * tells: io_uring still writes for the dead. So the end of file of a pipe, whose write end is here
 * and nowhere else, proves that nothing more is written; and so a lock lasts as long as who has it
 * may write. -EMFILE: there are four already.
 */
int ox_context_hold(struct ox_context *ctx, int fd, struct ox_error **err) OX_CHECKED;
/*
 * Adds 1 to *turns, by one store, at each turn of the context's loop, and has the loop turn once a
 * second at the least while a call waits or the program sees to ox_context_fd. So whoever shares
 * that memory can tell a program that hangs from one that waits for a slow disk. NULL: no more.
 */
void ox_context_count_turns(struct ox_context *ctx, uint64_t *turns);

/* ---- opening ---- */

struct ox_image;

/* qemu's -drive cache= (docs/durability.md, "Cache modes"). */
enum ox_cache_mode {
	OX_CACHE_WRITEBACK,    /* page cache; durable at flush */
	OX_CACHE_WRITETHROUGH, /* page cache; every write durable when it completes */
	OX_CACHE_NONE,	       /* O_DIRECT; durable at flush */
	OX_CACHE_DIRECTSYNC,   /* O_DIRECT; every write durable when it completes */
	OX_CACHE_UNSAFE,       /* page cache; flushes accepted and not carried out */
};

/* "writeback", ... ; -EINVAL for another text. */
int ox_cache_mode_parse(const char *text, enum ox_cache_mode *ret_mode) OX_CHECKED;
const char *ox_cache_mode_name(enum ox_cache_mode mode);

enum ox_open_flags {
	OX_OPEN_READ_ONLY = 1 << 0,
	OX_OPEN_FORCE_SHARE = 1 << 1, /* with READ_ONLY: take no notice of others' locks (-U) */
	OX_OPEN_NO_BACKING = 1 << 2,  /* do not open the backing chain; reads that need it: -EIO */
	OX_OPEN_NO_DISCARD = 1 << 3,  /* discards are accepted and do nothing */
	OX_OPEN_PROBE = 1 << 4,	      /* format NULL: look at the first and last bytes (never in
					 servers) */
	OX_OPEN_LOCKS_HELD = 1 << 5,  /* the program holds the locks of each file that it hands
					 over as a descriptor (ox_lock_fd): none is taken or looked
					 at. -EINVAL of one that the library is to open by path */
	/* The path is the URI of an NBD server's export: nbd://HOST[:PORT]/EXPORT,
	 * nbd+unix:///EXPORT?socket=PATH, nbds:// and nbds+unix:// by TLS (docs/nbd-client.md).
	 * For a path that the user has stated: what an image names is a path always. */
	OX_OPEN_URI = 1 << 6,
};

/* Names that an image bears are followed only as far as this says. */
enum ox_backing_policy {
	OX_BACKING_DENY,  /* refuse an image that needs a backing file */
	OX_BACKING_ALLOW, /* open what the image names: any file that this process can open */
	OX_BACKING_UNDER, /* only files that lie under backing_dir, after resolving links */
};

/* What an image with the dirty bit gets that is opened for writing (docs/recovery.md). */
enum ox_recover_mode {
	OX_RECOVER_AUTO,  /* usable at once; recovered as far as the context is polled */
	OX_RECOVER_WAIT,  /* recovered before the opening returns, or refused */
	OX_RECOVER_NEVER, /* refused */
};

/* A file that open_file is asked for. The strings live during the call. */
struct ox_file_wanted {
	const char *name;     /* as the image has it; of depth 0 as ox_image_open was given it */
	const char *path;     /* the same, beside the image that names it: what messages call it */
	const char *named_by; /* that image, by its path; NULL at depth 0 */
	unsigned depth;	      /* 0: the image itself, 1: its backing file, and so on */
	bool read_only;	      /* O_RDONLY is enough, else O_RDWR */
};

struct ox_open_options {
	size_t struct_size;
	const char *format; /* "qcow2", "raw", "qed"; NULL: with OX_OPEN_PROBE, probed;
			       else refused */
	unsigned flags;	    /* enum ox_open_flags */
	enum ox_cache_mode cache;
	uint64_t l2_cache_bytes;       /* 0: sized from the image (docs/cache.md) */
	uint64_t refcount_cache_bytes; /* 0: the same */
	/* Lazy refcounts, QED: after so long without an allocation all is committed and the dirty
	 * bit is cleared, as far as the context is polled. Other images give back what is held in
	 * reserve. 0: 5000; UINT32_MAX: at close only. */
	uint32_t lazy_idle_ms;
	enum ox_backing_policy backing_policy;
	const char *backing_dir;
	const char *backing_format; /* for an image that names a backing file but no format */
	/* Called with one line (no newline) for each thing the user should know: stale bitmaps,
	 * a recovery that began, ended or cannot end. NULL: not told. */
	void (*warn)(void *opaque, const char *message);
	/* Progress of long work (recovery): done of total, in work units. NULL: not told. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	enum ox_recover_mode recover;
	/* With the guest's write cache on: so long after it was changed a mapping table is written
	 * to the host, flushed or not, so that the death of the process loses no older write.
	 * Nothing is synced for it but what the order of writes demands. 0: 5000; UINT32_MAX: at a
	 * flush only. */
	uint32_t table_age_ms;
	/*
	 * Called for each file of the chain, instead of opening it by its path; not for the image
	 * itself in ox_image_open_fd. Returns a descriptor, which is the library's from then on, or
	 * a negative errno, with which the opening fails. No path is opened then, neither here nor
	 * while the image is used. backing_policy holds as far as names tell. It is called on the
	 * context's thread, never after the opening is done, and must not turn the reactor. NULL:
	 * paths are opened.
	 */
	int (*open_file)(void *opaque, const struct ox_file_wanted *wanted);
	/*
	 * A memory file (memfd_create with MFD_ALLOW_SEALING), empty at first, that somebody else
	 * holds as well; 0: none. What answers rest on and the image does not have yet lies in it
	 * from then on, so that the death of the process loses no answered request. Whoever has
	 * kept the file, and the image's locks, hands both to the next process, and its opening
	 * adopts them (docs/process-death.md). It must not begin before all requests of the dead
	 * process have ended in the kernel. Duplicated; of images that are opened for writing
	 * alone.
	 */
	int state_fd;
	/*
	 * For who goes on after a process that died: a description of the image's file that was
	 * opened before the dead process's first write and used for nothing else; 0: none.
	 * Duplicated. Linux tells the error of a write-back once for each description, and the dead
	 * process may have been told: so the first sync goes to this one. With a state that is
	 * adopted, or a raw image, it goes on after the opening, and nothing counts as durable
	 * before it has ended. If it fails the image is read on, and every write and flush fails.
	 * Negative: there was one and it is used up; then that sync counts as failed. Of images
	 * that are opened for writing alone, and not looked at with OX_CACHE_UNSAFE.
	 */
	int witness_fd;
	/* Called once, on the context's thread, when that sync has ended well, with
	 * OX_CACHE_UNSAFE when the image is open: witness_fd is of no use any more. It must not
	 * turn the reactor. NULL: not told. */
	void (*synced)(void *opaque);
	/* Of OX_REQ_COMPRESSED: 1, the fastest, to 9 (zlib) or 19 (zstd), which takes long and
	 * makes the smallest. 0: the usual one. -EINVAL where the image has no such level. */
	int compression_level;
	/* qcow2, read-only: the disk as an internal snapshot has it, of the size that it had then.
	 * snapshot: of that ID, else of that name; snapshot_id and snapshot_name: of exactly those.
	 * NULL: as it is now. -ENOENT: there is no such; -ENOTSUP: the format has none. */
	const char *snapshot;
	const char *snapshot_id;
	const char *snapshot_name;
	/*
	 * With OX_OPEN_URI, for a process that may not connect: called for each connection to the
	 * server, at the opening and whenever one was lost. Returns a connected socket, which is
	 * the library's from then on, or a negative errno, and should not take longer than
	 * limit_ms. Threads of the library call it, several at once, as long as the image is open.
	 * An export by TLS is refused with it (-ENOTSUP): see ox_uri_tls_read. NULL: the library
	 * connects.
	 */
	int (*connect)(void *opaque, unsigned limit_ms);
	/* The image is a part of its file, as in an archive or a partition: file_length bytes from
	 * file_offset on, and it cannot grow; file_length 0: all that is behind, and it may. The
	 * backing files are whole files. -EINVAL where the file is shorter, for a raw image whose
	 * file_length is no multiple of 512, and for writing where file_offset is none. */
	uint64_t file_offset;
	uint64_t file_length;
};

#define OX_OPEN_OPTIONS_INIT                                                                       \
	{                                                                                          \
		.struct_size = sizeof(struct ox_open_options)                                      \
	}

/*
 * Opens an image. A dirty image (lazy refcounts; QED with NEED_CHECK) that is opened for writing is
 * recovered as opts->recover says; one opened read-only is left as it is. opts may be NULL (raw is
 * then refused as no format is stated: -EINVAL).
 */
int ox_image_open(struct ox_context *ctx, const char *path, const struct ox_open_options *opts,
		  struct ox_image **ret_image, struct ox_error **err) OX_CHECKED;
/* The same on a descriptor, which is duplicated; name is for messages, and relative backing names
 * are resolved against the directory part of name. Locks that the program took on it itself are
 * gone after the closing, unless OX_OPEN_LOCKS_HELD is set. */
int ox_image_open_fd(struct ox_context *ctx, int fd, const char *name,
		     const struct ox_open_options *opts, struct ox_image **ret_image,
		     struct ox_error **err) OX_CHECKED;
/*
 * Ends a recovery, commits all metadata, clears the dirty bit where that is right, and releases the
 * image whatever happens. On failure the image on disk is still consistent, but dirty or leaking.
 * -EBUSY is the exception: requests of it were not reaped, or a job of it was not ended; then
 * nothing has happened. Its queues can still be freed afterwards.
 */
int ox_image_close(struct ox_image *image, struct ox_error **err);
/* Makes a read-only image writable (and recovers it if dirty) or back. -EBUSY as with a closing. */
int ox_image_reopen(struct ox_image *image, bool read_only, struct ox_error **err) OX_CHECKED;

/*
 * Opens what an open_file was asked for, in a process that may open paths, as an opening without
 * open_file would have: by wanted->path, a backing file only as far as opts->backing_policy
 * allows. A descriptor, without locks, or a negative errno.
 */
int ox_open_wanted(const struct ox_file_wanted *wanted, const struct ox_open_options *opts,
		   struct ox_error **err) OX_CHECKED;

/* For a process that opens no file later: looks at the URI, and loads what exports are opened by.
 */
int ox_uri_prepare(const char *uri, struct ox_error **err) OX_CHECKED;
/* What a connect of the options returns, in a process that may connect: a socket that is connected
 * to the server of the URI, or a negative errno. Blocks. */
int ox_uri_connect(const char *uri, unsigned limit_ms, struct ox_error **err) OX_CHECKED;

/* What the URI of an export by TLS says of TLS. */
struct ox_uri_tls {
	const char *certificates; /* a folder; NULL: what the system trusts is all there is */
	const char *psk_file; /* a file of keys, and certificates do not matter; NULL: not stated */
	const char *username; /* whose key; NULL: not stated */
	const char *hostname; /* that the server's certificate is to name; NULL: there is none */
	bool is_unverified;   /* the server's certificate is to be taken as it is */
};

/*
 * For a program that connects by a connect of the options and sees to TLS itself: the library then
 * opens the URI without TLS (nbd: for nbds:). *ret_tls becomes NULL for a URI without TLS. -EINVAL.
 */
int ox_uri_tls_read(const char *uri, struct ox_uri_tls **ret_tls, struct ox_error **err) OX_CHECKED;
/* NULL is allowed. */
void ox_uri_tls_free(struct ox_uri_tls *tls);

/* The locks by which programs keep out of each other's way, QEMU's included. */
enum ox_lock {
	OX_LOCK_NONE,
	OX_LOCK_SHARE, /* of a reader that lets others write (-U) */
	OX_LOCK_READ,  /* of a reader that lets others read */
	OX_LOCK_WRITE, /* of the one writer, who lets others read only with -U */
};

/*
 * Takes locks on the open file description of fd, or gives some up: from what it has to what it is
 * to have. They last until they are given up here or the last duplicate of fd is closed, in
 * whatever process. name is for messages. On failure it has what it had; -EAGAIN: others are in the
 * way, and the message names one that can be found. Where the file system has no such locks it
 * returns 0, as an opening goes on there. Needs no context; may wait for a second.
 */
int ox_lock_fd(int fd, const char *name, enum ox_lock have, enum ox_lock want,
	       struct ox_error **err) OX_CHECKED;

/* Whether the description of fd has the locks, as /proc tells: 1, 0, or a negative errno. */
int ox_lock_is_held(int fd, enum ox_lock lock) OX_CHECKED;

/* ---- jobs: the same, left to the program's loop ---- */

/*
 * A job goes on as far as the context is polled, whose descriptor is readable once it is done. Each
 * _start function takes what its synchronous twin takes and fails at once with what can be told at
 * once; the path or name, and the strings of the options, stay valid until the job is done. An
 * image has one job at a time (-EBUSY), and is not used any more once its closing has begun.
 */
struct ox_job;

int ox_image_open_start(struct ox_context *ctx, const char *path,
			const struct ox_open_options *opts, struct ox_job **ret_job,
			struct ox_error **err) OX_CHECKED;
int ox_image_open_fd_start(struct ox_context *ctx, int fd, const char *name,
			   const struct ox_open_options *opts, struct ox_job **ret_job,
			   struct ox_error **err) OX_CHECKED;
int ox_image_close_start(struct ox_image *image, struct ox_job **ret_job,
			 struct ox_error **err) OX_CHECKED;
/* Until the job is ended requests are refused with -EBUSY. */
int ox_image_reopen_start(struct ox_image *image, bool read_only, struct ox_job **ret_job,
			  struct ox_error **err) OX_CHECKED;
/* Requests may be in flight beside it. */
int ox_resize_start(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
		    struct ox_error **err) OX_CHECKED;

bool ox_job_is_done(const struct ox_job *job);
/* Asks that an opening, reopening or resizing be given up; one that can be ends with -ECANCELED,
 * and each job has to be ended all the same. A closing goes on. */
void ox_job_cancel(struct ox_job *job);
/* Takes the result of a job that is done, and frees it. ret_image: of an opening, or NULL. */
int ox_job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err);

/* ---- facts ---- */

uint64_t ox_image_size(const struct ox_image *image);
uint64_t ox_image_cluster_bytes(const struct ox_image *image); /* 0: raw has none */
bool ox_image_is_read_only(const struct ox_image *image);
bool ox_image_has_write_cache(const struct ox_image *image); /* volatile: to tell the guest */

struct ox_snapshot_info {
	const char *id;
	const char *name;
	uint64_t vm_state_bytes;
	uint32_t date_seconds;
	uint32_t date_nanoseconds;
	uint64_t vm_clock_ns;
	uint64_t disk_bytes;
	uint64_t icount; /* UINT64_MAX: not stored */
};

struct ox_bitmap_info {
	const char *name;
	uint32_t granularity_bytes;
	bool in_use;
	bool automatic;
};

struct ox_image_info {
	const char *filename;
	const char *format;	 /* "qcow2", "raw", or what else is recognised (docs/formats.md) */
	bool is_only_recognised; /* not qcow2, raw or QED: ox_image_open refuses it */
	uint64_t virtual_bytes;	 /* UINT64_MAX: not known, of a format that is only recognised */
	uint64_t actual_bytes;	 /* taken on the host (st_blocks); UINT64_MAX: not known */
	uint64_t file_bytes;	 /* the file's length */
	/* qcow2 only from here on; zero or NULL otherwise. Of QED: cluster_bytes, dirty, backing */
	uint32_t cluster_bytes;
	unsigned version; /* 2: compat 0.10, 3: compat 1.1 */
	unsigned refcount_bits;
	bool lazy_refcounts;
	bool dirty;
	bool corrupt;
	bool extended_l2;
	const char *compression_type; /* "zlib", "zstd" */
	const char *encryption;	      /* NULL, "aes", "luks" */
	const char *backing_file;     /* as the image has it */
	const char *backing_path;     /* resolved against the image's directory */
	const char *backing_format;
	const char *data_file;
	bool data_file_raw;
	size_t snapshot_count;
	const struct ox_snapshot_info *snapshots;
	size_t bitmap_count;
	const struct ox_bitmap_info *bitmaps;
};

/* What ox_image_info_read found, in one allocation. Needs no chain and no supported feature: it
 * describes images that ox_image_open refuses. Takes format and flags from opts. */
int ox_image_info_read(struct ox_context *ctx, const char *path, const struct ox_open_options *opts,
		       struct ox_image_info **ret_info, struct ox_error **err) OX_CHECKED;
/* The same on a descriptor, as ox_image_open_fd takes it. */
int ox_image_info_read_fd(struct ox_context *ctx, int fd, const char *name,
			  const struct ox_open_options *opts, struct ox_image_info **ret_info,
			  struct ox_error **err) OX_CHECKED;
/* The same of an open image, also while requests are in flight: what is on disk at that moment.
 * -EBUSY: it is being reopened. */
int ox_image_info_get(struct ox_image *image, struct ox_image_info **ret_info,
		      struct ox_error **err) OX_CHECKED;
/* NULL is allowed. */
void ox_image_info_free(struct ox_image_info *info);

/* Counted I/O of one open image's own file since it was opened. */
struct ox_image_stats {
	uint64_t host_reads;
	uint64_t host_writes;
	uint64_t host_syncs;
	uint64_t l2_hits;
	uint64_t l2_misses;
	uint64_t refcount_hits;
	uint64_t refcount_misses;
	bool dirty; /* now: the file says that it was not closed, and its counts may lag behind */
};
void ox_image_stats(const struct ox_image *image, struct ox_image_stats *ret_stats);

enum ox_recovery_state {
	OX_RECOVERY_NONE,    /* the image was not dirty, or is not open for writing */
	OX_RECOVERY_RUNNING, /* beside the guest's requests */
	OX_RECOVERY_DONE,
	OX_RECOVERY_FAILED, /* it stays dirty; what is not damaged is served */
};

struct ox_recovery_status {
	enum ox_recovery_state state;
	uint64_t tables_done; /* L2 tables and refcount blocks */
	uint64_t tables_total;
	const char *message; /* FAILED: why, valid until the image is closed; else "" */
};

void ox_image_recovery(const struct ox_image *image, struct ox_recovery_status *ret_status);
/*
 * For whoever is about to close the image and does not want to wait for its recovery: it ends soon,
 * as one that failed. All that was acknowledged is kept, the image stays dirty, and the next
 * opening recovers it. Nothing happens where no recovery is under way.
 */
void ox_image_leave_recovery(struct ox_image *image);

/* ---- notices: what goes wrong while an image is in use ---- */

enum ox_notice_kind {
	OX_NOTICE_DAMAGE,   /* the image contradicts itself; what needs that part fails with -EIO */
	OX_NOTICE_REFUSED,  /* believing it would have overwritten metadata: nothing was, the image
			       is marked as corrupt, and takes no more writes */
	OX_NOTICE_POISONED, /* a sync failed: every later write and flush fails */
	OX_NOTICE_NO_SPACE, /* a write failed with -ENOSPC, -EDQUOT or -EFBIG */
	OX_NOTICE_IO_ERROR, /* the host failed a request with -EIO */
};

struct ox_notice {
	enum ox_notice_kind kind;
	int error;	      /* negative errno */
	const char *filename; /* of the image or the backing file that it is about */
	const char *finding;  /* DAMAGE, REFUSED: as ox_image_check names it; else NULL */
	uint64_t host_offset; /* of what is wrong */
	uint64_t host_length; /* 0: not known */
	uint64_t guest_offset;
	uint64_t guest_length; /* 0: not known */
	const char *message;   /* all of it as one line, without a newline and the file's name */
};

/*
 * Calls notice for each, also for what a request of the image's own meets in the background: as
 * often as it happens, so that a program which shows them has to limit that. The results of
 * requests are what they are without it. The strings are valid during the call. NULL: no longer.
 */
void ox_image_set_notice(struct ox_image *image,
			 void (*notice)(void *opaque, const struct ox_notice *notice),
			 void *opaque);
/* How many there were since the image was opened, whether anybody listened or not. Where there was
 * one, *ret_last is the last, valid until the image is used again. ret_last may be NULL. */
uint64_t ox_image_notices(const struct ox_image *image, struct ox_notice *ret_last);

/* ---- data, synchronously ---- */

enum ox_request_flags {
	OX_REQ_FUA = 1 << 0,	   /* write, write zeroes, discard: durable when it returns */
	OX_REQ_MAY_UNMAP = 1 << 1, /* write zeroes: the space may return to the host */
	OX_REQ_FAST_ZERO = 1 << 2, /* write zeroes: fail with -ENOTSUP rather than write bytes */
	/*
	 * Write: whole clusters, or up to the disk's end, which are stored compressed; one that
	 * would not get smaller is stored as it is. What was there before goes. -EINVAL for other
	 * ranges, -ENOTSUP where the format has no such clusters. Many at once are compressed on
	 * all cores, and lie in the file in the order in which they began.
	 */
	OX_REQ_COMPRESSED = 1 << 3,
};

/*
 * All bytes or an error. -EINVAL, and nothing is transferred: a request past the end, a flag that
 * is not for this operation, a negative iov_count, lengths whose sum no number holds, or NULL where
 * there should be bytes. -EBUSY: the image is being reopened.
 */
int ox_pread(struct ox_image *image, void *buf, size_t count, uint64_t offset) OX_CHECKED;
int ox_pwrite(struct ox_image *image, const void *buf, size_t count, uint64_t offset,
	      unsigned flags) OX_CHECKED;
int ox_preadv(struct ox_image *image, const struct iovec *iov, int iov_count,
	      uint64_t offset) OX_CHECKED;
int ox_pwritev(struct ox_image *image, const struct iovec *iov, int iov_count, uint64_t offset,
	       unsigned flags) OX_CHECKED;
int ox_write_zeroes(struct ox_image *image, uint64_t offset, uint64_t length,
		    unsigned flags) OX_CHECKED;
/* Advisory: what it covers reads as zeroes or as before; whole clusters return to the host. */
int ox_discard(struct ox_image *image, uint64_t offset, uint64_t length) OX_CHECKED;
int ox_flush(struct ox_image *image) OX_CHECKED;
/* Grows or shrinks the virtual disk. -EBUSY: a job on the image was not ended. */
int ox_resize(struct ox_image *image, uint64_t new_bytes, struct ox_error **err) OX_CHECKED;

enum ox_extent_flags {
	OX_EXTENT_DATA = 1 << 0,    /* has a place for its bytes on the host: it has to be read
				       to be known, unless ZERO is set as well */
	OX_EXTENT_ZERO = 1 << 1,    /* reads as zeroes; with DATA, a hole of the host's file */
	OX_EXTENT_PRESENT = 1 << 2, /* allocated in the chain (not merely absent everywhere) */
	OX_EXTENT_COMPRESSED = 1 << 3,
	OX_EXTENT_HAS_OFFSET = 1 << 4, /* host_offset is meaningful */
};

struct ox_extent {
	uint64_t offset; /* guest */
	uint64_t length; /* > 0 */
	unsigned flags;	 /* enum ox_extent_flags */
	unsigned depth;	 /* layer of the chain: 0 = the image itself */
	uint64_t host_offset;
	const char *filename; /* file that holds host_offset; valid while the image is open */
};

/* The extent at offset, at most length bytes; neighbours of one kind (host-contiguous where there
 * is an offset) are merged, as far as one look at the tables goes. */
int ox_extent_at(struct ox_image *image, uint64_t offset, uint64_t length,
		 struct ox_extent *ret_extent) OX_CHECKED;

/* ---- data, by queue ---- */

enum ox_op {
	OX_OP_READ,
	OX_OP_WRITE,
	OX_OP_WRITE_ZEROES,
	OX_OP_DISCARD,
	OX_OP_FLUSH,
	OX_OP_EXTENT, /* fills *extent */
};

/*
 * A request. From its submission until it is reaped it is the library's: the program changes
 * neither it nor what it points at. The library keeps its own state in the reserved part, which the
 * program neither sets nor reads.
 */
struct ox_request {
	enum ox_op op;
	unsigned flags; /* enum ox_request_flags: those that op takes */
	uint64_t offset;
	uint64_t length;	 /* for WRITE_ZEROES, DISCARD, EXTENT */
	const struct iovec *iov; /* for READ, WRITE; stays valid as well */
	int iov_count;
	int result; /* once reaped: 0 or a negative errno */
	struct ox_extent *extent;
	void *user;
	void *reserved[6];
};

struct ox_queue;

int ox_queue_new(struct ox_image *image, struct ox_queue **ret_queue) OX_CHECKED;
/* Every request must have been reaped. NULL is allowed. */
void ox_queue_free(struct ox_queue *queue);
/*
 * Accepts a request; it starts at the next ox_context_poll, so that many are handed to the kernel
 * at once, and the descriptor becomes readable for that. Requests complete in any order; a flush
 * covers the writes that were reaped before it was submitted.
 * Not accepted: -EINVAL, what ox_pread and its kin refuse as well (but a range past the end, which
 * is the request's result), an unknown op, or EXTENT without extent; -EBUSY, a request that was
 * submitted before and not reaped, or the image is being reopened; -ENOMEM.
 */
int ox_queue_submit(struct ox_queue *queue, struct ox_request *request) OX_CHECKED;
/*
 * Asks that a request be given up. It completes and is reaped as any other, once: with -ECANCELED
 * where it had not begun, or was long work on ranges (write zeroes, discard) that stops between
 * pieces, some of which are then done; else with its own result. -ENOENT: it is not this queue's.
 */
int ox_queue_cancel(struct ox_queue *queue, struct ox_request *request) OX_CHECKED;
/* Takes up to max completed requests, without waiting or polling. Returns how many. */
size_t ox_queue_reap(struct ox_queue *queue, struct ox_request **ret_requests, size_t max);
/* Submitted and not reaped yet. */
size_t ox_queue_pending(const struct ox_queue *queue);
/* The same descriptor as ox_context_fd of the image's context. */
int ox_queue_fd(const struct ox_queue *queue);

/* ---- creating ---- */

enum ox_preallocation {
	OX_PREALLOC_OFF,
	OX_PREALLOC_METADATA,
	OX_PREALLOC_FALLOC,
	OX_PREALLOC_FULL,
};

struct ox_create_options {
	size_t struct_size;
	const char *format;	/* "qcow2", "qed", "raw" */
	uint64_t virtual_bytes; /* rounded up to 512 */
	unsigned version;	/* 2 or 3; 0: 3 */
	uint32_t cluster_bytes; /* power of two, 512 to 2 MiB, QED 4 KiB to 64 MiB; 0: 65536 */
	unsigned refcount_bits; /* 1 2 4 ... 64; 0: 16 (version 2 takes no other) */
	bool lazy_refcounts;	/* version 3 only */
	enum ox_preallocation preallocation;
	const char *backing_file;     /* stored as given */
	const char *backing_format;   /* needed with backing_file */
	const char *compression_type; /* "zlib", "zstd"; NULL: zlib */
	/* Preallocation: done of total bytes. NULL: not told. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* Asked often while space is preallocated; not 0: give up, with -EINTR. NULL: never. */
	int (*interrupted)(void *opaque);
	uint32_t table_clusters; /* QED only: of L1 and L2 tables. 1 2 4 8 16; 0: 4 */
	unsigned flags;		 /* of enum ox_open_flags: URI */
	/* qcow2: how long the file is going to be, as ox_measure says it. The refcount table is
	 * laid out for that, and need not move. 0: not known. Preallocation knows it. */
	uint64_t expected_bytes;
};

#define OX_CREATE_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.struct_size = sizeof(struct ox_create_options)                                    \
	}

/* Makes the file, or empties and remakes it in place. It is durable when this returns. Nothing is
 * touched before the options are known to be right, nor if another process has the file locked.
 * After a later failure a new file is removed again, and one that was there is left empty. */
int ox_image_create(struct ox_context *ctx, const char *path, const struct ox_create_options *opts,
		    struct ox_error **err) OX_CHECKED;
/* The same in the file of a descriptor, as ox_image_open_fd takes it, which is emptied first. */
int ox_image_create_fd(struct ox_context *ctx, int fd, const char *name,
		       const struct ox_create_options *opts, struct ox_error **err) OX_CHECKED;

/* ---- the rest, by what it is for ---- */

#include "oxbow/build.h"
#include "oxbow/chain.h"
#include "oxbow/check.h"
#include "oxbow/checksum.h"
#include "oxbow/compare.h"
#include "oxbow/copy.h"
#include "oxbow/exports.h"
#include "oxbow/measure.h"

#ifdef __cplusplus
}
#endif

#endif
