/* SPDX-License-Identifier: MIT */
/* What is known of an image, as text. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

#define NS_PER_SECOND 1000000000ull

static const char *yes(bool value)
{
	return value ? "true" : "false";
}

/* What the image, or a server, has called something. */
static void print_name(const char *before, const char *name)
{
	fputs(before, stdout);
	ox_cli_print_name(stdout, name, 0);
}

static void print_bitmaps(const struct ox_image_info *info)
{
	if (info->bitmap_count == 0)
		return;
	printf("    bitmaps:\n");
	for (size_t i = 0; i < info->bitmap_count; i++) {
		const struct ox_bitmap_info *bitmap = &info->bitmaps[i];
		int flag = 0;

		printf("        [%zu]:\n            flags:\n", i);
		if (bitmap->in_use)
			printf("                [%d]: in-use\n", flag++);
		if (bitmap->automatic)
			printf("                [%d]: auto\n", flag);
		print_name("            name: ", bitmap->name);
		printf("\n            granularity: %" PRIu32 "\n", bitmap->granularity_bytes);
	}
}

void ox_cli_info_print_specific(const struct ox_image_info *info)
{
	bool v3 = info->version >= 3;

	if (strcmp(info->format, "qcow2") != 0)
		return;
	printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
	       v3 ? "1.1" : "0.10", info->compression_type ? info->compression_type : "zlib");
	if (v3)
		printf("    lazy refcounts: %s\n", yes(info->lazy_refcounts));
	print_bitmaps(info);
	printf("    refcount bits: %u\n", info->refcount_bits);
	if (info->encryption)
		printf("    encrypt:\n        format: %s\n", info->encryption);
	if (info->data_file) {
		print_name("    data file: ", info->data_file);
		printf("\n    data file raw: %s\n", yes(info->data_file_raw));
	}
	if (v3)
		printf("    corrupt: %s\n    extended l2: %s\n", yes(info->corrupt),
		       yes(info->extended_l2));
}

static void print_snapshot(const struct ox_snapshot_info *snapshot)
{
	char size[OX_CLI_SIZE_MAX], date[64], clock[64], icount[32] = "--";
	time_t when = snapshot->date_seconds;
	uint64_t seconds = snapshot->vm_clock_ns / NS_PER_SECOND;
	struct tm local;

	if (!localtime_r(&when, &local) ||
	    strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &local) == 0)
		snprintf(date, sizeof(date), "-");
	snprintf(clock, sizeof(clock), "%04" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64,
		 seconds / 3600, seconds / 60 % 60, seconds % 60,
		 snapshot->vm_clock_ns / 1000000 % 1000);
	if (snapshot->icount != UINT64_MAX)
		snprintf(icount, sizeof(icount), "%" PRIu64, snapshot->icount);
	ox_cli_print_name(stdout, snapshot->id, 7);
	putchar(' ');
	ox_cli_print_name(stdout, snapshot->name, 16);
	printf(" %8s %19s %15s %10s\n", ox_cli_size_text(snapshot->vm_state_bytes, size), date,
	       clock, icount);
}

static void print_snapshots(const struct ox_image_info *info)
{
	if (info->snapshot_count == 0)
		return;
	printf("Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE",
	       "VM_CLOCK", "ICOUNT");
	for (size_t i = 0; i < info->snapshot_count; i++)
		print_snapshot(&info->snapshots[i]);
}

/* Of the library: it takes requests of any alignment, and memory of any. */
size_t ox_cli_info_limits(const struct ox_image_info *info,
			  struct ox_cli_block_limit ret[OX_CLI_BLOCK_LIMITS])
{
	size_t count = 0;

	ret[count++] = (struct ox_cli_block_limit){"request-alignment", 1};
	if (info->cluster_bytes) {
		ret[count++] =
			(struct ox_cli_block_limit){"discard-alignment", info->cluster_bytes};
		ret[count++] =
			(struct ox_cli_block_limit){"write-zeroes-alignment", info->cluster_bytes};
	}
	ret[count++] = (struct ox_cli_block_limit){"max-iov", IOV_MAX};
	ret[count++] = (struct ox_cli_block_limit){"min-mem-alignment", 1};
	ret[count++] = (struct ox_cli_block_limit){"opt-mem-alignment", 4096};
	return count;
}

static void print_limits(const struct ox_image_info *info)
{
	struct ox_cli_block_limit limits[OX_CLI_BLOCK_LIMITS];
	size_t count = ox_cli_info_limits(info, limits);

	printf("Block limits:\n");
	for (size_t i = 0; i < count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s", limits[i].name);
		for (char *at = name; (at = strchr(at, '-'));)
			*at = ' ';
		printf("    %s: %" PRIu32 "\n", name, limits[i].value);
	}
}

void ox_cli_info_print(const struct ox_image_info *info, bool limits)
{
	char size[OX_CLI_SIZE_MAX];

	print_name("image: ", info->filename);
	printf("\nfile format: %s\n", info->format);
	if (info->virtual_bytes == UINT64_MAX)
		printf("virtual size: unknown\n");
	else
		printf("virtual size: %s (%" PRIu64 " bytes)\n",
		       ox_cli_size_text(info->virtual_bytes, size), info->virtual_bytes);
	printf("disk size: %s\n", info->actual_bytes == UINT64_MAX
					  ? "unavailable"
					  : ox_cli_size_text(info->actual_bytes, size));
	if (info->encryption)
		printf("encrypted: yes\n");
	if (info->cluster_bytes)
		printf("cluster_size: %" PRIu32 "\n", info->cluster_bytes);
	if (info->dirty)
		printf("cleanly shut down: no\n");
	if (info->backing_file) {
		print_name("backing file: ", info->backing_file);
		if (info->backing_path && strcmp(info->backing_file, info->backing_path) != 0) {
			print_name(" (actual path: ", info->backing_path);
			putchar(')');
		}
		putchar('\n');
		if (info->backing_format) {
			print_name("backing file format: ", info->backing_format);
			putchar('\n');
		}
	}
	if (limits)
		print_limits(info);
	print_snapshots(info);
	ox_cli_info_print_specific(info);
	if (info->is_only_recognised)
		printf("supported: no (it is recognised, not opened)\n");
}
