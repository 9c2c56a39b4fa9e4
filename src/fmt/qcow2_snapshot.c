/* SPDX-License-Identifier: MIT */
/* Records of the snapshot table. Their L1 tables are for the caller to judge. */
#include "fmt/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

struct disk_snapshot {
	struct ox_be64 l1_offset;
	struct ox_be32 l1_size;
	struct ox_be16 id_bytes;
	struct ox_be16 name_bytes;
	struct ox_be32 date_seconds;
	struct ox_be32 date_nanoseconds;
	struct ox_be64 vm_clock_ns;
	struct ox_be32 vm_state_bytes;
	struct ox_be32 extra_bytes;
} __attribute__((packed));

/* What extra data is known; a record may have a shorter or a longer one. */
struct disk_snapshot_extra {
	struct ox_be64 vm_state_bytes;
	struct ox_be64 disk_bytes;
	struct ox_be64 icount;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_snapshot) == 40, "as the specification has it");
_Static_assert(offsetof(struct disk_snapshot, vm_clock_ns) == 24, "as the specification has it");
_Static_assert(sizeof(struct disk_snapshot_extra) == 24, "as the specification has it");

/* Fields of the extra data count where it is long enough to hold them whole. */
static void decode_extra(const struct ox_qcow2_header *h, const struct disk_snapshot *disk,
			 const uint8_t *bytes, struct ox_qcow2_snapshot *s)
{
	struct disk_snapshot_extra extra;

	s->extra_bytes = ox_be32_get(disk->extra_bytes);
	memcpy(&extra, bytes, ox_min_u64(s->extra_bytes, sizeof(extra)));
	s->vm_state_bytes = ox_be32_get(disk->vm_state_bytes);
	s->disk_bytes = h->size_bytes;
	s->icount = UINT64_MAX;
	if (s->extra_bytes >= offsetof(struct disk_snapshot_extra, disk_bytes))
		s->vm_state_bytes = ox_be64_get(extra.vm_state_bytes);
	if (s->extra_bytes >= offsetof(struct disk_snapshot_extra, icount))
		s->disk_bytes = ox_be64_get(extra.disk_bytes);
	if (s->extra_bytes >= sizeof(extra))
		s->icount = ox_be64_get(extra.icount);
}

int ox_qcow2_snapshot_decode(const struct ox_qcow2_header *h, const uint8_t *bytes, size_t count,
			     size_t *pos, struct ox_qcow2_snapshot *ret, struct ox_error **err)
{
	struct disk_snapshot disk;
	struct ox_qcow2_snapshot s;
	uint64_t extra_bytes, id_bytes, name_bytes, end;

	if (!ox_range_within(*pos, sizeof(disk), count))
		return ox_error_set(err, -EINVAL, "Snapshot table is cut short");
	memcpy(&disk, bytes + *pos, sizeof(disk));
	extra_bytes = ox_be32_get(disk.extra_bytes);
	id_bytes = ox_be16_get(disk.id_bytes);
	name_bytes = ox_be16_get(disk.name_bytes);
	if (extra_bytes > OX_QCOW2_MAX_SNAPSHOT_EXTRA)
		return ox_error_set(err, -EINVAL,
				    "Too much extra metadata in snapshot table entry (%u bytes)",
				    (unsigned)extra_bytes);
	bytes += *pos + sizeof(disk);
	end = *pos + sizeof(disk) + extra_bytes + id_bytes + name_bytes;
	if (end > count)
		return ox_error_set(err, -EINVAL, "Snapshot table is cut short");

	s = (struct ox_qcow2_snapshot){
		.l1_offset = ox_be64_get(disk.l1_offset),
		.l1_entries = ox_be32_get(disk.l1_size),
		.date_seconds = ox_be32_get(disk.date_seconds),
		.date_nanoseconds = ox_be32_get(disk.date_nanoseconds),
		.vm_clock_ns = ox_be64_get(disk.vm_clock_ns),
		.id = strndup((const char *)bytes + extra_bytes, id_bytes),
		.name = strndup((const char *)bytes + extra_bytes + id_bytes, name_bytes),
	};
	if (!s.id || !s.name) {
		ox_qcow2_snapshot_free(&s);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	decode_extra(h, &disk, bytes, &s);
	*ret = s;
	/* The last record's padding need not be there. */
	*pos = ox_min_u64(ox_align_up(end, 8), count);
	return 0;
}

/* ---- encoding ---- */

static size_t extra_bytes_of(const struct ox_qcow2_header *h, const struct ox_qcow2_snapshot *s)
{
	if (s->icount != UINT64_MAX)
		return sizeof(struct disk_snapshot_extra);
	return h->version >= 3 || s->extra_bytes > 0 ? OX_QCOW2_SNAPSHOT_EXTRA_BYTES : 0;
}

size_t ox_qcow2_snapshot_bytes(const struct ox_qcow2_header *h, const struct ox_qcow2_snapshot *s)
{
	return ox_align_up(sizeof(struct disk_snapshot) + extra_bytes_of(h, s) + strlen(s->id) +
				   strlen(s->name),
			   8);
}

size_t ox_qcow2_snapshot_encode(const struct ox_qcow2_header *h, const struct ox_qcow2_snapshot *s,
				uint8_t *bytes)
{
	size_t extra_bytes = extra_bytes_of(h, s);
	struct disk_snapshot disk = {
		.l1_offset = ox_be64(s->l1_offset),
		.l1_size = ox_be32(s->l1_entries),
		.id_bytes = ox_be16((uint16_t)strlen(s->id)),
		.name_bytes = ox_be16((uint16_t)strlen(s->name)),
		.date_seconds = ox_be32(s->date_seconds),
		.date_nanoseconds = ox_be32(s->date_nanoseconds),
		.vm_clock_ns = ox_be64(s->vm_clock_ns),
		.vm_state_bytes = ox_be32((uint32_t)ox_min_u64(s->vm_state_bytes, UINT32_MAX)),
		.extra_bytes = ox_be32((uint32_t)extra_bytes),
	};
	struct disk_snapshot_extra extra = {
		.vm_state_bytes = ox_be64(s->vm_state_bytes),
		.disk_bytes = ox_be64(s->disk_bytes),
		.icount = ox_be64(s->icount),
	};

	ox_assert(strlen(s->id) <= UINT16_MAX && strlen(s->name) <= UINT16_MAX);
	memcpy(bytes, &disk, sizeof(disk));
	bytes += sizeof(disk);
	memcpy(bytes, &extra, extra_bytes);
	bytes += extra_bytes;
	memcpy(bytes, s->id, strlen(s->id));
	memcpy(bytes + strlen(s->id), s->name, strlen(s->name));
	return ox_qcow2_snapshot_bytes(h, s);
}

void ox_qcow2_snapshot_free(struct ox_qcow2_snapshot *s)
{
	if (!s)
		return;
	free(s->id);
	free(s->name);
	*s = (struct ox_qcow2_snapshot){0};
}
