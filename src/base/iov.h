/* SPDX-License-Identifier: MIT */
/* Scatter/gather lists: the parts of a request's memory that lie under a part of its range. */
#ifndef OX_BASE_IOV_H
#define OX_BASE_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* A list cut out of another one, with room for two buffers around it. Small lists use no heap. */
struct ox_iov {
	struct iovec *v;
	int n;
	struct iovec local[8];
};

uint64_t ox_iov_bytes(const struct iovec *iov, int n);
void ox_iov_zero(const struct iovec *iov, int n, uint64_t skip, uint64_t count);
void ox_iov_from_buf(const struct iovec *iov, int n, uint64_t skip, const void *buf, size_t count);
void ox_iov_to_buf(const struct iovec *iov, int n, uint64_t skip, void *buf, size_t count);

/*
 * Makes ret the list [head, head_bytes] + bytes skip..skip+count of iov + [tail, tail_bytes]; the
 * buffers are left out where their length is 0. 0 or -ENOMEM. The memory itself is not copied.
 * Undone by ox_iov_free.
 */
int ox_iov_cut(struct ox_iov *ret, const struct iovec *iov, int n, uint64_t skip, uint64_t count);
int ox_iov_wrap(struct ox_iov *ret, const struct iovec *iov, int n, uint64_t skip, uint64_t count,
		void *head, size_t head_bytes, void *tail, size_t tail_bytes);
void ox_iov_free(struct ox_iov *v);

#endif
