/* SPDX-License-Identifier: MIT */
#include "format.h"

#include <string.h>

const struct sim_format *const sim_formats[SIM_FORMATS] = {&sim_qcow2_format, &sim_qed_format};

const struct sim_format *sim_format_find(const char *name)
{
	for (unsigned k = 0; k < SIM_FORMATS; k++)
		if (strcmp(sim_formats[k]->name, name) == 0)
			return sim_formats[k];
	return NULL;
}
