/* SPDX-License-Identifier: MIT */
/*
 * Signals eventfds of front ends: a 1 is added, and nobody is ever waited for.
 *
 * Their owner can fill one at any moment, and have writes to it block at any moment too (O_NONBLOCK
 * belongs to the open file, which both have). So a look before a write is no safe way, and to set
 * the flag is neither, and would change how the owner reads. What does not block is the kernel's
 * own way of adding to one, which is at anybody's service as the notification of asynchronous I/O
 * (io_submit(2), IOCB_FLAG_RESFD): a read of no bytes is submitted, is complete at once, and the
 * eventfd is signalled. It also refuses whatever is no eventfd.
 *
 * Where the kernel has no asynchronous I/O, or a container forbids it, an eventfd is looked at and
 * then written to; its owner can then keep the server waiting.
 */
#ifndef OX_SERVE_VHOST_SIGNAL_H
#define OX_SERVE_VHOST_SIGNAL_H

#include "oxbow.h"

struct ox_vhost_signals;

/* -ENOMEM. */
int ox_vhost_signals_new(struct ox_vhost_signals **ret) OX_CHECKED;
/* NULL is allowed. */
void ox_vhost_signals_free(struct ox_vhost_signals *signals);
/* fd: -1, and nothing happens; else an eventfd, or anything: then nothing happens either. One that
 * is full stays so: its owner has been told. */
void ox_vhost_signal(struct ox_vhost_signals *signals, int fd);

#endif
