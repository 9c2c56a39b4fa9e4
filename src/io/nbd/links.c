/* SPDX-License-Identifier: MIT */
#include "base/arith.h"
#include "io/nbd/nbd.h"

/* How long those after the first may take: a server that promises several and has room for one
 * leaves the others waiting. */
#define FURTHER_MS 2000u

/* All begin to connect at once. None is used before all have come about or not: one that came later
 * could be a new server's, before the end of the old one has been noticed (N1). */
static void open_further(struct ox_nbd_store *s, uint64_t limit_ms)
{
	struct ox_nbd_links *links = &s->links;
	unsigned wanted = (unsigned)ox_min_u64(s->address.connections, OX_NBD_LINKS_MAX);
	unsigned started = 1;
	bool known;

	while (started < wanted &&
	       ox_nbd_link_start(s->api, &s->address, &s->connector,
				 ox_min_u64(limit_ms, FURTHER_MS), &links->link[started]) == 0)
		started++;
	for (unsigned i = 1; i < started; i++) {
		struct ox_nbd_link *link = links->link[i];

		if (ox_nbd_link_await(link, &known, NULL) == 0 &&
		    ox_nbd_link_facts(link)->length == ox_nbd_link_facts(links->link[0])->length)
			links->link[links->count++] = link;
		else
			ox_nbd_link_close(link);
	}
}

int ox_nbd_links_open(struct ox_nbd_store *s, uint64_t limit_ms, struct ox_nbd_facts *ret_facts,
		      bool *ret_known, struct ox_error **err)
{
	struct ox_nbd_link *first;
	int r = ox_nbd_link_start(s->api, &s->address, &s->connector, limit_ms, &first);

	*ret_known = false;
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not start a connection");
	r = ox_nbd_link_await(first, ret_known, err);
	if (r < 0) {
		ox_nbd_link_close(first);
		return r;
	}
	*ret_facts = *ox_nbd_link_facts(first);
	s->links = (struct ox_nbd_links){.link = {first}, .count = 1};
	if (ret_facts->can_multi_conn)
		open_further(s, limit_ms);
	return 0;
}

void ox_nbd_links_close(struct ox_nbd_store *s)
{
	for (unsigned i = 0; i < s->links.count; i++)
		ox_nbd_link_stop(s->links.link[i]); /* so that they end at the same time */
	for (unsigned i = 0; i < s->links.count; i++)
		ox_nbd_link_close(s->links.link[i]);
	s->links.count = 0;
}
