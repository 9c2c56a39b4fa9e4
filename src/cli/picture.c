/* SPDX-License-Identifier: MIT */
/* What every picture of an image's file has in common: kinds, colours, words. */
#include "cli/picture.h"

#include <inttypes.h>

static const struct ox_cli_kind kinds[OX_LAYOUT_KINDS] = {
	{OX_LAYOUT_DAMAGED, "damaged", "damaged", "#d4145a", 161, 'X'},
	{OX_LAYOUT_LEAKED, "leaked", "leaked", "#f5a800", 214, '!'},
	{OX_LAYOUT_DATA, "data", "data of the disk", "#2f74c0", 32, 'd'},
	{OX_LAYOUT_SNAPSHOT_DATA, "snapshot-data", "data that snapshots hold", "#82c0ee", 117, 's'},
	{OX_LAYOUT_COMPRESSED, "compressed", "compressed data", "#1b9e77", 36, 'c'},
	{OX_LAYOUT_HEADER, "header", "header", "#1f1f3d", 60, 'H'},
	{OX_LAYOUT_L1, "l1", "L1 table", "#4b2e83", 55, '1'},
	{OX_LAYOUT_L2, "l2", "L2 tables", "#8e5bbf", 98, '2'},
	{OX_LAYOUT_REFCOUNT, "refcounts", "refcount table and blocks", "#d49ad9", 176, 'r'},
	{OX_LAYOUT_SNAPSHOT_TABLE, "snapshot-tables", "snapshot tables", "#7a4a2b", 94, 'S'},
	{OX_LAYOUT_BITMAP, "bitmaps", "bitmaps", "#a3a530", 142, 'b'},
	{OX_LAYOUT_OTHER_TABLE, "other-tables", "encryption header", "#6b7280", 243, 'e'},
	{OX_LAYOUT_FREE, "free", "free", "#e3e7ec", 237, '.'},
};

const struct ox_cli_kind *ox_cli_kind_at(unsigned place)
{
	return &kinds[place];
}

const struct ox_cli_kind *ox_cli_kind(enum ox_layout_kind kind)
{
	unsigned place = 0;

	while (place + 1 < OX_LAYOUT_KINDS && kinds[place].kind != kind)
		place++;
	return &kinds[place];
}

enum ox_layout_kind ox_cli_bin_kind(const struct ox_layout_bin *bin)
{
	enum ox_layout_kind most = OX_LAYOUT_FREE;

	if (bin->findings > 0 || bin->bytes[OX_LAYOUT_DAMAGED] > 0)
		return OX_LAYOUT_DAMAGED;
	if (bin->bytes[OX_LAYOUT_LEAKED] > 0)
		return OX_LAYOUT_LEAKED;
	for (unsigned k = OX_LAYOUT_FREE + 1; k < OX_LAYOUT_KINDS; k++) {
		if (bin->bytes[k] > (most == OX_LAYOUT_FREE ? 0 : bin->bytes[most]))
			most = k;
	}
	return most;
}

uint64_t ox_cli_bin_used(const struct ox_layout_bin *bin)
{
	uint64_t used = 0;

	for (unsigned k = OX_LAYOUT_FREE + 1; k < OX_LAYOUT_KINDS; k++)
		used += bin->bytes[k];
	return used;
}

/* ---- words ---- */

const char *ox_cli_picture_sizes(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX])
{
	char disk[OX_CLI_SIZE_MAX], file[OX_CLI_SIZE_MAX], cluster[OX_CLI_SIZE_MAX];

	snprintf(buf, OX_CLI_LINE_MAX, "A disk of %s in a file of %s, clusters of %s",
		 ox_cli_size_text(layout->virtual_bytes, disk),
		 ox_cli_size_text(layout->file_bytes, file),
		 ox_cli_size_text(layout->cluster_bytes, cluster));
	return buf;
}

static const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

const char *ox_cli_picture_verdict(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX])
{
	uint64_t errors = layout->corruptions + layout->check_errors;
	size_t used = 0;

	if (errors)
		used += (size_t)snprintf(buf + used, OX_CLI_LINE_MAX - used,
					 "DAMAGED: %" PRIu64 " error%s (oxbow check names them)",
					 errors, plural(errors));
	if (layout->leaks)
		used += (size_t)snprintf(buf + used, OX_CLI_LINE_MAX - used,
					 "%s%" PRIu64 " cluster%s leaked or counted too often",
					 used ? ", " : "", layout->leaks, plural(layout->leaks));
	if (used == 0)
		used += (size_t)snprintf(buf, OX_CLI_LINE_MAX, "Sound: no damage, no leaks");
	if (layout->corrupt)
		used += (size_t)snprintf(buf + used, OX_CLI_LINE_MAX - used, "; marked corrupt");
	if (layout->dirty)
		used += (size_t)snprintf(buf + used, OX_CLI_LINE_MAX - used,
					 "; dirty: %" PRIu64 " cluster%s to be counted",
					 layout->uncounted, plural(layout->uncounted));
	return buf;
}

const char *ox_cli_picture_order(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX])
{
	char data[OX_CLI_SIZE_MAX], piece[OX_CLI_SIZE_MAX];

	if (layout->pieces == 0)
		snprintf(buf, OX_CLI_LINE_MAX,
			 "No data of the disk lies in this file uncompressed");
	else if (layout->pieces == 1)
		snprintf(buf, OX_CLI_LINE_MAX, "The disk's %s of data lie in one piece",
			 ox_cli_size_text(layout->data_bytes, data));
	else
		snprintf(buf, OX_CLI_LINE_MAX,
			 "The disk's %s of data lie in %" PRIu64 " pieces, of %s on average",
			 ox_cli_size_text(layout->data_bytes, data), layout->pieces,
			 ox_cli_size_text(layout->data_bytes / layout->pieces, piece));
	return buf;
}

const char *ox_cli_picture_share(const struct ox_image_layout *layout, enum ox_layout_kind kind,
				 char buf[OX_CLI_LINE_MAX])
{
	double share = (double)layout->bytes[kind] * 100 / (double)layout->file_bytes;
	char size[OX_CLI_SIZE_MAX];

	ox_cli_size_text(layout->bytes[kind], size);
	if (layout->bytes[kind] > 0 && share < 0.01)
		snprintf(buf, OX_CLI_LINE_MAX, "%s, <0.01%%", size);
	else
		snprintf(buf, OX_CLI_LINE_MAX, "%s, %.*f%%", size, share < 10 ? 2 : 0, share);
	return buf;
}
