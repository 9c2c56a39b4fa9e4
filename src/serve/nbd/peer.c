/* SPDX-License-Identifier: MIT */
#include "serve/nbd/peer.h"

#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

static void name_process(int fd, char ret_name[NBD_PEER_MAX])
{
	struct ucred credentials;
	socklen_t length = sizeof(credentials);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
		return;
	snprintf(ret_name, NBD_PEER_MAX, "pid %ld, uid %ld", (long)credentials.pid,
		 (long)credentials.uid);
}

static void name_address(const struct sockaddr_storage *address, socklen_t length,
			 char ret_name[NBD_PEER_MAX])
{
	const bool brackets = address->ss_family == AF_INET6;
	char host[NBD_PEER_MAX - 16];
	char port[8];

	if (getnameinfo((const struct sockaddr *)address, length, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	snprintf(ret_name, NBD_PEER_MAX, "%s%s%s:%s", brackets ? "[" : "", host,
		 brackets ? "]" : "", port);
}

void ox_nbd_peer_name(int fd, char ret_name[NBD_PEER_MAX])
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof(address);

	snprintf(ret_name, NBD_PEER_MAX, "unknown");
	if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
		return;
	if (address.ss_family == AF_UNIX)
		name_process(fd, ret_name);
	else
		name_address(&address, length, ret_name);
}
