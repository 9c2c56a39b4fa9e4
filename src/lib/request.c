/* SPDX-License-Identifier: MIT */
/* Requests on the data of an image: what one may say, and how it is carried out. */
#include "lib/request.h"

#include <errno.h>

#include "base/arith.h"
#include "base/assert.h"
#include "img/img.h"

/* What each operation takes; a flag without a meaning for it may get one later. */
static const unsigned op_flags[] = {
	[OX_OP_READ] = 0,
	[OX_OP_WRITE] = OX_REQ_FUA | OX_REQ_COMPRESSED,
	[OX_OP_WRITE_ZEROES] = OX_REQ_FUA | OX_REQ_MAY_UNMAP | OX_REQ_FAST_ZERO,
	[OX_OP_DISCARD] = OX_REQ_FUA,
	[OX_OP_FLUSH] = 0,
	[OX_OP_EXTENT] = 0,
};

static int check_iov(const struct iovec *iov, int count)
{
	uint64_t sum = 0;

	if (count < 0 || (count > 0 && !iov))
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		if (iov[i].iov_len > 0 && !iov[i].iov_base)
			return -EINVAL;
		/* A sum that wraps would pass the bounds check. */
		if (!ox_add_u64(sum, iov[i].iov_len, &sum))
			return -EINVAL;
	}
	return 0;
}

int ox_request_check(const struct ox_request *req)
{
	if ((unsigned)req->op >= OX_ARRAY_SIZE(op_flags))
		return -EINVAL;
	if (req->flags & ~op_flags[req->op])
		return -EINVAL;
	if (req->op == OX_OP_READ || req->op == OX_OP_WRITE)
		return check_iov(req->iov, req->iov_count);
	return req->op == OX_OP_EXTENT && !req->extent ? -EINVAL : 0;
}

static int discard_co(struct ox_image *image, const struct ox_request *req)
{
	int r = ox_img_discard_co(image, req->offset, req->length);

	return r == 0 && (req->flags & OX_REQ_FUA) ? ox_img_flush_co(image) : r;
}

int ox_request_run_co(struct ox_image *image, const struct ox_request *req)
{
	switch (req->op) {
	case OX_OP_READ:
		return ox_img_preadv_co(image, req->iov, req->iov_count, req->offset);
	case OX_OP_WRITE:
		return ox_img_pwritev_co(image, req->iov, req->iov_count, req->offset, req->flags);
	case OX_OP_WRITE_ZEROES:
		return ox_img_zero_co(image, req->offset, req->length, req->flags);
	case OX_OP_DISCARD:
		return discard_co(image, req);
	case OX_OP_FLUSH:
		return ox_img_flush_co(image);
	case OX_OP_EXTENT:
		return ox_img_extent_co(image, req->offset, req->length, req->extent);
	}
	ox_assert(false && "ox_request_check was not asked");
	return -EINVAL;
}
