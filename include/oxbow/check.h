/* SPDX-License-Identifier: MIT */
/* Checking images, repairing them, and what their files look like: a part of oxbow.h, which is what
 * programs include. */
#ifndef OXBOW_CHECK_H
#define OXBOW_CHECK_H

/* ---- checking ---- */

enum ox_repair {
	OX_REPAIR_NONE,
	OX_REPAIR_LEAKS,
	OX_REPAIR_ALL,
};

enum ox_finding_severity {
	OX_FINDING_LEAK,
	OX_FINDING_CORRUPTION,
	OX_FINDING_NOTE,
};

/* One inconsistency. The strings live during the callback; name, fix and why_not for ever. */
struct ox_finding {
	const char *name; /* stable, of findings.def: "refcount-too-low" */
	enum ox_finding_severity severity;
	const char *message; /* one line, as qemu-img would say it where it has a text for it */
	bool repaired;
	uint64_t host_offset;  /* UINT64_MAX: none */
	uint64_t host_length;  /* of the clusters that it is of, one or a run of neighbours; or 0 */
	uint64_t guest_offset; /* UINT64_MAX: none */
	uint64_t guest_length;
	const char *snapshot; /* whose guest range it is, by name; NULL: the disk's itself */
	const char *fix;      /* what a repair does about it, or "None: " and why it does nothing */
	const char *fate;     /* of the guest range after a repair: "lost", "in doubt"; or NULL */
	const char *why_not;  /* why this repair leaves it; NULL: none was asked for, or repaired */
	bool recovers; /* the next opening for writing settles it: the image was not closed */
};

/* An L2 table of a qcow2 image that nothing names. Its entries are counted, of those that name
 * clusters of the file. */
struct ox_lost_table {
	uint64_t host_offset;
	uint64_t guest_clusters;
	uint64_t compressed;	/* of them */
	uint64_t zero_clusters; /* beside them: they read as zeroes and name nothing */
	uint64_t unshared;	/* nothing else names what they do */
	uint64_t counted;	/* a refcount tells that a reference is missing */
	uint64_t taken;		/* something else names it, and no reference is missing */
	uint64_t copied;	/* with the COPIED bit */
	uint64_t runs;		/* of neighbouring clusters */
	bool is_counted;	/* the table itself: its refcount is not 0 */
	bool is_sure;		/* all that is counted speaks for it */
	uint64_t fits;		/* damaged L1 entries that may have named it */
	uint64_t l1_index;	/* the one that did, where that can be told, or UINT64_MAX */
	const char *snapshot;	/* whose L1 entry that is, by name; NULL: the disk's */
	bool linked;		/* by this repair */
	uint64_t damaged;	/* entries that cannot be followed, and are not counted above */
};

/* An L1 entry of the disk, and the table to link to it. */
struct ox_table_link {
	uint64_t l1_index;
	uint64_t host_offset;
};

struct ox_check_options {
	size_t struct_size;
	const char *format; /* NULL: probed */
	unsigned flags;	    /* of enum ox_open_flags: FORCE_SHARE, LOCKS_HELD, URI */
	enum ox_cache_mode cache;
	enum ox_repair repair;
	void (*finding)(void *opaque, const struct ox_finding *finding);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
	/* With repair: writes nothing and reports what the repair would do and leave. -ENOBUFS
	 * where that takes more than 256 MiB of memory. */
	bool dry_run;
	/* With repair: a new file, to hold what is overwritten, for ox_image_undo. NULL: none. */
	const char *undo_path;
	/* Header fields to go by, "size=10737418240,cluster_bits=16", by the names of the format's
	 * specification; also where no header is left. With OX_REPAIR_ALL, which then needs an
	 * undo_path (or a dry run), they are written first. NULL: none. */
	const char *header;
	bool verify_data; /* also decompress every compressed cluster */
	/* Look for L2 tables that nothing names, in all clusters that are not in use. With
	 * OX_REPAIR_ALL those are linked to the damaged L1 entries that named them, where there is
	 * no choice; what others name is not freed. */
	bool salvage;
	/* Each of them that is left, and that was linked. The strings live during the callback. */
	void (*lost_table)(void *opaque, const struct ox_lost_table *table);
	/* With salvage and OX_REPAIR_ALL: what to link besides, to damaged entries or such that are
	 * zero. -EINVAL, and nothing is changed, where one of them cannot be a table. */
	const struct ox_table_link *links;
	size_t link_count;
	/* Where nothing but leaks is wrong, and they hold what is surely an L2 table that something
	 * named, a repair without salvage keeps it and what it names, unless this is set. In a QED
	 * image one that looks like such a table keeps all leaks. */
	bool free_lost_tables;
};

