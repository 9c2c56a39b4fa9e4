/* SPDX-License-Identifier: MIT */
/* New images, on a memory store that remembers what was asked of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "fmt/qcow2.h"
#include "img/img.h"

#define MAX_EVENTS 64
#define DEVICE_BYTES (8u << 20)

enum event_kind { EVENT_WRITE, EVENT_SYNC, EVENT_LENGTH };

struct event {
	enum event_kind kind;
	uint64_t offset;
	uint64_t length;
};

struct rig {
	struct ox_reactor *reactor;
	struct ox_io *io;
	const struct ox_io_ops *real;
	struct ox_create_options opts;
	struct ox_error *err;
	int result;
	struct event events[MAX_EVENTS];
	unsigned event_count;
	unsigned fail_at; /* event that fails with -EIO, counted from 1; 0: none */
};

static struct rig *rig; /* of the running test: ops have no other way to it */

static int note(enum event_kind kind, uint64_t offset, uint64_t length)
{
	assert_in_range(rig->event_count, 0, MAX_EVENTS - 1);
	rig->events[rig->event_count++] = (struct event){kind, offset, length};
	return rig->event_count == rig->fail_at ? -EIO : 0;
}

static int64_t noting_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				 unsigned flags)
{
	uint64_t length = 0;
	int r;

	for (int i = 0; i < n; i++)
		length += iov[i].iov_len;
	r = note(EVENT_WRITE, offset, length);
	return r < 0 ? r : rig->real->pwritev_co(io, iov, n, offset, flags);
}

static int noting_sync_co(struct ox_io *io)
{
	int r = note(EVENT_SYNC, 0, 0);

	return r < 0 ? r : rig->real->sync_co(io);
}

static int noting_set_length_co(struct ox_io *io, uint64_t length)
{
	int r = note(EVENT_LENGTH, 0, length);

	return r < 0 ? r : rig->real->set_length_co(io, length);
}

static int setup(void **state)
{
	rig = calloc(1, sizeof(*rig));
	if (!rig || ox_reactor_create(OX_ENGINE_THREAD_POOL, &rig->reactor, NULL) < 0)
		return -1;
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_error_free(rig->err);
	ox_io_close(rig->io);
	ox_reactor_destroy(rig->reactor);
	free(rig);
	return 0;
}

static void create_task_co(void *arg)
{
	(void)arg;
	rig->result = ox_qcow2_create_co(rig->io, &rig->opts, &rig->err);
}

/* Runs a creation on a fresh store; a device has old bytes of 0xff and a fixed length. */
static int create(bool device)
{
	struct ox_io_ops ops;

	ox_io_close(rig->io);
	rig->io = NULL;
	ox_error_free(rig->err);
	rig->err = NULL;
	rig->event_count = 0;
	assert_int_equal(ox_io_memory_open(rig->reactor, device ? DEVICE_BYTES : 0, &rig->io), 0);
	if (device) {
		memset(ox_io_memory_bytes(rig->io), 0xff, DEVICE_BYTES);
		rig->io->can_grow = false;
	}
	rig->real = rig->io->ops;
	ops = *rig->real;
	ops.pwritev_co = noting_pwritev_co;
	ops.sync_co = noting_sync_co;
	ops.set_length_co = noting_set_length_co;
	rig->io->ops = &ops;
	assert_int_equal(ox_reactor_call(rig->reactor, create_task_co, NULL), 0);
	rig->io->ops = rig->real;
	return rig->result;
}

