/* SPDX-License-Identifier: MIT */
/*
 * A connection to a server: a handle of libnbd, and the thread that has it to itself. Tasks hand it
 * requests, and sleep until the thread has the server's answer.
 *
 *	CONNECTING	the handshake			connect_all: OPEN or GONE
 *	OPEN		requests are answered		the connection ends: GONE
 *	GONE		all requests, those in flight too, are answered -ENOTCONN
 *
 * A link does not come back: whoever wants to go on opens another one.
 */
#ifndef OX_IO_NBD_LINK_H
#define OX_IO_NBD_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "io/nbd/address.h"
#include "io/nbd/api.h"
#include "rt/reactor.h"

struct ox_nbd_link;

/* What the server says of the export. */
struct ox_nbd_facts {
	uint64_t length;
	uint32_t block_min; /* 0: not told */
	uint32_t block_max;
	bool read_only;
	bool can_flush;
	bool can_fua;
	bool can_trim;
	bool can_zero;
	bool can_multi_conn;
	bool has_extents; /* base:allocation */
};

#define OX_NBD_EXTENTS_MAX 1024

struct ox_nbd_extents {
	unsigned count;
	struct {
		uint64_t length;
		bool zero;
	} items[OX_NBD_EXTENTS_MAX];
};

enum ox_nbd_kind {
	OX_NBD_READ,
	OX_NBD_WRITE,
	OX_NBD_ZERO,
	OX_NBD_TRIM,
	OX_NBD_FLUSH,
	OX_NBD_EXTENTS,
};

struct ox_nbd_request {
	enum ox_nbd_kind kind;
	uint32_t flags; /* LIBNBD_CMD_FLAG_ */
	uint64_t offset;
	uint64_t length;
	void *buf;			/* READ, WRITE */
	struct ox_nbd_extents *extents; /* EXTENTS: filled */
	/* the link's */
	uint64_t told; /* READ: bytes that came so far */
	struct ox_list link;
	struct ox_nbd_link *by;
	struct ox_handed *handed;
};

/* Begins to connect, within limit_ms. Api, address and connector outlive the link. */
int ox_nbd_link_start(const struct ox_nbd_api *api, const struct ox_nbd_address *address,
		      const struct ox_nbd_connector *connector, uint64_t limit_ms,
		      struct ox_nbd_link **ret) __attribute__((warn_unused_result));
/* Blocks until the connection stands or not. *ret_known: the server has answered, so that asking it
 * again is of no use. */
int ox_nbd_link_await(struct ox_nbd_link *link, bool *ret_known, struct ox_error **err)
	__attribute__((warn_unused_result));
const struct ox_nbd_facts *ox_nbd_link_facts(const struct ox_nbd_link *link);
/* 0 or the server's error. -ENOTCONN: the connection is gone, and nobody knows whether the request
 * was carried out. */
int ox_nbd_link_call_co(struct ox_nbd_link *link, struct ox_nbd_request *req);
/* Tells the thread to end, and does not wait for it. */
void ox_nbd_link_stop(struct ox_nbd_link *link);
/* Ends the connection, politely where it stands, within a second, and the thread. Blocks. NULL is
 * allowed. */
void ox_nbd_link_close(struct ox_nbd_link *link);

#endif
