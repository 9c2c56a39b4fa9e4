/* SPDX-License-Identifier: MIT */
#include "image.h"

#include <string.h>

#include "format.h"

bool sim_image_parse(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why)
{
	struct sim_image i = {.bytes = bytes};
	uint8_t magic[4];

	sim_bytes_read(bytes, 0, magic, sizeof(magic));
	*ret_why = "no magic";
	for (unsigned k = 0; k < SIM_FORMATS; k++)
		if (memcmp(magic, sim_formats[k]->magic, sizeof(magic)) == 0)
			i.format = sim_formats[k];
	if (!i.format || !i.format->parse(bytes, &i, ret_why))
		return false;
	*ret = i;
	return true;
}

void sim_image_read(const struct sim_image *i, const struct sim_backing *backing, uint64_t guest,
		    uint8_t *ret)
{
	i->format->read(i, backing, guest, ret);
}

void sim_image_name(const struct sim_image *i, uint64_t offset, char *ret, size_t room)
{
	i->format->name_place(i, offset, ret, room);
}
