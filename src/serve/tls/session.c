/* SPDX-License-Identifier: MIT */
#include "serve/tls/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "serve/tls/credentials.h"

/* Of what the socket has at once: a record and its header come in two looks otherwise. */
#define AHEAD_BYTES (32u << 10)
/* At the end of a name that has no room in the log. */
#define CUT "..."
/* Certificates of a client. */
#define HANDSHAKE_MAX_BYTES (64u << 10)

struct ox_tls_session {
	struct ox_tls *tls; /* NULL: it is the client's side */
	gnutls_session_t session;
	int fd;
	const char *why;
	int code;	/* of GnuTLS, which that tells */
	bool is_unsent; /* a record that has been made */
	bool is_dry;	/* the socket has said that it has nothing */
	size_t ahead_start;
	size_t ahead_end;
	uint8_t ahead[AHEAD_BYTES];
	uint8_t record[OX_TLS_RECORD_BYTES]; /* gathered */
};

/* ---- the socket ---- */

static ssize_t pull(gnutls_transport_ptr_t opaque, void *bytes, size_t count)
{
	struct ox_tls_session *session = opaque;
	size_t left = session->ahead_end - session->ahead_start;

	if (left == 0) {
		ssize_t got =
			recv(session->fd, session->ahead, sizeof(session->ahead), MSG_DONTWAIT);

		if (got <= 0) {
			session->is_dry = true;
			if (got < 0)
				ox_gnutls.transport_set_errno(session->session, errno);
			return got;
		}
		session->ahead_start = 0;
		session->ahead_end = left = (size_t)got;
	}
	if (count > left)
		count = left;
	memcpy(bytes, session->ahead + session->ahead_start, count);
	session->ahead_start += count;
	return (ssize_t)count;
}

static ssize_t push(gnutls_transport_ptr_t opaque, const giovec_t *iov, int count)
{
	struct ox_tls_session *session = opaque;
	struct msghdr message = {
		.msg_iov = (struct iovec *)(uintptr_t)iov,
		.msg_iovlen = (size_t)count,
	};
	ssize_t sent = sendmsg(session->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0)
		ox_gnutls.transport_set_errno(session->session, errno);
	return sent;
}

/* ---- a session ---- */

static void set_transport(struct ox_tls_session *session)
{
	gnutls_session_t s = session->session;

	ox_gnutls.handshake_set_max_packet_length(s, HANDSHAKE_MAX_BYTES);
	ox_gnutls.transport_set_ptr(s, session);
	ox_gnutls.transport_set_pull_function(s, pull);
	ox_gnutls.transport_set_vec_push_function(s, push);
}

static int configure(struct ox_tls_session *session)
{
	static gnutls_typed_vdata_st purpose = {
		.type = GNUTLS_DT_KEY_PURPOSE_OID,
		.data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT,
	};
	const struct ox_tls *tls = session->tls;
	gnutls_session_t s = session->session;
	int ret = ox_gnutls.priority_set(s, tls->priority);

	if (ret == 0 && tls->certificate)
		ret = ox_gnutls.credentials_set(s, GNUTLS_CRD_CERTIFICATE, tls->certificate);
	if (ret == 0 && tls->psk)
		ret = ox_gnutls.credentials_set(s, GNUTLS_CRD_PSK, tls->psk);
	if (ret < 0)
		return ret;
	if (tls->certificate && tls->verify_peer) {
		ox_gnutls.certificate_server_set_request(s, GNUTLS_CERT_REQUIRE);
		ox_gnutls.session_set_verify_cert2(s, &purpose, 1, 0);
	} else {
		ox_gnutls.certificate_server_set_request(s, GNUTLS_CERT_IGNORE);
	}
	ox_gnutls.session_set_ptr(s, session->tls);
	return 0;
}

/* NULL: memory is short. */
static struct ox_tls_session *make_session(int fd, unsigned side)
{
	struct ox_tls_session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	if (ox_gnutls.init(&session->session, side | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS) < 0) {
		free(session);
		return NULL;
	}
	session->fd = fd;
	set_transport(session);
	return session;
}

