/* SPDX-License-Identifier: MIT */
/* What a file is taken for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "fmt/formats.h"

#define FILE_BYTES (UINT64_C(1) << 20)

static struct ox_formats_sample *blank(void)
{
	struct ox_formats_sample *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->file_bytes = FILE_BYTES;
	return s;
}

static const struct {
	const char *name;
	bool at_end;
	unsigned offset;
	const char *bytes;
	size_t count;
} signatures[] = {
#define BYTES(text) (text), sizeof(text) - 1
	{"qcow", false, 0, BYTES("QFI\xfb\0\0\0\1")},
	{"qcow2", false, 0, BYTES("QFI\xfb\0\0\0\2")},
	{"qcow2", false, 0, BYTES("QFI\xfb\0\0\0\3")},
	{"qcow2", false, 0, BYTES("QFI\xfb\xff\xff\xff\xff")},
	{"qed", false, 0, BYTES("QED\0")},
	{"vmdk", false, 0, BYTES("KDMV")},
	{"vmdk", false, 0, BYTES("COWD")},
	{"vmdk", false, 0, BYTES("# Disk DescriptorFile\n")},
	{"vmdk", false, 0, BYTES("# any comment\n\n\r\n# another\r\nversion=2\r\n")},
	{"vmdk", false, 0, BYTES("version=1\n")},
	{"raw", false, 0, BYTES("version=4\n")},
	{"raw", false, 0, BYTES("version=12\n")},
	{"raw", false, 0, BYTES("version=1")},
	{"raw", false, 0, BYTES("# any comment")},
	{"raw", false, 0, BYTES("a line\nversion=1\n")},
	{"vdi", false, 64, BYTES("\x7f\x10\xda\xbe")},
	{"raw", false, 0, BYTES("\x7f\x10\xda\xbe")},
	{"vhdx", false, 0, BYTES("vhdxfile")},
	{"parallels", false, 0, BYTES("WithoutFreeSpace")},
	{"parallels", false, 0, BYTES("WithouFreSpacExt")},
	{"luks", false, 0, BYTES("LUKS\xba\xbe\0\1")},
	{"luks", false, 0, BYTES("LUKS\xba\xbe\0\2")},
	{"bochs", false, 0, BYTES("Bochs Virtual HD Image")},
	{"cloop", false, 0, BYTES("#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0")},
	{"raw", false, 0, BYTES("#!/bin/sh\necho\n")},
	{"vpc", false, 0, BYTES("conectix")},
	{"vpc", true, 0, BYTES("conectix")},
	{"vpc", true, 1, BYTES("conectix")},
	{"raw", true, 2, BYTES("conectix")},
	{"dmg", true, 0, BYTES("koly")},
	{"raw", false, 0, BYTES("koly")},
	{"raw", false, 1, BYTES("QFI\xfb\0\0\0\2")},
#undef BYTES
};

static void test_each_signature_has_its_format(void **state)
{
	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(signatures); i++) {
		struct ox_formats_sample *s = blank();
		uint8_t *at = (signatures[i].at_end ? s->tail : s->head) + signatures[i].offset;

		memcpy(at, signatures[i].bytes, signatures[i].count);
		assert_string_equal(ox_formats_probe(s), signatures[i].name);
		/* one byte less of it is nothing, or of another version */
		at[signatures[i].count - 1] ^= 0x55;
		if (signatures[i].count <= 16 && signatures[i].bytes[0] != 'Q' &&
		    signatures[i].bytes[0] != 'L' && signatures[i].bytes[0] != 'v')
			assert_string_equal(ox_formats_probe(s), "raw");
		free(s);
	}
}

static void test_the_beginning_counts_more_than_the_end(void **state)
{
	struct ox_formats_sample *s = blank();

	(void)state;
	memcpy(s->tail, "conectix", 8);
	memcpy(s->head, "QFI\xfb\0\0\0\3", 8);
	assert_string_equal(ox_formats_probe(s), "qcow2");
	free(s);
}

static void test_a_file_shorter_than_a_footer_has_none(void **state)
{
	struct ox_formats_sample *s = blank();

	(void)state;
	s->file_bytes = OX_FORMATS_TAIL_BYTES - 1;
	memcpy(s->tail, "koly", 4);
	memcpy(s->head, "koly", 4);
	assert_string_equal(ox_formats_probe(s), "raw");
	assert_int_equal(ox_formats_tail_offset(s->file_bytes), 0);
	s->file_bytes++;
	assert_string_equal(ox_formats_probe(s), "dmg");
	assert_int_equal(ox_formats_tail_offset(s->file_bytes + 7), 7);
	free(s);
}

/* Sizes that are no number of bytes of a file are not told. */
static void test_a_size_that_cannot_be_is_not_told(void **state)
{
	struct ox_formats_sample *s = blank();
	uint64_t bytes = 7;

	(void)state;
	memcpy(s->head, "KDMV", 4);
	s->head[12] = 2;
	assert_true(ox_formats_disk_bytes(s, &bytes));
	assert_int_equal(bytes, 1024);
	s->head[19] = 0x80;
	assert_false(ox_formats_disk_bytes(s, &bytes));
	s->head[19] = 0x7f;
	s->head[0] = 'X';
	assert_false(ox_formats_disk_bytes(s, &bytes));
	memcpy(s->tail, "conectix", 8);
	memset(s->tail + 48, 0xff, 8);
	assert_false(ox_formats_disk_bytes(s, &bytes));
	s->tail[48] = 0;
	assert_true(ox_formats_disk_bytes(s, &bytes));
	assert_int_equal(bytes, UINT64_MAX >> 8);
	free(s);
}

static void test_names_are_found(void **state)
{
	(void)state;
	assert_string_equal(ox_formats_find("raw"), "raw");
	assert_string_equal(ox_formats_find("vhdx"), "vhdx");
	assert_string_equal(ox_formats_find("dmg"), "dmg");
	assert_null(ox_formats_find("vhd"));
	assert_null(ox_formats_find(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_signature_has_its_format),
		cmocka_unit_test(test_the_beginning_counts_more_than_the_end),
		cmocka_unit_test(test_a_file_shorter_than_a_footer_has_none),
		cmocka_unit_test(test_a_size_that_cannot_be_is_not_told),
		cmocka_unit_test(test_names_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
