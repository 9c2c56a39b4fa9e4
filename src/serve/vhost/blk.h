/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk (virtio 1.2, 5.2): a chain becomes a request of the library, and its result becomes a
 * status byte. Also the device's features, its configuration space, and the one rule of its write
 * cache.
 *
 * A chain is a header of 16 bytes, data, and the status byte: the first readable bytes, however the
 * descriptors split them, and the last writable one. Only a chain without a place for its status
 * breaks its ring; everything else gets a status.
 *
 *	OK      carried out
 *	IOERR   past the end, not whole blocks, a write to a read-only disk, no ranges or too many,
 *		or the library failed it
 *	UNSUPP  a type or a flag that is not known or not negotiated
 *
 * Where the device is write-through at the moment when a request is taken, writes and write-zeroes
 * carry FUA.
 */
#ifndef OX_SERVE_VHOST_BLK_H
#define OX_SERVE_VHOST_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"
#include "serve/flight.h"
#include "serve/full.h"
#include "serve/stats.h"
#include "serve/vhost/memory.h"
#include "serve/vhost/ring.h"

/* Feature bits. */
#define OX_VIRTIO_BLK_F_SIZE_MAX (UINT64_C(1) << 1)
#define OX_VIRTIO_BLK_F_SEG_MAX (UINT64_C(1) << 2)
#define OX_VIRTIO_BLK_F_RO (UINT64_C(1) << 5)
#define OX_VIRTIO_BLK_F_BLK_SIZE (UINT64_C(1) << 6)
#define OX_VIRTIO_BLK_F_FLUSH (UINT64_C(1) << 9)
#define OX_VIRTIO_BLK_F_TOPOLOGY (UINT64_C(1) << 10)
#define OX_VIRTIO_BLK_F_CONFIG_WCE (UINT64_C(1) << 11)
#define OX_VIRTIO_BLK_F_MQ (UINT64_C(1) << 12)
#define OX_VIRTIO_BLK_F_DISCARD (UINT64_C(1) << 13)
#define OX_VIRTIO_BLK_F_WRITE_ZEROES (UINT64_C(1) << 14)
#define OX_VIRTIO_F_RING_INDIRECT_DESC (UINT64_C(1) << 28)
#define OX_VIRTIO_F_RING_EVENT_IDX (UINT64_C(1) << 29)
#define OX_VIRTIO_F_VERSION_1 (UINT64_C(1) << 32)

/* Where the fields of the configuration space lie that others ask for. */
#define OX_VHOST_BLK_CONFIG_BYTES 60u
#define OX_VHOST_BLK_CONFIG_WCE 32u

#define OX_VHOST_BLK_ID_BYTES 20u
#define OX_VHOST_BLK_SEG_MAX 126u /* less where rings are shorter */
#define OX_VHOST_BLK_SIZE_MAX (UINT32_C(1) << 20)

/* ---- the write cache ---- */

/* What is known of the field "writeback". */
enum ox_vhost_wce {
	OX_VHOST_WCE_UNKNOWN, /* a guest may have set it, and we do not know how */
	OX_VHOST_WCE_UNSET,   /* no guest has */
	OX_VHOST_WCE_OFF,
	OX_VHOST_WCE_ON,
};

/*
 * Whether a write has to be durable before its status (docs/vhost-user.md has the table). mode: of
 * the image. offered, acked: device features.
 */
bool ox_vhost_blk_is_write_through(enum ox_cache_mode mode, uint64_t offered, uint64_t acked,
				   enum ox_vhost_wce wce);

/* ---- the device ---- */

struct ox_vhost_blk_request;

/* A disk as all its rings see it. The owner may change it at any time on its reactor's thread: each
 * request goes by what it finds when it is taken. */