int ox_tls_session_new(struct ox_tls *tls, int fd, struct ox_tls_session **ret)
{
	struct ox_tls_session *session = make_session(fd, GNUTLS_SERVER);

	if (!session)
		return -ENOMEM;
	session->tls = tls;
	tls->users++;
	if (configure(session) < 0) {
		ox_tls_session_free(session);
		return -ENOMEM;
	}
	*ret = session;
	return 0;
}

/* A name may be an address, which is not told in advance. */
static int name_server(gnutls_session_t session, const char *name)
{
	struct in6_addr address;

	if (inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1)
		return 0;
	return ox_gnutls.server_name_set(session, GNUTLS_NAME_DNS, name, strlen(name));
}

static int configure_client(struct ox_tls_session *session, const struct ox_tls_client *client)
{
	const char *name = client->options.hostname;
	gnutls_session_t s = session->session;
	int ret = ox_gnutls.priority_set(s, client->priority);

	if (ret == 0 && name)
		ret = name_server(s, name);
	if (ret == 0 && client->psk)
		return ox_gnutls.credentials_set(s, GNUTLS_CRD_PSK, client->psk);
	if (ret == 0)
		ret = ox_gnutls.credentials_set(s, GNUTLS_CRD_CERTIFICATE, client->certificate);
	/* Without a name the issuer is looked at, and nothing else can be. */
	if (ret == 0 && !client->options.is_unverified)
		ox_gnutls.session_set_verify_cert(s, name, 0);
	return ret;
}

int ox_tls_client_begin(struct ox_tls_client *client, int fd, struct ox_tls_session **ret)
{
	struct ox_tls_session *session = make_session(fd, GNUTLS_CLIENT);

	if (!session)
		return -ENOMEM;
	if (configure_client(session, client) < 0) {
		ox_tls_session_free(session);
		return -ENOMEM;
	}
	*ret = session;
	return 0;
}

void ox_tls_session_free(struct ox_tls_session *session)
{
	if (!session)
		return;
	ox_gnutls.deinit(session->session);
	ox_tls_put(session->tls);
	explicit_bzero(session->record, sizeof(session->record));
	free(session);
}

/* ---- what it says ---- */

static const char *words_for(int code)
{
	switch (code) {
	case GNUTLS_E_PREMATURE_TERMINATION:
		return "it hung up";
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
	case GNUTLS_E_CERTIFICATE_ERROR:
		return "TLS: its certificate is not accepted";
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
	case GNUTLS_E_CERTIFICATE_REQUIRED:
		return "TLS: it has no certificate";
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return "TLS: it does not accept this server";
	case GNUTLS_E_REHANDSHAKE:
		return "TLS: it wants another handshake";
	default:
		return ox_gnutls.strerror(code); /* which lasts */
	}
}

/* Neither a broken socket nor what a client sends is worth more than its connection. */
static int settle(struct ox_tls_session *session, int code)
{
	if (code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED)
		return -EAGAIN;
	session->why = words_for(code);
	session->code = code;
	return -EPROTO;
}

bool ox_tls_waits_to_send(const struct ox_tls_session *session)
{
	return ox_gnutls.record_get_direction(session->session) == 1;
}

const char *ox_tls_why(const struct ox_tls_session *session)
{
	return session->why;
}

/* ---- who it is ---- */

/* The client's, which is signed by somebody who is trusted; to be freed. -ENOENT: it has none, or
 * one that is not understood. */
