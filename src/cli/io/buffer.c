/* SPDX-License-Identifier: MIT */
/* Memory of requests. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

/* As O_DIRECT wants it on any device. */
#define ALIGNMENT 4096
/* Where a misaligned buffer begins within an aligned one. */
#define MISALIGNMENT 16

int ox_cli_io_buffer_new(const struct ox_cli_io *io, size_t size, int fill,
			 struct ox_cli_io_buffer *ret_buffer)
{
	struct ox_cli_io_buffer buffer = {.size = size};
	size_t skip = io->misalign ? MISALIGNMENT : 0;
	int r = posix_memalign(&buffer.allocation, ALIGNMENT, size + skip + 1);

	if (r) {
		printf("%s\n", strerror(r));
		return -r;
	}
	buffer.data = (uint8_t *)buffer.allocation + skip;
	memset(buffer.data, fill, size);
	*ret_buffer = buffer;
	return 0;
}

void ox_cli_io_buffer_free(struct ox_cli_io_buffer *buffer)
{
	free(buffer->allocation);
	*buffer = (struct ox_cli_io_buffer){0};
}

static int parse_lengths(struct ox_cli_io_vector *vector, char **lengths, uint64_t *ret_total)
{
	uint64_t total = 0;

	for (int i = 0; i < vector->count; i++) {
		uint64_t length;
		int r = ox_cli_io_parse_number(lengths[i], &length);

		if (r < 0)
			return r;
		if (length > OX_CLI_IO_REQUEST_MAX) {
			printf("Argument '%s' exceeds maximum size %llu\n", lengths[i],
			       OX_CLI_IO_REQUEST_MAX);
			return -EINVAL;
		}
		if (total + length > OX_CLI_IO_REQUEST_MAX) {
			printf("The total number of bytes exceed the maximum size %llu\n",
			       OX_CLI_IO_REQUEST_MAX);
			return -EINVAL;
		}
		vector->iov[i].iov_len = length;
		total += length;
	}
	*ret_total = total;
	return 0;
}

int ox_cli_io_vector_new(const struct ox_cli_io *io, char **lengths, int count, int fill,
			 struct ox_cli_io_vector *ret_vector)
{
	struct ox_cli_io_vector vector = {.count = count};
	uint64_t total;
	uint8_t *at;
	int r;

	vector.iov = calloc((size_t)count, sizeof(*vector.iov));
	if (!vector.iov)
		return -ENOMEM;
	r = parse_lengths(&vector, lengths, &total);
	if (r == 0)
		r = ox_cli_io_buffer_new(io, total, fill, &vector.buffer);
	if (r < 0) {
		free(vector.iov);
		return r;
	}
	at = vector.buffer.data;
	for (int i = 0; i < count; i++) {
		vector.iov[i].iov_base = at;
		at += vector.iov[i].iov_len;
	}
	*ret_vector = vector;
	return 0;
}

void ox_cli_io_vector_free(struct ox_cli_io_vector *vector)
{
	ox_cli_io_buffer_free(&vector->buffer);
	free(vector->iov);
	*vector = (struct ox_cli_io_vector){0};
}

bool ox_cli_io_in_bounds(const struct ox_cli_io *io, uint64_t offset, uint64_t count)
{
	uint64_t size = ox_image_size(io->image);

	return offset <= size && count <= size - offset;
}
