/* SPDX-License-Identifier: MIT */
/*
 * A front end of vhost-user and its guest's driver of virtio-blk, in one thread, for measuring
 * servers: shared memory of its own, split rings, requests of one block each. It does what Linux's
 * driver does: indirect descriptors, EVENT_IDX, a kick only where the device asks for one, an
 * interrupt only where the ring is empty. What goes wrong ends the program, and says so.
 *
 *	put, put, ...	requests, which the device does not see yet
 *	push		it sees them
 *	take, take, ...	what is answered
 *	wait		until something is
 */
#ifndef OX_TESTS_VHOST_CLIENT_H
#define OX_TESTS_VHOST_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#define CLIENT_QUEUES_MAX 8u
#define CLIENT_RING_SIZE 128u
#define CLIENT_BLOCK_BYTES 4096u

enum client_op {
	CLIENT_READ = 0, /* as in the header of a request */
	CLIENT_WRITE = 1,
};

struct client_queue {
	struct client_shared *shared; /* what the device sees of it */
	uint16_t avail_index;
	uint16_t pushed_index;
	uint16_t used_index;
	int kick_fd;
	int call_fd;
	uint64_t kicks; /* that were made */
};

struct client {
	int socket;
	int epoll_fd; /* of the call descriptors */
	uint64_t features;
	uint64_t protocol;
	uint64_t capacity_bytes;
	uint64_t wakes; /* from waiting */
	unsigned queue_count;
	struct client_queue queues[CLIENT_QUEUES_MAX];
};

/* Connects, negotiates, and starts so many queues. */
void client_connect(struct client *client, const char *path, unsigned queues);
/* Stops the queues, in which nothing is in flight, and hangs up. */
void client_disconnect(struct client *client);

/* slot < CLIENT_RING_SIZE: one that has no request. */
void client_put(struct client_queue *queue, unsigned slot, enum client_op op,
		uint64_t offset_bytes);
void client_push(struct client_queue *queue);
/* The slot of a request that went well, or -1: no other is answered. */
int client_take(struct client_queue *queue);
void client_wait(struct client *client);
/* The block of a slot. */
void *client_block(struct client_queue *queue, unsigned slot);

#endif
