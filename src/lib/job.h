/* SPDX-License-Identifier: MIT */
/*
 * A job: a task with a result. The synchronous call of the public API turns the reactor until its
 * job is done (ox_job_run), the _start call leaves that to the program's loop (ox_job_start). An
 * image has one job at a time; a job may have several images.
 */
#ifndef OX_LIB_JOB_H
#define OX_LIB_JOB_H

#include "base/error.h"
#include "lib/context.h"

struct ox_job;

struct ox_job_type {
	/* Carries it out: sets result and, where that is negative, err. */
	void (*run_co)(struct ox_job *job);
	void (*free_work)(void *work); /* what work points at; NULL: nothing */
	bool opens;		       /* its result is an image, in opened */
	bool keeps_on;		       /* cancelled or not */
};

struct ox_job {
	const struct ox_job_type *type;
	struct ox_context *ctx;
	void *work;		  /* of the type's, zeroed at first */
	struct ox_image *opened;  /* a result that nobody has taken */
	struct ox_image **images; /* claimed */
	size_t image_count;
	struct ox_error *err;
	int result;
	bool begun;
	bool done;
	bool cancelled;
};

int ox_job_new(struct ox_context *ctx, const struct ox_job_type *type, size_t work_bytes,
	       struct ox_job **ret_job, struct ox_error **err) OX_CHECKED;
/* The image is the job's until it is freed. alone: no request may be under way. -EBUSY: it has a
 * job, or requests. */
int ox_job_claim(struct ox_job *job, struct ox_image *image, bool alone,
		 struct ox_error **err) OX_CHECKED;
/* A job that was not begun; or by the functions below. */
void ox_job_free(struct ox_job *job);
/* An image that a job has opened becomes the context's. */
void ox_job_adopt_image(struct ox_context *ctx, struct ox_image *image);

/* To its end, and frees it. ret_image: of a type that opens one. */
int ox_job_run(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err) OX_CHECKED;
/* The same of one whose work begins with so many bytes of a result, that become *ret. */
int ox_job_run_for(struct ox_job *job, void *ret, size_t ret_bytes,
		   struct ox_error **err) OX_CHECKED;
int ox_job_start(struct ox_job *job, struct ox_job **ret_job, struct ox_error **err) OX_CHECKED;

#endif
