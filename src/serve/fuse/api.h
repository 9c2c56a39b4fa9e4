/* SPDX-License-Identifier: MIT */
/*
 * libfuse, loaded by those that mount: no other process has it, or waits for it. The headers of the
 * build say what its functions look like.
 */
#ifndef OX_SERVE_FUSE_API_H
#define OX_SERVE_FUSE_API_H

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#define OX_FUSE_FUNCTIONS(X)                                                                       \
	X(add_direntry)                                                                            \
	X(opt_free_args)                                                                           \
	X(reply_attr)                                                                              \
	X(reply_buf)                                                                               \
	X(reply_entry)                                                                             \
	X(reply_err)                                                                               \
	X(reply_iov)                                                                               \
	X(reply_lseek)                                                                             \
	X(reply_none)                                                                              \
	X(reply_open)                                                                              \
	X(reply_statfs)                                                                            \
	X(reply_write)                                                                             \
	X(req_userdata)                                                                            \
	X(session_destroy)                                                                         \
	X(session_fd)                                                                              \
	X(session_mount)                                                                           \
	X(session_new)                                                                             \
	X(session_process_buf)                                                                     \
	X(session_receive_buf)                                                                     \
	X(set_log_func)

struct ox_fuse_api {
#define OX_FUSE_POINTER(name) __typeof__(fuse_##name) *name;
	OX_FUSE_FUNCTIONS(OX_FUSE_POINTER)
#undef OX_FUSE_POINTER
};

/* Complete once ox_serve_fuse_prepare has returned 0. */
extern struct ox_fuse_api ox_fuse;

#endif
