# SPDX-License-Identifier: MIT
"""Mutants of what writes QED images: fields as those of SIM_MUTANTS in mutants.py. With those of what both
formats share, most lines of the tables "Invariants for writing" and "On disk, in order" in docs/qed.md are
broken once at least."""

QED_MUTANTS = [
    # ---- first allocation: NEED_CHECK -> sync ----
    ("qed_mark_not_set", "D5", "img/qed/alloc.c",
     [("\tr = ox_dirty_set_co(&q->m);\n\tif (r < 0)\n\t\treturn r;\n", ""),
      ("\tox_assert(q->m.dirty.state == OX_DIRTY_SET); /* D5 */\n", "")],
     "entries name new clusters without NEED_CHECK"),
    ("qed_mark_not_synced", "D5", "img/qed/header.c",
     [("\t\tr = ox_order_sync_always_co(&q->m.order);\n", "\t\tr = 0;\n")],
     "nothing waits for NEED_CHECK to be durable"),
    ("qed_mark_forgotten_by_a_resize", "D5", "img/qed/header.c",
     [("\th.size_bytes = new_bytes;\n\tr = ox_qed_write_header_co(q, &h, NULL);\n",
       "\th.size_bytes = new_bytes;\n\th.features &= ~(uint64_t)OX_QED_NEED_CHECK;\n"
       "\tr = ox_qed_write_header_co(q, &h, NULL);\n")],
     "a resize writes the header without the mark"),
    # ---- refill: the file grows, reads as zeroes -> sync ----
    ("qed_batch_not_synced", "D8", "img/qed/alloc.c",
     [("\treturn ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));\n", "\treturn 0;\n")],
     "clusters are handed out before the file is durably so long"),
    ("qed_short_end_taken", "D2", "img/qed/alloc.c",
     [("\tuint64_t end = ox_div_up(q->m.io->length, q->m.cluster_bytes);\n\tunsigned n = 0;\n\n\tif (run > 1",
       "\tuint64_t end = q->m.io->length / q->m.cluster_bytes - 1;\n\tunsigned n = 0;\n\n\tif (run > 1")],
     "the file's last cluster is handed out again"),
    ("qed_table_too_short", "D2", "img/qed/alloc.c",
     [("!ox_alloc_pop_run(m, m->table_clusters, ret)", "!ox_alloc_pop_run(m, 1, ret)")],
     "a table of several clusters gets one"),
    # ---- a new L2 table ----
    ("qed_table_of_old_bytes", "D1", "img/qed/map.c",
     [("\tif (!range.zero) {\n", "\tif (false) {\n")],
     "a new table holds what its clusters held before"),
    # ---- zeroes, discard: what was freed ----
    ("qed_freed_is_forgotten", "D4", "img/qed/alloc.c",
     [("\t(void)ox_ranges_add(&ox_qed_of(m)->free, start, start + n);\n", "")],
     "a guest that trims makes the file longer for ever"),
    ("qed_table_freed_as_data", "D2", "img/qed/census.c",
     [("\tuint64_t end = q->opened_clusters;\n\tuint64_t c = ops_of(q)->next_free(q->census, 1, end);\n",
       "\tuint64_t end = q->opened_clusters;\n\tuint64_t c = ops_of(q)->next_free(q->census, 1, end);\n\n"
       "\tif (c > 1 && c < end)\n\t\tc--;\n")],
     "a cluster that is named is taken for free"),
    # ---- close: the end of the file, NEED_CHECK ----
    ("qed_cut_too_short", "D8", "img/qed/alloc.c",
     [("last->start << q->m.cluster_bits);\n", "(last->start - 1) << q->m.cluster_bits);\n")],
     "the file is cut within what is named"),
    # ---- the header ----
    ("qed_header_in_two_writes", "H9", "img/qed/header.c",
     [("\tox_qed_header_patch(h, sector);\n",
       "\tmemset(sector, 0, 64);\n\tr = ox_io_pwrite_co(q->m.io, sector, sizeof(q->sector), 0, 0);\n"
       "\tmemcpy(sector, q->sector, sizeof(q->sector));\n\tox_qed_header_patch(h, sector);\n")],
     "the header is on the disk in halves between two writes"),
    ("qed_header_rest_lost", "H9", "img/qed/header.c",
     [("\tmemcpy(sector, q->sector, sizeof(q->sector));\n\tox_qed_header_patch",
       "\tmemset(sector, 0, sizeof(q->sector));\n\tmemcpy(sector, q->sector, 64);\n\tox_qed_header_patch")],
     "a header update loses the backing file's name"),
    ("qed_autoclear_bits_stay", "D6", "img/qed/header.c",
     [("\tif (q->h.autoclear != 0)\n\t\tr = ox_qed_write_header_co(q, &h, NULL);\n", "")],
     "a later version's bits stay though the guest has written"),
    ("qed_write_before_autoclear_is_durable", "H9", "img/qed/header.c",
     [("\tif (r < 0 || m->prepared)\n\t\treturn r;\n", "\tif (r < 0 || m->prepared)\n\t\treturn r;\n\tm->prepared = true;\n")],
     "the second of two first writes does not wait for the autoclear bits"),
    # ---- the recovery beside the guest ----
    ("qed_stale_entries_stay", "D9", "img/qed/census.c",
     [("\twhile (r == 0 && (table = ops", "\twhile (false && (table = ops")],
     "a recovery ends and leaves entries past the old end"),
    ("qed_grows_beneath_stale_entries", "D8", "img/qed/census.c",
     [("\tq->may_grow = false;\n\tq->stale_from =", "\tq->may_grow = true;\n\tq->stale_from =")],
     "the file grows while entries past its end are still looked for"),
    ("qed_stale_for_ever", "D9", "img/qed/census.c",
     [("\t\tq->stale_from = 0;\n", "")],
     "an entry of this session is taken for one past the old end"),
    ("qed_stale_tables_stay", "D8", "check/qed/census.c",
     [("\tif (q->stale == 0 || q->j.structural > 0)\n\t\treturn 0;\n", "\tif (true)\n\t\treturn 0;\n"),
      ("return !c->keeps_stale_l1 && c->", "return c->")],
     "the file grows beneath an L1 entry past its end", ("qed",)),
    ("qed_recovery_is_content", "D6", "img/qed/census.c",
     [("\tif (obstacle)\n\t\treturn ox_error_set(err, -EIO, \"%s\", obstacle);\n", "\t(void)err;\n\t(void)obstacle;\n")],
     "NEED_CHECK is cleared over clusters that are named twice"),
]
