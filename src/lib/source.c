/* SPDX-License-Identifier: MIT */
#include "lib/source.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "img/ask.h"
#include "img/chain.h"
#include "io/nbd/tls.h"
#include "lib/options.h"

int ox_source_ask(struct ox_source *source, const struct ox_open_options *opts,
		  struct ox_error **err)
{
	struct ox_file_wanted wanted = {
		.name = source->path,
		.path = source->path,
		.read_only = opts->flags & OX_OPEN_READ_ONLY,
	};
	int fd;

	if (!opts->open_file || !source->path || source->is_uri)
		return 0;
	fd = ox_ask_for_file(opts, &wanted, err);
	if (fd < 0)
		return fd;
	source->path = NULL;
	source->fd = fd;
	source->owned = true;
	return 0;
}

OX_EXPORT int ox_open_wanted(const struct ox_file_wanted *wanted,
			     const struct ox_open_options *given, struct ox_error **err)
{
	struct ox_open_options opts;
	int r = ox_options_take(&ox_open_options_type, given, &opts, err);

	if (r < 0)
		return r;
	if (opts.backing_policy == OX_BACKING_UNDER && !opts.backing_dir)
		return ox_error_set(err, -EINVAL, "No directory for backing files was given");
	return ox_chain_open_file(wanted, &opts, err);
}

OX_EXPORT int ox_uri_prepare(const char *uri, struct ox_error **err)
{
	return ox_io_nbd_prepare(uri, err);
}

OX_EXPORT int ox_uri_connect(const char *uri, unsigned limit_ms, struct ox_error **err)
{
	return ox_io_nbd_connect(uri, limit_ms, err);
}

OX_EXPORT int ox_uri_tls_read(const char *uri, struct ox_uri_tls **ret_tls, struct ox_error **err)
{
	return ox_nbd_tls_read(uri, ret_tls, err);
}

OX_EXPORT void ox_uri_tls_free(struct ox_uri_tls *tls)
{
	ox_nbd_tls_free(tls);
}

int ox_source_check_new(const struct ox_source *source, struct ox_error **err)
{
	if (source->is_uri && ox_io_null_is_uri(source->path))
		return ox_error_set(err, -ENOTSUP,
				    "Protocol driver 'null-co' does not support image creation");
	return 0;
}

static int open_whole(struct ox_context *ctx, const struct ox_source *source, unsigned flags,
		      struct ox_io **ret, struct ox_error **err)
{
	int own = source->fd;
	int r;

	if (!source->name)
		return ox_error_set(err, -EINVAL, "No name of an image was given");
	if (source->is_uri && ox_io_null_is_uri(source->path))
		return ox_io_null_open(ctx->reactor, source->path, flags, ret, err);
	if (source->is_uri)
		return ox_io_nbd_open(ctx->reactor, source->path, flags, &source->connector, ret,
				      err);
	if (source->path && (flags & OX_IO_NO_LOCK))
		return ox_error_set(err, -EINVAL,
				    "'%s' is to be opened by its path, and the caller can hold "
				    "locks for descriptors that it hands over alone",
				    source->path);
	if (source->path)
		return ox_io_file_open(ctx->reactor, source->path, flags, ret, err);
	if (!source->owned)
		own = fcntl(source->fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return ox_error_set_errno(err, -errno, "Could not duplicate descriptor %d",
					  source->fd);
	r = ox_io_file_open_fd(ctx->reactor, own, source->name, flags, ret, err);
	if (r < 0)
		close(own);
	return r;
}

int ox_source_open(struct ox_context *ctx, const struct ox_source *source, unsigned flags,
		   struct ox_io **ret, struct ox_error **err)
{
	struct ox_io *whole;
	int r = open_whole(ctx, source, flags, &whole, err);

	if (r == 0 && (source->offset || source->length)) {
		r = ox_io_window_open(whole, source->offset, source->length, ret, err);
		if (r < 0)
			ox_io_close(whole);
	} else if (r == 0) {
		*ret = whole;
	}
	return r;
}
