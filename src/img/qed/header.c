/* SPDX-License-Identifier: MIT */
/* The header: read at open, changed one sector at a time (H9). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "img/qed/qed.h"

int ox_qed_backing_name_co(struct ox_io *io, const struct ox_qed_header *h, char **ret,
			   struct ox_error **err)
{
	const char *wrong = ox_qed_judge_backing(h);
	char *name;
	int r;

	*ret = NULL;
	if (!(h->features & OX_QED_BACKING))
		return 0;
	if (wrong)
		return ox_error_set(err, -EINVAL, "Could not read the header: %s", wrong);
	name = calloc(1, (size_t)h->backing_bytes + 1);
	if (!name)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_io_pread_co(io, name, h->backing_bytes, h->backing_offset);
	if (r < 0)
		ox_error_set_errno(err, r, "Could not read the backing file's name");
	else if (h->backing_bytes == 0 || strlen(name) != h->backing_bytes)
		r = ox_error_set(err, -EINVAL,
				 "Could not read the header: the backing file's name is %s",
				 h->backing_bytes ? "cut by a NUL byte" : "empty");
	if (r < 0)
		free(name);
	else
		*ret = name;
	return r;
}

/* Everything that a user of the image relies on, held against the file. */
static int judge_header(const struct ox_image *img, const struct ox_qed_header *h,
			struct ox_error **err)
{
	uint64_t foreign = h->features & ~(uint64_t)OX_QED_KNOWN_FEATURES;
	const char *wrong = ox_qed_judge_size(h);

	if (foreign)
		return ox_error_set(err, -ENOTSUP, "Unsupported QED features: %" PRIx64, foreign);
	if (!wrong && h->size_bytes > INT64_MAX)
		wrong = "the disk is larger than a disk can be";
	if (!wrong)
		wrong = ox_qed_judge_l1(h, img->io->length);
	return wrong ? ox_error_set(err, -EINVAL, "'%s' cannot be opened: %s", img->filename, wrong)
		     : 0;
}

int ox_qed_read_header_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_image *img = q->m.img;
	const char *wrong;
	int r;

	memset(q->sector, 0, sizeof(q->sector));
	r = ox_io_pread_co(img->io, q->sector, ox_min_u64(img->io->length, sizeof(q->sector)), 0);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read QED header");
	wrong = ox_qed_header_decode(q->sector, &q->h);
	if (wrong)
		return ox_error_set(err, -EINVAL, "'%s' cannot be opened: %s", img->filename,
				    wrong);
	return judge_header(img, &q->h, err);
}

int ox_qed_write_header_co(struct ox_qed_image *q, const struct ox_qed_header *h, const char *name)
{
	uint8_t *sector = ox_io_buffer(sizeof(q->sector));
	int r;

	ox_assert(q->header_lock.owner == ox_co_self());
	if (!sector)
		return -ENOMEM;
	memcpy(sector, q->sector, sizeof(q->sector));
	ox_qed_header_patch(h, sector);
	if (name)
		memcpy(sector + h->backing_offset, name, h->backing_bytes);
	r = ox_io_pwrite_co(q->m.io, sector, sizeof(q->sector), 0, 0);
	if (r == 0)
		r = ox_order_sync_always_co(&q->m.order);
	else if (!ox_io_is_full(r)) /* old or new (M2): nothing may be built on either */
		ox_order_poison(&q->m.order, r);
	if (r == 0) {
		q->h = *h;
		memcpy(q->sector, sector, sizeof(q->sector));
	}
	free(sector);
	return r;
}

int ox_qed_prepare_write_co(struct ox_mapped *m)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct ox_qed_header h;
	int r = ox_prepare_begin_co(m);

	if (r < 0 || m->prepared)
		return r;
	/* Bits that say what a program which changes the image has to do, unless it knows them. */
	ox_mutex_lock_co(&q->header_lock);
	h = q->h;
	h.autoclear = 0;
	if (q->h.autoclear != 0)
		r = ox_qed_write_header_co(q, &h, NULL);
	ox_mutex_unlock(&q->header_lock);
	if (r == 0)
		ox_prepare_end(m);
	return r;
}

int ox_qed_write_need_check_co(struct ox_mapped *m, bool on)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct ox_qed_header h;
	int r;

	ox_mutex_lock_co(&q->header_lock);
	h = q->h;
	h.autoclear = 0;
	h.features &= ~(uint64_t)OX_QED_NEED_CHECK;
	if (on)
		h.features |= OX_QED_NEED_CHECK;
	r = ox_qed_write_header_co(q, &h, NULL);
	ox_mutex_unlock(&q->header_lock);
	return r;
}

/* The mark is all that the format has: whoever opens the image next looks through it. */
int ox_qed_write_corrupt_co(struct ox_mapped *m)
{
	return ox_qed_write_need_check_co(m, true);
}

int ox_qed_write_size_co(struct ox_mapped *m, uint64_t new_bytes)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct ox_qed_header h;
	int r;

	ox_mutex_lock_co(&q->header_lock);
	h = q->h;
	h.autoclear = 0;
	h.size_bytes = new_bytes;
	r = ox_qed_write_header_co(q, &h, NULL);
	if (r < 0) /* for want of room too: nobody knows which size it says */
		ox_order_poison(&m->order, r);
	ox_mutex_unlock(&q->header_lock);
	if (r == 0)
		m->img->size_bytes = new_bytes;
	return r;
}

/* Tables never move: L1 has its entries from the beginning. */
int ox_qed_grow_tables_co(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct ox_qed_header h = q->h;
	int r;

	h.size_bytes = new_bytes;
	if (ox_qed_judge_size(&h))
		return ox_error_set(err, -EFBIG,
				    "Image size too big: tables of %" PRIu32 " clusters of %" PRIu64
				    " bytes cannot map it",
				    h.table_clusters, m->cluster_bytes);
	r = ox_qed_note_tables_co(q, new_bytes);
	return r < 0 ? ox_error_set_errno(err, r, "Could not read the L1 table") : 0;
}
