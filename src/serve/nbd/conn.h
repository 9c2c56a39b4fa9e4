/* SPDX-License-Identifier: MIT */
/*
 * One NBD connection as a state machine over bytes, without a socket: its owner asks where the next
 * bytes received belong, says how many came, and takes the bytes to send. That lets a fuzzer
 * drive it, and lets a payload land in its request's buffer directly.
 *
 *   HELLO --client flags--> OPTION --EXPORT_NAME, GO--> REQUEST <--header, payload--> PAYLOAD
 *                           ^    |                      ^     |
 *                           +SKIP+                      +-SKIP+    (bytes that nobody wants)
 *                           ^    |
 *                           |    +--STARTTLS option--> STARTTLS
 *                           +----secured by the owner----+
 *
 * Where TLS is required nothing else is answered before it. What was said in the clear is
 * forgotten then: somebody in between may have said it.
 *
 * The ways out of every state: ox_nbd_conn_end_input (the client is done, or the server is: what
 * was accepted is finished and answered) and ox_nbd_conn_abort (the client is gone, or broke the
 * protocol beyond answering: nothing is sent any more). Requests that the library has taken keep
 * their buffers until they complete, whatever happens to the connection.
 *
 * A request is counted against the limits below from its header to the last byte of its reply, so
 * a client that does not read its replies is soon not read from either. So is its memory, against
 * the budget of all connections, from the first request on: one that has to wait for memory stays
 * unparsed ("stalled") until the owner, asked by ox_nbd_budget_next, resumes its connection. One
 * that has to wait for the disk's limits (serve/limit.h) stays so until it is its turn.
 */
#ifndef OX_SERVE_NBD_CONN_H
#define OX_SERVE_NBD_CONN_H

#include <sys/uio.h>

#include "oxbow.h"
#include "serve/flight.h"
#include "serve/full.h"
#include "serve/limit.h"
#include "serve/serve.h"
#include "serve/stats.h"
#include "serve/nbd/budget.h"
#include "serve/nbd/buffer.h"
#include "serve/nbd/nbd_proto.h"

/* The largest payload, as NBD_INFO_BLOCK_SIZE announces it. */
#define NBD_PAYLOAD_MAX_BYTES (32u << 20)
/* A write beyond that, but not beyond this, is skipped and answered; more ends the connection. */
#define NBD_SKIP_MAX_BYTES (64u << 20)
#define NBD_CONN_MAX_REQUESTS 64u
/* Two of the largest requests. */
#define NBD_CONN_MAX_BYTES (65u << 20)
#define NBD_RECEIVE_BYTES (64u << 10)
/* What a connection takes without any request: what is received, and answers to options. */
#define NBD_CONN_BYTES (NBD_RECEIVE_BYTES + (16u << 10))
/* What a request takes beside its payload: itself, and the stack of the library's task. */
#define NBD_REQUEST_COST_BYTES (8u << 10)
/* The ids by which clients know the metadata contexts, from 1 on. */
#define NBD_CONTEXT_ALLOCATION 1u
#define NBD_CONTEXT_DEPTH 2u
#define NBD_CONTEXT_LAST NBD_CONTEXT_DEPTH
#define NBD_CONTEXT_BIT(id) (1u << (id))

struct ox_nbd_conn;

/* What is served; shared by all connections. */
struct ox_nbd_export {
	const char *name;
	const char *description; /* NULL: none */
	uint64_t size_bytes;
	uint64_t base; /* of the disk, where the export's first byte is */
	enum ox_serve_detect_zeroes detect_zeroes;
	bool read_only;
	bool multi_conn;  /* there may be several clients at once */
	bool tells_depth; /* of allocation: qemu:allocation-depth */
	struct ox_queue *queue;
	struct ox_nbd_pool pool;
	struct ox_nbd_budget budget;
	bool submitted;		  /* since the owner last polled the library: it resets this */
	struct ox_flight *flight; /* NULL: nothing is noted */
	struct ox_limit *limit;	  /* NULL: none */
	struct ox_full *full;	  /* NULL: what finds no room fails */
	/* A connection may have something to send that nobody has asked for. Of an export with
	 * full. */
	void (*changed)(struct ox_nbd_conn *conn);
	struct ox_stats *stats; /* NULL: nothing is counted */
	/* Of each client, before it is told anything; the owner brings it about. */
	bool tls_is_required;
	size_t tls_bytes; /* what that takes of memory, a connection; 0: nothing */
	/* Held back, and counted as in the library's hands, until no suspect is carried out. */
	struct ox_nbd_request *held_first;
	struct ox_nbd_request *held_last;
};

/* Consecutive pieces of the disk. */
struct ox_nbd_extent {
	uint64_t length;
	uint32_t status; /* NBD_STATE_ */
	uint32_t depth;	 /* 0: nowhere in the chain; 1: in the image itself; 2: below it; ... */
};

