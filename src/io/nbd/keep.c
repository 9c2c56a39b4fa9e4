/* SPDX-License-Identifier: MIT */
#include "io/nbd/keep.h"

#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"

void ox_nbd_keep_init(struct ox_nbd_keep *keep)
{
	*keep = (struct ox_nbd_keep){0};
	ox_list_init(&keep->entries);
}

static uint64_t weight(const struct ox_nbd_kept *entry)
{
	return sizeof(*entry) + (entry->bytes ? entry->length : 0);
}

static struct ox_nbd_kept *entry_of(struct ox_list *link)
{
	return ox_list_entry(link, struct ox_nbd_kept, link);
}

void ox_nbd_keep_free(struct ox_nbd_keep *keep)
{
	while (!ox_list_empty(&keep->entries))
		ox_nbd_keep_drop(keep, entry_of(keep->entries.next));
}

struct ox_nbd_kept *ox_nbd_keep_add(struct ox_nbd_keep *keep, enum ox_nbd_kind kind,
				    uint64_t offset, uint64_t length, const struct iovec *iov,
				    int n)
{
	struct ox_nbd_kept *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return NULL;
	entry->kind = kind;
	entry->offset = offset;
	entry->length = length;
	if (iov) {
		entry->bytes = malloc(length);
		if (!entry->bytes) {
			free(entry);
			return NULL;
		}
		ox_iov_to_buf(iov, n, 0, entry->bytes, length);
	}
	ox_list_push_back(&keep->entries, &entry->link);
	keep->bytes += weight(entry);
	return entry;
}

void ox_nbd_keep_drop(struct ox_nbd_keep *keep, struct ox_nbd_kept *entry)
{
	ox_list_del(&entry->link);
	ox_assert(keep->bytes >= weight(entry));
	keep->bytes -= weight(entry);
	free(entry->bytes);
	free(entry);
}

static bool overlap(const struct ox_nbd_kept *a, const struct ox_nbd_kept *b)
{
	return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* Whether one of those before it is of the same bytes. */
static bool covers_older(const struct ox_nbd_keep *keep, const struct ox_nbd_kept *entry)
{
	for (struct ox_list *it = entry->link.prev; it != &keep->entries; it = it->prev)
		if (overlap(entry_of(it), entry))
			return true;
	return false;
}

void ox_nbd_keep_answered(struct ox_nbd_keep *keep, struct ox_nbd_kept *entry, bool durable)
{
	ox_assert(entry->answered_at == 0);
	if (durable && !covers_older(keep, entry)) {
		ox_nbd_keep_drop(keep, entry);
		return;
	}
	entry->answered_at = ++keep->clock;
}

uint64_t ox_nbd_keep_mark(const struct ox_nbd_keep *keep)
{
	return keep->clock;
}

void ox_nbd_keep_flushed(struct ox_nbd_keep *keep, uint64_t mark)
{
	struct ox_list *next;

	for (struct ox_list *it = keep->entries.next; it != &keep->entries; it = next) {
		struct ox_nbd_kept *entry = entry_of(it);

		next = it->next;
		if (entry->answered_at > 0 && entry->answered_at <= mark)
			ox_nbd_keep_drop(keep, entry);
	}
}

void ox_nbd_keep_forget(struct ox_nbd_keep *keep, uint64_t bytes)
{
	struct ox_list *next;

	for (struct ox_list *it = keep->entries.next; it != &keep->entries; it = next) {
		next = it->next;
		if (keep->bytes <= bytes)
			return;
		if (entry_of(it)->answered_at == 0)
			continue;
		ox_nbd_keep_drop(keep, entry_of(it));
		keep->forgot = true;
	}
}
