/* SPDX-License-Identifier: MIT */
/* The limits of a served disk, as they are typed. */
#ifndef OX_CLI_LIMITS_H
#define OX_CLI_LIMITS_H

#include "serve/serve.h"

/* "iops=N,iops-burst=N,bandwidth=SIZE,bandwidth-burst=SIZE", in any order, or "none". What is not
 * stated is 0. -EINVAL: something else, twice the same, a burst without its rate, or more than
 * OX_SERVE_LIMIT_MAX; -ENOMEM. */
int ox_cli_limits_parse(const char *text, struct ox_serve_limits *ret) OX_CHECKED;

#endif
