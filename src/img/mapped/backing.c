/* SPDX-License-Identifier: MIT */
/* Another backing file for an image: in the header, by the format, and for its reads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/chain.h"
#include "img/mapped/mapped.h"

struct words {
	char *name;
	char *format;
};

static int copy_words(const char *name, const char *format, struct words *ret)
{
	*ret = (struct words){
		.name = name ? strdup(name) : NULL,
		.format = name && format ? strdup(format) : NULL,
	};
	if ((!name || ret->name) && (!name || !format || ret->format))
		return 0;
	free(ret->name);
	free(ret->format);
	return -ENOMEM;
}

/* No request is under way. The words and the chain are the image's if the result is 0. */
static int change_co(struct ox_mapped *m, struct words *words, struct ox_image *chain,
		     struct ox_error **err)
{
	struct ox_image *img = m->img;
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&m->guest, &all, 0, UINT64_MAX, true);
	r = m->ops->write_backing_co(m, words->name, words->format, err);
	if (r == 0) {
		ox_chain_close_co(img);
		img->backing = chain;
		free(img->backing_name);
		free(img->backing_format);
		img->backing_name = words->name;
		img->backing_format = words->format;
		*words = (struct words){0};
		img->notices.last.filename = img->filename; /* the other one may be gone */
		ox_notice_join(img);
	}
	ox_rangelock_release(&m->guest, &all);
	return r;
}

int ox_mapped_set_backing_co(struct ox_image *img, const char *name, const char *format,
			     struct ox_image *chain, struct ox_error **err)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct words words;
	/* No byte of the guest's changes: what the autoclear bits vouch for stays true. */
	int r = ox_prepare_begin_co(m);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the header");
	ox_recover_wait_co(m); /* its fence lies in the header */
	if (ox_recover_active(m))
		return ox_error_set(err, m->recover.lacks_room ? -ENOSPC : -EIO,
				    "The image is dirty and could not be recovered");
	r = copy_words(name, format, &words);
	if (r < 0)
		return ox_error_set(err, r, "Out of memory");
	ox_mutex_lock_co(&m->resize_lock);
	r = change_co(m, &words, chain, err);
	ox_mutex_unlock(&m->resize_lock);
	free(words.name);
	free(words.format);
	return r;
}
