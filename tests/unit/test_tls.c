/* SPDX-License-Identifier: MIT */
/* TLS without a server: credentials in memory, and a session over a pair of sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "serve/tls/files.h"
#include "serve/tls/tls.h"

#define USER_KEY "00112233445566778899aabbccddeeff"

static char directory[64];

static int setup(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/oxbow-test-XXXXXX");
	assert_non_null(mkdtemp(directory));
	return 0;
}

static void path_of(const char *name, char *path, size_t size)
{
	snprintf(path, size, "%s/%s", directory, name);
}

static int teardown(void **state)
{
	char path[128];

	(void)state;
	for (int i = 0; i < OX_TLS_RULES; i++) {
		path_of(ox_tls_file_name((enum ox_tls_file)i), path, sizeof(path));
		(void)unlink(path);
	}
	assert_int_equal(rmdir(directory), 0);
	return 0;
}

static void write_file(const char *name, const char *text)
{
	char path[128];
	FILE *file;

	path_of(name, path, sizeof(path));
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	fclose(file);
}

static int read_directory(void)
{
	const struct ox_serve_tls_source source = {.directory = directory};
	struct ox_serve_error error;

	return ox_serve_tls_read(&source, &error);
}

/* ---- files ---- */

static void test_files_arrive_as_they_are(void **state)
{
	struct ox_tls_files files;
	int fd;

	(void)state;
	write_file("keys.psk", "alice:" USER_KEY "\n");
	write_file("ca-crl.pem", "");
	fd = read_directory();
	assert_true(fd >= 0);
	assert_int_equal(ox_tls_files_map(fd, &files), 0);
	assert_int_equal(files.files[OX_TLS_KEYS_PSK].bytes, strlen("alice:" USER_KEY "\n"));
	assert_memory_equal(files.files[OX_TLS_KEYS_PSK].data, "alice:" USER_KEY "\n", 39);
	assert_non_null(files.files[OX_TLS_CA_CRL].data);
	assert_int_equal(files.files[OX_TLS_CA_CRL].bytes, 0);
	assert_null(files.files[OX_TLS_SERVER_CERT].data);
	ox_tls_files_unmap(&files);
	/* nobody changes it any more */
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	close(fd);
}

static int memory(const void *bytes, size_t count, bool sealed)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(write(fd, bytes, count), (ssize_t)count);
	if (sealed)
		assert_int_equal(fcntl(fd, F_ADD_SEALS,
				       F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL),
				 0);
	return fd;
}

static void check_refused(const void *bytes, size_t count, bool sealed)
{
	struct ox_tls_files files;
	int fd = memory(bytes, count, sealed);

	assert_int_equal(ox_tls_files_map(fd, &files), -EBADMSG);
	close(fd);
}

static void test_memory_that_is_no_credentials_is_refused(void **state)
{
	struct ox_tls_files files;
	uint8_t good[256];
	uint8_t bad[256];
	ssize_t bytes;
	int fd;

	(void)state;
	write_file("keys.psk", "alice:" USER_KEY "\n");
	fd = read_directory();
	bytes = pread(fd, good, sizeof(good), 0);
	close(fd);
	assert_true(bytes > 40);
	check_refused(good, (size_t)bytes, false);
	check_refused(good, (size_t)bytes - 1, true);
	check_refused(good, 39, true);
	check_refused(good, 0, true);
	for (size_t i = 0; i < 40; i++) {
		memcpy(bad, good, sizeof(bad));
		bad[i] ^= 0x41;
		check_refused(bad, (size_t)bytes, true);
	}
	fd = memory(good, (size_t)bytes, true);
	assert_int_equal(ox_tls_files_map(fd, &files), 0);
	ox_tls_files_unmap(&files);
	close(fd);
}

static struct ox_tls *take_keys(const char *text)
{
	struct ox_serve_error error;
	struct ox_tls *tls = NULL;
	int fd;

	write_file("keys.psk", text);
	fd = read_directory();
	assert_true(fd >= 0);
	if (ox_tls_new(fd, &(struct ox_serve_tls_options){0}, &tls, &error) < 0)
		assert_non_null(strstr(error.message, "keys.psk"));
	close(fd);
	return tls;
}

