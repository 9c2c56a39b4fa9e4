/* SPDX-License-Identifier: MIT */
/*
 * libnbd, loaded when the first export is opened: whoever opens none needs none. The header of the
 * build says what the functions look like.
 */
#ifndef OX_IO_NBD_API_H
#define OX_IO_NBD_API_H

#include <libnbd.h>

#include "base/error.h"
#include "io/nbd/address.h"

#define OX_NBD_FUNCTIONS(X)                                                                        \
	X(add_meta_context)                                                                        \
	X(aio_block_status)                                                                        \
	X(aio_connect_socket)                                                                      \
	X(aio_connect_tcp)                                                                         \
	X(aio_connect_unix)                                                                        \
	X(aio_disconnect)                                                                          \
	X(aio_flush)                                                                               \
	X(aio_get_direction)                                                                       \
	X(aio_get_fd)                                                                              \
	X(aio_is_closed)                                                                           \
	X(aio_is_connecting)                                                                       \
	X(aio_is_dead)                                                                             \
	X(aio_is_negotiating)                                                                      \
	X(aio_notify_read)                                                                         \
	X(aio_notify_write)                                                                        \
	X(aio_opt_abort)                                                                           \
	X(aio_opt_info)                                                                            \
	X(aio_opt_list)                                                                            \
	X(aio_opt_list_meta_context)                                                               \
	X(aio_pread_structured)                                                                    \
	X(aio_pwrite)                                                                              \
	X(aio_trim)                                                                                \
	X(aio_zero)                                                                                \
	X(can_cache)                                                                               \
	X(can_df)                                                                                  \
	X(can_fast_zero)                                                                           \
	X(can_flush)                                                                               \
	X(can_fua)                                                                                 \
	X(can_meta_context)                                                                        \
	X(can_multi_conn)                                                                          \
	X(can_trim)                                                                                \
	X(can_zero)                                                                                \
	X(close)                                                                                   \
	X(create)                                                                                  \
	X(get_block_size)                                                                          \
	X(get_errno)                                                                               \
	X(get_error)                                                                               \
	X(get_size)                                                                                \
	X(get_structured_replies_negotiated)                                                       \
	X(is_read_only)                                                                            \
	X(is_rotational)                                                                           \
	X(poll)                                                                                    \
	X(set_export_name)                                                                         \
	X(set_full_info)                                                                           \
	X(set_opt_mode)                                                                            \
	X(set_tls)                                                                                 \
	X(set_tls_certificates)                                                                    \
	X(set_tls_psk_file)                                                                        \
	X(set_tls_username)                                                                        \
	X(set_tls_verify_peer)

struct ox_nbd_api {
#define OX_NBD_POINTER(name) __typeof__(nbd_##name) *name;
	OX_NBD_FUNCTIONS(OX_NBD_POINTER)
#undef OX_NBD_POINTER
	/* Later than the header of the build. NULL: the libnbd that is there has none. */
	int (*can_block_status_payload)(struct nbd_handle *nbd);
	int (*get_extended_headers_negotiated)(struct nbd_handle *nbd);
	int (*set_tls_hostname)(struct nbd_handle *nbd, const char *name);
};

/* From any thread. -ENOTSUP where there is no libnbd, or too old a one. */
int ox_nbd_api_load(const struct ox_nbd_api **ret, struct ox_error **err)
	__attribute__((warn_unused_result));

/* -ENOTSUP where the libnbd that is there lacks what the address asks for. */
int ox_nbd_api_check(const struct ox_nbd_api *api, const struct ox_nbd_address *address,
		     struct ox_error **err) __attribute__((warn_unused_result));

#endif
