/* SPDX-License-Identifier: MIT */
/*
 * The pictures of an image's file that `oxbow map` draws: as SVG, in a terminal, as JSON.
 *
 * Damage and leaks are never averaged away: a cell that holds any shows that and nothing else.
 */
#ifndef OX_CLI_PICTURE_H
#define OX_CLI_PICTURE_H

#include "cli/cli.h"

/* How a kind of layout is named and drawn. Order and words are those of the legend. */
struct ox_cli_kind {
	enum ox_layout_kind kind;
	const char *key;    /* in JSON */
	const char *words;  /* in the legend */
	const char *colour; /* of SVG; apart for the colour-blind too */
	unsigned ansi;	    /* of 256 colours */
	char letter;	    /* without colours */
};

struct ox_cli_picture {
	const char *name; /* of the image, as it was given */
	struct ox_image_layout *layout;
};

#define OX_CLI_LINE_MAX 256

/* ---- picture.c ---- */

/* The row of a kind. */
const struct ox_cli_kind *ox_cli_kind(enum ox_layout_kind kind);
/* Every kind, in the order of the legend: problems first. */
const struct ox_cli_kind *ox_cli_kind_at(unsigned place);
/* DAMAGED or LEAKED where the bin holds any of it; else what it holds most of; FREE where it holds
 * nothing. */
enum ox_layout_kind ox_cli_bin_kind(const struct ox_layout_bin *bin);
uint64_t ox_cli_bin_used(const struct ox_layout_bin *bin);
/* What the picture says in words; each returns buf. The second is whether the image is sound, the
 * third how fragmented it is. */
const char *ox_cli_picture_sizes(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX]);
const char *ox_cli_picture_verdict(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX]);
const char *ox_cli_picture_order(const struct ox_image_layout *layout, char buf[OX_CLI_LINE_MAX]);
/* "1.5 GiB   3.2%" in buf. */
const char *ox_cli_picture_share(const struct ox_image_layout *layout, enum ox_layout_kind kind,
				 char buf[OX_CLI_LINE_MAX]);

/* ---- picture_svg.c ---- */

#define OX_CLI_SVG_BINS 2304
#define OX_CLI_SVG_GUEST_BINS 1728

void ox_cli_picture_svg(const struct ox_cli_picture *picture, FILE *to);

/* ---- picture_text.c ---- */

/* What the terminal at stdout can show. */
struct ox_cli_terminal {
	unsigned columns;
	bool colours;
	bool unicode;
};

struct ox_cli_terminal ox_cli_terminal_look(void);
/* How many bins fit, of the file and of the guest. */
size_t ox_cli_text_bins(const struct ox_cli_terminal *terminal);
size_t ox_cli_text_guest_bins(const struct ox_cli_terminal *terminal);
int ox_cli_picture_text(const struct ox_cli_picture *picture,
			const struct ox_cli_terminal *terminal) OX_CHECKED;

/* ---- picture_json.c ---- */

void ox_cli_picture_json(const struct ox_cli_picture *picture);

/* ---- map_picture.c ---- */

struct ox_cli_picture_wish {
	bool text;	 /* --picture */
	const char *svg; /* --image */
	enum ox_cli_output output;
};

/* Reads the layout and draws what is wished. The exit status. */
int ox_cli_map_picture(struct ox_cli_source *source, const struct ox_cli_picture_wish *wish);

#endif
