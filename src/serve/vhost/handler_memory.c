/* SPDX-License-Identifier: MIT */
#include "serve/vhost/handler.h"

#include <errno.h>
#include <string.h>

static struct ox_vhost_region get_region(const struct ox_vhost_message *message, size_t at)
{
	return (struct ox_vhost_region){
		.guest_address = ox_vhost_get64(message, at),
		.bytes = ox_vhost_get64(message, at + 8),
		.user_address = ox_vhost_get64(message, at + 16),
		.file_offset = ox_vhost_get64(message, at + 24),
	};
}

static enum ox_vhost_verdict refuse_memory(struct ox_vhost_session *session, int code)
{
	ox_serve_warn(session->device->loop,
		      "front end %u: its guest's memory cannot be shared: %s%s", session->number,
		      strerror(-code),
		      code == -EACCES || code == -EINVAL
			      ? " (with QEMU, use memory-backend-memfd,share=on)"
			      : "");
	return OX_VHOST_REFUSED;
}

/* Requests point into it, and so do rings. */
static bool pause_rings(struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++)
		ox_vhost_room_give_up(&session->vrings[i]);
	session->paused = ox_vhost_session_in_flight(session);
	return !session->paused;
}

static int remap_rings(struct ox_vhost_session *session)
{
	int ret = 0;

	for (unsigned i = 0; i < session->vring_count && ret == 0; i++) {
		if (session->vrings[i].running)
			ret = ox_vhost_ring_remap(session->vrings[i].ring);
		session->vrings[i].ready = true;
	}
	return ret;
}

static enum ox_vhost_verdict set_mem_table(struct ox_vhost_session *session,
					   struct ox_vhost_message *message)
{
	struct ox_vhost_region regions[OX_VHOST_FDS_MAX];
	const uint32_t count = ox_vhost_get32(message, 0);
	int ret;

	if (count > OX_VHOST_FDS_MAX || count != message->fd_count ||
	    message->header.bytes < 8 + count * 32)
		return OX_VHOST_REFUSED;
	if (!pause_rings(session))
		return OX_VHOST_WAIT;
	for (uint32_t i = 0; i < count; i++)
		regions[i] = get_region(message, 8 + i * 32);
	ret = ox_vhost_memory_replace(session->memory, regions, message->fds, count);
	if (ret < 0)
		return refuse_memory(session, ret);
	for (uint32_t i = 0; i < count; i++)
		ox_vhost_memory_set_slot(session->memory, &regions[i], message->slots[i]);
	if (remap_rings(session) < 0)
		return OX_VHOST_REFUSED;
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict get_max_mem_slots(struct ox_vhost_session *session,
					       struct ox_vhost_message *message)
{
	(void)message;
	return ox_vhost_session_reply64(session, OX_VHOST_REGIONS_MAX);
}

static enum ox_vhost_verdict add_mem_reg(struct ox_vhost_session *session,
					 struct ox_vhost_message *message)
{
	const struct ox_vhost_region region = get_region(message, 8);
	int ret;

	if (message->fd_count != 1)
		return OX_VHOST_REFUSED;
	ret = ox_vhost_memory_add(session->memory, &region, message->fds[0]);
	if (ret < 0)
		return refuse_memory(session, ret);
	ox_vhost_memory_set_slot(session->memory, &region, message->slots[0]);
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict rem_mem_reg(struct ox_vhost_session *session,
					 struct ox_vhost_message *message)
{
	const struct ox_vhost_region region = get_region(message, 8);

	if (!pause_rings(session))
		return OX_VHOST_WAIT;
	if (ox_vhost_memory_remove(session->memory, &region) < 0 || remap_rings(session) < 0)
		return OX_VHOST_REFUSED;
	return OX_VHOST_DONE;
}

const struct ox_vhost_handler ox_vhost_memory_handlers[] = {
	{OX_VHOST_SET_MEM_TABLE, set_mem_table, 8, false},
	{OX_VHOST_GET_MAX_MEM_SLOTS, get_max_mem_slots, 0, true},
	{OX_VHOST_ADD_MEM_REG, add_mem_reg, 40, false},
	{OX_VHOST_REM_MEM_REG, rem_mem_reg, 40, false},
	{0, NULL, 0, false},
};
