/* SPDX-License-Identifier: MIT */
/*
 * The picture as SVG: the file row by row, a legend, and the guest's order as a plot of where in
 * the file each stretch of the disk lies. Text stays text; the page follows a dark or light reader.
 */
#include <string.h>

#include "cli/picture.h"

#define WIDTH 1000
#define LEFT 96
#define INNER 864
#define COLUMNS 96
#define CELL_HEIGHT 14
#define WIDE_CELL 54 /* the most that a cell of a small file takes */
#define WIDE_CELL_HEIGHT 30
#define LEVELS 4 /* what a cell is divided into */
#define GRID_TOP 132
#define LEGEND_ROW 20
#define LEGEND_COLUMNS 3
#define LEGEND_LEFT 24
#define LEGEND_WIDTH 318
#define PLOT_HEIGHT 216
#define STRIP_HEIGHT 12

struct grid {
	size_t columns;
	size_t rows;
	double cell;
	int height;
};

static double least(double a, double b)
{
	return a < b ? a : b;
}

static double most(double a, double b)
{
	return a > b ? a : b;
}

/* ---- text ---- */

/* Bytes that XML may not hold become question marks. */
static void put_text(FILE *to, const char *text)
{
	json_t *clean = ox_cli_json_string(text);
	const char *at = clean ? json_string_value(clean) : "?";

	for (; *at; at++) {
		if (*at == '&')
			fputs("&amp;", to);
		else if (*at == '<')
			fputs("&lt;", to);
		else if (*at == '>')
			fputs("&gt;", to);
		else if ((unsigned char)*at < 0x20 || *at == 0x7f)
			fputc('?', to);
		else if (strncmp(at, "\xef\xbf\xbe", 3) == 0 || strncmp(at, "\xef\xbf\xbf", 3) == 0)
			fputs("?", to), at += 2;
		else
			fputc(*at, to);
	}
	json_decref(clean);
}

static void put_line(FILE *to, const char *class, double x, double y, const char *text)
{
	fprintf(to, "<text class=\"%s\" x=\"%g\" y=\"%g\">", class, x, y);
	put_text(to, text);
	fputs("</text>\n", to);
}

static void put_size(FILE *to, const char *class, double x, double y, uint64_t bytes)
{
	char text[OX_CLI_SIZE_MAX];

	put_line(to, class, x, y, ox_cli_size_text(bytes, text));
}

/* The name without its folders: there is one line for it. */
static const char *short_name(const char *name)
{
	const char *slash = strrchr(name, '/');

	return slash && slash[1] ? slash + 1 : name;
}

static void put_head(FILE *to, const struct ox_cli_picture *picture, int height)
{
	const struct ox_image_layout *layout = picture->layout;
	bool unsound = layout->corruptions || layout->check_errors || layout->leaks;
	char text[OX_CLI_LINE_MAX];

	fprintf(to,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\" role=\"img\">\n<title>",
		WIDTH, height, WIDTH, height);
	put_text(to, picture->name);
	fputs("</title>\n<style>\n"
	      "text{font:13px system-ui,'DejaVu Sans',sans-serif;fill:#1f2933}\n"
	      ".h{font-size:22px;font-weight:600}.b{font-weight:600}.w{font-weight:600;fill:#"
	      "b00040}\n"
	      ".m{fill:#616e7c;font-size:12px}.e{fill:#616e7c;font-size:12px;text-anchor:end}\n"
	      ".c{fill:#616e7c;font-size:12px;text-anchor:middle}\n"
	      ".bg{fill:#fff}.free{fill:#e3e7ec}.lines{stroke:#fff;stroke-width:.8;fill:none}\n"
	      ".axis{stroke:#cbd2d9;fill:none}.mark{stroke:#fff;stroke-width:1.6;fill:none}\n"
	      ".dots{fill:none;stroke-width:2.2}\n",
	      to);
	for (unsigned k = 0; k + 1 < OX_LAYOUT_KINDS; k++)
		fprintf(to, ".%s{fill:%s}", ox_cli_kind_at(k)->key, ox_cli_kind_at(k)->colour);
	fputs("\n@media (prefers-color-scheme:dark){text{fill:#e4e7eb}.w{fill:#ff7aa8}\n"
	      ".m,.e,.c{fill:#9aa5b1}.bg{fill:#14181d}.free{fill:#2c343d}.lines{stroke:#14181d}\n"
	      ".axis{stroke:#3e4c59}.header{fill:#a9a9d6}}\n</style>\n",
	      to);
	fprintf(to, "<rect class=\"bg\" width=\"%d\" height=\"%d\"/>\n", WIDTH, height);
	put_line(to, "h", 24, 38, short_name(picture->name));
	put_line(to, "t", 24, 62, ox_cli_picture_sizes(layout, text));
	put_line(to, unsound ? "w" : "b", 24, 84, ox_cli_picture_verdict(layout, text));
}