#define OX_CHECK_OPTIONS_INIT                                                                      \
	{                                                                                          \
		.struct_size = sizeof(struct ox_check_options)                                     \
	}

/* As the JSON of qemu-img check. Counts before the repair are kept in _fixed; the others say
 * what a second pass found after it. */
struct ox_check_result {
	char format[16];
	uint64_t check_errors; /* errors that kept parts from being checked */
	uint64_t corruptions;
	uint64_t leaks;
	uint64_t corruptions_fixed;
	uint64_t leaks_fixed;
	uint64_t image_end_offset;
	uint64_t total_clusters;
	uint64_t allocated_clusters;
	uint64_t fragmented_clusters;
	uint64_t compressed_clusters;
	bool dirty_cleared;
	uint64_t damaged_l1_entries; /* before a repair: their guest ranges cannot be read */
	/* L2 tables that nothing names, and that are left. Without salvage: those that a repair
	 * keeps, or would. */
	uint64_t lost_tables;
	uint64_t linked_tables;
	/* Of corruptions and leaks: what the next opening for writing settles, as the image was not
	 * closed. It is no harm to data. */
	uint64_t recoverable_corruptions;
	uint64_t recoverable_leaks;
	uint64_t uncounted_clusters; /* those that are counted then */
};

/* 0 when the check ran to its end, whatever it found; -ENOTSUP where the format has no check (raw);
 * another negative errno when it could not run. */
int ox_image_check(struct ox_context *ctx, const char *path, const struct ox_check_options *opts,
		   struct ox_check_result *ret_result, struct ox_error **err) OX_CHECKED;
/* The same on a descriptor, as ox_image_open_fd takes it. */
int ox_image_check_fd(struct ox_context *ctx, int fd, const char *name,
		      const struct ox_check_options *opts, struct ox_check_result *ret_result,
		      struct ox_error **err) OX_CHECKED;

struct ox_undo_options {
	size_t struct_size;
	bool force;	/* also where the image is not as the repair left it */
	unsigned flags; /* of enum ox_open_flags: URI, of the image */
};

#define OX_UNDO_OPTIONS_INIT                                                                       \
	{                                                                                          \
		.struct_size = sizeof(struct ox_undo_options)                                      \
	}

struct ox_undo_result {
	bool complete;		  /* the repair had run to its end */
	uint64_t restored_blocks; /* that were not as before the repair, and now are */
	uint64_t restored_bytes;
	uint64_t foreign_sectors;    /* of them, sectors that the repair did not leave so: force */
	uint64_t image_length_found; /* of the file */
	uint64_t image_length;	     /* and now */
};

/* Puts an image back to what it was before the repair that wrote the undo file, whether that repair
 * (or an undo) ended or not. -EINVAL where the file is not sound, or the image is another one or
 * was changed since; then nothing is written. Everything is durable when this returns 0. */
int ox_image_undo(struct ox_context *ctx, const char *undo_path, const char *path,
		  const struct ox_undo_options *opts, struct ox_undo_result *ret_result,
		  struct ox_error **err) OX_CHECKED;

/* ---- what the file of an image looks like ---- */

