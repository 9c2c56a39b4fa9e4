/* SPDX-License-Identifier: MIT */
#include "fake_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#include "serve/vhost/mapping.h"

static const struct ox_vhost_region regions[2] = {
	{GUEST_A, GUEST_REGION_BYTES, GUEST_USER_A, 0},
	{GUEST_B, GUEST_REGION_BYTES, GUEST_USER_B, 0x3000},
};

const struct ox_vhost_region *guest_regions(void)
{
	return regions;
}

static uint8_t *make_region(const struct ox_vhost_region *region, int *ret_fd)
{
	const size_t bytes = region->file_offset + region->bytes;
	void *map;

	*ret_fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(*ret_fd >= 0);
	assert_int_equal(ftruncate(*ret_fd, (off_t)bytes), 0);
	map = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd,
		   (off_t)region->file_offset);
	assert_true(map != MAP_FAILED);
	return map;
}

void guest_init(struct fake_guest *guest, uint16_t size)
{
	*guest = (struct fake_guest){.size = size};
	for (int i = 0; i < 2; i++)
		guest->regions[i] = make_region(&regions[i], &guest->fds[i]);
	assert_int_equal(ox_vhost_memory_new(&guest->memory), 0);
	assert_int_equal(ox_vhost_memory_replace(guest->memory, regions, guest->fds, 2), 0);
}

void guest_free(struct fake_guest *guest)
{
	ox_vhost_memory_free(guest->memory);
	for (int i = 0; i < 2; i++) {
		munmap(guest->regions[i], GUEST_REGION_BYTES);
		close(guest->fds[i]);
	}
}

struct ox_vhost_ring_setup guest_setup(const struct fake_guest *guest)
{
	return (struct ox_vhost_ring_setup){
		.size = guest->size,
		.descriptors = GUEST_DESCRIPTORS - GUEST_A + GUEST_USER_A,
		.available = GUEST_AVAILABLE - GUEST_A + GUEST_USER_A,
		.used = GUEST_USED - GUEST_A + GUEST_USER_A,
		.indirect = true,
	};
}

void *guest_at(const struct fake_guest *guest, uint64_t address)
{
	assert_true(address >= GUEST_A && address < GUEST_END);
	return address < GUEST_B ? guest->regions[0] + (address - GUEST_A)
				 : guest->regions[1] + (address - GUEST_B);
}

void guest_describe(struct fake_guest *guest, uint16_t index, uint64_t address, uint32_t bytes,
		    uint16_t flags, uint16_t next)
{
	struct guest_descriptor *table = guest_at(guest, GUEST_DESCRIPTORS);

	table[index] = (struct guest_descriptor){address, bytes, flags, next};
}

static uint16_t *word(const struct fake_guest *guest, uint64_t address)
{
	return guest_at(guest, address);
}

void guest_offer(struct fake_guest *guest, uint16_t head)
{
	*word(guest, GUEST_AVAILABLE + 4 + 2ull * (guest->offered & (guest->size - 1))) = head;
	guest->offered++;
	__atomic_store_n(guest_available_index(guest), guest->offered, __ATOMIC_RELEASE);
}

uint16_t *guest_available_flags(const struct fake_guest *guest)
{
	return word(guest, GUEST_AVAILABLE);
}

uint16_t *guest_available_index(const struct fake_guest *guest)
{
	return word(guest, GUEST_AVAILABLE + 2);
}

uint16_t *guest_used_event(const struct fake_guest *guest)
{
	return word(guest, GUEST_AVAILABLE + 4 + 2ull * guest->size);
}

uint16_t *guest_used_flags(const struct fake_guest *guest)
{
	return word(guest, GUEST_USED);
}

uint16_t *guest_used_index(const struct fake_guest *guest)
{
	return word(guest, GUEST_USED + 2);
}

uint16_t *guest_avail_event(const struct fake_guest *guest)
{
	return word(guest, GUEST_USED + 4 + 8ull * guest->size);
}

static uint32_t *used_element(const struct fake_guest *guest, uint16_t number)
{
	return guest_at(guest, GUEST_USED + 4 + 8ull * (number & (guest->size - 1)));
}

uint32_t guest_used_head(const struct fake_guest *guest, uint16_t number)
{
	return used_element(guest, number)[0];
}

uint32_t guest_used_bytes(const struct fake_guest *guest, uint16_t number)
{
	return used_element(guest, number)[1];
}

bool guest_is_under_valgrind(void)
{
	return RUNNING_ON_VALGRIND != 0;
}

void guest_catches(void)
{
	if (guest_is_under_valgrind())
		skip();
	assert_int_equal(ox_vhost_mapping_catch(), 0);
}
