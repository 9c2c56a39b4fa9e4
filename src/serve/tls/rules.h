/* SPDX-License-Identifier: MIT */
/*
 * Who may connect, by the name of its certificate (docs/tls.md): a list of rules, of which the
 * first that matches a name decides, and a policy for the names that none matches. What cannot be
 * decided is denied.
 */
#ifndef OX_SERVE_TLS_RULES_H
#define OX_SERVE_TLS_RULES_H

#include "serve/serve.h"

/* Names are no longer than that. */
#define OX_TLS_NAME_MAX 4096u

struct ox_tls_rules;

/* Of so many bytes of JSON, as QEMU's authz-list-file has it. -EINVAL or -ENOMEM, and *ret_error;
 * *ret is freed by ox_tls_rules_free. */
int ox_tls_rules_new(const void *text, size_t bytes, struct ox_tls_rules **ret,
		     struct ox_serve_error *ret_error) OX_CHECKED;
/* NULL is allowed. */
void ox_tls_rules_free(struct ox_tls_rules *rules);
/* Whether the one with that name, of so many bytes with a zero behind them, is let in. */
bool ox_tls_rules_allow(const struct ox_tls_rules *rules, const char *name,
			size_t bytes) OX_CHECKED;

#endif