/* ---- the file ---- */

static struct grid grid_of(const struct ox_image_layout *layout)
{
	struct grid grid = {.columns = COLUMNS, .height = CELL_HEIGHT};

	if (layout->bin_count < COLUMNS) {
		grid.columns = layout->bin_count;
		grid.height = WIDE_CELL_HEIGHT;
	}
	grid.cell = least(WIDE_CELL, (double)INNER / (double)grid.columns);
	grid.rows = (layout->bin_count + grid.columns - 1) / grid.columns;
	return grid;
}

/* What a cell looks like: from the ground up, the place in the legend of what fills each level. */
static void look_of(const struct ox_layout_bin *bin, uint64_t size, unsigned char look[LEVELS])
{
	enum ox_layout_kind kind = ox_cli_bin_kind(bin);
	bool whole = kind == OX_LAYOUT_DAMAGED || kind == OX_LAYOUT_LEAKED;
	uint64_t below = 0;
	unsigned level = 0;

	memset(look, (int)(ox_cli_kind(OX_LAYOUT_FREE) - ox_cli_kind_at(0)), LEVELS);
	for (unsigned k = 0; k + 1 < OX_LAYOUT_KINDS; k++) {
		const struct ox_cli_kind *row = ox_cli_kind_at(k);
		uint64_t bytes = bin->bytes[row->kind];

		if (whole)
			bytes = row->kind == kind ? size : 0;
		below += bytes;
		while (level < LEVELS && (double)below / (double)size * LEVELS >= level + 0.5)
			look[level++] = (unsigned char)k;
	}
	/* Little is still something. */
	if (level == 0 && below > 0)
		look[0] = (unsigned char)(ox_cli_kind(kind) - ox_cli_kind_at(0));
}

static uint64_t bin_size(const struct ox_image_layout *layout, size_t i)
{
	uint64_t from = i * layout->bin_bytes;

	return layout->file_bytes - from < layout->bin_bytes ? layout->file_bytes - from
							     : layout->bin_bytes;
}

/* A run of cells in one row that look alike. */
static void put_run(FILE *to, const struct grid *grid, double x, double y, size_t cells,
		    const unsigned char look[LEVELS])
{
	double step = (double)grid->height / LEVELS;

	for (unsigned from = 0, end; from < LEVELS; from = end) {
		for (end = from + 1; end < LEVELS && look[end] == look[from]; end++)
			;
		fprintf(to, "<rect class=\"%s\" x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\"/>\n",
			ox_cli_kind_at(look[from])->key, x, y + (LEVELS - end) * step,
			(double)cells * grid->cell, (end - from) * step);
	}
}

static void put_row(FILE *to, const struct ox_image_layout *layout, const struct grid *grid,
		    size_t row)
{
	size_t end = (row + 1) * grid->columns;
	double y = GRID_TOP + (double)row * grid->height;
	unsigned char look[LEVELS], next[LEVELS];
	size_t from = row * grid->columns;

	if (end > layout->bin_count)
		end = layout->bin_count;
	for (size_t i = from + 1; i <= end; i++) {
		look_of(&layout->bins[from], bin_size(layout, from), look);
		if (i < end) {
			look_of(&layout->bins[i], bin_size(layout, i), next);
			if (memcmp(look, next, LEVELS) == 0)
				continue;
		}
		put_run(to, grid, LEFT + (double)(from - row * grid->columns) * grid->cell, y,
			i - from, look);
		from = i;
	}
}