/* Every cluster of the file is counted once and no other is; L1 is empty. */
static void assert_empty_image(void)
{
	const uint8_t *bytes = ox_io_memory_bytes(rig->io);
	uint64_t file_bytes = rig->io->length;
	struct ox_qcow2_header h;
	uint64_t clusters, entries, counted = 0;

	assert_int_equal(ox_qcow2_header_decode(bytes, file_bytes, &h, NULL), 0);
	assert_int_equal(ox_qcow2_header_check_layout(&h, file_bytes, NULL), 0);
	entries = ox_qcow2_refblock_entries(&h);
	clusters = file_bytes >> h.cluster_bits;
	assert_int_equal(clusters << h.cluster_bits, file_bytes);
	for (uint64_t i = 0; i < (uint64_t)h.reftable_clusters << h.cluster_bits; i += 8) {
		struct ox_host block;
		struct ox_be64 raw;

		memcpy(&raw, bytes + h.reftable_offset + i, sizeof(raw));
		assert_true(ox_qcow2_reftable_decode(&h, ox_be64_get(raw), &block));
		for (uint64_t j = 0; block.bytes && j < entries; j++) {
			uint64_t n =
				ox_qcow2_refcount_get(bytes + block.bytes, h.refcount_order, j);

			assert_int_equal(n, i / 8 * entries + j < clusters);
			counted += n;
		}
	}
	assert_int_equal(counted, clusters);
	for (uint64_t i = 0; i < UINT64_C(8) * h.l1_entries; i++)
		assert_int_equal(bytes[h.l1_offset + i], 0);
}

static void every_metadata_cluster_is_counted_once(void **state)
{
	static const uint64_t sizes[] = {0, 1, 1 << 20, UINT64_C(1) << 33};

	(void)state;
	for (unsigned bits = 9; bits <= 21; bits += 3) {
		for (unsigned order = 0; order <= 6; order++) {
			for (size_t i = 0; i < OX_ARRAY_SIZE(sizes); i++) {
				rig->opts = (struct ox_create_options){
					.virtual_bytes = sizes[i],
					.cluster_bytes = 1u << bits,
					.refcount_bits = 1u << order,
				};
				assert_int_equal(create(false), 0);
				assert_empty_image();
			}
		}
	}
}

static void options_are_kept_in_the_header(void **state)
{
	struct ox_qcow2_header h;

	(void)state;
	rig->opts = (struct ox_create_options){
		.virtual_bytes = 1000,
		.lazy_refcounts = true,
		.compression_type = "zstd",
		.refcount_bits = 8,
	};
	assert_int_equal(create(false), 0);
	assert_int_equal(ox_qcow2_header_decode(ox_io_memory_bytes(rig->io), 4096, &h, NULL), 0);
	assert_int_equal(h.version, 3);
	assert_int_equal(h.cluster_bits, 16);
	assert_int_equal(h.size_bytes, 1024);
	assert_int_equal(h.refcount_order, 3);
	assert_int_equal(h.compatible, OX_QCOW2_COMPAT_LAZY_REFCOUNTS);
	assert_int_equal(h.incompatible, OX_QCOW2_INCOMPAT_COMPRESSION);
	assert_int_equal(h.compression_type, OX_QCOW2_ZSTD);
}

static void the_first_sector_is_written_after_a_sync_of_all_else(void **state)
{
	(void)state;
	rig->opts = (struct ox_create_options){.virtual_bytes = 1 << 20};
	assert_int_equal(create(false), 0);
	assert_in_range(rig->event_count, 4, MAX_EVENTS);
	for (unsigned i = 0; i < rig->event_count - 3; i++)
		assert_true(rig->events[i].kind != EVENT_WRITE || rig->events[i].offset >= 512);
	assert_int_equal(rig->events[rig->event_count - 3].kind, EVENT_SYNC);
	assert_int_equal(rig->events[rig->event_count - 2].kind, EVENT_WRITE);
	assert_int_equal(rig->events[rig->event_count - 2].offset, 0);
	assert_int_equal(rig->events[rig->event_count - 2].length, 512);
	assert_int_equal(rig->events[rig->event_count - 1].kind, EVENT_SYNC);
}

static void a_failure_before_the_last_sync_leaves_no_image(void **state)
{
	(void)state;
	rig->opts = (struct ox_create_options){.virtual_bytes = 1 << 20};
	assert_int_equal(create(false), 0);
	for (unsigned i = 1, n = rig->event_count; i < n; i++) {
		rig->fail_at = i;
		assert_int_equal(create(false), -EIO);
		assert_true(ox_error_message(rig->err)[0] != '\0');
		assert_false(rig->io->length >= 4 &&
			     ox_qcow2_probe(ox_io_memory_bytes(rig->io), 4));
	}
}