struct ox_vhost_blk {
	uint64_t size_bytes;
	enum ox_cache_mode mode;
	bool read_only;
	/* Somebody waits for all that is in flight: discards end as soon as they can. */
	bool hurried;
	/* Every request fails with IOERR: what may have been lost is not to be talked over. */
	bool failing;
	uint32_t block_bytes;	 /* logical: 512 or a larger power of two */
	uint32_t physical_bytes; /* written at once: at least block_bytes, a power of two */
	uint32_t cluster_bytes;	 /* of the image, a power of two; 0: it has none */
	uint16_t queues;	 /* > 0 */
	uint16_t queue_size;	 /* the longest ring */
	char serial[OX_VHOST_BLK_ID_BYTES]; /* padded with zeroes */
	uint64_t acked;			    /* features */
	enum ox_vhost_wce wce;		    /* UNSET at first */
	/* Who is told of what is written into buffers (VHOST_F_LOG_ALL); NULL: nobody. */
	const struct ox_vhost_dirty *dirty;
	struct ox_stats *stats; /* NULL: nothing is counted */
	/* Hands a request to the library: ox_queue_submit on a queue of the owner's, at once or
	 * later. -errno: it fails. Once its result is there the owner calls
	 * ox_vhost_blk_completed, never before this returns. */
	int (*submit)(void *opaque, struct ox_vhost_blk_request *request);
	void *opaque;
};

/* What the device offers (not the bits of vhost-user). */
uint64_t ox_vhost_blk_features(const struct ox_vhost_blk *blk);
bool ox_vhost_blk_writes_through(const struct ox_vhost_blk *blk);

/* Copies [offset, offset + bytes) of the configuration space; what lies behind its end is zero. */
void ox_vhost_blk_config_read(const struct ox_vhost_blk *blk, uint32_t offset, uint32_t bytes,
			      void *ret);
/*
 * A guest's change. Only the byte wce of a device that offers CONFIG_WCE is taken, 0 or 1: wce is
 * set, 0 is returned, and whoever turned it off waits for a flush before it says so. -EINVAL:
 * anything else, also 1 where the mode itself is write-through, and nothing has changed.
 */
int ox_vhost_blk_config_write(struct ox_vhost_blk *blk, uint32_t offset, uint32_t bytes,
			      const void *data) OX_CHECKED;

/* ---- requests ---- */

/* A request that is carried out. The owner may use note, owner and full, which are zero at first;
 * flight notes (serve/flight.h) of what the library is asked for belong there. */
struct ox_vhost_blk_request {
	struct ox_request request; /* user: this struct */
	struct ox_vhost_blk_ring *ring;
	struct ox_flight_note note;
	void *owner;
	struct ox_full_waiter full;
	struct ox_stats_note count;
	/* Of data that is transferred, or zeroed or discarded by what is submitted: a request of
	 * many ranges is submitted again for each. */
	uint64_t bytes;
	/* The rest is blk.c's. */
	struct ox_vhost_blk_request *next_free;
	uint8_t *status;
	uint32_t data_bytes; /* written into the guest by it if it is carried out */
	uint16_t head;
	int room; /* of pieces */
	struct iovec *pieces;
	struct iovec few[4];
	struct ox_vhost_blk_range *ranges; /* what is left of them; NULL: it has none */
	uint64_t done_bytes;		   /* by steps before */
	unsigned range_at;
	unsigned range_count;
};

struct ox_vhost_blk_ring;

/* The requests of one ring. Both outlive it. */
int ox_vhost_blk_ring_new(struct ox_vhost_blk *blk, struct ox_vhost_ring *ring,
			  struct ox_vhost_memory *memory,
			  struct ox_vhost_blk_ring **ret) OX_CHECKED;
/* Nothing is in flight. NULL is allowed. */
void ox_vhost_blk_ring_free(struct ox_vhost_blk_ring *blk_ring);

/*
 * Takes up to max chains: hands them to submit, or answers what needs no I/O. Returns how many were
 * taken; fewer than max: no more are there, or may be. -EPROTO: the ring broke; -ENOMEM. What was
 * taken before goes on in either case. The owner publishes afterwards.
 */
int ox_vhost_blk_take(struct ox_vhost_blk_ring *blk_ring, unsigned max) OX_CHECKED;
/* request->result is there: the status is written and the chain answered, or what comes next of it
 * is submitted; the owner publishes. The request is not the owner's any more. */
void ox_vhost_blk_completed(struct ox_vhost_blk_request *request);
/* It is not answered, and stays recorded in the inflight region, for whoever starts the ring next.
 * The ring is about to be given up. The request is free from then on. */
void ox_vhost_blk_leave(struct ox_vhost_blk_request *request);

#endif