static int get_certificate(const struct ox_tls_session *session, gnutls_x509_crt_t *ret)
{
	gnutls_x509_crt_t certificate;
	const gnutls_datum_t *chain;
	unsigned count = 0;

	if (ox_gnutls.auth_get_type(session->session) != GNUTLS_CRD_CERTIFICATE)
		return -ENOENT;
	chain = ox_gnutls.certificate_get_peers(session->session, &count);
	if (!chain || count == 0 || ox_gnutls.x509_crt_init(&certificate) < 0)
		return -ENOENT;
	if (ox_gnutls.x509_crt_import(certificate, chain, GNUTLS_X509_FMT_DER) < 0) {
		ox_gnutls.x509_crt_deinit(certificate);
		return -ENOENT;
	}
	*ret = certificate;
	return 0;
}

/* The distinguished name, to be freed. -ENOENT: there is none, or it cannot be told. */
static int get_name(gnutls_x509_crt_t certificate, gnutls_datum_t *ret)
{
	gnutls_datum_t name = {0};

	if (ox_gnutls.x509_crt_get_dn2(certificate, &name) < 0 || !name.data) {
		free(name.data);
		return -ENOENT;
	}
	*ret = name;
	return 0;
}

/* A value of the name with a zero in it, which is printed as digits, or one that cannot be looked
 * at. */
static bool has_zero(gnutls_x509_crt_t certificate)
{
	gnutls_x509_ava_st part;
	gnutls_x509_dn_t name;
	int parts;

	if (ox_gnutls.x509_crt_get_subject(certificate, &name) < 0)
		return true;
	for (int i = 0;; i++) {
		int ret;

		for (parts = 0;; parts++) {
			ret = ox_gnutls.x509_dn_get_rdn_ava(name, i, parts, &part);
			if (ret < 0)
				break;
			if (memchr(part.value.data, '\0', part.value.size))
				return true;
		}
		if (ret != GNUTLS_E_ASN1_ELEMENT_NOT_FOUND)
			return true;
		if (parts == 0)
			return false;
	}
}

static bool is_allowed(const struct ox_tls_rules *rules, const struct ox_tls_session *session)
{
	gnutls_x509_crt_t certificate;
	gnutls_datum_t name;
	bool allowed = false;

	if (get_certificate(session, &certificate) < 0)
		return false;
	if (get_name(certificate, &name) == 0) {
		allowed = ox_tls_rules_allow(rules, (const char *)name.data, name.size) &&
			  !has_zero(certificate);
		free(name.data);
	}
	ox_gnutls.x509_crt_deinit(certificate);
	return allowed;
}

/* What is wrong with the server's certificate. */
static void tell_status(const struct ox_tls_session *session, char *text, size_t size)
{
	const unsigned status = ox_gnutls.session_get_verify_cert_status(session->session);
	gnutls_datum_t words = {0};

	if (ox_gnutls.certificate_verification_status_print(status, GNUTLS_CRT_X509, &words, 0) < 0)
		words.data = NULL;
	snprintf(text, size, "its certificate is not accepted%s%s", words.data ? ": " : "",
		 words.data ? (const char *)words.data : "");
	free(words.data);
	for (size_t n = strlen(text); n > 0 && text[n - 1] == ' '; n--)
		text[n - 1] = '\0';
}

void ox_tls_client_why(const struct ox_tls_session *session, char *text, size_t size)
{
	const char *alert = NULL;

	switch (session->code) {
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		tell_status(session, text, size);
		break;
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		alert = ox_gnutls.alert_get_name(ox_gnutls.alert_get(session->session));
		snprintf(text, size, "it refuses this client's credentials%s%s%s",
			 alert ? " (" : "", alert ? alert : "", alert ? ")" : "");
		break;
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		snprintf(text, size,
			 "it ended the handshake, as one does that refuses this "
			 "client's credentials");
		break;
	default:
		snprintf(text, size, "%s", ox_gnutls.strerror(session->code));
	}
}

/* ---- bytes ---- */

/* What cannot be decided is denied. */
static int judge(struct ox_tls_session *session)
{
	/* A client has none: it has verified whom it talks to. */
	const struct ox_tls_rules *rules = session->tls ? session->tls->rules : NULL;

	if (!rules || is_allowed(rules, session))
		return 0;
	session->why = "TLS: the rules do not let it in";
	return -EACCES;
}

