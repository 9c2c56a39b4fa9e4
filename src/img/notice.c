/* SPDX-License-Identifier: MIT */
#include "img/notice.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "img/img.h"

#define RANGE_BYTES 64

static const char *range_text(char buf[RANGE_BYTES], const char *what, uint64_t offset,
			      uint64_t length)
{
	buf[0] = '\0';
	if (length > 0)
		snprintf(buf, RANGE_BYTES, ", %s 0x%" PRIx64 "+0x%" PRIx64, what, offset, length);
	return buf;
}

static void compose(const struct ox_notice *n, char *text, size_t size)
{
	char host[RANGE_BYTES];
	char guest[RANGE_BYTES];

	range_text(host, "host", n->host_offset, n->host_length);
	range_text(guest, "guest", n->guest_offset, n->guest_length);
	switch (n->kind) {
	case OX_NOTICE_DAMAGE:
		snprintf(text, size, "damage (%s)%s%s: what it concerns fails with an I/O error",
			 n->finding, host, guest);
		break;
	case OX_NOTICE_REFUSED:
		snprintf(text, size,
			 "damage (%s)%s%s: metadata would have been overwritten; the image is now "
			 "marked as corrupt, and takes no more writes",
			 n->finding, host, guest);
		break;
	case OX_NOTICE_POISONED:
		snprintf(text, size,
			 "a sync failed (%s): what was written since the last flush may be lost, "
			 "and every write and flush fails until the image is opened again",
			 strerror(-n->error));
		break;
	case OX_NOTICE_NO_SPACE:
		snprintf(text, size, "no space on the host for a write%s: %s", guest,
			 strerror(-n->error));
		break;
	case OX_NOTICE_IO_ERROR:
		snprintf(text, size, "the host failed a request%s: %s", guest, strerror(-n->error));
		break;
	}
}

void ox_notice_tell(struct ox_image *img, const struct ox_notice *notice)
{
	struct ox_notices *own = &img->notices;

	own->count++;
	own->last = *notice;
	own->last.filename = img->filename;
	compose(notice, own->text, sizeof(own->text));
	own->last.message = own->text;
	if (own->top) {
		own->top->count++;
		own->top->last = own->last;
	}
	if (own->tell)
		own->tell(own->opaque, &own->last);
}

/* The first failure after the store is not to be relied on any more (M3); the others follow from
 * it, and are its consequence. */
static bool tell_poison(struct ox_image *img)
{
	const int error = img->ops->error ? img->ops->error(img) : 0;

	if (error == 0)
		return false;
	if (!img->notices.poison_told)
		ox_notice_tell(img,
			       &(struct ox_notice){.kind = OX_NOTICE_POISONED, .error = error});
	img->notices.poison_told = true;
	return true;
}

static bool is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT || error == -EFBIG;
}

void ox_notice_failed(struct ox_image *img, int error, uint64_t told_before, uint64_t offset,
		      uint64_t length, bool changing)
{
	struct ox_notice notice = {
		.error = error,
		.guest_offset = offset,
		.guest_length = length,
	};

	if (changing && tell_poison(img))
		return;
	if (ox_notice_count(img) != told_before)
		return;
	if (is_full(error) && changing)
		notice.kind = OX_NOTICE_NO_SPACE;
	else if (error == -EIO)
		notice.kind = OX_NOTICE_IO_ERROR;
	else
		return; /* what the caller asked for, or memory: the result says it all */
	ox_notice_tell(img, &notice);
}

void ox_notice_join(struct ox_image *img)
{
	for (struct ox_image *below = img->backing; below; below = below->backing) {
		img->notices.count += below->notices.count;
		if (below->notices.count > 0 && !img->notices.last.message)
			img->notices.last = below->notices.last;
		below->notices.top = &img->notices;
	}
}

uint64_t ox_notice_count(const struct ox_image *img)
{
	return img->notices.top ? img->notices.top->count : img->notices.count;
}

bool ox_notice_last(const struct ox_image *img, struct ox_notice *ret)
{
	if (img->notices.count == 0)
		return false;
	*ret = img->notices.last;
	return true;
}

void ox_notice_listen(struct ox_image *img,
		      void (*tell)(void *opaque, const struct ox_notice *notice), void *opaque)
{
	for (; img; img = img->backing) {
		img->notices.tell = tell;
		img->notices.opaque = opaque;
	}
}
