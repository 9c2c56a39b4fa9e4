/* SPDX-License-Identifier: MIT */
/*
 * What is said of an image that is neither raw nor qcow2: the size of its disk, and of QED, whose
 * header is known, what else the header says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "fmt/qed.h"
#include "img/probe.h"
#include "img/qed/qed.h"
#include "lib/info.h"

static int read_backing_name_co(struct ox_io *io, const struct ox_qed_header *h,
				struct ox_info_facts *facts, struct ox_error **err)
{
	int r = ox_qed_backing_name_co(io, h, &facts->backing_name, err);

	if (r < 0 || !facts->backing_name)
		return r;
	facts->backing_path = io->is_remote ? strdup(facts->backing_name)
					    : ox_path_beside(io->name, facts->backing_name);
	if (!facts->backing_path)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	if (h->features & OX_QED_BACKING_RAW)
		facts->qed_backing_format = "raw";
	return 0;
}

static int read_qed_co(struct ox_io *io, const struct ox_formats_sample *s,
		       struct ox_info_facts *facts, struct ox_error **err)
{
	struct ox_qed_header h;
	const char *wrong = ox_qed_header_decode(s->head, &h);

	if (wrong)
		return ox_error_set(err, -EINVAL, "Could not read the header: %s", wrong);
	facts->qed_cluster_bytes = (uint32_t)ox_qed_cluster_bytes(&h);
	facts->qed_needs_check = h.features & OX_QED_NEED_CHECK;
	return read_backing_name_co(io, &h, facts, err);
}

int ox_info_read_recognised_co(struct ox_io *io, struct ox_info_facts *facts, struct ox_error **err)
{
	struct ox_formats_sample *s = malloc(sizeof(*s));
	int r;

	if (!s)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_img_sample_co(io, io->length, s);
	if (r < 0)
		ox_error_set_errno(err, r, "Could not read '%s'", io->name);
	else if (strcmp(ox_formats_probe(s), facts->format) != 0)
		r = ox_error_set(err, -EINVAL, "Image is not in %s format", facts->format);
	else if (strcmp(facts->format, "qed") == 0)
		r = read_qed_co(io, s, facts, err);
	if (r == 0 && !ox_formats_disk_bytes(s, &facts->disk_bytes))
		facts->disk_bytes = UINT64_MAX;
	free(s);
	return r;
}