int ox_tls_shake_hands(struct ox_tls_session *session)
{
	int code;

	do {
		code = ox_gnutls.handshake(session->session);
	} while (code == GNUTLS_E_INTERRUPTED);
	if (code == 0)
		return judge(session);
	if (code != GNUTLS_E_AGAIN) /* why, if there is room for that */
		(void)ox_gnutls.alert_send_appropriate(session->session, code);
	return settle(session, code);
}

ssize_t ox_tls_receive(struct ox_tls_session *session, void *bytes, size_t count)
{
	ssize_t got;

	/* A record that carries no data of its owner's, a new key say, is told as one that was
	 * not there: there may be more. */
	do {
		session->is_dry = false;
		got = ox_gnutls.record_recv(session->session, bytes, count);
	} while (got == GNUTLS_E_INTERRUPTED ||
		 (got == GNUTLS_E_AGAIN && !session->is_dry && !ox_tls_waits_to_send(session)));
	if (got == GNUTLS_E_PREMATURE_TERMINATION)
		return 0; /* NBD says itself whether it was done */
	return got < 0 ? settle(session, (int)got) : got;
}

static size_t gather(struct ox_tls_session *session, const struct iovec *iov, int count)
{
	size_t total = 0;

	for (int i = 0; i < count && total < sizeof(session->record); i++) {
		size_t left = sizeof(session->record) - total;
		size_t piece = iov[i].iov_len < left ? iov[i].iov_len : left;

		memcpy(session->record + total, iov[i].iov_base, piece);
		total += piece;
	}
	return total;
}

ssize_t ox_tls_send(struct ox_tls_session *session, const struct iovec *iov, int count)
{
	const void *from = NULL;
	size_t bytes = 0;
	ssize_t sent;

	if (!session->is_unsent && iov[0].iov_len >= sizeof(session->record)) {
		from = iov[0].iov_base;
		bytes = sizeof(session->record);
	} else if (!session->is_unsent) {
		bytes = gather(session, iov, count);
		from = session->record;
	}
	do {
		sent = ox_gnutls.record_send(session->session, from, bytes);
		from = NULL; /* it is kept, as ciphertext */
		bytes = 0;
	} while (sent == GNUTLS_E_INTERRUPTED);
	session->is_unsent = sent == GNUTLS_E_AGAIN;
	return sent < 0 ? settle(session, (int)sent) : sent;
}

void ox_tls_say_goodbye(struct ox_tls_session *session)
{
	(void)ox_gnutls.bye(session->session, GNUTLS_SHUT_WR);
}

/* ---- for the log ---- */

/* What snprintf returns. */
static int print_name(const struct ox_tls_session *session, char *text, size_t size)
{
	gnutls_x509_crt_t certificate;
	gnutls_datum_t name;
	int length = 0;

	if (get_certificate(session, &certificate) < 0)
		return 0;
	if (get_name(certificate, &name) == 0) {
		length = snprintf(text, size, "%s", (const char *)name.data);
		free(name.data);
	}
	ox_gnutls.x509_crt_deinit(certificate);
	return length;
}

void ox_tls_name(const struct ox_tls_session *session, char *text, size_t size)
{
	const char *user = NULL;
	int length;

	text[0] = '\0';
	if (ox_gnutls.auth_get_type(session->session) == GNUTLS_CRD_PSK)
		user = ox_gnutls.psk_server_get_username(session->session);
	length = user ? snprintf(text, size, "%s", user) : print_name(session, text, size);
	if (length >= (int)size)
		strcpy(text + size - sizeof(CUT), CUT);
	for (char *at = text; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
}

void ox_tls_describe(const struct ox_tls_session *session, char *text, size_t size)
{
	char *what = ox_gnutls.session_get_desc(session->session);
	char who[256];

	ox_tls_name(session, who, sizeof(who));
	snprintf(text, size, "%s%s%s", what ? what : "TLS", who[0] ? ", " : "", who);
	free(what);
}
