/* SPDX-License-Identifier: MIT */
#include "base/iov.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

uint64_t ox_iov_bytes(const struct iovec *iov, int n)
{
	uint64_t sum = 0;

	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* Walks the pieces of iov under [skip, skip + count). */
struct cursor {
	const struct iovec *iov;
	int left;
	uint64_t skip;
	uint64_t count;
};

static bool cursor_next(struct cursor *c, struct iovec *ret)
{
	while (c->count > 0 && c->left > 0) {
		const struct iovec *v = c->iov;

		c->iov++;
		c->left--;
		if (c->skip >= v->iov_len) {
			c->skip -= v->iov_len;
			continue;
		}
		ret->iov_base = (char *)v->iov_base + c->skip;
		ret->iov_len = ox_min_u64(v->iov_len - c->skip, c->count);
		c->skip = 0;
		c->count -= ret->iov_len;
		return true;
	}
	ox_assert(c->count == 0); /* the caller asked for more than the list holds */
	return false;
}

void ox_iov_zero(const struct iovec *iov, int n, uint64_t skip, uint64_t count)
{
	struct cursor c = {iov, n, skip, count};
	struct iovec piece;

	while (cursor_next(&c, &piece))
		memset(piece.iov_base, 0, piece.iov_len);
}

void ox_iov_from_buf(const struct iovec *iov, int n, uint64_t skip, const void *buf, size_t count)
{
	struct cursor c = {iov, n, skip, count};
	const char *from = buf;
	struct iovec piece;

	while (cursor_next(&c, &piece)) {
		memcpy(piece.iov_base, from, piece.iov_len);
		from += piece.iov_len;
	}
}

int ox_iov_wrap(struct ox_iov *ret, const struct iovec *iov, int n, uint64_t skip, uint64_t count,
		void *head, size_t head_bytes, void *tail, size_t tail_bytes)
{
	struct cursor c = {iov, n, skip, count};
	int most = n + 2;

	ret->n = 0;
	ret->v = ret->local;
	if ((size_t)most > OX_ARRAY_SIZE(ret->local)) {
		ret->v = malloc((size_t)most * sizeof(*ret->v));
		if (!ret->v)
			return -ENOMEM;
	}
	if (head_bytes > 0)
		ret->v[ret->n++] = (struct iovec){head, head_bytes};
	while (cursor_next(&c, &ret->v[ret->n]))
		ret->n++;
	if (tail_bytes > 0)
		ret->v[ret->n++] = (struct iovec){tail, tail_bytes};
	ox_assert(ret->n <= most);
	return 0;
}

int ox_iov_cut(struct ox_iov *ret, const struct iovec *iov, int n, uint64_t skip, uint64_t count)
{
	return ox_iov_wrap(ret, iov, n, skip, count, NULL, 0, NULL, 0);
}

void ox_iov_free(struct ox_iov *v)
{
	if (v->v != v->local)
		free(v->v);
	v->v = v->local;
	v->n = 0;
}

void ox_iov_to_buf(const struct iovec *iov, int n, uint64_t skip, void *buf, size_t count)
{
	struct cursor c = {iov, n, skip, count};
	struct iovec piece;
	char *to = buf;

	while (cursor_next(&c, &piece)) {
		memcpy(to, piece.iov_base, piece.iov_len);
		to += piece.iov_len;
	}
}
