/* SPDX-License-Identifier: MIT */
#include "lib/context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "img/ask.h"

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

OX_EXPORT const char *ox_version(void)
{
	return STRINGIFY(OX_VERSION_MAJOR) "." STRINGIFY(OX_VERSION_MINOR) "." STRINGIFY(
		OX_VERSION_PATCH);
}

OX_EXPORT int ox_context_new(enum ox_engine engine, struct ox_context **ret_ctx,
			     struct ox_error **err)
{
	struct ox_context *ctx;
	int r;

	if ((unsigned)engine > OX_ENGINE_THREAD_POOL)
		return ox_error_set(err, -EINVAL, "There is no I/O engine with the number %d",
				    (int)engine);
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_reactor_create(engine, &ctx->reactor, err);
	if (r < 0) {
		free(ctx);
		return r;
	}
	*ret_ctx = ctx;
	return 0;
}

OX_EXPORT void ox_context_free(struct ox_context *ctx)
{
	if (!ctx)
		return;
	/* under an engine that failed no job ends any more */
	ox_assert(ctx->images == 0 && (ctx->jobs == 0 || ox_reactor_has_failed(ctx->reactor)));
	ox_reactor_destroy(ctx->reactor);
	free(ctx);
}

OX_EXPORT const char *ox_context_engine_name(const struct ox_context *ctx)
{
	return ox_reactor_engine(ctx->reactor) == OX_ENGINE_IO_URING ? "io_uring" : "threads";
}

OX_EXPORT int ox_context_fd(const struct ox_context *ctx)
{
	return ox_reactor_fd(ctx->reactor);
}

OX_EXPORT int ox_context_poll(struct ox_context *ctx)
{
	return ox_reactor_run(ctx->reactor, false);
}

OX_EXPORT int ox_context_wait(struct ox_context *ctx)
{
	return ox_reactor_run(ctx->reactor, true);
}

OX_EXPORT void ox_context_set_polled(struct ox_context *ctx, bool polled)
{
	ox_reactor_set_polled(ctx->reactor, polled);
}

OX_EXPORT void ox_context_count_turns(struct ox_context *ctx, uint64_t *turns)
{
	ox_reactor_count_turns(ctx->reactor, turns);
}

OX_EXPORT int ox_context_hold(struct ox_context *ctx, int fd, struct ox_error **err)
{
	int r = ox_reactor_hold(ctx->reactor, fd);

	return r < 0 ? ox_error_set_errno(err, r, "Could not hold descriptor %d", fd) : 0;
}

static const char *const cache_names[] = {
	[OX_CACHE_WRITEBACK] = "writeback", [OX_CACHE_WRITETHROUGH] = "writethrough",
	[OX_CACHE_NONE] = "none",	    [OX_CACHE_DIRECTSYNC] = "directsync",
	[OX_CACHE_UNSAFE] = "unsafe",
};

OX_EXPORT int ox_cache_mode_parse(const char *text, enum ox_cache_mode *ret_mode)
{
	for (unsigned i = 0; text && i < OX_ARRAY_SIZE(cache_names); i++) {
		if (strcmp(text, cache_names[i]) == 0) {
			*ret_mode = (enum ox_cache_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

OX_EXPORT const char *ox_cache_mode_name(enum ox_cache_mode mode)
{
	ox_assert((unsigned)mode < OX_ARRAY_SIZE(cache_names));
	return cache_names[mode];
}

unsigned ox_store_flags(const struct ox_open_options *opts)
{
	unsigned flags = 0;

	if (opts->flags & OX_OPEN_READ_ONLY)
		flags |= OX_IO_READ_ONLY;
	if (opts->flags & OX_OPEN_FORCE_SHARE)
		flags |= OX_IO_FORCE_SHARE;
	if (opts->cache == OX_CACHE_NONE || opts->cache == OX_CACHE_DIRECTSYNC)
		flags |= OX_IO_DIRECT;
	return flags | ox_ask_store_flags(opts);
}
