/* SPDX-License-Identifier: MIT */
/* Where an image is: a path, or a descriptor of the caller's with a name for messages. */
#ifndef OX_LIB_SOURCE_H
#define OX_LIB_SOURCE_H

#include "io/io.h"
#include "lib/context.h"

struct ox_source {
	const char *path; /* NULL: fd */
	int fd;		  /* duplicated when it is opened */
	const char *name; /* of fd; relative backing names are resolved beside it */
};

static inline struct ox_source ox_source_path(const char *path)
{
	return (struct ox_source){.path = path, .fd = -1, .name = path};
}

static inline struct ox_source ox_source_fd(int fd, const char *name)
{
	return (struct ox_source){.fd = fd, .name = name};
}

/* flags: enum ox_io_open_flags. -EINVAL where neither path nor name is given. */
int ox_source_open(struct ox_context *ctx, const struct ox_source *source, unsigned flags,
		   struct ox_io **ret, struct ox_error **err) OX_CHECKED;

#endif
