/* SPDX-License-Identifier: MIT */
#include "serve/vhost/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/vhost/mapping.h"

struct region {
	struct ox_vhost_region is;
	struct ox_vhost_mapping *mapping;
	uint8_t *start;
	uint16_t slot;
};

struct ox_vhost_memory {
	struct region *regions; /* by guest address; room for OX_VHOST_REGIONS_MAX */
	size_t count;
	size_t last; /* found last; only a guess */
	size_t held;
};

/* A programmer's mistake, in release builds too. */
static void insist(bool holds)
{
	if (!holds)
		abort();
}

static bool is_within(uint64_t address, uint64_t bytes, uint64_t start, uint64_t length)
{
	return address >= start && address - start < length && bytes <= length - (address - start);
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b ? b - a < a_bytes : a - b < b_bytes;
}

static int judge(const struct ox_vhost_region *region)
{
	const uint64_t last = region->bytes - 1;
	uint64_t end;

	if (region->bytes == 0 || __builtin_add_overflow(region->guest_address, last, &end) ||
	    __builtin_add_overflow(region->user_address, last, &end))
		return -EINVAL;
	return 0;
}

/* Puts a region in its place. It is not mapped when this fails. */
static int insert(struct region *regions, size_t count, const struct ox_vhost_region *region,
		  int fd)
{
	struct region added = {.is = *region};
	size_t at = 0;
	int code = judge(region);

	if (code < 0)
		return code;
	if (count == OX_VHOST_REGIONS_MAX)
		return -ENOSPC;
	for (size_t i = 0; i < count; i++) {
		const struct ox_vhost_region *other = &regions[i].is;

		if (overlap(other->guest_address, other->bytes, region->guest_address,
			    region->bytes) ||
		    overlap(other->user_address, other->bytes, region->user_address, region->bytes))
			return -EEXIST;
		if (other->guest_address < region->guest_address)
			at = i + 1;
	}
	code = ox_vhost_mapping_open(fd, region->file_offset, region->bytes, &added.mapping);
	if (code < 0)
		return code;
	added.start = ox_vhost_mapping_start(added.mapping);
	memmove(&regions[at + 1], &regions[at], (count - at) * sizeof(*regions));
	regions[at] = added;
	return 0;
}

static struct region *make_regions(void)
{
	return calloc(OX_VHOST_REGIONS_MAX, sizeof(struct region));
}

static void free_regions(struct region *regions, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ox_vhost_mapping_close(regions[i].mapping);
	free(regions);
}

int ox_vhost_memory_new(struct ox_vhost_memory **ret)
{
	struct ox_vhost_memory *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return -ENOMEM;
	memory->regions = make_regions();
	if (!memory->regions) {
		free(memory);
		return -ENOMEM;
	}
	*ret = memory;
	return 0;
}

void ox_vhost_memory_free(struct ox_vhost_memory *memory)
{
	if (!memory)
		return;
	insist(memory->held == 0);
	free_regions(memory->regions, memory->count);
	free(memory);
}

int ox_vhost_memory_add(struct ox_vhost_memory *memory, const struct ox_vhost_region *region,
			int fd)
{
	int code = insert(memory->regions, memory->count, region, fd);

	if (code == 0)
		memory->count++;
	return code;
}

int ox_vhost_memory_replace(struct ox_vhost_memory *memory, const struct ox_vhost_region *regions,
			    const int *fds, size_t count)
{
	struct region *others = make_regions();
	size_t done = 0;
	int code = others ? 0 : -ENOMEM;

	insist(memory->held == 0);
	while (code == 0 && done < count) {
		code = insert(others, done, &regions[done], fds[done]);
		if (code == 0)
			done++;
	}
	if (code < 0) {
		free_regions(others, done);
		return code;
	}
	free_regions(memory->regions, memory->count);
	memory->regions = others;
	memory->count = count;
	memory->last = 0;
	return 0;
}

