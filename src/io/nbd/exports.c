/* SPDX-License-Identifier: MIT */
/*
 * Asking a server what it exports: a connection that stays in the handshake. What a server says is
 * kept up to the limits below, and told as too much beyond them.
 */
#include "io/nbd/exports.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/nbd/handle.h"

#define EXPORTS_MAX 10000u
#define CONTEXTS_MAX 1000u
#define HAS_FLAGS 1u
#define GOODBYE_MS 1000

struct exports {
	struct ox_exports public; /* what the caller holds */
	struct ox_export_info *list;
};

struct asking {
	const struct ox_nbd_api *api;
	const struct ox_nbd_address *address;
	struct nbd_handle *nbd;
	struct exports *found;
	struct ox_export_info *one; /* the export that is asked about */
	bool answered;
	int error; /* of the answer, or of what is done with it */
	char words[OX_NBD_WORDS_MAX];
};

static int fail(struct asking *a, int error, const char *words)
{
	strncpy(a->words, words, sizeof(a->words) - 1);
	return error;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	ox_assert(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- what the server says ---- */

static int answered(void *opaque, int *error)
{
	struct asking *a = opaque;

	a->answered = true;
	if (*error && !a->error)
		a->error = -*error;
	return 1;
}

static void *grown(void *list, size_t count, size_t size)
{
	return (count & (count - 1)) == 0 ? reallocarray(list, count ? count * 2 : 1, size) : list;
}

static int add_export(struct asking *a, const char *name, const char *description)
{
	struct exports *found = a->found;
	struct ox_export_info *list = grown(found->list, found->public.count, sizeof(*list));
	struct ox_export_info one = {.name = strdup(name)};

	if (description && *description)
		one.description = strdup(description);
	if (list)
		found->list = list;
	if (!list || !one.name || (description && *description && !one.description)) {
		free((char *)one.name);
		free((char *)one.description);
		return -ENOMEM;
	}
	list[found->public.count++] = one;
	found->public.list = list;
	return 0;
}

static int took_export(void *opaque, const char *name, const char *description)
{
	struct asking *a = opaque;

	if (a->error)
		return 0;
	if (a->found->public.count == EXPORTS_MAX)
		a->error = fail(a, -E2BIG, "the server lists more exports than can be meant");
	else
		a->error = add_export(a, name, description);
	return 0;
}

static int add_context(struct ox_export_info *one, const char *name)
{
	const char **list = grown((void *)one->contexts, one->context_count, sizeof(*list));
	char *copy = strdup(name);

	if (list)
		one->contexts = list;
	if (!list || !copy) {
		free(copy);
		return -ENOMEM;
	}
	list[one->context_count++] = copy;
	return 0;
}

static int took_context(void *opaque, const char *name)
{
	struct asking *a = opaque;

	if (a->error)
		return 0;
	if (a->one->context_count == CONTEXTS_MAX)
		a->error = fail(a, -E2BIG, "the server lists more contexts than can be meant");
	else
		a->error = add_context(a->one, name);
	return 0;
}

/* ---- turns ---- */

static bool is_over(const struct asking *a)
{
	return a->api->aio_is_dead(a->nbd) || a->api->aio_is_closed(a->nbd);
}

/* libnbd tells of its last call alone, and not always where something went wrong. */
static int fail_with_words(struct asking *a, int error, const char *otherwise)
{
	return a->api->get_error() ? ox_nbd_handle_words(a->api, a->words)
				   : fail(a, error, otherwise);
}

/* Lets libnbd work until is_done is true, for as long as the address allows. */
static int await(struct asking *a, bool (*is_done)(const struct asking *a))
{
	const uint64_t deadline = now_ms() + a->address->answer_ms;

	while (!is_done(a)) {
		const uint64_t now = now_ms();

		if (now >= deadline)
			return fail(a, -ETIMEDOUT, "the server does not answer");
		if (a->api->poll(a->nbd, (int)ox_min_u64(deadline - now, 60000)) < 0)
			return ox_nbd_handle_words(a->api, a->words);
		if (is_over(a))
			return fail_with_words(a, -ECONNRESET, "the server ends the connection");
	}
	return 0;
}

static bool is_answered(const struct asking *a)
{
	return a->answered;
}

static bool is_connected(const struct asking *a)
{
	return !a->api->aio_is_connecting(a->nbd);
}

/* begun: of the function that has asked. */
static int await_answer(struct asking *a, int begun)
{
	int r = begun < 0 ? ox_nbd_handle_words(a->api, a->words) : await(a, is_answered);

	if (r == 0 && a->error == 0)
		return 0;
	if (r == 0 && !*a->words)
		(void)fail_with_words(a, a->error, strerror(-a->error));
	return r < 0 ? r : a->error;
}

static void begin_question(struct asking *a)
{
	a->answered = false;
	a->error = 0;
	a->words[0] = 0;
}

/* ---- questions ---- */

static int connect_to(struct asking *a)
{
	const char *unverifiable = ox_nbd_handle_unverifiable(a->api, a->address);
	int r;

	if (unverifiable)
		return fail(a, -ENOKEY, unverifiable);
	a->nbd = a->api->create();
	if (!a->nbd || a->api->set_opt_mode(a->nbd, true) < 0 ||
	    a->api->set_full_info(a->nbd, true) < 0 ||
	    ox_nbd_handle_secure(a->api, a->nbd, a->address) < 0 ||
	    ox_nbd_handle_connect(a->api, a->nbd, a->address) < 0)
		return ox_nbd_handle_words(a->api, a->words);
	r = await(a, is_connected);
	if (r == 0 && !a->api->aio_is_negotiating(a->nbd))
		r = fail(a, -ENOTSUP, "the server knows no list of exports");
	return r;
}

static unsigned flags_of(const struct asking *a)
{
	const struct ox_nbd_api *api = a->api;
	const struct {
		int (*ask)(struct nbd_handle *nbd);
		unsigned bit;
	} flags[] = {
		{api->is_read_only, 1},
		{api->can_flush, 2},
		{api->can_fua, 3},
		{api->is_rotational, 4},
		{api->can_trim, 5},
		{api->can_zero, 6},
		{api->can_df, 7},
		{api->can_multi_conn, 8},
		{api->can_cache, 10},
		{api->can_fast_zero, 11},
		{api->can_block_status_payload, 12},
	};
	unsigned found = HAS_FLAGS;

	for (size_t i = 0; i < OX_ARRAY_SIZE(flags); i++) {
		if (flags[i].ask && flags[i].ask(a->nbd) == 1)
			found |= 1u << flags[i].bit;
	}
	return found;
}

static uint32_t block_size(const struct asking *a, int which)
{
	int64_t bytes = a->api->get_block_size(a->nbd, which);

	return bytes < 0 || bytes > UINT32_MAX ? 0 : (uint32_t)bytes;
}

static void take_info(struct asking *a)
{
	struct ox_export_info *one = a->one;
	int64_t size = a->api->get_size(a->nbd);

	if (size < 0)
		return;
	one->is_known = true;
	one->size_bytes = (uint64_t)size;
	one->flags = flags_of(a);
	one->block_min_bytes = block_size(a, LIBNBD_SIZE_MINIMUM);
	one->block_preferred_bytes = block_size(a, LIBNBD_SIZE_PREFERRED);
	one->block_max_bytes = block_size(a, LIBNBD_SIZE_MAXIMUM);
}

/* libnbd ends a question also when the connection does: that is no answer of the server's. */
static bool was_refused(const struct asking *a)
{
	return a->answered && !is_over(a);
}

/* An export may be gone meanwhile, or be refused: then its name is all that is known. */
static int ask_about(struct asking *a, struct ox_export_info *one)
{
	nbd_completion_callback done = {.callback = answered, .user_data = a};
	nbd_context_callback context = {.callback = took_context, .user_data = a};
	int r;

	a->one = one;
	begin_question(a);
	if (a->api->set_export_name(a->nbd, one->name) < 0)
		return ox_nbd_handle_words(a->api, a->words);
	r = await_answer(a, a->api->aio_opt_info(a->nbd, done));
	if (r < 0)
		return was_refused(a) ? 0 : r;
	take_info(a);
	begin_question(a);
	r = await_answer(a, a->api->aio_opt_list_meta_context(a->nbd, context, done));
	return was_refused(a) && r != -ENOMEM && r != -E2BIG ? 0 : r;
}

static unsigned length_bits(const struct asking *a)
{
	if (a->api->get_extended_headers_negotiated &&
	    a->api->get_extended_headers_negotiated(a->nbd) == 1)
		return 64;
	return a->api->get_structured_replies_negotiated(a->nbd) == 1 ? 32 : 0;
}

static int ask_all(struct asking *a)
{
	nbd_list_callback export = {.callback = took_export, .user_data = a};
	nbd_completion_callback done = {.callback = answered, .user_data = a};
	int r;

	begin_question(a);
	r = await_answer(a, a->api->aio_opt_list(a->nbd, export, done));
	for (size_t i = 0; r == 0 && i < a->found->public.count; i++)
		r = ask_about(a, &a->found->list[i]);
	a->found->public.length_bits = length_bits(a);
	return r;
}

/* So that the server hears a goodbye; it is given a while to end the connection. */
static void say_goodbye(struct asking *a)
{
	const uint64_t until = now_ms() + GOODBYE_MS;

	if (!a->nbd || !a->api->aio_is_negotiating(a->nbd) || a->api->aio_opt_abort(a->nbd) < 0)
		return;
	while (!is_over(a) && now_ms() < until) {
		if (a->api->poll(a->nbd, GOODBYE_MS) < 0)
			return;
	}
}

static int read_from(struct asking *a, struct ox_error **err)
{
	int r = connect_to(a);

	if (r < 0)
		return ox_nbd_handle_tell(a->address, r, a->words, err);
	r = ask_all(a);
	if (r < 0)
		ox_error_set(err, r, "Could not list the exports: %s", a->words);
	return r;
}

int ox_nbd_exports_read(const char *uri, struct ox_exports **ret, struct ox_error **err)
{
	struct ox_nbd_address address = {0};
	struct asking a = {.address = &address};
	int r = ox_nbd_api_load(&a.api, err);

	if (r == 0)
		r = ox_nbd_address_parse(uri, &address, err);
	if (r == 0)
		r = ox_nbd_api_check(a.api, &address, err);
	if (r < 0) {
		ox_nbd_address_free(&address);
		return r;
	}
	a.found = calloc(1, sizeof(*a.found));
	r = a.found ? read_from(&a, err) : ox_error_set(err, -ENOMEM, "Out of memory");
	say_goodbye(&a);
	if (a.nbd)
		a.api->close(a.nbd);
	ox_nbd_address_free(&address);
	if (r < 0)
		ox_nbd_exports_free(a.found ? &a.found->public : NULL);
	else
		*ret = &a.found->public;
	return r;
}

void ox_nbd_exports_free(struct ox_exports *public)
{
	struct exports *found = ox_container_of(public, struct exports, public);

	if (!public)
		return;
	for (size_t i = 0; i < public->count; i++) {
		struct ox_export_info *one = &found->list[i];

		for (size_t j = 0; j < one->context_count; j++)
			free((char *)one->contexts[j]);
		free((char **)one->contexts);
		free((char *)one->name);
		free((char *)one->description);
	}
	free(found->list);
	free(found);
}
