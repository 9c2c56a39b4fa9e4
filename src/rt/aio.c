/* SPDX-License-Identifier: MIT */
/* Requests: the same ones for every engine. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <unistd.h>

#include "base/assert.h"
#include "rt/internal.h"
#include "rt/sanitize.h"

void ox_aio_execute(struct ox_aio *aio)
{
	int64_t result = 0;

	switch (aio->kind) {
	case OX_AIO_READ:
		result = preadv(aio->fd, aio->iov, aio->iov_count, (off_t)aio->offset);
		break;
	case OX_AIO_WRITE:
		result =
			pwritev2(aio->fd, aio->iov, aio->iov_count, (off_t)aio->offset, aio->flags);
		break;
	case OX_AIO_FDATASYNC:
		result = fdatasync(aio->fd);
		break;
	case OX_AIO_FALLOCATE:
		result = fallocate(aio->fd, aio->flags, (off_t)aio->offset, (off_t)aio->length);
		break;
	case OX_AIO_WORK:
		aio->result = aio->fn(aio->arg);
		return;
	case OX_AIO_HANDED:
		ox_assert(aio->kind != OX_AIO_HANDED);
	}
	aio->result = result < 0 ? -errno : result;
}

void ox_aio_finish(struct ox_reactor *r, struct ox_aio *aio)
{
	ox_assert(r->requests > 0);
	r->requests--;
	aio->done = true;
	ox_co_wake(aio->co);
}

static void start_and_wait_co(struct ox_aio *aio)
{
	struct ox_reactor *r = ox_co_reactor();

	aio->co = ox_co_self();
	aio->done = false;
	ox_list_init(&aio->link);
	r->requests++;
	r->ops->start(r, aio);
	while (!aio->done)
		ox_co_suspend_co();
}

/* Regular files and block devices answer EINTR and EAGAIN only for reasons that pass. A sync is
 * not asked for again whatever its error is (M3). */
static int64_t request_co(struct ox_aio *aio)
{
	do
		start_and_wait_co(aio);
	while ((aio->result == -EINTR || aio->result == -EAGAIN) && aio->kind != OX_AIO_FDATASYNC);
	return aio->result;
}

/* UINT64_MAX, to io_uring, is the descriptor's own position. */
static bool offset_fits(uint64_t offset)
{
	return offset <= INT64_MAX;
}

static int iov_count_cut(int iov_count)
{
	ox_assert(iov_count >= 0);
	return iov_count < IOV_MAX ? iov_count : IOV_MAX;
}

/* valgrind does not see what the kernel writes on behalf of io_uring. */
static void mark_read(const struct iovec *iov, int64_t count)
{
	for (; count > 0; iov++) {
		size_t part = ox_min_u64(iov->iov_len, (uint64_t)count);

		valgrind_defined(iov->iov_base, part);
		count -= (int64_t)part;
	}
}

int64_t ox_aio_preadv_co(int fd, const struct iovec *iov, int iov_count, uint64_t offset)
{
	struct ox_aio aio = {
		.kind = OX_AIO_READ,
		.fd = fd,
		.iov = iov,
		.iov_count = iov_count_cut(iov_count),
		.offset = offset,
	};
	int64_t result;

	if (!offset_fits(offset))
		return -EINVAL;
	result = request_co(&aio);
	mark_read(iov, result);
	return result;
}

int64_t ox_aio_pwritev_co(int fd, const struct iovec *iov, int iov_count, uint64_t offset,
			  int flags)
{
	struct ox_aio aio = {
		.kind = OX_AIO_WRITE,
		.fd = fd,
		.flags = flags & ~OX_AIO_DIRECT,
		.page_cache = !(flags & OX_AIO_DIRECT),
		.iov = iov,
		.iov_count = iov_count_cut(iov_count),
		.offset = offset,
	};

	return offset_fits(offset) ? request_co(&aio) : -EINVAL;
}

int ox_aio_fdatasync_co(int fd)
{
	struct ox_aio aio = {.kind = OX_AIO_FDATASYNC, .fd = fd};

	return (int)request_co(&aio);
}

int ox_aio_fallocate_co(int fd, int mode, uint64_t offset, uint64_t length)
{
	struct ox_aio aio = {
		.kind = OX_AIO_FALLOCATE,
		.fd = fd,
		.flags = mode,
		.offset = offset,
		.length = length,
	};

	return offset_fits(offset) && offset_fits(length) ? (int)request_co(&aio) : -EINVAL;
}

int ox_aio_work_co(int (*fn)(void *arg), void *arg)
{
	struct ox_aio aio = {.kind = OX_AIO_WORK, .fn = fn, .arg = arg};

	start_and_wait_co(&aio);
	return (int)aio.result;
}

/* What others know a request by that they are to end. */
struct ox_handed {
	struct ox_aio aio;
};

int64_t ox_aio_handed_co(void (*start)(void *arg, struct ox_handed *h), void *arg)
{
	struct ox_reactor *r = ox_co_reactor();
	struct ox_handed h = {.aio = {.kind = OX_AIO_HANDED, .co = ox_co_self()}};

	ox_assert(r->ops->pool);
	h.aio.pool = r->ops->pool(r);
	ox_list_init(&h.aio.link);
	r->requests++;
	ox_pool_expect(h.aio.pool);
	start(arg, &h);
	while (!h.aio.done)
		ox_co_suspend_co();
	return h.aio.result;
}

void ox_aio_handed_end(struct ox_handed *h, int64_t result)
{
	h->aio.result = result;
	ox_pool_end(h->aio.pool, &h->aio);
}

unsigned ox_aio_workers(const struct ox_reactor *r)
{
	cpu_set_t cpus;

	/* Work is then done in place, and is to come in pieces as it would elsewhere. */
	if (r->simulated)
		return 4;
	/* More CPUs than a set of that size holds are more than enough. */
	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return OX_WORKERS_MAX;
	return (unsigned)ox_min_u64((uint64_t)CPU_COUNT(&cpus), OX_WORKERS_MAX);
}