static void test_keys_are_lines_of_a_user_and_a_key(void **state)
{
	static const char *const good[] = {
		"alice:" USER_KEY,
		"alice:" USER_KEY "\r\n\nbob:" USER_KEY USER_KEY "\n\n",
	};
	static const char *const bad[] = {
		"\n",
		":" USER_KEY,
		"alice",
		"alice:",
		"alice:0011",
		"alice:" USER_KEY "0",
		"alice:" USER_KEY "zz",
		"#616c696365:" USER_KEY,
		"alice:" USER_KEY USER_KEY USER_KEY USER_KEY "00",
		"alice:" USER_KEY "\nbob\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct ox_tls *tls = take_keys(good[i]);

		assert_non_null(tls);
		ox_tls_put(tls);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (take_keys(bad[i]))
			fail_msg("keys are taken: %s", bad[i]);
}

/* ---- rules beside them ---- */

static int read_with(const char *authz, char *ret_message)
{
	const struct ox_serve_tls_source source = {.directory = directory, .authz = authz};
	struct ox_serve_error error = {0};
	int fd = ox_serve_tls_read(&source, &error);

	strcpy(ret_message, error.message);
	return fd;
}

static void test_rules_arrive_as_they_are(void **state)
{
	char message[512], path[128];
	struct ox_tls_files files;

	(void)state;
	write_file("server-cert.pem", "certificate");
	write_file("server-key.pem", "key");
	write_file("rules.json", "{\"policy\": 7}\n");
	path_of("rules.json", path, sizeof(path));
	for (int i = 0; i < 2; i++) {
		int fd = read_with(i ? "json:{\"policy\": 7}\n" : path, message);

		assert_true(fd >= 0);
		assert_int_equal(ox_tls_files_map(fd, &files), 0);
		assert_int_equal(files.files[OX_TLS_RULES].bytes, 14);
		assert_memory_equal(files.files[OX_TLS_RULES].data, "{\"policy\": 7}\n", 14);
		assert_memory_equal(files.files[OX_TLS_SERVER_KEY].data, "key", 3);
		ox_tls_files_unmap(&files);
		close(fd);
	}
	unlink(path);
	assert_int_equal(read_with(path, message), -ENOENT);
	assert_non_null(strstr(message, "rules.json': No such file"));
}

static void test_rules_have_a_size_and_go_with_certificates(void **state)
{
	char *text = malloc(OX_TLS_RULES_MAX + 7);
	char message[512], path[128];
	int fd;

	(void)state;
	assert_non_null(text);
	memset(text, ' ', OX_TLS_RULES_MAX + 6);
	memcpy(text, "json:", 5);
	text[OX_TLS_RULES_MAX + 6] = '\0';
	write_file("server-cert.pem", "certificate");
	write_file("server-key.pem", "key");
	write_file("rules.json", text + 5);
	path_of("rules.json", path, sizeof(path));
	assert_int_equal(read_with(text, message), -EFBIG);
	assert_non_null(strstr(message, "'json:': File too large"));
	assert_int_equal(read_with(path, message), -EFBIG);
	text[OX_TLS_RULES_MAX + 5] = '\0';
	write_file("rules.json", text + 5);
	fd = read_with(text, message);
	assert_true(fd >= 0);
	close(fd);
	fd = read_with(path, message);
	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	free(text);
	assert_int_equal(read_with(directory, message), -EINVAL);
	assert_non_null(strstr(message, "no regular file"));
	path_of("server-cert.pem", path, sizeof(path));
	unlink(path);
	path_of("server-key.pem", path, sizeof(path));
	unlink(path);
	write_file("keys.psk", "alice:" USER_KEY "\n");
	assert_int_equal(read_with("json:{}", message), -ENOENT);
	assert_non_null(strstr(message, "--tls-authz is for certificates"));
}

/* That there are rules is not for the memory to say. */
static void test_rules_that_are_asked_for_must_have_come(void **state)
{
	struct ox_serve_tls_options options = {.verify_peer = true, .has_rules = true};
	char message[512];
	struct ox_tls *tls;

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct ox_serve_error error = {0};
		int fd;

		write_file("keys.psk", "alice:" USER_KEY "\n");
		write_file("server-cert.pem", "certificate");
		write_file("server-key.pem", "key");
		options.has_rules = i != 1;
		options.verify_peer = i != 2;
		fd = read_with(i == 0 ? NULL : "json:{}", message);
		assert_true(fd >= 0);
		assert_int_equal(ox_tls_new(fd, &options, &tls, &error), -EINVAL);
		assert_non_null(strstr(error.message, "not what was asked for"));
		close(fd);
	}
}

