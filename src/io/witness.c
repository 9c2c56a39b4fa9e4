/* SPDX-License-Identifier: MIT */
/*
 * The first sync of a file that a dead process wrote to. Linux tells the error of a write-back once
 * for each open file description, and the dead process may have been told. Its successor asks a
 * description that was opened before the first write and has been used for nothing else (M3):
 *
 *	NONE      nobody died, or the witness has told no error    ox_io_set_witness: WAITING
 *	WAITING   nothing was synced yet                           the first sync: RUNNING
 *	RUNNING   that sync goes on, all others wait for it        its end: NONE or FAILED
 *	FAILED    every sync fails
 *
 * A sync of the store's own description in the meantime would say that what the dead process wrote
 * is durable, without having been told.
 */
#include <unistd.h>

#include "base/assert.h"
#include "io/io.h"

void ox_io_set_witness(struct ox_io *io, int fd, void (*synced)(void *opaque), void *opaque)
{
	struct ox_io_witness *w = &io->witness;

	ox_assert(w->state == OX_IO_WITNESS_NONE && (fd < 0 || io->ops->sync_by_co));
	*w = (struct ox_io_witness){
		.state = OX_IO_WITNESS_WAITING,
		.fd = fd,
		.synced = synced,
		.opaque = opaque,
	};
	ox_waitq_init(&w->waiters);
}

void ox_io_close_witness(struct ox_io *io)
{
	struct ox_io_witness *w = &io->witness;

	ox_assert(w->state != OX_IO_WITNESS_RUNNING);
	if (w->state != OX_IO_WITNESS_NONE && w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

static int ask_co(struct ox_io *io)
{
	struct ox_io_witness *w = &io->witness;
	int r = -EIO; /* nobody is left who could tell */

	w->state = OX_IO_WITNESS_RUNNING;
	if (w->fd >= 0)
		r = io->ops->sync_by_co(io, w->fd);
	w->state = OX_IO_WITNESS_FAILED;
	w->error = r;
	ox_io_close_witness(io);
	if (r == 0)
		w->state = OX_IO_WITNESS_NONE;
	ox_waitq_wake_all(&w->waiters);
	if (r == 0 && w->synced)
		w->synced(w->opaque);
	return r;
}

int ox_io_sync_past_witness_co(struct ox_io *io)
{
	struct ox_io_witness *w = &io->witness;

	if (w->state == OX_IO_WITNESS_WAITING)
		return ask_co(io);
	while (w->state == OX_IO_WITNESS_RUNNING)
		ox_waitq_wait_co(&w->waiters);
	/* One that began earlier does not cover what was written meanwhile. */
	return w->state == OX_IO_WITNESS_FAILED ? w->error : io->ops->sync_co(io);
}
