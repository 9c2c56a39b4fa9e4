/* SPDX-License-Identifier: MIT */
/* Where an image is: a path, or a descriptor with a name for messages. */
#ifndef OX_LIB_SOURCE_H
#define OX_LIB_SOURCE_H

#include "io/io.h"
#include "io/nbd/address.h"
#include "lib/context.h"

struct ox_source {
	const char *path; /* NULL: fd */
	int fd;
	bool owned;	  /* fd is the library's; else it is duplicated when it is opened */
	const char *name; /* of fd; relative backing names are resolved beside it */
	bool is_uri;	  /* path is one, as the options say */
	struct ox_nbd_connector connector; /* of a URI */
	uint64_t offset;		   /* of the image in the file, */
	uint64_t length;		   /* and its length; 0: to the end */
};

static inline struct ox_source ox_source_path(const char *path)
{
	return (struct ox_source){.path = path, .fd = -1, .name = path};
}

/* What the flags say of the path (OX_OPEN_URI); nothing of a descriptor. */
static inline void ox_source_take_flags(struct ox_source *source, unsigned open_flags)
{
	source->is_uri = source->path && (open_flags & OX_OPEN_URI);
}

static inline void ox_source_take_options(struct ox_source *source,
					  const struct ox_open_options *opts)
{
	ox_source_take_flags(source, opts->flags);
	source->connector = (struct ox_nbd_connector){opts->connect, opts->opaque};
	source->offset = opts->file_offset;
	source->length = opts->file_length;
}

static inline struct ox_source ox_source_fd(int fd, const char *name)
{
	return (struct ox_source){.fd = fd, .name = name};
}

/* Makes a path whose file the program opens (open_file) a descriptor. Such a source must be opened,
 * which takes the descriptor whatever happens. */
int ox_source_ask(struct ox_source *source, const struct ox_open_options *opts,
		  struct ox_error **err) OX_CHECKED;

/* -ENOTSUP where no image can be made there. */
int ox_source_check_new(const struct ox_source *source, struct ox_error **err) OX_CHECKED;
/* flags: enum ox_io_open_flags; NO_LOCK is for descriptors alone. -EINVAL where neither path nor
 * name is given. */
int ox_source_open(struct ox_context *ctx, const struct ox_source *source, unsigned flags,
		   struct ox_io **ret, struct ox_error **err) OX_CHECKED;

#endif