/* ---- a session ---- */

struct pair {
	int fds[2];
	struct ox_tls *tls;
	struct ox_tls_session *server;
	gnutls_session_t client;
	gnutls_psk_client_credentials_t credentials;
};

static void begin(struct pair *pair, const char *priority)
{
	const gnutls_datum_t key = {(unsigned char *)(uintptr_t)USER_KEY, strlen(USER_KEY)};
	int client_ret = GNUTLS_E_AGAIN;
	int ret = -EAGAIN;

	pair->tls = take_keys("alice:" USER_KEY "\n");
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair->fds), 0);
	assert_int_equal(ox_tls_session_new(pair->tls, pair->fds[0], &pair->server), 0);
	ox_tls_put(pair->tls); /* the session has them */
	gnutls_init(&pair->client, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
	gnutls_psk_allocate_client_credentials(&pair->credentials);
	gnutls_psk_set_client_credentials(pair->credentials, "alice", &key, GNUTLS_PSK_KEY_HEX);
	gnutls_credentials_set(pair->client, GNUTLS_CRD_PSK, pair->credentials);
	assert_int_equal(gnutls_priority_set_direct(pair->client, priority, NULL), 0);
	gnutls_transport_set_int(pair->client, pair->fds[1]);
	while (ret == -EAGAIN || client_ret == GNUTLS_E_AGAIN) {
		if (client_ret == GNUTLS_E_AGAIN)
			client_ret = gnutls_handshake(pair->client);
		if (ret == -EAGAIN)
			ret = ox_tls_shake_hands(pair->server);
	}
	assert_int_equal(client_ret, 0);
	assert_int_equal(ret, 0);
}

static void end(struct pair *pair)
{
	ox_tls_session_free(pair->server);
	gnutls_deinit(pair->client);
	gnutls_psk_free_client_credentials(pair->credentials);
	close(pair->fds[0]);
	close(pair->fds[1]);
}

#define TLS13 "NORMAL:-VERS-ALL:+VERS-TLS1.3:+ECDHE-PSK:+PSK"
#define TLS12 "NORMAL:-VERS-ALL:+VERS-TLS1.2:+ECDHE-PSK"

/* What has come is told, also where something else that is not data has come before it. */
static void test_data_behind_a_new_key_are_received(void **state)
{
	struct pair pair;
	char bytes[16];

	(void)state;
	begin(&pair, TLS13);
	assert_int_equal(ox_tls_receive(pair.server, bytes, sizeof(bytes)), -EAGAIN);
	assert_false(ox_tls_waits_to_send(pair.server));
	assert_int_equal(gnutls_session_key_update(pair.client, 0), 0);
	assert_int_equal(gnutls_record_send(pair.client, "data", 4), 4);
	assert_int_equal(ox_tls_receive(pair.server, bytes, 2), 2);
	assert_int_equal(ox_tls_receive(pair.server, bytes + 2, 14), 2);
	assert_memory_equal(bytes, "data", 4);
	assert_int_equal(ox_tls_receive(pair.server, bytes, 2), -EAGAIN);
	end(&pair);
}

static void test_the_end_is_told_whether_it_was_said_or_not(void **state)
{
	struct pair pair;
	char bytes[16];

	(void)state;
	for (int i = 0; i < 4; i++) {
		begin(&pair, i & 1 ? TLS13 : TLS12);
		if (i & 2)
			assert_int_equal(gnutls_bye(pair.client, GNUTLS_SHUT_WR), 0);
		else
			shutdown(pair.fds[1], SHUT_WR);
		assert_int_equal(ox_tls_receive(pair.server, bytes, sizeof(bytes)), 0);
		end(&pair);
	}
}

