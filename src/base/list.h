/* SPDX-License-Identifier: MIT */
/*
 * An intrusive, circular, doubly linked list. A head and a link are the same struct; an unlinked
 * link points at itself, so that ox_list_del may be repeated.
 */
#ifndef OX_BASE_LIST_H
#define OX_BASE_LIST_H

#include <stdbool.h>

#include "arith.h"

struct ox_list {
	struct ox_list *next;
	struct ox_list *prev;
};

static inline void ox_list_init(struct ox_list *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool ox_list_empty(const struct ox_list *l)
{
	return l->next == l;
}

static inline void ox_list_add_before(struct ox_list *at, struct ox_list *l)
{
	l->prev = at->prev;
	l->next = at;
	at->prev->next = l;
	at->prev = l;
}

static inline void ox_list_push_back(struct ox_list *head, struct ox_list *l)
{
	ox_list_add_before(head, l);
}

static inline void ox_list_push_front(struct ox_list *head, struct ox_list *l)
{
	ox_list_add_before(head->next, l);
}

static inline void ox_list_del(struct ox_list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	ox_list_init(l);
}

/* Moves every element of from to the end of to; from is empty afterwards. */
static inline void ox_list_splice_back(struct ox_list *to, struct ox_list *from)
{
	if (ox_list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	ox_list_init(from);
}

#define ox_list_entry(link, type, member) ox_container_of(link, type, member)
#define ox_list_first(head, type, member) ox_list_entry((head)->next, type, member)
#define ox_list_for_each(it, head) for ((it) = (head)->next; (it) != (head); (it) = (it)->next)
#define ox_list_for_each_safe(it, tmp, head)                                                       \
	for ((it) = (head)->next, (tmp) = (it)->next; (it) != (head);                              \
	     (it) = (tmp), (tmp) = (it)->next)

#endif
