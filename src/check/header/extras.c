/* SPDX-License-Identifier: MIT */
/* The header's extensions, and the files that an image names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/path.h"
#include "check/walk/walk.h"

/* ---- other files ---- */

/* Only whether there is such a file: it is not opened, and no URL or option is one. */
int ox_walk_judge_file(struct ox_walk *w, const char *name, enum ox_finding_id id)
{
	const char *colon = name ? strchr(name, ':') : NULL;
	char *path;

	if (!name || (colon && !memchr(name, '/', (size_t)(colon - name))))
		return 0;
	path = ox_path_beside(w->io->name, name);
	if (!path)
		return -ENOMEM;
	if (access(path, F_OK) < 0 && errno == ENOENT)
		ox_walk_found(w, id, OX_FOUND(.word = name));
	free(path);
	return 0;
}

static int judge_backing_file(struct ox_walk *w, const uint8_t *cluster)
{
	struct ox_error *err = NULL;
	char *name = NULL;
	int r = ox_qcow2_backing_name(&w->h, cluster, w->cluster_bytes, &name, &err);

	if (r == -EINVAL)
		ox_walk_found(
			w, OX_FOUND_HEADER_BACKING,
			OX_FOUND(.word = ox_error_message(err), .guest_length = w->h.size_bytes));
	ox_error_free(err);
	if (r < 0)
		return r == -EINVAL ? 0 : r;
	r = ox_walk_judge_file(w, name, OX_FOUND_BACKING_MISSING);
	free(name);
	return r;
}

/* ---- extensions ---- */

static int claim_crypto(struct ox_walk *w, const struct ox_qcow2_extensions *ext)
{
	struct ox_found what = {.guest_length = w->h.size_bytes};

	if (!ext->has_crypto && w->h.crypt_method == OX_QCOW2_CRYPT_LUKS)
		what.word = "there is none";
	else if (!ox_is_aligned(ext->crypto_offset, w->cluster_bytes))
		what.word = "it is not cluster aligned";
	if (what.word) {
		ox_walk_found(w, OX_FOUND_CRYPTO_HEADER, what);
		return 0;
	}
	if (!ext->has_crypto)
		return 0;
	return ox_walk_claim(w, "Encryption header", ext->crypto_offset, ext->crypto_bytes);
}

static int claim_decoded_co(struct ox_walk *w, const struct ox_qcow2_extensions *ext)
{
	int r = claim_crypto(w, ext);

	if (w->dirty && ox_is_aligned(ext->fence_bytes, w->cluster_bytes) &&
	    ext->fence_bytes < w->file_bytes)
		w->fence_bytes = ext->fence_bytes;
	w->has_fence = ext->fence_bytes != 0;
	w->list_end_offset = ext->end_offset;
	/* Without the bit nobody vouches for the bitmaps: their clusters are leaks. */
	if (r >= 0 && ext->has_bitmaps && (w->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		r = ox_walk_claim_bitmaps_co(w, &ext->bitmaps);
	w->lost_bitmaps = !ext->has_bitmaps && (w->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS);
	if (w->lost_bitmaps)
		ox_walk_found(w, OX_FOUND_HEADER_AUTOCLEAR, OX_FOUND(.word = OX_WALK_LOST_BITMAPS));
	if (r >= 0 && w->has_data_file)
		r = ox_walk_judge_file(w, ext->data_file, OX_FOUND_DATA_FILE_MISSING);
	return r;
}

static int decode_extensions(struct ox_walk *w, uint8_t *cluster, struct ox_qcow2_extensions *ret)
{
	struct ox_error *err = NULL;
	int r = ox_qcow2_extensions_decode(&w->h, cluster, w->cluster_bytes, ret, &err);

	if (r == -EINVAL && ox_walk_mend_extensions(w, cluster, ox_error_message(err))) {
		ox_error_free(err);
		err = NULL;
		r = ox_qcow2_extensions_decode(&w->h, cluster, w->cluster_bytes, ret, &err);
	}
	if (r == -EINVAL)
		ox_walk_found(w, OX_FOUND_EXTENSIONS, OX_FOUND(.word = ox_error_message(err)));
	ox_error_free(err);
	return r;
}

static void found_backing(struct ox_walk *w)
{
	ox_walk_found(w, OX_FOUND_HEADER_BACKING,
		      OX_FOUND(.word = w->faults.text[OX_QCOW2_FAULT_BACKING],
			       .guest_length = w->h.size_bytes));
}

static int judge_first_cluster_co(struct ox_walk *w, uint8_t *cluster)
{
	struct ox_qcow2_extensions ext;
	int r = judge_backing_file(w, cluster);

	if (r < 0)
		return r;
	/* Where the list of extensions begins is not known if the header's length is wrong. */
	if (w->faults.found[OX_QCOW2_FAULT_LENGTH] && !ox_walk_mend_header_length(w, cluster)) {
		ox_walk_found(w, OX_FOUND_HEADER_LENGTH,
			      OX_FOUND(.word = w->faults.text[OX_QCOW2_FAULT_LENGTH]));
		if (w->faults.found[OX_QCOW2_FAULT_BACKING])
			found_backing(w);
		return 0;
	}
	r = ox_walk_judge_bitmaps_co(w, cluster);
	if (r < 0)
		return r;
	r = decode_extensions(w, cluster, &ext);
	if (w->faults.found[OX_QCOW2_FAULT_BACKING] &&
	    (r < 0 || !ox_walk_mend_backing(w, cluster, &ext)))
		found_backing(w);
	if (r == 0) {
		ox_walk_judge_list_end(w, cluster, ext.end_offset);
		w->bitmaps_at = ox_walk_find_extension(w, cluster, OX_QCOW2_EXT_BITMAPS);
		r = claim_decoded_co(w, &ext);
		ox_qcow2_extensions_free(&ext);
	}
	return r == -EINVAL ? 0 : r;
}

int ox_walk_claim_extensions_co(struct ox_walk *w)
{
	uint8_t *cluster = calloc(1, w->cluster_bytes);
	int r;

	if (!cluster)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, cluster, w->cluster_bytes, 0);
	if (r < 0) {
		r = ox_walk_unreadable(w, "Header", 0, r);
	} else {
		r = judge_first_cluster_co(w, cluster);
	}
	free(cluster);
	return r;
}