static void a_device_loses_its_old_header_first(void **state)
{
	(void)state;
	rig->opts = (struct ox_create_options){.virtual_bytes = 1 << 20, .cluster_bytes = 4096};
	assert_int_equal(create(true), 0);
	assert_int_equal(rig->io->length, DEVICE_BYTES);
	assert_int_equal(rig->events[0].kind, EVENT_WRITE);
	assert_int_equal(rig->events[0].offset, 0);
	assert_int_equal(rig->events[0].length, 512);
	assert_int_equal(rig->events[1].kind, EVENT_SYNC);
	/* What lies past the metadata is not the image's. */
	rig->io->length = 4 * 4096;
	assert_empty_image();
}

static void a_device_that_is_too_small_is_refused(void **state)
{
	(void)state;
	rig->opts = (struct ox_create_options){.virtual_bytes = UINT64_C(1) << 50,
					       .cluster_bytes = 65536};
	assert_int_equal(create(true), -ENOSPC);
	assert_int_equal(rig->event_count, 0);
}

struct bad_options {
	struct ox_create_options opts;
	int code;
	const char *message;
};

static const struct bad_options bad_options[] = {
	{{.cluster_bytes = 256},
	 -EINVAL,
	 "Cluster size must be a power of two between 512 and 2048k"},
	{{.cluster_bytes = 3 << 20},
	 -EINVAL,
	 "Cluster size must be a power of two between 512 and 2048k"},
	{{.cluster_bytes = 4 << 20},
	 -EINVAL,
	 "Cluster size must be a power of two between 512 and 2048k"},
	{{.refcount_bits = 3},
	 -EINVAL,
	 "Refcount width must be a power of two and may not exceed 64 bits"},
	{{.refcount_bits = 128},
	 -EINVAL,
	 "Refcount width must be a power of two and may not exceed 64 bits"},
	{{.version = 2, .refcount_bits = 8},
	 -EINVAL,
	 "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
	 "version=v3 or greater)"},
	{{.version = 2, .lazy_refcounts = true},
	 -EINVAL,
	 "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or "
	 "greater)"},
	{{.version = 2, .compression_type = "zstd"},
	 -EINVAL,
	 "Non-zlib compression type is only supported with compatibility level 1.1 and above (use "
	 "version=v3 or greater)"},
	{{.version = 4}, -EINVAL, "Unsupported qcow2 version 4"},
	{{.compression_type = "lzo"},
	 -EINVAL,
	 "Parameter 'compression-type' does not accept value 'lzo'"},
	{{.backing_file = "x"}, -EINVAL, "Backing file specified without backing format"},
	{{.backing_file = "", .backing_format = "raw"},
	 -EINVAL,
	 "Expected backing file name, got empty string"},
	{{.backing_format = "raw"}, -EINVAL, "Backing format cannot be used without backing file"},
	{{.cluster_bytes = 512, .virtual_bytes = (UINT64_C(128) << 30) + 1},
	 -EFBIG,
	 "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
	{{.virtual_bytes = UINT64_MAX},
	 -EFBIG,
	 "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
};

static void bad_options_are_named_and_nothing_is_written(void **state)
{
	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(bad_options); i++) {
		rig->opts = bad_options[i].opts;
		assert_int_equal(create(false), bad_options[i].code);
		assert_string_equal(ox_error_message(rig->err), bad_options[i].message);
		assert_int_equal(rig->event_count, 0);
		assert_int_equal(rig->io->length, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_metadata_cluster_is_counted_once, setup,
						teardown),
		cmocka_unit_test_setup_teardown(options_are_kept_in_the_header, setup, teardown),
		cmocka_unit_test_setup_teardown(
			the_first_sector_is_written_after_a_sync_of_all_else, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failure_before_the_last_sync_leaves_no_image,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_device_loses_its_old_header_first, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_device_that_is_too_small_is_refused, setup,
						teardown),
		cmocka_unit_test_setup_teardown(bad_options_are_named_and_nothing_is_written, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
