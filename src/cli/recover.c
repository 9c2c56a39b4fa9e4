/* SPDX-License-Identifier: MIT */
/* What commands say of an image that is recovered while it is in use. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

#define SECONDS_BETWEEN_LINES 5

int ox_cli_recover_parse(const char *text, enum ox_recover_mode *ret_mode)
{
	static const struct {
		const char *text;
		enum ox_recover_mode mode;
	} modes[] = {
		{"auto", OX_RECOVER_AUTO},
		{"wait", OX_RECOVER_WAIT},
		{"never", OX_RECOVER_NEVER},
	};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(text, modes[i].text) == 0) {
			*ret_mode = modes[i].mode;
			return 0;
		}
	}
	return -EINVAL;
}

void ox_cli_recovery_report(struct ox_cli_recovery *recovery, uint64_t done, uint64_t total)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (recovery->told.tv_sec == 0) /* the beginning was told of */
		recovery->told = now;
	if (total == 0 || now.tv_sec - recovery->told.tv_sec < SECONDS_BETWEEN_LINES)
		return;
	recovery->told = now;
	ox_cli_error("recovery: %llu of %llu tables (%.0f%%)", (unsigned long long)done,
		     (unsigned long long)total, 100.0 * (double)done / (double)total);
}