/* A cross where there is damage, a stroke where there are leaks: seen without colours as well. */
static void put_marks(FILE *to, const struct ox_image_layout *layout, const struct grid *grid)
{
	double w = least(grid->cell, 14) - 4, h = least(grid->height, 18) - 7;

	fputs("<path class=\"mark\" d=\"", to);
	for (size_t i = 0; i < layout->bin_count; i++) {
		enum ox_layout_kind kind = ox_cli_bin_kind(&layout->bins[i]);
		double x = LEFT + ((double)(i % grid->columns) + 0.5) * grid->cell - w / 2;
		double y = GRID_TOP + ((double)(i / grid->columns) + 0.5) * grid->height - h / 2;

		if (kind == OX_LAYOUT_DAMAGED)
			fprintf(to, "M%g %gl%g %gm0 %gl%g %g", x, y, w, h, -h, -w, h);
		else if (kind == OX_LAYOUT_LEAKED)
			fprintf(to, "M%g %gl%g %g", x, y + h, w, -h);
	}
	fputs("\"/>\n", to);
}

static void put_grid(FILE *to, const struct ox_image_layout *layout, const struct grid *grid)
{
	double right = LEFT + (double)grid->columns * grid->cell;
	double bottom = GRID_TOP + (double)grid->rows * grid->height;
	size_t step = grid->rows > 8 ? 4 : 1;
	char size[OX_CLI_SIZE_MAX], text[OX_CLI_LINE_MAX];

	snprintf(text, sizeof(text), "The file from begin to end, %s a cell",
		 ox_cli_size_text(layout->bin_bytes, size));
	put_line(to, "b", 24, GRID_TOP - 14, text);
	for (size_t row = 0; row < grid->rows; row++) {
		put_row(to, layout, grid, row);
		if (row % step == 0)
			put_size(to, "e", LEFT - 10,
				 GRID_TOP + ((double)row + 0.5) * grid->height + 4,
				 row * grid->columns * layout->bin_bytes);
	}
	fputs("<path class=\"lines\" d=\"", to);
	for (size_t i = 1; i < grid->columns; i++)
		fprintf(to, "M%g %dV%g", LEFT + (double)i * grid->cell, GRID_TOP, bottom);
	for (size_t i = 1; i < grid->rows; i++)
		fprintf(to, "M%d %gH%g", LEFT, GRID_TOP + (double)i * grid->height, right);
	fputs("\"/>\n", to);
	put_marks(to, layout, grid);
}

/* ---- the legend ---- */

static int legend_rows(const struct ox_image_layout *layout)
{
	int count = 0;

	for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++)
		count += layout->bytes[k] > 0;
	return (count + LEGEND_COLUMNS - 1) / LEGEND_COLUMNS;
}

static void put_legend(FILE *to, const struct ox_image_layout *layout, double top)
{
	int rows = legend_rows(layout), shown = 0;
	char share[OX_CLI_LINE_MAX];

	for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++) {
		const struct ox_cli_kind *row = ox_cli_kind_at(k);
		double x = LEGEND_LEFT + (double)(shown / rows) * LEGEND_WIDTH;
		double y = top + shown % rows * LEGEND_ROW;

		if (layout->bytes[row->kind] == 0)
			continue;
		fprintf(to, "<rect class=\"%s\" x=\"%g\" y=\"%g\" width=\"12\" height=\"12\"/>\n",
			row->key, x, y);
		if (row->kind == OX_LAYOUT_DAMAGED)
			fprintf(to, "<path class=\"mark\" d=\"M%g %gl6 6m0 -6l-6 6\"/>\n", x + 3,
				y + 3);
		if (row->kind == OX_LAYOUT_LEAKED)
			fprintf(to, "<path class=\"mark\" d=\"M%g %gl6 -6\"/>\n", x + 3, y + 9);
		fprintf(to, "<text x=\"%g\" y=\"%g\">%s <tspan class=\"m\">", x + 18, y + 11,
			row->words);
		put_text(to, ox_cli_picture_share(layout, row->kind, share));
		fputs("</tspan></text>\n", to);
		shown++;
	}
}

/* ---- the guest's order ---- */

static void put_axes(FILE *to, const struct ox_image_layout *layout, double top)
{
	double bottom = top + PLOT_HEIGHT;

	fputs("<path class=\"axis\" d=\"", to);
	for (int i = 0; i <= 4; i++)
		fprintf(to, "M%d %gh%d", LEFT, top + i * PLOT_HEIGHT / 4.0, INNER);
	fprintf(to, "M%d %gv%dM%d %gv%d\"/>\n", LEFT, top, PLOT_HEIGHT, LEFT + INNER, top,
		PLOT_HEIGHT);
	for (unsigned i = 0; i <= 4; i++) {
		put_size(to, "e", LEFT - 10, bottom - i * PLOT_HEIGHT / 4.0 + 4,
			 layout->file_bytes / 4 * i);
		put_size(to, "c", LEFT + i * INNER / 4.0, bottom + STRIP_HEIGHT + 24,
			 layout->virtual_bytes / 4 * i);
	}
}

