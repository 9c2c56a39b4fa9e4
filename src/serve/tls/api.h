/* SPDX-License-Identifier: MIT */
/*
 * GnuTLS, loaded by those that have TLS to serve: no other process has it, or waits for it. The
 * headers of the build say what its functions look like. What it allocates is freed by free(3): it
 * takes its memory by malloc(3), and cannot be told otherwise any more.
 */
#ifndef OX_SERVE_TLS_API_H
#define OX_SERVE_TLS_API_H

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#define OX_GNUTLS_FUNCTIONS(X)                                                                     \
	X(alert_get)                                                                               \
	X(alert_get_name)                                                                          \
	X(alert_send_appropriate)                                                                  \
	X(auth_get_type)                                                                           \
	X(bye)                                                                                     \
	X(certificate_allocate_credentials)                                                        \
	X(certificate_free_credentials)                                                            \
	X(certificate_get_peers)                                                                   \
	X(certificate_server_set_request)                                                          \
	X(certificate_set_dh_params)                                                               \
	X(certificate_set_known_dh_params)                                                         \
	X(certificate_set_x509_crl_file)                                                           \
	X(certificate_set_x509_crl_mem)                                                            \
	X(certificate_set_x509_key_file)                                                           \
	X(certificate_set_x509_key_mem2)                                                           \
	X(certificate_set_x509_system_trust)                                                       \
	X(certificate_set_x509_trust_file)                                                         \
	X(certificate_set_x509_trust_mem)                                                          \
	X(certificate_verification_status_print)                                                   \
	X(credentials_set)                                                                         \
	X(deinit)                                                                                  \
	X(dh_params_deinit)                                                                        \
	X(dh_params_import_pkcs3)                                                                  \
	X(dh_params_init)                                                                          \
	X(handshake)                                                                               \
	X(handshake_set_max_packet_length)                                                         \
	X(hex_decode2)                                                                             \
	X(init)                                                                                    \
	X(priority_deinit)                                                                         \
	X(priority_init)                                                                           \
	X(priority_set)                                                                            \
	X(psk_allocate_client_credentials)                                                         \
	X(psk_allocate_server_credentials)                                                         \
	X(psk_free_client_credentials)                                                             \
	X(psk_free_server_credentials)                                                             \
	X(psk_server_get_username)                                                                 \
	X(psk_set_client_credentials)                                                              \
	X(psk_set_server_credentials_function)                                                     \
	X(psk_set_server_dh_params)                                                                \
	X(psk_set_server_known_dh_params)                                                          \
	X(record_get_direction)                                                                    \
	X(record_recv)                                                                             \
	X(record_send)                                                                             \
	X(rnd)                                                                                     \
	X(server_name_set)                                                                         \
	X(session_get_desc)                                                                        \
	X(session_get_ptr)                                                                         \
	X(session_get_verify_cert_status)                                                          \
	X(session_set_ptr)                                                                         \
	X(session_set_verify_cert)                                                                 \
	X(session_set_verify_cert2)                                                                \
	X(strerror)                                                                                \
	X(transport_set_errno)                                                                     \
	X(transport_set_ptr)                                                                       \
	X(transport_set_pull_function)                                                             \
	X(transport_set_vec_push_function)                                                         \
	X(x509_crt_deinit)                                                                         \
	X(x509_crt_get_dn2)                                                                        \
	X(x509_crt_get_expiration_time)                                                            \
	X(x509_crt_get_subject)                                                                    \
	X(x509_crt_import)                                                                         \
	X(x509_crt_init)                                                                           \
	X(x509_crt_list_import2)                                                                   \
	X(x509_dn_get_rdn_ava)

struct ox_gnutls {
#define OX_GNUTLS_POINTER(name) __typeof__(gnutls_##name) *name;
	OX_GNUTLS_FUNCTIONS(OX_GNUTLS_POINTER)
#undef OX_GNUTLS_POINTER
};

/* Complete once ox_serve_tls_prepare has returned 0. */
extern struct ox_gnutls ox_gnutls;

#endif
