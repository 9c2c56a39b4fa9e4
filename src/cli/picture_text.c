/* SPDX-License-Identifier: MIT */
/*
 * The picture in a terminal: a character a cell, and the guest's order as a plot of dots. With
 * colours, the height of a block is how full its cell is; without, letters say what a cell holds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/picture.h"

#define LABEL_COLUMNS 10
#define FEWEST_COLUMNS 40
#define MOST_COLUMNS 300
#define ROWS 16
#define PLOT_ROWS 8
#define LEGEND_COLUMNS 38
#define ANSI_OFF "\033[0m"

/* ---- the terminal ---- */

static bool is_set(const char *name)
{
	const char *value = getenv(name);

	return value && *value;
}

/* As setlocale would choose it. */
static bool is_utf8(void)
{
	const char *value = is_set("LC_ALL")	 ? getenv("LC_ALL")
			    : is_set("LC_CTYPE") ? getenv("LC_CTYPE")
						 : getenv("LANG");

	return value && (strcasestr(value, "utf-8") || strcasestr(value, "utf8"));
}

struct ox_cli_terminal ox_cli_terminal_look(void)
{
	struct ox_cli_terminal terminal = {.columns = 80, .unicode = is_utf8()};
	const char *term = getenv("TERM");
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		terminal.columns = size.ws_col;
	if (terminal.columns < FEWEST_COLUMNS)
		terminal.columns = FEWEST_COLUMNS;
	if (terminal.columns > MOST_COLUMNS)
		terminal.columns = MOST_COLUMNS;
	terminal.colours = isatty(STDOUT_FILENO) && !is_set("NO_COLOR") && term && *term &&
			   strcmp(term, "dumb") != 0;
	return terminal;
}

static size_t cells_across(const struct ox_cli_terminal *terminal)
{
	return terminal->columns - LABEL_COLUMNS;
}

/* Dots of a character: Braille has two by four. */
static size_t dots_across(const struct ox_cli_terminal *terminal)
{
	return cells_across(terminal) * (terminal->unicode ? 2 : 1);
}

static size_t dots_up(const struct ox_cli_terminal *terminal)
{
	return PLOT_ROWS * (terminal->unicode ? 4 : 1);
}

size_t ox_cli_text_bins(const struct ox_cli_terminal *terminal)
{
	return cells_across(terminal) * ROWS;
}

size_t ox_cli_text_guest_bins(const struct ox_cli_terminal *terminal)
{
	/* Several to a column of dots: they thicken into what the disk looks like. */
	return dots_across(terminal) * 4;
}

/* ---- the file ---- */

static void put_block(const struct ox_layout_bin *bin, uint64_t size, const struct ox_cli_kind *row,
		      bool unicode)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	double share = (double)ox_cli_bin_used(bin) / (double)size;
	unsigned height = (unsigned)(share * 8 + 0.5);

	if (height == 0 && row->kind != OX_LAYOUT_FREE)
		height = 1;
	printf("\033[38;5;%u;48;5;%um%s", row->ansi, ox_cli_kind(OX_LAYOUT_FREE)->ansi,
	       unicode	? blocks[height > 8 ? 8 : height]
	       : height ? "#"
			: " ");
}

static void put_cell(const struct ox_layout_bin *bin, uint64_t size,
		     const struct ox_cli_terminal *terminal)
{
	const struct ox_cli_kind *row = ox_cli_kind(ox_cli_bin_kind(bin));

	if (!terminal->colours)
		putchar(row->letter);
	else if (row->kind == OX_LAYOUT_DAMAGED || row->kind == OX_LAYOUT_LEAKED)
		printf("\033[1;38;5;%d;48;5;%um%c" ANSI_OFF,
		       row->kind == OX_LAYOUT_DAMAGED ? 231 : 16, row->ansi, row->letter);
	else
		put_block(bin, size, row, terminal->unicode);
}

static void put_label(uint64_t bytes)
{
	char size[OX_CLI_SIZE_MAX];

	printf("%*s ", LABEL_COLUMNS - 1, ox_cli_size_text(bytes, size));
}

static void put_file(const struct ox_image_layout *layout, const struct ox_cli_terminal *terminal)
{
	size_t across = cells_across(terminal);
	char size[OX_CLI_SIZE_MAX];

	printf("\nThe file from begin to end, %s a cell\n",
	       ox_cli_size_text(layout->bin_bytes, size));
	for (size_t i = 0; i < layout->bin_count; i++) {
		uint64_t from = i * layout->bin_bytes;
		uint64_t left = layout->file_bytes - from;

		if (i % across == 0)
			put_label(from);
		put_cell(&layout->bins[i], left < layout->bin_bytes ? left : layout->bin_bytes,
			 terminal);
		if ((i + 1) % across == 0 || i + 1 == layout->bin_count)
			puts(terminal->colours ? ANSI_OFF : "");
	}
}

/* ---- the legend ---- */

