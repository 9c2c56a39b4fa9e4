/* SPDX-License-Identifier: MIT */
/* Facts of an open image, and the synchronous calls on its data, each a task that the reactor
 * turns. */
#include <errno.h>

#include "lib/context.h"
#include "lib/request.h"

/* ---- facts ---- */

OX_EXPORT uint64_t ox_image_size(const struct ox_image *image)
{
	return image->size_bytes;
}

OX_EXPORT uint64_t ox_image_cluster_bytes(const struct ox_image *image)
{
	return image->ops->cluster_bytes ? image->ops->cluster_bytes(image) : 0;
}

OX_EXPORT bool ox_image_is_read_only(const struct ox_image *image)
{
	return image->read_only;
}

OX_EXPORT bool ox_image_has_write_cache(const struct ox_image *image)
{
	return image->cache != OX_CACHE_WRITETHROUGH && image->cache != OX_CACHE_DIRECTSYNC;
}

OX_EXPORT void ox_image_stats(const struct ox_image *image, struct ox_image_stats *ret_stats)
{
	struct ox_image_stats s = {
		.host_reads = image->io->counts[OX_IO_COUNT_READS],
		.host_writes = image->io->counts[OX_IO_COUNT_WRITES],
		.host_syncs = image->io->counts[OX_IO_COUNT_SYNCS],
	};

	image->ops->stats(image, &s);
	*ret_stats = s;
}

OX_EXPORT void ox_image_recovery(const struct ox_image *image,
				 struct ox_recovery_status *ret_status)
{
	*ret_status = (struct ox_recovery_status){.message = ""};
	if (image->ops->recovery)
		image->ops->recovery(image, ret_status);
}

OX_EXPORT void ox_image_leave_recovery(struct ox_image *image)
{
	if (image->ops->leave_recovery)
		image->ops->leave_recovery(image);
}

OX_EXPORT void ox_image_set_notice(struct ox_image *image,
				   void (*notice)(void *opaque, const struct ox_notice *notice),
				   void *opaque)
{
	ox_notice_listen(image, notice, opaque);
}

OX_EXPORT uint64_t ox_image_notices(const struct ox_image *image, struct ox_notice *ret_last)
{
	if (ret_last)
		(void)ox_notice_last(image, ret_last);
	return ox_notice_count(image);
}

/* ---- data ---- */

struct call {
	struct ox_image *image;
	const struct ox_request *request;
	int result;
};

static void call_task_co(void *arg)
{
	struct call *call = arg;

	call->result = ox_request_run_co(call->image, call->request);
}

static int run_now(struct ox_image *image, const struct ox_request *request)
{
	struct call call = {.image = image, .request = request};
	int r = ox_request_check(request);

	if (r < 0)
		return r;
	if (image->reopening)
		return -EBUSY;
	r = ox_reactor_call(image->ctx->reactor, call_task_co, &call);
	return r < 0 ? r : call.result;
}

OX_EXPORT int ox_preadv(struct ox_image *image, const struct iovec *iov, int iov_count,
			uint64_t offset)
{
	struct ox_request req = {
		.op = OX_OP_READ, .offset = offset, .iov = iov, .iov_count = iov_count};

	return run_now(image, &req);
}

OX_EXPORT int ox_pwritev(struct ox_image *image, const struct iovec *iov, int iov_count,
			 uint64_t offset, unsigned flags)
{
	struct ox_request req = {.op = OX_OP_WRITE,
				 .flags = flags,
				 .offset = offset,
				 .iov = iov,
				 .iov_count = iov_count};

	return run_now(image, &req);
}

OX_EXPORT int ox_pread(struct ox_image *image, void *buf, size_t count, uint64_t offset)
{
	struct iovec v = {buf, count};

	return ox_preadv(image, &v, 1, offset);
}

OX_EXPORT int ox_pwrite(struct ox_image *image, const void *buf, size_t count, uint64_t offset,
			unsigned flags)
{
	struct iovec v = {(void *)(uintptr_t)buf, count}; /* only read from */

	return ox_pwritev(image, &v, 1, offset, flags);
}

OX_EXPORT int ox_write_zeroes(struct ox_image *image, uint64_t offset, uint64_t length,
			      unsigned flags)
{
	struct ox_request req = {
		.op = OX_OP_WRITE_ZEROES, .flags = flags, .offset = offset, .length = length};

	return run_now(image, &req);
}

OX_EXPORT int ox_discard(struct ox_image *image, uint64_t offset, uint64_t length)
{
	struct ox_request req = {.op = OX_OP_DISCARD, .offset = offset, .length = length};

	return run_now(image, &req);
}

OX_EXPORT int ox_flush(struct ox_image *image)
{
	struct ox_request req = {.op = OX_OP_FLUSH};

	return run_now(image, &req);
}

OX_EXPORT int ox_extent_at(struct ox_image *image, uint64_t offset, uint64_t length,
			   struct ox_extent *ret_extent)
{
	struct ox_request req = {
		.op = OX_OP_EXTENT, .offset = offset, .length = length, .extent = ret_extent};

	return run_now(image, &req);
}