/* What a byte of the host file is used for. */
enum ox_layout_kind {
	OX_LAYOUT_FREE, /* neither named nor counted */
	OX_LAYOUT_HEADER,
	OX_LAYOUT_L1, /* the active table; those of snapshots are SNAPSHOT_TABLE */
	OX_LAYOUT_L2,
	OX_LAYOUT_REFCOUNT,	  /* the refcount table and its blocks */
	OX_LAYOUT_SNAPSHOT_TABLE, /* the list of snapshots, and their L1 tables */
	OX_LAYOUT_BITMAP,
	OX_LAYOUT_OTHER_TABLE,	 /* the encryption header */
	OX_LAYOUT_DATA,		 /* of the disk alone */
	OX_LAYOUT_SNAPSHOT_DATA, /* a snapshot holds it, perhaps beside the disk */
	OX_LAYOUT_COMPRESSED,
	OX_LAYOUT_LEAKED,  /* counted and not named: space that is lost */
	OX_LAYOUT_DAMAGED, /* claimed by two, or named more often than it is counted */
	OX_LAYOUT_KINDS
};

/* A stretch of the host file. Its bytes add up to its length. */
struct ox_layout_bin {
	uint64_t bytes[OX_LAYOUT_KINDS];
	uint64_t findings; /* what a check reports of these clusters, leaks excepted */
};

/* A stretch of the virtual disk; what is in none of its counts is not allocated. */
struct ox_layout_guest_bin {
	uint64_t data_bytes; /* not compressed; the host has a place for them */
	uint64_t compressed_bytes;
	uint64_t zero_bytes;  /* known to be zero, without a place */
	uint64_t bad_entries; /* that cannot be followed */
	uint64_t pieces;      /* runs of data that is in one piece on the host too */
	uint64_t host_offset; /* of the first data in it, compressed or not; UINT64_MAX: none */
};

struct ox_image_layout {
	uint64_t file_bytes;
	uint64_t virtual_bytes;
	uint32_t cluster_bytes;
	bool dirty;   /* recovered when next opened for writing; until then refcounts lag behind */
	bool corrupt; /* a program marked it so */
	/* As ox_image_check counts them, but for what a dirty image's recovery puts right. */
	uint64_t corruptions;
	uint64_t leaks;
	uint64_t check_errors;
	uint64_t uncounted;		 /* clusters of a dirty image that are not counted yet */
	uint64_t bytes[OX_LAYOUT_KINDS]; /* of the whole file */
	uint64_t data_bytes;		 /* of the disk, not compressed */
	uint64_t pieces;		 /* that they lie in */
	uint64_t bin_bytes;		 /* of each bin; the last one may be shorter */
	size_t bin_count;
	const struct ox_layout_bin *bins;
	uint64_t guest_bin_bytes;
	size_t guest_bin_count;
	const struct ox_layout_guest_bin *guest_bins;
};

struct ox_layout_options {
	size_t struct_size;
	const char *format; /* NULL or "qcow2" */
	unsigned flags;	    /* of enum ox_open_flags: FORCE_SHARE, LOCKS_HELD, URI */
	size_t bins;	    /* at most so many, of whole clusters; 0: 4096; 65536 at most */
	size_t guest_bins;
	/* The findings of a check, as they are met; leaks and refcounts are only counted. */
	void (*finding)(void *opaque, const struct ox_finding *finding);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

#define OX_LAYOUT_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.struct_size = sizeof(struct ox_layout_options)                                    \
	}

/* Describes the file of a qcow2 image, a dirty or damaged one too; no backing file is opened and
 * nothing is written. -ENOTSUP for raw, which has no structure. */
int ox_image_layout_read(struct ox_context *ctx, const char *path,
			 const struct ox_layout_options *opts, struct ox_image_layout **ret_layout,
			 struct ox_error **err) OX_CHECKED;
/* The same on a descriptor, as ox_image_open_fd takes it. */
int ox_image_layout_read_fd(struct ox_context *ctx, int fd, const char *name,
			    const struct ox_layout_options *opts,
			    struct ox_image_layout **ret_layout, struct ox_error **err) OX_CHECKED;
/* NULL is allowed. */
void ox_image_layout_free(struct ox_image_layout *layout);

#endif