struct ox_nbd_extents {
	struct ox_nbd_extent *list;
	size_t count;
	size_t capacity;
	size_t max;	      /* the walk ends when it would need more */
	uint32_t status_mask; /* extents that differ elsewhere only are merged */
	bool by_depth;	      /* but for those of another depth */
	unsigned looks_left;  /* the walk ends as well when these are used up */
	uint64_t position;    /* of the walk */
	uint64_t end;
};

enum ox_nbd_stage {
	NBD_STAGE_EXTENTS, /* the library looks up what is where */
	NBD_STAGE_DATA,	   /* the operation itself */
	NBD_STAGE_FLUSH,   /* after a discard with FUA */
};

/* The header of a chunk, and what all but the longest chunks have after it. */
#define NBD_REPLY_HEAD_BYTES 160u

struct ox_nbd_request {
	struct ox_request op;
	struct ox_nbd_conn *conn;
	struct ox_nbd_request *next; /* in conn's queue of replies, or among those held back */
	/* While the library has it, if it may take long: in conn's list of those. */
	struct ox_nbd_request *next_range;
	struct ox_nbd_request **this_range; /* what points here */
	struct ox_nbd_request_head head;
	enum ox_nbd_stage stage;
	struct ox_flight_note note;
	struct ox_full_waiter full;
	struct ox_stats_note count;
	int error;		/* known before the payload is skipped; 0: none */
	const char *error_text; /* a literal; NULL: none */
	uint8_t *data;		/* payload of data_bytes; NULL: none */
	size_t data_bytes;
	size_t charged_bytes;
	struct iovec data_iov;
	struct ox_extent found;
	unsigned contexts; /* NBD_CONTEXT_BIT of those that a block status is to tell */
	struct ox_nbd_extents extents;
	/* the reply: iov_count of iov, which is inline_iov or allocated */
	uint8_t reply_head[NBD_REPLY_HEAD_BYTES];
	uint8_t *reply_more; /* allocated; NULL: none */
	struct iovec inline_iov[2 * NBD_CONTEXT_LAST];
	struct iovec *iov;
	int iov_count;
};

enum ox_nbd_conn_state {
	NBD_CONN_HELLO,
	NBD_CONN_OPTION,
	NBD_CONN_STARTTLS, /* nothing is received before the owner has made it secure */
	NBD_CONN_REQUEST,
	NBD_CONN_PAYLOAD,
};

struct ox_nbd_conn {
	struct ox_nbd_export *export;
	enum ox_nbd_conn_state state;
	enum ox_nbd_style style;
	bool fixed_newstyle;
	bool no_zeroes;
	bool is_secure;
	unsigned contexts; /* NBD_CONTEXT_BIT of those that are negotiated */
	bool chose;	   /* the export: the handshake is over */
	bool input_ended;
	bool leaving; /* the client has sent all it will: nothing waits for room */
	bool aborted;
	bool stalled;  /* a request waits, unparsed, for a limit */
	bool admitted; /* it is the next request's turn: the disk's limits have been charged for it
			*/

	/* received and not used yet: [start, end) */
	uint8_t *receive;
	size_t receive_start;
	size_t receive_end;
	uint64_t skip_bytes; /* to be thrown away before anything else is parsed */
	struct ox_nbd_option_head skipped_option; /* answered when they are */

	struct ox_nbd_request *incoming; /* its payload is being received or skipped */
	size_t incoming_bytes;		 /* of the payload, so far */
	size_t last_payload_bytes;

	/* answers of the handshake: [start, end) */
	uint8_t *answer;
	size_t answer_start;
	size_t answer_end;
	size_t answer_capacity;

	/* replies, and how far the first is sent */
	struct ox_nbd_request *reply_first;
	struct ox_nbd_request *reply_last;
	int sent_iovs;
	size_t sent_iov_bytes;

	unsigned request_count;	       /* from header to the last byte of the reply */
	unsigned library_count;	       /* of those, in the library's hands */
	struct ox_nbd_request *ranges; /* of those, long TRIMs and WRITE_ZEROES */
	struct ox_nbd_share share;
	struct ox_limit_waiter turn; /* resume is the owner's */
};

/* ---- for the owner ---- */

/* -ENOMEM. The greeting is ready to be sent. There are no more connections than the budget of the
 * export was made for. */
int ox_nbd_conn_init(struct ox_nbd_conn *conn, struct ox_nbd_export *export) OX_CHECKED;
/* The library must have nothing of it. */
void ox_nbd_conn_free(struct ox_nbd_conn *conn);

/* Where bytes from the socket are to be put: the number of vectors, at most 2; 0: none now. */
int ox_nbd_conn_receive_space(struct ox_nbd_conn *conn, struct iovec *ret_iov);
/* count bytes have been put there. Requests they complete are submitted. */
void ox_nbd_conn_received(struct ox_nbd_conn *conn, size_t count);
/* Takes up again what a limit has stopped. */
void ox_nbd_conn_resume(struct ox_nbd_conn *conn);

/* What is to be sent, in order: the number of vectors, at most max. */
int ox_nbd_conn_send_vectors(const struct ox_nbd_conn *conn, struct iovec *ret_iov, int max);
/* count bytes of it have been sent. */
void ox_nbd_conn_sent(struct ox_nbd_conn *conn, size_t count);

