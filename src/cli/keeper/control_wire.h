/* SPDX-License-Identifier: MIT */
/*
 * What the keeper and its control process say to each other (docs/control.md): messages of one size
 * each way, over the control process's socket, once it has been told to go. What it asks counts as
 * hostile: it reads what strangers write.
 */
#ifndef OX_CLI_KEEPER_CONTROL_WIRE_H
#define OX_CLI_KEEPER_CONTROL_WIRE_H

#include <stdint.h>

#include "oxbow.h"

#define OX_CONTROL_NAME_BYTES 65
#define OX_CONTROL_TEXT_BYTES 1024

/* Of a disk. */
enum ox_control_state {
	OX_CONTROL_STARTING,   /* its image is opened, by its first process or the next one */
	OX_CONTROL_SERVING,    /* clients are served */
	OX_CONTROL_RESTARTING, /* a process has died, and the next one has not begun */
	OX_CONTROL_SAVING,     /* it is given up, and its state saved */
	OX_CONTROL_ENDING,     /* it was told to */
};

enum ox_control_told_kind {
	OX_CONTROL_DISK = 1, /* a disk as it is now; the first time with its statistics' memory */
	OX_CONTROL_ALL,	     /* it was told of every disk that there is */
	OX_CONTROL_GONE,     /* a disk is no more */
	OX_CONTROL_ANSWER,   /* to what was asked */
};

/* From the keeper. What is not said of a kind is zero. */
struct ox_control_told {
	uint32_t kind;
	uint32_t number;   /* of the disk, never another's again; of an answer: its id */
	int32_t code;	   /* ANSWER: 0 or a negative errno */
	uint32_t state;	   /* enum ox_control_state */
	int64_t pid;	   /* of the process that serves; 0: none does */
	uint64_t deaths;   /* of such processes */
	uint64_t is_added; /* by ADD: whoever asked has made its sockets */
	int64_t since;	   /* that the disk is kept, in seconds since 1970 */
	char name[OX_CONTROL_NAME_BYTES + 7]; /* these end with a zero, and are cut */
	char image[OX_CONTROL_TEXT_BYTES];
	char nbd[OX_CONTROL_TEXT_BYTES]; /* its address as it was stated; "": none */
	char vhost[OX_CONTROL_TEXT_BYTES];
};

enum ox_control_ask_kind {
	OX_CONTROL_COMMAND = 1, /* for the process that serves a disk: serve/command.h */
	OX_CONTROL_STOP,	/* all, as SIGTERM does */
	OX_CONTROL_REMOVE,	/* a disk; answered when it is gone */
	OX_CONTROL_GIVE,	/* descriptors for ADD; disk: enum ox_control_given. None: the
				   ones before are for no ADD */
	OX_CONTROL_ADD, /* a disk, with the memory of a struct ox_control_add; answered when it
			   is served, or cannot be */
};

enum ox_control_given {
	OX_CONTROL_CHAIN, /* of the image, locked, in the order of the chain */
	OX_CONTROL_NBD,	  /* listening sockets */
	OX_CONTROL_VHOST,
};

#define OX_CONTROL_WORDS 64
/* That come with one: a chain, and sockets. */
#define OX_CONTROL_DESCRIPTORS 1009

/* A disk that is to be served. Texts end with a zero. The keeper looks at the names of the options
 * alone; what they say is for the children. */
struct ox_control_add {
	uint32_t lock;	   /* enum ox_lock, that the chain has */
	uint32_t drain_ms; /* --drain */
	uint32_t hang_ms;  /* --hang-timeout; UINT32_MAX: never */
	uint32_t word_count;
	char name[OX_CONTROL_NAME_BYTES + 7];
	char image[4096];
	char nbd[OX_CONTROL_TEXT_BYTES]; /* as told; "": none */
	char vhost[OX_CONTROL_TEXT_BYTES];
	char words[32768]; /* "--cache=none", one after the other */
};

/* To the keeper, which answers each one. */
struct ox_control_ask {
	uint32_t kind;
	uint32_t id;
	uint32_t disk;	  /* its number, where it is about one */
	uint32_t command; /* enum ox_serve_command_kind */
	uint64_t values[4];
};

#endif
