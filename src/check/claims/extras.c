/* SPDX-License-Identifier: MIT */
/* The header's extensions, and the files that an image names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/claims/claims.h"
#include "check/view/files.h"

static int judge_backing_file(struct ox_view *v, const uint8_t *cluster)
{
	struct ox_error *err = NULL;
	char *name = NULL;
	int r = ox_qcow2_backing_name(&v->h, cluster, v->cluster_bytes, &name, &err);

	if (r == -EINVAL)
		ox_journal_found(
			v->j, OX_FOUND_HEADER_BACKING,
			OX_FOUND(.word = ox_error_message(err), .guest_length = v->h.size_bytes));
	ox_error_free(err);
	if (r < 0)
		return r == -EINVAL ? 0 : r;
	r = ox_files_judge(v->j, v->io->name, name, OX_FOUND_BACKING_MISSING);
	free(name);
	return r;
}

/* ---- extensions ---- */

static int claim_crypto(struct ox_view *v, struct ox_ledger *k,
			const struct ox_qcow2_extensions *ext)
{
	struct ox_found what = {.guest_length = v->h.size_bytes};

	if (!ext->has_crypto && v->h.crypt_method == OX_QCOW2_CRYPT_LUKS)
		what.word = "there is none";
	else if (!ox_is_aligned(ext->crypto_offset, v->cluster_bytes))
		what.word = "it is not cluster aligned";
	if (what.word) {
		ox_journal_found(v->j, OX_FOUND_CRYPTO_HEADER, what);
		return 0;
	}
	if (!ext->has_crypto)
		return 0;
	return ox_ledger_claim(k, "Encryption header", ext->crypto_offset, ext->crypto_bytes);
}

static int claim_decoded_co(struct ox_view *v, struct ox_ledger *k,
			    const struct ox_qcow2_extensions *ext)
{
	int r = claim_crypto(v, k, ext);

	/* Without the bit nobody vouches for the bitmaps: their clusters are leaks. */
	if (r >= 0 && ext->has_bitmaps && (v->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		r = ox_claims_bitmaps_co(v, k, &ext->bitmaps);
	if (!ext->has_bitmaps && (v->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		ox_view_lose_bitmaps(v);
	if (r >= 0 && v->has_data_file)
		r = ox_files_judge(v->j, v->io->name, ext->data_file, OX_FOUND_DATA_FILE_MISSING);
	return r;
}

static int decode_extensions(struct ox_view *v, uint8_t *cluster, struct ox_qcow2_extensions *ret)
{
	struct ox_error *err = NULL;
	int r = ox_qcow2_extensions_decode(&v->h, cluster, v->cluster_bytes, ret, &err);

	if (r == -EINVAL && ox_view_mend_extensions(v, cluster, ox_error_message(err))) {
		ox_error_free(err);
		err = NULL;
		r = ox_qcow2_extensions_decode(&v->h, cluster, v->cluster_bytes, ret, &err);
	}
	/* Only bitmaps and keys have clusters that nothing else names. */
	if (r == -EINVAL)
		ox_journal_found(
			v->j, OX_FOUND_EXTENSIONS,
			OX_FOUND(.word = ox_error_message(err),
				 .is_apart = !(v->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS) &&
					     v->h.crypt_method == OX_QCOW2_CRYPT_NONE &&
					     !v->dirty));
	ox_error_free(err);
	return r;
}

static void found_backing(struct ox_view *v)
{
	ox_journal_found(v->j, OX_FOUND_HEADER_BACKING,
			 OX_FOUND(.word = v->faults.text[OX_QCOW2_FAULT_BACKING],
				  .guest_length = v->h.size_bytes));
}

static int judge_first_cluster_co(struct ox_view *v, struct ox_ledger *k, uint8_t *cluster)
{
	struct ox_qcow2_extensions ext;
	int r = judge_backing_file(v, cluster);

	if (r < 0)
		return r;
	/* Where the list of extensions begins is not known if the header's length is wrong. */
	if (v->faults.found[OX_QCOW2_FAULT_LENGTH] && !ox_view_mend_header_length(v, cluster)) {
		ox_journal_found(v->j, OX_FOUND_HEADER_LENGTH,
				 OX_FOUND(.word = v->faults.text[OX_QCOW2_FAULT_LENGTH]));
		if (v->faults.found[OX_QCOW2_FAULT_BACKING])
			found_backing(v);
		return 0;
	}
	r = ox_claims_judge_directory_co(v, k, cluster);
	if (r < 0)
		return r;
	r = decode_extensions(v, cluster, &ext);
	if (v->faults.found[OX_QCOW2_FAULT_BACKING] &&
	    (r < 0 || !ox_view_mend_backing(v, cluster, &ext)))
		found_backing(v);
	if (r == 0) {
		ox_view_judge_list_end(v, cluster, ext.end_offset);
		ox_view_set_list(v, &ext, ox_view_find_extension(v, cluster, OX_QCOW2_EXT_BITMAPS));
		r = claim_decoded_co(v, k, &ext);
		ox_qcow2_extensions_free(&ext);
	}
	return r == -EINVAL ? 0 : r;
}

int ox_claims_extensions_co(struct ox_view *v, struct ox_ledger *k)
{
	uint8_t *cluster = calloc(1, v->cluster_bytes);
	int r;

	if (!cluster)
		return -ENOMEM;
	r = ox_io_pread_co(v->io, cluster, v->cluster_bytes, 0);
	if (r < 0) {
		r = ox_journal_unreadable(v->j, "Header", 0, r);
	} else {
		r = judge_first_cluster_co(v, k, cluster);
	}
	free(cluster);
	return r;
}
