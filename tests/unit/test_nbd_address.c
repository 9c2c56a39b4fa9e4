/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "io/nbd/address.h"
#include "oxbow.h"

static struct ox_nbd_address a;

static void parse(const char *text)
{
	ox_nbd_address_free(&a);
	assert_int_equal(ox_nbd_address_parse(text, &a, NULL), 0);
}

static void assert_tcp(const char *text, const char *host, const char *port, const char *name)
{
	parse(text);
	assert_null(a.socket);
	assert_string_equal(a.host, host);
	assert_string_equal(a.port, port);
	assert_string_equal(a.export_name, name);
}

static void assert_unix(const char *text, const char *path, const char *name)
{
	parse(text);
	assert_null(a.host);
	assert_string_equal(a.socket, path);
	assert_string_equal(a.export_name, name);
}

static void a_host_and_a_port_are_read(void **state)
{
	(void)state;
	assert_tcp("nbd://example.org", "example.org", "10809", "");
	assert_tcp("nbd://example.org/", "example.org", "10809", "");
	assert_tcp("nbd://example.org:99/disk", "example.org", "99", "disk");
	assert_tcp("nbd://[::1]/a/b", "::1", "10809", "a/b");
	assert_tcp("nbd://[::1]:7/x", "::1", "7", "x");
	assert_tcp("nbd:///x", "localhost", "10809", "x");
	assert_tcp("nbd://h/a%20b%2Fc", "h", "10809", "a b/c");
	assert_false(a.tls);
}

static void a_socket_is_read(void **state)
{
	(void)state;
	assert_unix("nbd+unix:///?socket=/run/a.sock", "/run/a.sock", "");
	assert_unix("nbd+unix:///disk?socket=/run/a%3Fb", "/run/a?b", "disk");
	assert_unix("nbd+unix://?socket=rel.sock", "rel.sock", "");
}

static void the_older_form_is_read(void **state)
{
	(void)state;
	assert_unix("nbd:unix:/run/a.sock", "/run/a.sock", "");
	assert_unix("nbd:unix:/run/a:b.sock:exportname=x:y", "/run/a:b.sock", "x:y");
	assert_tcp("nbd:example.org:10809", "example.org", "10809", "");
	assert_tcp("nbd:[::1]:7:exportname=disk", "::1", "7", "disk");
}

static void parameters_are_read(void **state)
{
	(void)state;
	parse("nbd://h");
	assert_int_equal(a.reconnect_ms, OX_NBD_RECONNECT_SECONDS * 1000);
	assert_int_equal(a.connections, OX_NBD_LINKS_DEFAULT);
	parse("nbds://alice@h/x?tls-psk-file=/k&reconnect-delay=3&open-timeout=4&connections=2");
	assert_true(a.tls && !a.tls_unverified);
	assert_string_equal(a.tls_username, "alice");
	assert_string_equal(a.tls_psk_file, "/k");
	assert_int_equal(a.reconnect_ms, 3000);
	assert_int_equal(a.open_ms, 4000);
	assert_int_equal(a.answer_ms, 4000);
	assert_int_equal(a.connections, 2);
	parse("nbds+unix:///x?socket=/s&tls-certificates=/c%26d&tls-verify-peer=0");
	assert_string_equal(a.tls_certificates, "/c&d");
	assert_true(a.tls_unverified);
}

static void what_is_no_uri_is_refused_with_words(void **state)
{
	static const char *const wrong[] = {
		"",
		"disk.qcow2",
		"http://h/",
		"nbd+unix:///x",
		"nbd+unix://host/x?socket=/s",
		"nbd+unix:///x?socket=",
		"nbds+unix:///x?socket=/s",
		"nbds+unix:///x?socket=/s&tls-certificates=/c",
		"nbd://h/?socket=/s",
		"nbd://h/%zz",
		"nbd://h/%4",
		"nbd://h/%",
		"nbd://h/%00",
		"nbd://h:/",
		"nbd://h:1:2/",
		"nbd://[::1/",
		"nbd://[::1]x/",
		"nbd://h/x#y",
		"nbd://h/?colour=red",
		"nbd://h/?reconnect-delay=-1",
		"nbd://h/?reconnect-delay=soon",
		"nbd://h/?reconnect-delay=",
		"nbd://h/?open-timeout=99999999999999999999",
		"nbd://h/?connections=0",
		"nbd://h/?connections=17",
		"nbd://h/?tls-verify-peer=maybe",
		"nbd:",
		"nbd:host",
		"nbd::1",
		"nbd:unix:",
		"nbd:unix::exportname=x",
	};

	(void)state;
	ox_nbd_address_free(&a);
	for (size_t i = 0; i < OX_ARRAY_SIZE(wrong); i++) {
		struct ox_error *err = NULL;

		assert_int_equal(ox_nbd_address_parse(wrong[i], &a, &err), -EINVAL);
		assert_non_null(strstr(ox_error_message(err), "no valid NBD URI"));
		ox_error_free(err);
		assert_null(a.export_name);
	}
}

static int free_last(void **state)
{
	(void)state;
	ox_nbd_address_free(&a);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_host_and_a_port_are_read),
		cmocka_unit_test(a_socket_is_read),
		cmocka_unit_test(the_older_form_is_read),
		cmocka_unit_test(parameters_are_read),
		cmocka_unit_test(what_is_no_uri_is_refused_with_words),
	};

	return cmocka_run_group_tests(tests, NULL, free_last);
}