/* Until the socket takes no more, and from there on as if nothing had been. */
static void test_what_does_not_fit_is_sent_later(void **state)
{
	static uint8_t data[3 << 20];
	static uint8_t got[sizeof(data)];
	struct iovec iov[3];
	struct pair pair;
	size_t sent = 0;
	size_t received = 0;
	unsigned waits = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + (i >> 9));
	begin(&pair, TLS12);
	while (received < sizeof(data)) {
		const size_t left = sizeof(data) - sent;
		const size_t first = left < 5 ? left : 5;
		ssize_t ret = -EAGAIN;

		iov[0] = (struct iovec){data + sent, first};
		iov[1] = (struct iovec){data + sent + first, left - first};
		if (left > 0)
			ret = ox_tls_send(pair.server, iov, 2);
		assert_true(ret > 0 || ret == -EAGAIN);
		if (ret > 0) {
			sent += (size_t)ret;
			continue;
		}
		assert_true(left == 0 || ox_tls_waits_to_send(pair.server));
		waits++;
		while (received < sizeof(data)) {
			ssize_t count = gnutls_record_recv(pair.client, got + received,
							   sizeof(data) - received);

			if (count < 0)
				break;
			received += (size_t)count;
		}
	}
	assert_true(waits > 3);
	assert_memory_equal(got, data, sizeof(data));
	end(&pair);
}

static void test_who_has_another_key_is_turned_away(void **state)
{
	const gnutls_datum_t key = {(unsigned char *)(uintptr_t) "ff" USER_KEY,
				    strlen(USER_KEY) + 2};
	gnutls_psk_client_credentials_t credentials;
	struct ox_tls_session *server;
	gnutls_session_t client;
	int fds[2];
	int ret = -EAGAIN;

	(void)state;
	for (int i = 0; i < 2; i++, ret = -EAGAIN) {
		struct ox_tls *tls = take_keys("alice:" USER_KEY "\n");

		assert_int_equal(
			socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
		assert_int_equal(ox_tls_session_new(tls, fds[0], &server), 0);
		ox_tls_put(tls);
		gnutls_init(&client, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
		gnutls_psk_allocate_client_credentials(&credentials);
		gnutls_psk_set_client_credentials(credentials, i ? "alice" : "nobody", &key,
						  GNUTLS_PSK_KEY_HEX);
		gnutls_credentials_set(client, GNUTLS_CRD_PSK, credentials);
		gnutls_priority_set_direct(client, TLS13, NULL);
		gnutls_transport_set_int(client, fds[1]);
		for (int j = 0; j < 8 && ret == -EAGAIN; j++) {
			(void)gnutls_handshake(client);
			ret = ox_tls_shake_hands(server);
		}
		assert_int_equal(ret, -EPROTO);
		assert_non_null(ox_tls_why(server));
		ox_tls_session_free(server);
		gnutls_deinit(client);
		gnutls_psk_free_client_credentials(credentials);
		close(fds[0]);
		close(fds[1]);
	}
}

/* ---- names of certificates ---- */

/* One certificate is all there is: the server's, the client's, and who is trusted. Its name has so
 * many bytes; 0: it has none. */
static void write_certificate(const char *name, unsigned bytes)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
	gnutls_datum_t text;

	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	assert_int_equal(
		gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
					     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
		0);
	assert_int_equal(gnutls_x509_crt_init(&crt), 0);
	assert_int_equal(gnutls_x509_crt_set_version(crt, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_key(crt, key), 0);
	assert_int_equal(gnutls_x509_crt_set_serial(crt, "\1", 1), 0);
	assert_int_equal(gnutls_x509_crt_set_activation_time(crt, time(NULL) - 100), 0);
	assert_int_equal(gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600), 0);
	if (bytes > 0)
		assert_int_equal(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0,
							       name, bytes),
				 0);
	assert_int_equal(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text), 0);
	write_file("server-cert.pem", (const char *)text.data);
	write_file("ca-cert.pem", (const char *)text.data);
	gnutls_free(text.data);
	assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &text), 0);
	write_file("server-key.pem", (const char *)text.data);
	gnutls_free(text.data);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
}

