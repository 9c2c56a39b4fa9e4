/* SPDX-License-Identifier: MIT */
/*
 * TLS credentials, and the rules beside them, on their way from files to the process that serves,
 * which can open none: all of them in one sealed file in memory. Whoever fills it looks at no byte
 * of theirs; whoever takes it knows that nobody changes it any more.
 */
#ifndef OX_SERVE_TLS_FILES_H
#define OX_SERVE_TLS_FILES_H

#include <stdint.h>

#include "serve/serve.h"

/* By the names that QEMU gives them. */
enum ox_tls_file {
	OX_TLS_CA_CERT,	    /* ca-cert.pem: who may sign clients */
	OX_TLS_CA_CRL,	    /* ca-crl.pem: and what was revoked */
	OX_TLS_SERVER_CERT, /* server-cert.pem */
	OX_TLS_SERVER_KEY,  /* server-key.pem */
	OX_TLS_DH_PARAMS,   /* dh-params.pem */
	OX_TLS_KEYS_PSK,    /* keys.psk: USER:KEY in hexadecimal digits, one a line */
	OX_TLS_RULES,	    /* of --tls-authz, wherever they were; rules.h */
	OX_TLS_FILES
};

/* What one of them may have. */
#define OX_TLS_FILE_MAX (4u << 20)
#define OX_TLS_RULES_MAX (1u << 20)

struct ox_tls_files {
	void *mapped;
	size_t mapped_bytes;
	struct {
		const uint8_t *data; /* NULL: there is none */
		size_t bytes;
	} files[OX_TLS_FILES];
};

/* In the directory; NULL: it is not there. */
const char *ox_tls_file_name(enum ox_tls_file file);
/* fd stays the caller's. -EBADMSG: it is nothing that ox_serve_tls_read made. */
int ox_tls_files_map(int fd, struct ox_tls_files *ret) OX_CHECKED;
void ox_tls_files_unmap(struct ox_tls_files *files);

#endif
