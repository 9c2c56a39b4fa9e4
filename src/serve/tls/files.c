/* SPDX-License-Identifier: MIT */
#include "serve/tls/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x6f78626f77746c73)
/* Nobody writes to it any more, through any descriptor. */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)
#define ABSENT UINT32_MAX
/* Before rules that are no file's. */
#define TEXT "json:"

/* At the beginning; the bytes of the files follow, in their order. */
struct header {
	uint64_t magic;
	uint32_t count; /* OX_TLS_FILES */
	uint32_t bytes[OX_TLS_FILES];
};

_Static_assert(sizeof(struct header) == 40, "no padding");

static const char *const names[OX_TLS_FILES] = {
	[OX_TLS_CA_CERT] = "ca-cert.pem",	  [OX_TLS_CA_CRL] = "ca-crl.pem",
	[OX_TLS_SERVER_CERT] = "server-cert.pem", [OX_TLS_SERVER_KEY] = "server-key.pem",
	[OX_TLS_DH_PARAMS] = "dh-params.pem",	  [OX_TLS_KEYS_PSK] = "keys.psk",
};

const char *ox_tls_file_name(enum ox_tls_file file)
{
	return names[file];
}

/* ---- written ---- */

static int fail(struct ox_serve_error *error, int code, const char *directory, const char *name,
		const char *what)
{
	snprintf(error->message, sizeof(error->message), "TLS credentials '%s/%s': %s", directory,
		 name, what);
	return code;
}

static int write_all(int fd, const void *bytes, size_t count)
{
	const char *at = bytes;

	while (count > 0) {
		ssize_t done = write(fd, at, count);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		at += done;
		count -= (size_t)done;
	}
	return 0;
}

/* Appends what is in from, so much at the most; its length, or a negative errno. */
static int64_t copy(int from, int to, int64_t most)
{
	char piece[16384];
	int64_t total = 0;
	ssize_t got;
	int ret = 0;

	while ((got = read(from, piece, sizeof(piece))) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		total += got;
		if (total > most)
			return -EFBIG;
		ret = write_all(to, piece, (size_t)got);
		if (ret < 0)
			break;
	}
	explicit_bzero(piece, sizeof(piece));
	return ret < 0 ? ret : total;
}

/* As copy; ABSENT where there is none. */
static int64_t copy_file(int directory, const char *name, int to, int64_t most)
{
	/* Neither a terminal nor a pipe is waited for. */
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int64_t ret;

	if (fd < 0)
		return errno == ENOENT ? (int64_t)ABSENT : -errno;
	if (fstat(fd, &st) < 0)
		ret = -errno;
	else if (!S_ISREG(st.st_mode))
		ret = -EINVAL;
	else
		ret = copy(fd, to, most);
	close(fd);
	return ret;
}

/* What is missing that the others are no use without; NULL: nothing. */
static const char *missing(const struct header *header, bool verify_peer)
{
	const bool has_rules = header->bytes[OX_TLS_RULES] != ABSENT;
	const bool has_cert = header->bytes[OX_TLS_SERVER_CERT] != ABSENT;
	const bool has_key = header->bytes[OX_TLS_SERVER_KEY] != ABSENT;

	if (!has_cert && (has_key || has_rules || header->bytes[OX_TLS_KEYS_PSK] == ABSENT))
		return names[OX_TLS_SERVER_CERT];
	if (has_cert && !has_key)
		return names[OX_TLS_SERVER_KEY];
	if (verify_peer && has_cert && header->bytes[OX_TLS_CA_CERT] == ABSENT)
		return names[OX_TLS_CA_CERT];
	return NULL;
}

static const char *words_for(int64_t bytes)
{
	return bytes == -EINVAL ? "it is no regular file" : strerror((int)-bytes);
}

/* As copy, of text. */
static int64_t copy_text(const char *text, int to, int64_t most)
{
	const size_t bytes = strlen(text);
	int ret = (int64_t)bytes > most ? -EFBIG : write_all(to, text, bytes);

	return ret < 0 ? ret : (int64_t)bytes;
}

