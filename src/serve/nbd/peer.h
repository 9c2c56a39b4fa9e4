/* SPDX-License-Identifier: MIT */
/* Who is at the other end of a socket, for the log. */
#ifndef OX_SERVE_NBD_PEER_H
#define OX_SERVE_NBD_PEER_H

#include <stddef.h>

#define NBD_PEER_MAX 80

/* "pid 17, uid 1000" or "192.0.2.1:40000"; "unknown" where the kernel does not tell. */
void ox_nbd_peer_name(int fd, char ret_name[NBD_PEER_MAX]);

#endif