/* Whether the client has been told that TLS begins. */
bool ox_nbd_conn_awaits_tls(const struct ox_nbd_conn *conn);
/* What is received and sent from here on goes through TLS. */
void ox_nbd_conn_secured(struct ox_nbd_conn *conn);

void ox_nbd_conn_end_input(struct ox_nbd_conn *conn);
void ox_nbd_conn_abort(struct ox_nbd_conn *conn);
/* Whether there will never be anything more to send. */
bool ox_nbd_conn_finished(const struct ox_nbd_conn *conn);
bool ox_nbd_conn_in_handshake(const struct ox_nbd_conn *conn);
/* Whether the client holds memory by not reading on, or by not sending on. */
bool ox_nbd_conn_awaits_client(const struct ox_nbd_conn *conn);
/* The connection that a share belongs to. */
struct ox_nbd_conn *ox_nbd_conn_of(struct ox_nbd_share *share);

/* A reaped request's connection, which may have something to send now. */
struct ox_nbd_conn *ox_nbd_request_completed(struct ox_request *op);
/* Takes up one that was held back, if it can be: its connection, as above; else NULL. */
struct ox_nbd_conn *ox_nbd_request_release(struct ox_nbd_export *export);
/* Answers what waits for room, and whatever finds none from now on. */
void ox_nbd_conn_leave(struct ox_nbd_conn *conn);
/* Asks the library to give up what may take long; it is answered like anything else. */
void ox_nbd_cancel_ranges(struct ox_nbd_conn *conn);

/* ---- options.c: the handshake ---- */

/* Room for count bytes of answer; NULL when memory is short. */
uint8_t *ox_nbd_conn_answer(struct ox_nbd_conn *conn, size_t count);
/* The option's data are complete. May change the state, end the input, or abort. */
void ox_nbd_option_run(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head,
		       const uint8_t *data);
/* The option was longer than any that makes sense, and has been skipped. */
void ox_nbd_option_refuse_length(struct ox_nbd_conn *conn, const struct ox_nbd_option_head *head);

/* ---- request.c: the transmission ---- */

enum ox_nbd_accept {
	NBD_ACCEPT_DONE,    /* taken, started or answered: the header is used up */
	NBD_ACCEPT_PAYLOAD, /* taken: conn->incoming waits for its payload */
	NBD_ACCEPT_STALL,   /* not taken: a limit is reached */
	NBD_ACCEPT_FATAL,   /* the stream cannot be followed */
	NBD_ACCEPT_END,	    /* the client says goodbye */
};

enum ox_nbd_accept ox_nbd_request_accept(struct ox_nbd_conn *conn,
					 const struct ox_nbd_request_head *head);
/* conn->incoming has its payload, or has had it skipped. */
void ox_nbd_request_payload_done(struct ox_nbd_conn *conn);
/* Whatever waits for room is answered, or freed where nobody hears an answer. */
void ox_nbd_request_give_up(struct ox_nbd_conn *conn);
/* Gives it back: buffers, charges and all. */
void ox_nbd_request_free(struct ox_nbd_request *request);
/* All that it still holds is its payload and so many more bytes: the rest of its charge, which was
 * for the most it could need, is given back. */
void ox_nbd_request_settle(struct ox_nbd_request *request, size_t more_bytes);
/* Nor does it need its payload any more, or what it has found out. */
void ox_nbd_request_drop_data(struct ox_nbd_request *request);
/* op is filled in except for its stage's bookkeeping: hands it to the library, or fails it. */
void ox_nbd_request_submit(struct ox_nbd_request *request, enum ox_nbd_stage stage);

/* ---- extent.c ---- */

/* What the walk over length bytes takes at the most, and the reply that tells of it. */
size_t ox_nbd_extents_bytes(uint64_t length, size_t max);
/* Begins to look up [offset, offset + length), in at most max pieces. */
void ox_nbd_extents_start(struct ox_nbd_request *request, uint64_t offset, uint64_t length,
			  size_t max, uint32_t status_mask, bool by_depth);
/* Takes in one look. True: the walk is over. A negative *ret_error: it failed. */
bool ox_nbd_extents_step(struct ox_nbd_request *request, int *ret_error);

/* ---- reply.c: each puts the request into its connection's queue of replies ---- */

void ox_nbd_reply_done(struct ox_nbd_request *request);
/* error: a negative errno. text: a literal for the user, or NULL. */
void ox_nbd_reply_error(struct ox_nbd_request *request, int error, const char *text);
/* request->data holds the bytes of the whole range. */
void ox_nbd_reply_read(struct ox_nbd_request *request);
/* The same where request->extents says which parts are zeroes; data holds the bytes from
 * data_offset on, as far as any part is not. */
void ox_nbd_reply_read_sparse(struct ox_nbd_request *request, uint64_t data_offset);
void ox_nbd_reply_block_status(struct ox_nbd_request *request);

#endif
