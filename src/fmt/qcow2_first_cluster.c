/* SPDX-License-Identifier: MIT */
/* The first cluster of a new image: header, extensions, backing name. */
#include "fmt/qcow2.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "fmt/qcow2_features.h"

#define EXTENSION_HEAD_BYTES 8u

/* Appends at *pos and advances it, padded to 8. The caller knows that it fits. */
static void put_extension(uint8_t *cluster, size_t *pos, uint32_t type, const void *data,
			  size_t bytes)
{
	struct ox_be32 head[2] = {ox_be32(type), ox_be32((uint32_t)bytes)};

	_Static_assert(sizeof(head) == EXTENSION_HEAD_BYTES, "type and length");
	memcpy(cluster + *pos, head, sizeof(head));
	memcpy(cluster + *pos + sizeof(head), data, bytes);
	*pos += ox_align_up(sizeof(head) + bytes, 8);
}

/* Room for the end marker is part of it, so that a reader never runs into the backing name. */
static size_t bytes_needed(const struct ox_qcow2_header *h, size_t format_bytes, size_t name_bytes)
{
	size_t extensions = EXTENSION_HEAD_BYTES;

	if (format_bytes)
		extensions += ox_align_up(EXTENSION_HEAD_BYTES + format_bytes, 8);
	return h->header_length + extensions + name_bytes;
}

int ox_qcow2_first_cluster_encode(struct ox_qcow2_header *h, const char *backing_name,
				  const char *backing_format, uint8_t *cluster,
				  size_t cluster_bytes, struct ox_error **err)
{
	size_t name_bytes = backing_name ? strlen(backing_name) : 0;
	size_t format_bytes = backing_format ? strlen(backing_format) : 0;
	size_t names_bytes = EXTENSION_HEAD_BYTES + sizeof(ox_qcow2_features);
	struct ox_qcow2_header fresh = *h;
	size_t pos, needed;

	ox_assert(cluster_bytes == ox_qcow2_cluster_bytes(h));
	fresh.header_length = h->version >= 3 ? (uint32_t)sizeof(struct ox_qcow2_disk_header)
					      : OX_QCOW2_HEADER_V2_BYTES;
	if (name_bytes > OX_QCOW2_MAX_BACKING_NAME)
		return ox_error_set(err, -EINVAL, "Backing file name too long");
	needed = bytes_needed(&fresh, format_bytes, name_bytes);
	if (needed > cluster_bytes)
		return ox_error_set(err, -EINVAL,
				    "Backing file name and format do not fit into the first "
				    "cluster of %zu bytes",
				    cluster_bytes);

	memset(cluster, 0, cluster_bytes);
	pos = fresh.header_length;
	if (format_bytes)
		put_extension(cluster, &pos, OX_QCOW2_EXT_BACKING_FORMAT, backing_format,
			      format_bytes);
	/* The names are a courtesy to other programs; a small cluster goes without them. */
	if (h->version >= 3 && names_bytes <= cluster_bytes - needed)
		put_extension(cluster, &pos, OX_QCOW2_EXT_FEATURE_NAMES, ox_qcow2_features,
			      sizeof(ox_qcow2_features));
	pos += EXTENSION_HEAD_BYTES;
	fresh.backing_offset = name_bytes ? pos : 0;
	fresh.backing_size = (uint32_t)name_bytes;
	if (name_bytes)
		memcpy(cluster + pos, backing_name, name_bytes);
	ox_qcow2_header_encode(&fresh, cluster);
	*h = fresh;
	return 0;
}
