/* SPDX-License-Identifier: MIT */
#include "space.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"

/* Makes room for notes of the blocks before end. */
static void reach(struct sim_space *s, uint64_t end)
{
	size_t count = ox_div_up(end, s->block_bytes);
	uint8_t *taken;
	uint8_t *durable;

	if (count <= s->count)
		return;
	count = count * 2 + 64;
	taken = sim_alloc(count, 1);
	durable = sim_alloc(count, 1);
	if (s->count > 0) {
		memcpy(taken, s->taken, s->count);
		memcpy(durable, s->durable, s->count);
	}
	free(s->taken);
	free(s->durable);
	s->taken = taken;
	s->durable = durable;
	s->count = count;
}

void sim_space_show(struct sim_space *s, const struct sim_bytes *bytes)
{
	uint8_t *buf;

	if (s->block_bytes == 0)
		return;
	buf = sim_alloc(1, s->block_bytes);
	reach(s, bytes->length);
	for (uint64_t at = 0; at < bytes->length; at += s->block_bytes) {
		size_t block = at / s->block_bytes;

		if (s->taken[block])
			continue;
		sim_bytes_read(bytes, at, buf, s->block_bytes);
		if (buf[0] == 0 && memcmp(buf, buf + 1, s->block_bytes - 1) == 0)
			continue;
		s->taken[block] = s->durable[block] = 1;
		s->used++;
	}
	free(buf);
}

void sim_space_init(struct sim_space *s, uint32_t block_bytes, const struct sim_bytes *bytes)
{
	*s = (struct sim_space){.block_bytes = block_bytes, .room = SIM_ROOM_ENDLESS};
	sim_space_show(s, bytes);
}

void sim_space_free(struct sim_space *s)
{
	free(s->taken);
	free(s->durable);
	*s = (struct sim_space){0};
}

void sim_space_clone(struct sim_space *ret, const struct sim_space *from)
{
	*ret = *from;
	ret->taken = sim_alloc(from->count + 1, 1);
	ret->durable = sim_alloc(from->count + 1, 1);
	if (from->count > 0) {
		memcpy(ret->taken, from->taken, from->count);
		memcpy(ret->durable, from->durable, from->count);
	}
}

void sim_space_cut(struct sim_space *ret, const struct sim_space *from,
		   const struct sim_bytes *bytes)
{
	sim_space_clone(ret, from);
	if (ret->block_bytes == 0)
		return;
	ret->used = 0;
	for (size_t i = 0; i < ret->count; i++) {
		ret->taken[i] = ret->durable[i] && i * ret->block_bytes < bytes->length;
		ret->used += ret->taken[i];
	}
	sim_space_show(ret, bytes);
}

uint64_t sim_space_take(struct sim_space *s, uint64_t offset, uint64_t count)
{
	if (s->block_bytes == 0)
		return count;
	reach(s, offset + count);
	for (uint64_t at = ox_align_down(offset, s->block_bytes); at < offset + count;
	     at += s->block_bytes) {
		if (s->taken[at / s->block_bytes])
			continue;
		if (s->used >= s->room)
			return at > offset ? at - offset : 0;
		s->taken[at / s->block_bytes] = 1;
		s->used++;
	}
	return count;
}

bool sim_space_take_all(struct sim_space *s, uint64_t offset, uint64_t count)
{
	uint64_t need = 0;

	if (s->block_bytes == 0 || count == 0)
		return true;
	reach(s, offset + count);
	for (uint64_t i = offset / s->block_bytes; i * s->block_bytes < offset + count; i++)
		need += !s->taken[i];
	if (need > 0 && (s->used >= s->room || need > s->room - s->used))
		return false;
	return sim_space_take(s, offset, count) == count;
}

void sim_space_give(struct sim_space *s, uint64_t offset, uint64_t count)
{
	if (s->block_bytes == 0)
		return;
	for (uint64_t i = ox_div_up(offset, s->block_bytes);
	     i < s->count && (i + 1) * s->block_bytes <= offset + count; i++) {
		s->used -= s->taken[i];
		s->taken[i] = 0;
	}
}

void sim_space_settle(struct sim_space *s, bool taken, uint64_t offset, uint64_t count)
{
	uint64_t from = taken ? ox_align_down(offset, s->block_bytes ? s->block_bytes : 1) : offset;

	if (s->block_bytes == 0 || count == 0)
		return;
	for (uint64_t i = ox_div_up(from, s->block_bytes);
	     i < s->count && (taken ? i * s->block_bytes < offset + count
				    : (i + 1) * s->block_bytes <= offset + count);
	     i++)
		s->durable[i] = taken;
}
