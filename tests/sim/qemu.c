/* SPDX-License-Identifier: MIT */
#include "qemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "trace.h"

static void save(const char *path, const struct sim_bytes *bytes)
{
	uint8_t sector[SIM_SECTOR_BYTES];
	FILE *f = fopen(path, "w");

	if (!f)
		sim_fail("sim", "cannot write %s", path);
	for (uint64_t at = 0; at < bytes->length; at += sizeof(sector)) {
		sim_bytes_read(bytes, at, sector, sizeof(sector));
		if (fwrite(sector, sizeof(sector), 1, f) != 1)
			sim_fail("sim", "cannot write %s", path);
	}
	if (fclose(f) != 0)
		sim_fail("sim", "cannot write %s", path);
}

void sim_qemu_check(const char *dir, const char *format, const struct sim_bytes *bytes,
		    bool leaks_allowed)
{
	char path[512];
	char command[700];
	int status;

	snprintf(path, sizeof(path), "%s/survivor.%s", dir, format);
	snprintf(command, sizeof(command), "qemu-img check -q -f %s '%s' >'%s/check.log' 2>&1",
		 format, path, dir);
	save(path, bytes);
	snprintf(path, sizeof(path), "%s/b", dir); /* the name of every backing file */
	save(path, &(struct sim_bytes){0});
	status = system(command);
	if (!WIFEXITED(status))
		sim_fail("qemu", "qemu-img did not run");
	if (WEXITSTATUS(status) != 0 && !(leaks_allowed && WEXITSTATUS(status) == 3))
		sim_fail("qemu", "qemu-img check ends with %d on %s/survivor.%s",
			 WEXITSTATUS(status), dir, format);
}
