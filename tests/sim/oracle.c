/* SPDX-License-Identifier: MIT */
#include "oracle.h"

#include "format.h"
#include "trace.h"

void sim_oracle_content(const struct sim_image *i, const struct sim_expect *expect)
{
	uint8_t sector[SIM_SECTOR_BYTES];
	uint64_t count = expect->model ? sim_model_sectors(expect->model) : 0;

	for (uint64_t s = 0; s < count; s++) {
		if (sim_model_is_wild(expect->model, s, 1))
			continue;
		sim_image_read(i, expect->backing, s * SIM_SECTOR_BYTES, sector);
		sim_model_check(expect->model, s, sector, "on the disk");
	}
}

bool sim_oracle_check(const struct sim_bytes *bytes, const struct sim_expect *expect)
{
	struct sim_image image;
	const char *why;

	if (!sim_image_parse(bytes, &image, &why))
		sim_fail("H9", "the header is broken: %s", why);
	if (image.marked && expect->clean)
		sim_fail("D6", "the image is marked after a clean end");
	image.format->audit(&image, expect);
	return image.marked;
}