int ox_vhost_memory_remove(struct ox_vhost_memory *memory, const struct ox_vhost_region *region)
{
	insist(memory->held == 0);
	for (size_t i = 0; i < memory->count; i++) {
		struct region *r = &memory->regions[i];

		if (r->is.guest_address != region->guest_address ||
		    r->is.user_address != region->user_address || r->is.bytes != region->bytes)
			continue;
		ox_vhost_mapping_close(r->mapping);
		memory->count--;
		memmove(r, r + 1, (memory->count - i) * sizeof(*r));
		memory->last = 0;
		return 0;
	}
	return -ENOENT;
}

void ox_vhost_memory_set_slot(struct ox_vhost_memory *memory, const struct ox_vhost_region *region,
			      uint16_t slot)
{
	for (size_t i = 0; i < memory->count; i++)
		if (memory->regions[i].is.guest_address == region->guest_address)
			memory->regions[i].slot = slot;
}

const struct ox_vhost_region *ox_vhost_memory_region(const struct ox_vhost_memory *memory,
						     size_t at, uint16_t *ret_slot)
{
	insist(at < memory->count);
	*ret_slot = memory->regions[at].slot;
	return &memory->regions[at].is;
}

size_t ox_vhost_memory_count(const struct ox_vhost_memory *memory)
{
	return memory->count;
}

/* ---- addresses ---- */

/* NULL: none has the address. */
static const struct region *find(struct ox_vhost_memory *memory, uint64_t address)
{
	size_t low = 0;
	size_t high = memory->count;

	if (memory->last < memory->count &&
	    is_within(address, 1, memory->regions[memory->last].is.guest_address,
		      memory->regions[memory->last].is.bytes))
		return &memory->regions[memory->last];
	while (low < high) {
		const size_t middle = low + (high - low) / 2;
		const struct ox_vhost_region *is = &memory->regions[middle].is;

		if (is_within(address, 1, is->guest_address, is->bytes)) {
			memory->last = middle;
			return &memory->regions[middle];
		}
		if (address < is->guest_address)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

int ox_vhost_memory_translate(struct ox_vhost_memory *memory, uint64_t address, uint64_t bytes,
			      struct iovec *ret_pieces, int max)
{
	const struct region *region = find(memory, address);
	int count = 0;

	while (region) {
		const uint64_t skip = address - region->is.guest_address;
		const uint64_t room = region->is.bytes - skip;
		const uint64_t piece = bytes < room ? bytes : room;

		if (count == max)
			return -E2BIG;
		ret_pieces[count++] = (struct iovec){region->start + skip, piece};
		bytes -= piece;
		if (bytes == 0)
			return count;
		/* No region wraps: an address that did would be 0, in front of this one. */
		address += piece;
		region++;
		if (region == memory->regions + memory->count ||
		    region->is.guest_address != address)
			break;
	}
	return -EFAULT;
}

void *ox_vhost_memory_user(const struct ox_vhost_memory *memory, uint64_t address, uint64_t bytes)
{
	for (size_t i = 0; i < memory->count; i++) {
		const struct region *r = &memory->regions[i];

		if (is_within(address, bytes, r->is.user_address, r->is.bytes))
			return r->start + (address - r->is.user_address);
	}
	return NULL;
}

bool ox_vhost_memory_guest_address(const struct ox_vhost_memory *memory, const void *place,
				   uint64_t *ret_address)
{
	for (size_t i = 0; i < memory->count; i++) {
		const struct region *r = &memory->regions[i];
		const uint64_t start = (uintptr_t)r->start;

		if (!is_within((uintptr_t)place, 1, start, r->is.bytes))
			continue;
		*ret_address = r->is.guest_address + ((uintptr_t)place - start);
		return true;
	}
	return false;
}

/* ---- who uses it ---- */

void ox_vhost_memory_hold(struct ox_vhost_memory *memory)
{
	memory->held++;
}

void ox_vhost_memory_release(struct ox_vhost_memory *memory)
{
	insist(memory->held > 0);
	memory->held--;
}

size_t ox_vhost_memory_held(const struct ox_vhost_memory *memory)
{
	return memory->held;
}

bool ox_vhost_memory_is_broken(const struct ox_vhost_memory *memory)
{
	if (!ox_vhost_mapping_some_are_broken())
		return false;
	for (size_t i = 0; i < memory->count; i++)
		if (ox_vhost_mapping_is_broken(memory->regions[i].mapping))
			return true;
	return false;
}