/* ABSENT where there are to be none. */
static int64_t copy_rules(const char *authz, int to, struct ox_serve_error *error)
{
	const bool is_text = authz && strncmp(authz, TEXT, strlen(TEXT)) == 0;
	int64_t bytes;

	if (!authz)
		return ABSENT;
	bytes = is_text ? copy_text(authz + strlen(TEXT), to, OX_TLS_RULES_MAX)
			: copy_file(AT_FDCWD, authz, to, OX_TLS_RULES_MAX);
	if (!is_text && bytes == ABSENT)
		bytes = -ENOENT;
	if (bytes < 0)
		snprintf(error->message, sizeof(error->message), "TLS rules '%s': %s",
			 is_text ? TEXT : authz, words_for(bytes));
	return bytes;
}

static const char *words_without(const char *name, const struct header *header)
{
	if (name != names[OX_TLS_SERVER_CERT])
		return "there is no such file";
	if (header->bytes[OX_TLS_RULES] != ABSENT)
		return "there is no such file, and --tls-authz is for certificates";
	return "there is no such file, and no keys.psk without it";
}

static int fill(int directory_fd, const struct ox_serve_tls_source *source, int fd,
		struct ox_serve_error *error)
{
	const char *const directory = source->directory;
	struct header header = {.magic = MAGIC, .count = OX_TLS_FILES};
	const char *name;
	int64_t bytes;
	int ret = write_all(fd, &header, sizeof(header));

	for (int i = 0; i < OX_TLS_RULES && ret == 0; i++) {
		bytes = copy_file(directory_fd, names[i], fd, OX_TLS_FILE_MAX);
		if (bytes < 0)
			return fail(error, (int)bytes, directory, names[i], words_for(bytes));
		header.bytes[i] = (uint32_t)bytes;
	}
	bytes = copy_rules(source->authz, fd, error);
	if (bytes < 0)
		return (int)bytes;
	header.bytes[OX_TLS_RULES] = (uint32_t)bytes;
	name = missing(&header, source->verify_peer);
	if (ret == 0 && name)
		return fail(error, -ENOENT, directory, name, words_without(name, &header));
	if (ret == 0 && pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		ret = -EIO;
	if (ret == 0 && fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		ret = -errno;
	return ret < 0 ? fail(error, ret, directory, "", strerror(-ret)) : 0;
}

int ox_serve_tls_read(const struct ox_serve_tls_source *source, struct ox_serve_error *ret_error)
{
	const char *const directory = source->directory;
	int directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ret;
	int fd;

	if (directory_fd < 0) {
		ret = -errno;
		snprintf(ret_error->message, sizeof(ret_error->message), "TLS credentials '%s': %s",
			 directory, strerror(-ret));
		return ret;
	}
	fd = memfd_create("oxbow-tls", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ret = fd < 0 ? fail(ret_error, -errno, directory, "", strerror(errno))
		     : fill(directory_fd, source, fd, ret_error);
	close(directory_fd);
	if (ret < 0 && fd >= 0)
		close(fd);
	return ret < 0 ? ret : fd;
}

/* ---- read ---- */

static int find(const struct header *header, struct ox_tls_files *files)
{
	const uint8_t *at = (const uint8_t *)(header + 1);
	size_t left = files->mapped_bytes - sizeof(*header);

	if (header->magic != MAGIC || header->count != OX_TLS_FILES)
		return -EBADMSG;
	for (int i = 0; i < OX_TLS_FILES; i++) {
		const uint32_t bytes = header->bytes[i];

		if (bytes == ABSENT)
			continue;
		if (bytes > left)
			return -EBADMSG;
		files->files[i].data = at;
		files->files[i].bytes = bytes;
		at += bytes;
		left -= bytes;
	}
	return left == 0 ? 0 : -EBADMSG;
}

int ox_tls_files_map(int fd, struct ox_tls_files *ret)
{
	struct ox_tls_files files = {0};
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int code;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 ||
	    st.st_size < (off_t)sizeof(struct header))
		return -EBADMSG;
	files.mapped_bytes = (size_t)st.st_size;
	/* Not shared: older kernels take that for a way to write. */
	files.mapped = mmap(NULL, files.mapped_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (files.mapped == MAP_FAILED)
		return -errno;
	(void)madvise(files.mapped, files.mapped_bytes, MADV_DONTDUMP);
	code = find(files.mapped, &files);
	if (code < 0)
		ox_tls_files_unmap(&files);
	else
		*ret = files;
	return code;
}

void ox_tls_files_unmap(struct ox_tls_files *files)
{
	if (files->mapped)
		munmap(files->mapped, files->mapped_bytes);
	*files = (struct ox_tls_files){0};
}