static enum ox_layout_kind guest_kind(const struct ox_layout_guest_bin *bin)
{
	return bin->compressed_bytes > bin->data_bytes ? OX_LAYOUT_COMPRESSED : OX_LAYOUT_DATA;
}

/* A dash for each stretch of the disk, at the place in the file of the first data in it. */
static void put_dots(FILE *to, const struct ox_image_layout *layout, double top,
		     enum ox_layout_kind kind)
{
	double step = (double)INNER / (double)layout->guest_bin_count;

	fprintf(to, "<path class=\"dots\" stroke=\"%s\" d=\"", ox_cli_kind(kind)->colour);
	for (size_t i = 0; i < layout->guest_bin_count; i++) {
		const struct ox_layout_guest_bin *bin = &layout->guest_bins[i];
		double at = (double)bin->host_offset / (double)layout->file_bytes;

		if (bin->host_offset == UINT64_MAX || guest_kind(bin) != kind)
			continue;
		fprintf(to, "M%.1f %.1fh%.1f", LEFT + (double)i * step,
			top + (1 - at) * PLOT_HEIGHT, most(step, 1.8));
	}
	fputs("\"/>\n", to);
}

static bool looks_alike(const struct ox_layout_guest_bin *a, const struct ox_layout_guest_bin *b)
{
	return a->data_bytes == b->data_bytes && a->compressed_bytes == b->compressed_bytes &&
	       !a->bad_entries && !b->bad_entries;
}

/* How much of each stretch there is, below the plot. */
static void put_strip(FILE *to, const struct ox_image_layout *layout, double top)
{
	double step = (double)INNER / (double)layout->guest_bin_count;
	size_t end;

	fprintf(to, "<rect class=\"free\" x=\"%d\" y=\"%g\" width=\"%d\" height=\"%d\"/>\n", LEFT,
		top, INNER, STRIP_HEIGHT);
	for (size_t i = 0; i < layout->guest_bin_count; i = end) {
		const struct ox_layout_guest_bin *bin = &layout->guest_bins[i];
		uint64_t held = bin->data_bytes + bin->compressed_bytes;
		const char *key = bin->bad_entries ? "damaged" : ox_cli_kind(guest_kind(bin))->key;
		double share = least(1, (double)held / (double)layout->guest_bin_bytes);
		int height = (int)(share * STRIP_HEIGHT + 0.999);

		end = i + 1;
		if (bin->bad_entries)
			height = STRIP_HEIGHT;
		while (end < layout->guest_bin_count && looks_alike(bin, &layout->guest_bins[end]))
			end++;
		if (height > 0)
			fprintf(to,
				"<rect class=\"%s\" x=\"%.2f\" y=\"%g\" width=\"%.2f\" "
				"height=\"%d\"/>\n",
				key, LEFT + (double)i * step, top + STRIP_HEIGHT - height,
				most((double)(end - i) * step, 1), height);
	}
}

static void put_order(FILE *to, const struct ox_image_layout *layout, double top)
{
	double plot = top + 38;
	char text[OX_CLI_LINE_MAX];

	put_line(to, "b", 24, top, ox_cli_picture_order(layout, text));
	put_line(to, "m", 24, top + 20,
		 "Right: along the disk. Up: along the file. One line is a disk in order, a cloud "
		 "one "
		 "in pieces. Below, how much is allocated.");
	put_axes(to, layout, plot);
	put_dots(to, layout, plot, OX_LAYOUT_DATA);
	put_dots(to, layout, plot, OX_LAYOUT_COMPRESSED);
	put_strip(to, layout, plot + PLOT_HEIGHT + 6);
}

void ox_cli_picture_svg(const struct ox_cli_picture *picture, FILE *to)
{
	const struct ox_image_layout *layout = picture->layout;
	struct grid grid = grid_of(layout);
	double legend = GRID_TOP + (double)grid.rows * grid.height + 16;
	double order = legend + legend_rows(layout) * LEGEND_ROW + 28;

	put_head(to, picture, (int)order + 38 + PLOT_HEIGHT + STRIP_HEIGHT + 44);
	put_grid(to, layout, &grid);
	put_legend(to, layout, legend);
	put_order(to, layout, order);
	fputs("</svg>\n", to);
}
