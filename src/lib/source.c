/* SPDX-License-Identifier: MIT */
#include "lib/source.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int ox_source_open(struct ox_context *ctx, const struct ox_source *source, unsigned flags,
		   struct ox_io **ret, struct ox_error **err)
{
	int own;
	int r;

	if (!source->name)
		return ox_error_set(err, -EINVAL, "No name of an image was given");
	if (source->path)
		return ox_io_file_open(ctx->reactor, source->path, flags, ret, err);
	own = fcntl(source->fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return ox_error_set_errno(err, -errno, "Could not duplicate descriptor %d",
					  source->fd);
	r = ox_io_file_open_fd(ctx->reactor, own, source->name, flags, ret, err);
	if (r < 0)
		close(own);
	return r;
}