/* What the server's handshake with that certificate says. */
static int shake_hands_by(const char *rules, char *ret_name, size_t size)
{
	const struct ox_serve_tls_options options = {.verify_peer = true, .has_rules = true};
	gnutls_certificate_credentials_t credentials;
	char message[512], cert[128], key[128];
	struct ox_tls_session *server;
	struct ox_serve_error error;
	gnutls_session_t client;
	struct ox_tls *tls;
	int ret = -EAGAIN;
	int fds[2];
	int fd = read_with(rules, message);

	assert_true(fd >= 0);
	assert_int_equal(ox_tls_new(fd, &options, &tls, &error), 0);
	close(fd);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	assert_int_equal(ox_tls_session_new(tls, fds[0], &server), 0);
	ox_tls_put(tls);
	path_of("server-cert.pem", cert, sizeof(cert));
	path_of("server-key.pem", key, sizeof(key));
	gnutls_init(&client, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
	gnutls_certificate_allocate_credentials(&credentials);
	assert_int_equal(
		gnutls_certificate_set_x509_key_file(credentials, cert, key, GNUTLS_X509_FMT_PEM),
		0);
	gnutls_credentials_set(client, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_set_default_priority(client);
	gnutls_transport_set_int(client, fds[1]);
	for (int i = 0; i < 8 && ret == -EAGAIN; i++) {
		(void)gnutls_handshake(client);
		ret = ox_tls_shake_hands(server);
	}
	ox_tls_name(server, ret_name, size);
	ox_tls_session_free(server);
	gnutls_deinit(client);
	gnutls_certificate_free_credentials(credentials);
	close(fds[0]);
	close(fds[1]);
	return ret;
}

static void test_a_name_with_a_zero_and_no_name_are_refused_by_any_policy(void **state)
{
	static const char all[] = "json:{\"policy\": \"allow\", \"rules\": [{\"match\": \"*\", "
				  "\"policy\": \"allow\", \"format\": \"glob\"}]}";
	char name[64];

	(void)state;
	write_certificate("one", 3);
	assert_int_equal(shake_hands_by(all, name, sizeof(name)), 0);
	assert_string_equal(name, "CN=one");
	write_certificate("one\0two", 7);
	assert_int_equal(shake_hands_by(all, name, sizeof(name)), -EACCES);
	write_certificate("one\0", 4);
	assert_int_equal(shake_hands_by(all, name, sizeof(name)), -EACCES);
	write_certificate("", 0);
	assert_int_equal(shake_hands_by(all, name, sizeof(name)), -EACCES);
	assert_string_equal(name, "");
}

static void test_a_name_is_one_line_of_the_log_and_says_where_it_was_cut(void **state)
{
	static const char rule[] =
		"json:{\"rules\": [{\"match\": \"CN=a\\nb\\u001bc\", \"policy\": \"allow\"}]}";
	char name[64];

	(void)state;
	write_certificate("a\nb\x1b"
			  "c",
			  5);
	assert_int_equal(shake_hands_by(rule, name, sizeof(name)), 0);
	assert_string_equal(name, "CN=a?b?c");
	assert_int_equal(shake_hands_by("json:{}", name, sizeof(name)), -EACCES);
	assert_string_equal(name, "CN=a?b?c");
	assert_int_equal(shake_hands_by("json:{}", name, 9), -EACCES);
	assert_string_equal(name, "CN=a?b?c");
	assert_int_equal(shake_hands_by("json:{}", name, 8), -EACCES);
	assert_string_equal(name, "CN=a...");
}

#define TLS_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TLS_TEST(test_files_arrive_as_they_are),
		TLS_TEST(test_memory_that_is_no_credentials_is_refused),
		TLS_TEST(test_keys_are_lines_of_a_user_and_a_key),
		TLS_TEST(test_rules_arrive_as_they_are),
		TLS_TEST(test_rules_have_a_size_and_go_with_certificates),
		TLS_TEST(test_rules_that_are_asked_for_must_have_come),
		TLS_TEST(test_data_behind_a_new_key_are_received),
		TLS_TEST(test_the_end_is_told_whether_it_was_said_or_not),
		TLS_TEST(test_what_does_not_fit_is_sent_later),
		TLS_TEST(test_who_has_another_key_is_turned_away),
		TLS_TEST(test_a_name_with_a_zero_and_no_name_are_refused_by_any_policy),
		TLS_TEST(test_a_name_is_one_line_of_the_log_and_says_where_it_was_cut),
	};

	struct ox_serve_error error;

	if (ox_serve_tls_prepare(&error) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
