/* SPDX-License-Identifier: MIT */
/*
 * The handler finds mappings in a list that only grows: a closed mapping's place is used again.
 * Places are written under a lock, and read without one by the handler, which may interrupt
 * anything. So a place has a version, odd while it is being written, and the handler looks again
 * where it has changed. The place of the mapping that faulted does not change meanwhile, as nobody
 * closes what is in use.
 */
#include "serve/vhost/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

struct ox_vhost_mapping {
	struct ox_vhost_mapping *next; /* for ever */
	unsigned version;
	uintptr_t base;	   /* what is mapped: whole pages around what was asked for */
	size_t base_bytes; /* 0: a free place */
	bool broken;
	uint8_t *start;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ox_vhost_mapping *places;
static struct sigaction before;
static unsigned broken_count;

/* ---- the handler ---- */

struct extent {
	uintptr_t base;
	size_t bytes;
};

/* False: it is just being written. */
static bool look_at(const struct ox_vhost_mapping *place, struct extent *ret)
{
	const unsigned version = __atomic_load_n(&place->version, __ATOMIC_ACQUIRE);

	ret->base = __atomic_load_n(&place->base, __ATOMIC_RELAXED);
	ret->bytes = __atomic_load_n(&place->base_bytes, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return version % 2 == 0 && __atomic_load_n(&place->version, __ATOMIC_RELAXED) == version;
}

/* Puts zero pages in place of the mapping that has the address. All of it, so that one that is gone
 * costs one signal, however many of its pages are touched. */
static bool mend(uintptr_t address)
{
	struct ox_vhost_mapping *place = __atomic_load_n(&places, __ATOMIC_ACQUIRE);
	struct extent at;

	for (; place; place = place->next) {
		if (!look_at(place, &at) || address - at.base >= at.bytes)
			continue;
		if (!__atomic_exchange_n(&place->broken, true, __ATOMIC_ACQ_REL))
			__atomic_add_fetch(&broken_count, 1, __ATOMIC_ACQ_REL);
		return mmap((void *)at.base, at.bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			    0) != MAP_FAILED;
	}
	return false;
}

/* To whom it was sent before. What nobody wants ends the process, where it faulted. */
static void pass_on(int signal_number, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(signal_number, info, context);
		return;
	}
	if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(signal_number);
		return;
	}
	if (before.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	(void)signal(signal_number, SIG_DFL);
	if (info->si_code <= 0)
		(void)raise(signal_number);
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	const int saved = errno;

	if (info->si_code != BUS_ADRERR || !mend((uintptr_t)info->si_addr))
		pass_on(signal_number, info, context);
	errno = saved;
}

/* Called with the lock held. */
static int install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct sigaction there;

	if (sigaction(SIGBUS, NULL, &there) < 0)
		return -errno;
	if ((there.sa_flags & SA_SIGINFO) && there.sa_sigaction == on_sigbus)
		return 0;
	before = there;
	sigemptyset(&action.sa_mask);
	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

int ox_vhost_mapping_catch(void)
{
	int code;

	pthread_mutex_lock(&lock);
	code = install();
	pthread_mutex_unlock(&lock);
	return code;
}

/* ---- places ---- */

static void set_extent(struct ox_vhost_mapping *place, uintptr_t base, size_t bytes)
{
	__atomic_store_n(&place->version, place->version + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	__atomic_store_n(&place->base, base, __ATOMIC_RELAXED);
	__atomic_store_n(&place->base_bytes, bytes, __ATOMIC_RELAXED);
	__atomic_store_n(&place->version, place->version + 1, __ATOMIC_RELEASE);
}

/* NULL: no memory. */
static struct ox_vhost_mapping *take_place(void)
{
	struct ox_vhost_mapping *place = places;

	while (place && place->base_bytes > 0)
		place = place->next;
	if (place)
		return place;
	place = calloc(1, sizeof(*place));
	if (!place)
		return NULL;
	place->next = places;
	__atomic_store_n(&places, place, __ATOMIC_RELEASE);
	return place;
}

static int register_mapping(void *base, size_t bytes, uint64_t skip, struct ox_vhost_mapping **ret)
{
	struct ox_vhost_mapping *place = NULL;
	int code;

	pthread_mutex_lock(&lock);
	code = install();
	if (code == 0) {
		place = take_place();
		code = place ? 0 : -ENOMEM;
	}
	if (place) {
		place->start = (uint8_t *)base + skip;
		set_extent(place, (uintptr_t)base, bytes);
		*ret = place;
	}
	pthread_mutex_unlock(&lock);
	return code;
}

/* ---- files ---- */

/* Mappings of huge pages begin and end at such. 0: its kind is not known. */
static uint64_t page_bytes(int fd)
{
	struct statfs fs;
	const uint64_t usual = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t huge;

	if (fstatfs(fd, &fs) < 0)
		return 0;
	if (fs.f_type != HUGETLBFS_MAGIC)
		return usual;
	huge = (uint64_t)fs.f_bsize;
	return huge >= usual && (huge & (huge - 1)) == 0 ? huge : 0;
}

static int check_file(int fd, uint64_t offset, uint64_t bytes)
{
	struct stat st;
	uint64_t end;

	if (bytes == 0 || __builtin_add_overflow(offset, bytes, &end) || end > INT64_MAX)
		return -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	return (uint64_t)st.st_size < end ? -EFBIG : 0;
}

int ox_vhost_mapping_open(int fd, uint64_t offset, uint64_t bytes, struct ox_vhost_mapping **ret)
{
	int code = check_file(fd, offset, bytes);
	uint64_t page, skip, length;
	void *base;

	if (code < 0)
		return code;
	page = page_bytes(fd);
	if (page == 0)
		return -EINVAL;
	skip = offset & (page - 1);
	if (__builtin_add_overflow(bytes, skip + page - 1, &length) || length > SIZE_MAX)
		return -EINVAL;
	length &= ~(page - 1);
	base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		    (off_t)(offset - skip));
	if (base == MAP_FAILED)
		return -errno;
	/* A guest's memory has no place in a core dump of ours. */
	(void)madvise(base, length, MADV_DONTDUMP);
	code = register_mapping(base, length, skip, ret);
	if (code < 0)
		(void)munmap(base, length);
	return code;
}

void ox_vhost_mapping_close(struct ox_vhost_mapping *mapping)
{
	void *base;
	size_t bytes;

	if (!mapping)
		return;
	pthread_mutex_lock(&lock);
	base = (void *)mapping->base;
	bytes = mapping->base_bytes;
	/* Forgotten first: once it is unmapped, another's mapping may come to lie there. */
	set_extent(mapping, 0, 0);
	if (__atomic_exchange_n(&mapping->broken, false, __ATOMIC_ACQ_REL))
		__atomic_sub_fetch(&broken_count, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&lock);
	(void)munmap(base, bytes);
}

uint8_t *ox_vhost_mapping_start(const struct ox_vhost_mapping *mapping)
{
	return mapping->start;
}

bool ox_vhost_mapping_is_broken(const struct ox_vhost_mapping *mapping)
{
	return __atomic_load_n(&mapping->broken, __ATOMIC_ACQUIRE);
}

bool ox_vhost_mapping_some_are_broken(void)
{
	return __atomic_load_n(&broken_count, __ATOMIC_ACQUIRE) > 0;
}