static void put_legend_entry(const struct ox_image_layout *layout, const struct ox_cli_kind *row,
			     const struct ox_cli_terminal *terminal, int width)
{
	char share[OX_CLI_LINE_MAX], text[OX_CLI_LINE_MAX];

	if (!terminal->colours)
		printf("%c ", row->letter);
	else if (row->kind == OX_LAYOUT_DAMAGED || row->kind == OX_LAYOUT_LEAKED)
		printf("\033[1;38;5;%d;48;5;%um%c" ANSI_OFF " ",
		       row->kind == OX_LAYOUT_DAMAGED ? 231 : 16, row->ansi, row->letter);
	else
		printf("\033[48;5;%um " ANSI_OFF " ", row->ansi);
	snprintf(text, sizeof(text), "%s %s", row->words,
		 ox_cli_picture_share(layout, row->kind, share));
	printf("%-*s", width, text);
}

static void put_legend(const struct ox_image_layout *layout, const struct ox_cli_terminal *terminal)
{
	unsigned across = terminal->columns / (LEGEND_COLUMNS + 10);
	unsigned shown = 0;

	if (across == 0)
		across = 1;
	putchar('\n');
	for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++) {
		const struct ox_cli_kind *row = ox_cli_kind_at(k);
		bool last;

		if (layout->bytes[row->kind] == 0)
			continue;
		last = ++shown % across == 0;
		put_legend_entry(layout, row, terminal, last ? 0 : LEGEND_COLUMNS + 8);
		if (last)
			putchar('\n');
	}
	if (shown % across != 0)
		putchar('\n');
}

/* ---- the guest's order ---- */

/* The dots of a character, of which the lowest bit is the upper left one. */
static unsigned char *find_dots(const struct ox_image_layout *layout,
				const struct ox_cli_terminal *terminal)
{
	/* Of Unicode's Braille patterns, by row and column. */
	static const unsigned char braille[4][2] = {{1, 8}, {2, 16}, {4, 32}, {64, 128}};
	size_t across = dots_across(terminal), up = dots_up(terminal);
	unsigned char *plot = calloc(cells_across(terminal), PLOT_ROWS);

	for (size_t i = 0; plot && i < layout->guest_bin_count; i++) {
		double at = (double)layout->guest_bins[i].host_offset / (double)layout->file_bytes;
		size_t x = i * across / layout->guest_bin_count;
		size_t y;

		if (layout->guest_bins[i].host_offset == UINT64_MAX)
			continue;
		y = (size_t)(at * (double)up);
		y = up - 1 - (y < up ? y : up - 1);
		if (terminal->unicode)
			plot[y / 4 * cells_across(terminal) + x / 2] |= braille[y % 4][x % 2];
		else
			plot[y * cells_across(terminal) + x] = 1;
	}
	return plot;
}

static void put_dot(unsigned char dots, bool unicode)
{
	/* U+2800 and the dots, in UTF-8. */
	if (!unicode || dots == 0)
		putchar(dots ? '*' : ' ');
	else
		printf("\xe2%c%c", 0xa0 | dots >> 6, 0x80 | (dots & 0x3f));
}

static int put_order(const struct ox_image_layout *layout, const struct ox_cli_terminal *terminal)
{
	unsigned char *plot = find_dots(layout, terminal);
	size_t across = cells_across(terminal);
	char size[OX_CLI_SIZE_MAX], text[OX_CLI_LINE_MAX];

	if (!plot)
		return -ENOMEM;
	printf("\n%s\n", ox_cli_picture_order(layout, text));
	puts("Right: along the disk; up: along the file. A line is in order, a cloud is not.");
	for (size_t row = 0; row < PLOT_ROWS; row++) {
		if (row % 2 == 0)
			put_label((uint64_t)((double)layout->file_bytes *
					     (double)(PLOT_ROWS - row) / PLOT_ROWS));
		else
			printf("%*s", LABEL_COLUMNS, "");
		if (terminal->colours)
			printf("\033[38;5;%um", ox_cli_kind(OX_LAYOUT_DATA)->ansi);
		for (size_t x = 0; x < across; x++)
			put_dot(plot[row * across + x], terminal->unicode);
		puts(terminal->colours ? ANSI_OFF : "");
	}
	printf("%*s0%*s\n", LABEL_COLUMNS, "", (int)across - 1,
	       ox_cli_size_text(layout->virtual_bytes, size));
	free(plot);
	return 0;
}

int ox_cli_picture_text(const struct ox_cli_picture *picture,
			const struct ox_cli_terminal *terminal)
{
	const struct ox_image_layout *layout = picture->layout;
	char text[OX_CLI_LINE_MAX];

	ox_cli_print_name(stdout, picture->name, 0);
	putchar('\n');
	puts(ox_cli_picture_sizes(layout, text));
	puts(ox_cli_picture_verdict(layout, text));
	put_file(layout, terminal);
	put_legend(layout, terminal);
	return put_order(layout, terminal);
}
