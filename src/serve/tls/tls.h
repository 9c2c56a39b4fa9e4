/* SPDX-License-Identifier: MIT */
/*
 * TLS over a non-blocking socket, of the server's side: a session stands between the socket and
 * whoever reads and writes it. Nothing waits here: -EAGAIN says that the socket has nothing, or
 * takes nothing (ox_tls_waits_to_send). Only once the socket itself has said so is -EAGAIN
 * returned, so that an edge-triggered owner misses nothing that a session holds back.
 */
#ifndef OX_SERVE_TLS_TLS_H
#define OX_SERVE_TLS_TLS_H

#include <sys/uio.h>

#include "serve/serve.h"

/* What a session takes, with all that belongs to it. */
#define OX_TLS_SESSION_BYTES (96u << 10)
/* What one record carries. */
#define OX_TLS_RECORD_BYTES (16u << 10)

/* Credentials. A session keeps those that it began with, whatever follows them. */
struct ox_tls;
struct ox_tls_session;

/* After ox_serve_tls_prepare. Of what ox_serve_tls_read has made; fd stays the caller's. Of options
 * verify_peer and has_rules are looked at, which fd must suit. -errno, and *ret_error. */
int ox_tls_new(int fd, const struct ox_serve_tls_options *options, struct ox_tls **ret,
	       struct ox_serve_error *ret_error) OX_CHECKED;
/* The server's certificate, which no client accepts any more. */
bool ox_tls_has_expired(const struct ox_tls *tls);
/* The last session that has them frees them. NULL is allowed. */
void ox_tls_put(struct ox_tls *tls);

/* -errno. */
int ox_tls_session_new(struct ox_tls *tls, int fd, struct ox_tls_session **ret) OX_CHECKED;
/* NULL is allowed. The socket stays open. */
void ox_tls_session_free(struct ox_tls_session *session);

/* 0: the session is secure; -EAGAIN: again when the socket is ready; -EPROTO: it never will be
 * (ox_tls_why); -EACCES: it is, and the rules deny it to the client (ox_tls_why, ox_tls_name). */
int ox_tls_shake_hands(struct ox_tls_session *session) OX_CHECKED;
/* As read(2): 0 is the end of the stream, told or not. -EPROTO: it broke. */
ssize_t ox_tls_receive(struct ox_tls_session *session, void *bytes, size_t count) OX_CHECKED;
/* The first bytes of iov, one record at the most, of which it tells how many it has sent. After
 * -EAGAIN the same bytes must come first again. -EPROTO: it broke. */
ssize_t ox_tls_send(struct ox_tls_session *session, const struct iovec *iov, int count) OX_CHECKED;
/* Says that nothing more comes, if there is room for that. */
void ox_tls_say_goodbye(struct ox_tls_session *session);

/* After -EAGAIN: the socket takes nothing more; else it has nothing. */
bool ox_tls_waits_to_send(const struct ox_tls_session *session);
/* After -EPROTO and -EACCES, for the log. It lasts. */
const char *ox_tls_why(const struct ox_tls_session *session);
/* Protocol, ciphers, and who the client is, for the log: text of so many bytes. */
void ox_tls_describe(const struct ox_tls_session *session, char *text, size_t size);
/* Who the client is, or "" where nobody knows, for the log: at its end "..." where it was cut. size
 * is 4 at least. */
void ox_tls_name(const struct ox_tls_session *session, char *text, size_t size);

#endif
