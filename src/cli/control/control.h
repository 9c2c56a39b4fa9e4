/* SPDX-License-Identifier: MIT */
/*
 * The control process: it listens to operators, shows them what the keeper and the workers tell of
 * the disks, and passes on what they ask (docs/control.md). It has no right to anything else.
 *
 *	control.c  its life: what it waits for
 *	disks.c    what is known of the disks
 *	client.c   a connection: lines and answers, or one request of HTTP
 *	line.c     what a line asks for
 *	request.c  lines are carried out, or passed on to the keeper
 *	show.c     disks as JSON
 *	metrics.c  disks in Prometheus's format
 */
#ifndef OX_CLI_CONTROL_CONTROL_H
#define OX_CLI_CONTROL_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "cli/control/line.h"
#include "cli/keeper/control_wire.h"
#include "cli/keeper/kept.h"
#include "serve/stats.h"

#define OX_CONTROL_CLIENTS 32
/* Of a line, or of the head of a request of HTTP. */
#define OX_CONTROL_LINE_BYTES (64u << 10)
/* A client that neither sends what it has begun nor takes its answer. */
#define OX_CONTROL_PATIENCE_MS 30000

struct ox_control_disk {
	uint32_t number;
	struct ox_control_told told;
	const struct ox_stats_values *memory;
};

struct ox_control_client {
	int fd; /* -1: none */
	char *in;
	size_t in_bytes;
	char *out;
	size_t out_bytes;
	size_t out_sent;
	bool ends; /* once all is sent */
	int *fds;  /* that came with its bytes, for a line that adds a disk */
	unsigned fd_count;
	uint32_t id;		      /* of what the keeper was asked for it; 0: nothing */
	struct ox_control_line asked; /* for the words of the answer */
	int64_t moved_ms;	      /* when it last sent or took something */
};

struct ox_control {
	int keeper;
	int listener;
	struct ox_control_disk *disks; /* in the order of their names */
	unsigned disk_count;
	unsigned client_count;
	struct ox_control_client clients[OX_CONTROL_CLIENTS];
	uint32_t last_id;
	bool knows_all; /* disks that there are; nobody is let in before */
};

/* Until the keeper is gone, which ends the process; -errno: it cannot go on. */
int ox_control_run(const struct ox_kept *kept) OX_CHECKED;
int64_t ox_control_now_ms(void);

/* ---- disks.c ---- */

/* Takes over the descriptor, or -1. */
void ox_control_disk_told(struct ox_control *control, const struct ox_control_told *told, int fd);
void ox_control_disk_forget(struct ox_control *control, uint32_t number);
/* NULL: there is none of that name. name NULL: the only one. */
const struct ox_control_disk *ox_control_disk_find(const struct ox_control *control,
						   const char *name);
void ox_control_disk_look(const struct ox_control_disk *disk, struct ox_stats_values *ret);
/* "serving" */
const char *ox_control_state_name(uint32_t state);

/* ---- client.c ---- */

/* It has something for us, or takes what we have. */
void ox_control_client_event(struct ox_control *control, struct ox_control_client *client,
			     short events);
/* Sends object, and a newline; takes it over. */
void ox_control_client_answer(struct ox_control_client *client, json_t *object);
/* Those that came with a line, which is carried out, or did not need them. */
void ox_control_client_drop_fds(struct ox_control_client *client);
void ox_control_client_close(struct ox_control *control, struct ox_control_client *client);

/* ---- request.c ---- */

/* Carries a line out: answers it, or asks the keeper. */
void ox_control_request(struct ox_control *control, struct ox_control_client *client,
			const char *line, size_t bytes);
/* The keeper's answer. */
void ox_control_answered(struct ox_control *control, struct ox_control_client *client, int code);

/* ---- show.c ---- */

/* NULL: memory is short. */
json_t *ox_control_show(const struct ox_control_disk *disk, bool all);

/* ---- metrics.c ---- */

/* Of one disk, or of all (NULL); to be freed. NULL: memory is short. */
char *ox_control_metrics(const struct ox_control *control, const struct ox_control_disk *only,
			 size_t *ret_bytes);

#endif
