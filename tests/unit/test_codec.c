/* SPDX-License-Identifier: MIT */
/* Compressed clusters, with the streams' true ends hidden as qcow2 hides them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/arith.h"
#include "codec/codec.h"

#define CLUSTER_BYTES 65536u

static const enum ox_codec codecs[] = {OX_CODEC_DEFLATE, OX_CODEC_ZSTD};

struct buffers {
	uint8_t plain[CLUSTER_BYTES];
	uint8_t stream[2 * CLUSTER_BYTES];
	uint8_t result[CLUSTER_BYTES + 64];
};

static int setup(void **state)
{
	struct buffers *b = calloc(1, sizeof(*b));

	if (!b)
		return -1;
	for (size_t i = 0; i < sizeof(b->plain); i++)
		b->plain[i] = (uint8_t)(i / 7 * 31 ^ i >> 9);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

/* At a level; 0: the usual one. */
static size_t pack_plain(struct buffers *b, enum ox_codec codec, int level)
{
	struct ox_codec_packer *p = ox_codec_packer_new(codec, level);
	long n;

	assert_non_null(p);
	n = ox_codec_pack(p, b->stream, CLUSTER_BYTES, b->plain, CLUSTER_BYTES);
	ox_codec_packer_free(p);
	assert_true(n > 0);
	return (size_t)n;
}

static size_t compress_plain(struct buffers *b, enum ox_codec codec, size_t plain_bytes)
{
	long n = ox_codec_compress(codec, b->stream, CLUSTER_BYTES, b->plain, plain_bytes);

	assert_true(n > 0);
	return (size_t)n;
}

static void a_cluster_survives_compression(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		size_t n = compress_plain(b, codecs[i], CLUSTER_BYTES);

		memset(b->result, 0, sizeof(b->result));
		assert_int_equal(
			ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES, b->stream, n), 0);
		assert_memory_equal(b->result, b->plain, CLUSTER_BYTES);
	}
}

static void bytes_behind_the_stream_do_no_harm(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		size_t n = compress_plain(b, codecs[i], CLUSTER_BYTES);

		memset(b->stream + n, 0xa5, sizeof(b->stream) - n);
		assert_int_equal(ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES, b->stream,
						     n + 511),
				 0);
		assert_memory_equal(b->result, b->plain, CLUSTER_BYTES);
	}
}

static void a_stream_cut_short_is_an_io_error(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		size_t n = compress_plain(b, codecs[i], CLUSTER_BYTES);

		for (size_t cut = 0; cut < n - 16; cut += 1 + cut / 8)
			assert_int_equal(ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES,
							     b->stream, cut),
					 -EIO);
	}
}

static void a_stream_of_fewer_bytes_is_an_io_error(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		size_t n = compress_plain(b, codecs[i], CLUSTER_BYTES / 2);

		assert_int_equal(
			ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES, b->stream, n),
			-EIO);
	}
}

static void a_stream_of_more_bytes_stops_at_the_cluster(void **state)
{
	struct buffers *b = *state;
	const size_t half = CLUSTER_BYTES / 2;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		size_t n = compress_plain(b, codecs[i], CLUSTER_BYTES);

		memset(b->result, 0x77, sizeof(b->result));
		assert_int_equal(ox_codec_decompress(codecs[i], b->result, half, b->stream, n), 0);
		assert_memory_equal(b->result, b->plain, half);
		for (size_t j = half; j < sizeof(b->result); j++)
			assert_int_equal(b->result[j], 0x77);
	}
}

static void garbage_is_an_io_error(void **state)
{
	struct buffers *b = *state;

	memset(b->stream, 0xff, CLUSTER_BYTES);
	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++)
		assert_int_equal(ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES, b->stream,
						     CLUSTER_BYTES),
				 -EIO);
}

static void what_does_not_shrink_has_no_space(void **state)
{
	struct buffers *b = *state;
	uint32_t x = 1;

	for (size_t i = 0; i < CLUSTER_BYTES; i++) {
		x = x * 1664525 + 1013904223;
		b->plain[i] = (uint8_t)(x >> 24);
	}
	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++)
		assert_int_equal(ox_codec_compress(codecs[i], b->stream, CLUSTER_BYTES - 1,
						   b->plain, CLUSTER_BYTES),
				 -ENOSPC);
}

/* QEMU reads with a window of 4 KiB, so nothing further back may be referred to. */
static void deflate_refers_back_4_kib_at_most(void **state)
{
	struct buffers *b = *state;

	/* The same words again and again, at every distance. */
	for (size_t i = 0; i < CLUSTER_BYTES; i++)
		b->plain[i] = (uint8_t)(i % 5003 * 2654435761u >> 13 & 15);
	for (int level = 0; level <= ox_codec_level_max(OX_CODEC_DEFLATE); level++) {
		size_t n = pack_plain(b, OX_CODEC_DEFLATE, level);
		z_stream z = {
			.next_in = b->stream,
			.avail_in = (uInt)n,
			.next_out = b->result,
		};

		/* Output in small pieces makes zlib use its window alone. */
		assert_int_equal(inflateInit2(&z, -12), Z_OK);
		while (z.total_out < CLUSTER_BYTES) {
			z.avail_out = 64;
			assert_true(inflate(&z, Z_SYNC_FLUSH) >= Z_OK);
		}
		inflateEnd(&z);
		assert_memory_equal(b->result, b->plain, CLUSTER_BYTES);
	}
}

static void every_level_makes_streams_that_are_read_back(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		for (int level = 0; level <= ox_codec_level_max(codecs[i]); level++) {
			size_t n = pack_plain(b, codecs[i], level);

			memset(b->result, 0, sizeof(b->result));
			assert_int_equal(ox_codec_decompress(codecs[i], b->result, CLUSTER_BYTES,
							     b->stream, n),
					 0);
			assert_memory_equal(b->result, b->plain, CLUSTER_BYTES);
		}
	}
}

/* What a packer made before has no part in what it makes next. */
static void a_packer_makes_the_same_stream_again(void **state)
{
	static uint8_t again[CLUSTER_BYTES];
	struct buffers *b = *state;

	for (size_t i = 0; i < OX_ARRAY_SIZE(codecs); i++) {
		struct ox_codec_packer *p = ox_codec_packer_new(codecs[i], 0);
		long n = ox_codec_pack(p, again, CLUSTER_BYTES, b->plain, CLUSTER_BYTES);
		long other = ox_codec_pack(p, b->result, CLUSTER_BYTES, again, CLUSTER_BYTES / 2);

		assert_true(n > 0 && (other > 0 || other == -ENOSPC));
		assert_int_equal(
			ox_codec_pack(p, b->stream, CLUSTER_BYTES, b->plain, CLUSTER_BYTES), n);
		assert_memory_equal(b->stream, again, (size_t)n);
		ox_codec_packer_free(p);
	}
}

/* One frame of 64 KiB of 'x', whose header claims a window of 2^window_bits. */
static int decompress_with_window(struct buffers *b, unsigned window_bits)
{
	const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, (uint8_t)((window_bits - 10) << 3),
				 0x03, 0x00, 0x08, 'x'};

	return ox_codec_decompress(OX_CODEC_ZSTD, b->result, CLUSTER_BYTES, frame, sizeof(frame));
}

/* What the header claims would be allocated. */
static void a_zstd_frame_with_a_huge_window_is_refused(void **state)
{
	assert_int_equal(decompress_with_window(*state, 23), 0);
	assert_int_equal(decompress_with_window(*state, 24), -EIO);
	assert_int_equal(decompress_with_window(*state, 27), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_cluster_survives_compression, setup, teardown),
		cmocka_unit_test_setup_teardown(bytes_behind_the_stream_do_no_harm, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_stream_cut_short_is_an_io_error, setup, teardown),
		cmocka_unit_test_setup_teardown(a_stream_of_fewer_bytes_is_an_io_error, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_stream_of_more_bytes_stops_at_the_cluster, setup,
						teardown),
		cmocka_unit_test_setup_teardown(garbage_is_an_io_error, setup, teardown),
		cmocka_unit_test_setup_teardown(what_does_not_shrink_has_no_space, setup, teardown),
		cmocka_unit_test_setup_teardown(deflate_refers_back_4_kib_at_most, setup, teardown),
		cmocka_unit_test_setup_teardown(every_level_makes_streams_that_are_read_back, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_packer_makes_the_same_stream_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_zstd_frame_with_a_huge_window_is_refused, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
