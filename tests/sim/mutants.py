#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Proves that the simulator, and the tests of repairs, can fail: builds it with one rule broken at a time.

    tests/sim/mutants.py [--build DIR] [--cuts N] [--jobs N] [--format F] [--list] [NAME...]

A mutant is a change of the text of one source; the sources themselves hold no hooks. Each is compiled
from the build's own command, linked before the libraries, and run until the simulator finds it or
N cuts have been survived, once for each image format that it is to be found with (--format: only that
one); a mutant of a repair runs the unit test that it names, which has to fail.
Prints one line `ok NAME` or `not ok NAME` each."""
import argparse
import concurrent.futures
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time
import typing

from death_mutants import DEATH_MUTANTS, STORE_MUTANTS
from qed_mutants import QED_MUTANTS
from repair_mutants import REPAIR_MUTANTS
from rings_mutants import RINGS_MUTANTS

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LIBRARIES = ("serve", "lib", "job", "check", "img", "meta", "io", "codec", "fmt", "rt", "base")

TEST_SECONDS = 300

FORMATS = ("qcow2", "qed")

# name, rule, source, [(old text, new text)...], what goes wrong; and perhaps, as a tuple, the formats
# whose images show it, where formats_of would say others
SIM_MUTANTS = [
    ("entry_before_data", "D1", "img/mapped/write.c",
     [("link_piece_co(m, p, ox_order_ticket(&m->order), ret_end); /* D1 */",
       "link_piece_co(m, p, OX_TICKET_NONE, ret_end);")],
     "an entry may reach the disk before the bytes it names"),
    ("table_before_its_copy", "D1", "img/qcow2/map_table.c",
     [("\t\tafter = ox_order_ticket(&q->m.order);\n", "")],
     "an L1 entry may reach the disk before the table it names"),
    ("streams_named_before_durable", "D1", "img/qcow2/compress.c",
     [("\tuint64_t after = ox_order_ticket(&b->q->m.order); /* D1, D3 */",
       "\tuint64_t after = OX_TICKET_NONE;")],
     "an entry may reach the disk before the stream it names", ("qcow2",)),
    ("streams_counted_after_their_entries", "D3", "img/qcow2/compress.c",
     [("\tif (!ox_qcow2_is_lazy(b->q))\n\t\tr = ox_cache_flush_co(&b->q->counts);\n", "")],
     "an entry may reach the disk before its stream is counted", ("qcow2",)),
    ("shared_cluster_counted_once", "D3", "img/qcow2/pack_place.c",
     [("return *ret_full ? 0 : ox_refcount_set_co(q, cluster, 1, count + 1);", "return 0;")],
     "a host cluster is counted once, however many streams lie in it", ("qcow2",)),
    ("open_cluster_given_up_too_early", "D4", "img/qcow2/pack_place.c",
     [("\tif (!full)\n\t\topen_cluster(q, range->start, bytes);",
       "\tif (!full)\n\t\topen_cluster(q, range->start, bytes);\n"
       "\tr = ox_refcount_set_co(q, range->start, 1, 1);")],
     "the cluster in which streams are to come has no reference of the session's", ("qcow2",)),
    ("margins_not_copied", "D1", "img/mapped/write.c",
     [("if (old_reads_zero(m, p) && p->host_zero) {\n"
       "\t\thead = 0;",
       "if (p->host_zero) {\n\t\thead = 0;")],
     "copy-on-write forgets what surrounds the written bytes"),
    ("write_into_shared_cluster", "D2", "img/mapped/write.c",
     [("return run->kind == OX_MAP_DATA && run->own;",
       "return run->kind == OX_MAP_DATA;")],
     "a snapshot's cluster is written in place"),
    ("written_twice", "H11", "img/mapped/write.c",
     [("\tif (r == -EAGAIN) {\n", "\tif (r == -EAGAIN) {\n\t\tw.done = 0;\n")],
     "a write that needs an allocation to go on begins anew, over later writes"),
    ("write_into_shared_table", "D2", "img/qcow2/map_table.c",
     [("return l1->copied && !ox_recover_is_frozen(q, l1->l2);",
       "return l1->l2.bytes != 0 && !ox_recover_is_frozen(q, l1->l2);")],
     "a snapshot's L2 table is changed in place"),
    ("counts_not_written_ahead", "D3", "img/qcow2/alloc.c",
     [("\tif (flush) {\n\t\tr = ox_cache_flush_co",
       "\tif (false) {\n\t\tr = ox_cache_flush_co")],
     "clusters are handed out before their refcounts are written"),
    ("counts_not_synced_ahead", "D3", "img/qcow2/alloc.c",
     [("\tr = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));\n"
       "\tif (r == 0 && flush)",
       "\tr = 0;\n\tif (r == 0 && flush)")],
     "clusters are handed out before the refill's sync"),
    ("block_named_before_durable", "D1", "img/qcow2/refcount.c",
     [("\tr = ox_cache_flush_co(&q->counts);\n"
       "\tif (r < 0)\n"
       "\t\treturn r;\n"
       "\treturn ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));\n", "\treturn 0;\n")],
     "the refcount table may name a block whose counts are not on the disk"),
    ("released_by_the_wrong_round", "D4", "img/mapped/release.c",
     [("ox_list_push_back(&m->freed.pending, &f->link);",
       "ox_list_push_back(&m->freed.ready, &f->link);")],
     "a cluster freed during a commit is released by that commit"),
    ("released_before_commit", "D4", "img/mapped/commit.c",
     [("\tr = ox_cache_flush_co(&m->map);\n"
       "\tticket",
       "\tox_list_splice_back(&m->freed.ready, &freed);\n"
       "\tox_alloc_start_release(m);\n"
       "\tr = ox_cache_flush_co(&m->map);\n"
       "\tticket")],
     "freed clusters are released before their entries are durably gone"),
    ("punch_after_freeing", "D4", "img/qcow2/release.c",
     [("\tif (at < q->m.io->length) {\n",
       "\tr = ox_qcow2_finish_release_co(&q->m, start, n, 0);\n"
       "\tif (r < 0)\n"
       "\t\treturn r;\n"
       "\tox_mutex_unlock(&q->m.alloc.lock);\n"
       "\tif (at < q->m.io->length) {\n"),
      ("\tox_freed_note_release(&q->m, n, 0);\n"
       "\treturn ox_qcow2_finish_release_co(&q->m, start, n, 0);\n",
       "\tox_mutex_lock_co(&q->m.alloc.lock);\n"
       "\treturn 0;\n")],
     "a cluster is free while its hole is still being punched"),
    ("fence_not_written", "D8", "img/qcow2/fence.c",
     [("\tox_qcow2_fence_encode(old_end_bytes, disk);\n\t/* The data",
       "\treturn 0;\n\tox_qcow2_fence_encode(old_end_bytes, disk);\n\t/* The data")],
     "the file grows in a recovery and nothing remembers where it ended"),
    ("fence_not_synced", "D8", "img/qcow2/fence.c",
     [("\tif (r == 0)\n"
       "\t\tr = ox_order_sync_always_co(&q->m.order);\n"
       "\telse /* as after",
       "\tif (r < 0) /* as after")],
     "the file may grow durably before the fence is durable"),
    ("fence_torn", "H9", "img/qcow2/fence.c",
     [("\tr = patch_co(q, q->ext.end_offset + 8, disk + 8, sizeof(disk) - 8);\n\tif (r == 0)\n"
       "\t\tr = patch_co(q, q->ext.end_offset, disk, 8);\n",
       "\tr = patch_co(q, q->ext.end_offset, disk, sizeof(disk));\n")],
     "a fence's length may call an earlier fence's data back"),
    ("fence_stays", "D9", "img/qcow2/fence.c",
     [("\tif (q->ext.fence_bytes != 0) {\n", "\tif (false) {\n")],
     "a fence outlives its recovery, and the next judges by it"),
    ("stale_entries_copied", "D9", "img/qcow2/map_table.c",
     [("\t\tstale = ox_recover_scrub(q, from->l2, buf, q->m.cluster_bytes / 8);\n", "\t\tstale = 0;\n")],
     "a table's copy keeps entries that name what never became durable"),
    ("stale_entries_believed", "D9", "img/qcow2/recover.c",
     [("\tif (table.bytes >= q->rebuild.fence || e->host.bytes < q->rebuild.fence)\n"
       "\t\treturn false;\n",
       "\tif (q->rebuild.fence < UINT64_MAX)\n"
       "\t\treturn false;\n")],
     "an entry past the old end is taken for one of this session"),
    ("stale_entries_stay", "D9", "img/qcow2/recover_finish.c",
     [("\t\tr = drop_stale_co(q);\n", "\t\tr = 0;\n")],
     "a recovery ends and leaves entries past the old end"),
    ("freed_too_early_in_recovery", "D9", "img/mapped/release.c",
     [(" || ox_recover_active(m))\n\t\treturn;\n", ")\n\t\treturn;\n"),
      ("\tox_assert(!ox_recover_active(m));      /* R2 */\n", "")],
     "what is freed is released while its count is not known", ("qcow2",)),
    ("frozen_table_changed", "D9", "img/qcow2/map_table.c",
     [("return l1->copied && !ox_recover_is_frozen(q, l1->l2);", "return l1->copied;")],
     "a table changes while it is counted, and gets entries that another crash makes look stale"),
    ("own_clusters_not_counted", "D3", "img/qcow2/recover_finish.c",
     [("\t\tr = count_own_clusters_co(q);\n", "\t\tr = 0;\n")],
     "what was allocated during a recovery has no count after it"),
    ("allocates_by_stale_counts", "D2", "img/qcow2/alloc.c",
     [("\tif (ox_recover_active(&q->m))\n"
       "\t\treturn refill_past_end_co(q, want);\n", "")],
     "a dirty image's refcounts are believed"),
    ("counts_not_recovered", "D6", "img/qcow2/recover_finish.c",
     [("\tr = ops_of(q)->write_counts_co(q->rebuild.walk);\n", "\tr = 0;\n")],
     "the dirty bit goes and the counts are as they were"),
    ("blocks_not_recovered", "D6", "img/qcow2/recover_finish.c",
     [("\t\tr = make_blocks_co(q);\n", "\t\tr = 0;\n"),
      ("\t\tr = count_own_clusters_co(q);\n",
       "\t\tr = count_own_clusters_co(q) == -EIO ? 0 : r;\n")],
     "clusters whose block was lost have no count after a recovery"),
    ("old_end_reused", "D9", "img/qcow2/recover.c",
     [("\trec->own[0] = (struct ox_alloc_range){.start = rec->limit_clusters + 1};\n",
       "\trec->own[0] = (struct ox_alloc_range){.start = rec->fence / q->cluster_bytes};\n")],
     "a recovery allocates what an interrupted one had allocated"),
    ("dirty_bit_not_set", "D5", "img/qcow2/alloc.c",
     [("\tif (r == 0 && ox_qcow2_is_lazy(q))\n"
       "\t\tr = ox_dirty_set_co(&q->m);\n", "")],
     "a lazy image is changed without the dirty bit"),
    ("dirty_bit_not_synced", "D5", "img/qcow2/header.c",
     [("\t\tr = ox_order_sync_always_co(&q->m.order);\n", "\t\tr = 0;\n")],
     "nothing waits for the dirty bit to be durable"),
    ("dirty_bit_cleared_before_counts", "D6", "img/mapped/open.c",
     [("\tif (r == 0) {\n"
       "\t\tr = ox_alloc_release_co(m);\n",
       "\tif (r == 0 && m->dirty.state == OX_DIRTY_SET) {\n"
       "\t\tr = m->ops->write_dirty_co(m, false);\n"
       "\t}\n"
       "\tif (r == 0) {\n"
       "\t\tr = ox_alloc_release_co(m);\n")],
     "close clears the dirty bit before the refcounts are written", ("qcow2",)),
    ("counts_not_synced_before_clearing", "D6", "img/mapped/open.c",
     [("\tif (r == 0)\n\t\tr = ox_order_sync_always_co(&m->order);\n\tif (r == 0 && !m->damaged)\n",
       "\tif (r == 0 && !m->damaged)\n")],
     "close clears the dirty bit before the refcounts are durable"),
    ("recovery_not_synced", "D6", "check/mend/counts.c",
     [("\treturn r < 0 ? r : ox_io_sync_co(m->w->v.io);\n}\n\nint ox_mend_write_counts_co",
       "\treturn r;\n}\n\nint ox_mend_write_counts_co")],
     "recovery clears the dirty bit before its counts are durable"),
    ("recovery_skipped", "D6", "img/qcow2/open.c",
     [("r = img->recovery->rebuild_co(q->m.io, err, img->progress, img->opaque, &kept);", "r = 0;")],
     "the dirty bit is cleared without recovery"),
    ("commit_without_sync", "D7", "img/mapped/commit.c",
     [("\tif (r == 0)\n"
       "\t\tr = ox_order_wait_co(&m->order, ticket);\n"
       "\tox_assert(", "\t(void)(")],
     "a flush writes the tables and does not sync"),
    ("commit_without_tables", "D7", "img/mapped/commit.c",
     [("\tr = ox_cache_flush_co(&m->map);\n"
       "\tticket", "\tr = 0;\n\tticket")],
     "a flush syncs and does not write the tables"),
    ("commit_joins_a_running_round", "D7", "img/mapped/commit.c",
     [("uint64_t want = c->started + 1;",
       "uint64_t want = c->started + (c->running && c->started ? 0 : 1);")],
     "a flush is content with a round that began before it"),
    ("fua_not_passed_on", "D7", "img/mapped/write.c",
     [("fua && run.durable ? OX_IO_FUA : 0", "0")],
     "a write in place with FUA is not"),
    ("sync_error_ignored", "D7", "meta/order.c",
     [("\t\tox_order_poison(o, r); /* M3 */\n", "\t\to->done = number;\n")],
     "a failed sync is taken for a good one (M3)"),
    ("sync_retried", "D7", "meta/order.c",
     [("\tif (r < 0)\n\t\tox_order_poison(o, r); /* M3 */\n",
       "\tif (r < 0)\n\t\tr = ox_io_sync_co(o->io);\n\tif (r < 0)\n\t\tox_order_poison(o, r);\n")],
     "a failed sync is asked for again (M3)"),
    ("length_not_grown_ahead", "D8", "img/mapped/alloc.c",
     [("\treturn m->io->can_grow ? ox_mapped_set_length_co(m, ox_align_up(to, GROWTH_ALIGN_BYTES))\n"
       "\t\t\t       : -ENOSPC;\n", "\treturn 0;\n")],
     "entries name clusters past the file's durable end"),
    ("recovery_does_not_raise", "D9", "check/mend/counts.c",
     [("\tint r = ox_slots_co(&w->k, OX_SLOTS_RAISE, raise_slot, w);\n\n\treturn r < 0",
       "\tint r = 0;\n\n\treturn r < 0")],
     "recovery leaves refcounts that are too low"),
    ("recovery_clears_the_bit_first", "D9", "img/qcow2/open.c",
     [("\tr = img->recovery->rebuild_co(",
       "\t{\n\t\tstruct ox_qcow2_header f;\n\t\tox_header_lock_co(q);\n\t\tf = *ox_qcow2_hdr(q);\n"
       "\t\tf.incompatible = 0;\n\t\tr = ox_header_write_co(q, &f);\n\t\tox_header_unlock(q);\n\t}\n"
       "\tr = img->recovery->rebuild_co(")],
     "a crash during recovery leaves an image that is marked clean"),
    ("fua_with_cached_entry", "H1", "img/mapped/write.c",
     [("\t\tif (!run.durable)\n\t\t\tw->durable = false;\n", ""),
      ("fua && run.durable ? OX_IO_FUA : 0", "fua ? OX_IO_FUA : 0")],
     "a write in place is called durable while its entry is not"),
    ("zero_without_a_punch", "H2", "img/mapped/alloc.c",
     [("\t*ret_zero = r == 0;\n", "\t*ret_zero = true;\n")],
     "clusters are said to be zero where the disk could not zero them"),
    ("old_bytes_called_zero", "H2", "img/mapped/alloc.c",
     [("\tif (from < old_end) {\n", "\tif (false) {\n")],
     "clusters that were used before are said to be zero"),
    ("table_written_while_changing", "H3", "meta/cache_write.c",
     [("r = ox_io_pwrite_co(c->io, copy, n * c->slice_bytes, offset, 0);",
       "r = ox_io_pwrite_co(c->io, n == 1 ? ox_cache_find(c, offset)->data : copy,\n"
       "\t\t\t    n * c->slice_bytes, offset, 0);")],
     "a table is written from memory that changes meanwhile"),
    ("change_during_write_forgotten", "H3", "meta/cache_write.c",
     [("\t\tb->writing = false;\n", "\t\tb->writing = false;\n\t\tif (error == 0 && b->dirty) {\n"
       "\t\t\tb->dirty = false;\n\t\t\tox_list_del(&b->dirty_at);\n\t\t}\n")],
     "what changes while a table is written is not written again"),
    ("read_without_a_lock", "H4", "img/mapped/read.c",
     [("\tox_mapped_lock_co(m, &range, offset, length, false);\n"
       "\tr = ox_mapped_read_unlocked_co(m, iov, n, offset, length);\n"
       "\tox_rangelock_release(&m->guest, &range);\n",
       "\t(void)range;\n"
       "\tr = ox_mapped_read_unlocked_co(m, iov, n, offset, length);\n")],
     "a cluster is freed and used again under a reader"),
    ("write_in_place_without_a_lock", "H4", "img/mapped/write.c",
     [("\tw->durable = true;\n"
       "\tox_mapped_lock_co(m, &range, w->offset, w->length, false);\n",
       "\tw->durable = true;\n"),
      ("\t\t\tw->done += run.length;\n"
       "\t}\n"
       "\tox_rangelock_release(&m->guest, &range);\n",
       "\t\t\tw->done += run.length;\n\t}\n\t(void)range;\n")],
     "a cluster is freed and used again under a writer"),
    ("neighbour_lost_in_a_block", "H5", "io/io.c",
     [("(lengthens ? UINT64_MAX : wide_end) - wide_start, !whole);",
       "(lengthens ? UINT64_MAX : wide_end) - wide_start, false);")],
     "two writes into one block of the disk undo each other"),
    ("failed_setting_taken_for_set", "H6", "img/mapped/dirty.c",
     [("\tm->dirty.state = r < 0 ? after_failure : to;\n", "\tm->dirty.state = to;\n"),
      ("\tr = m->ops->write_dirty_co(m, to == OX_DIRTY_SET);\n",
       "\tr = m->ops->write_dirty_co(m, to == OX_DIRTY_SET);\n\tm->order.error = 0;\n")],
     "the dirty bit is taken for set though its write failed"),
    ("bit_of_an_unfinished_write_trusted", "H6", "img/mapped/dirty.c",
     [("\tm->dirty.unsure = r < 0;\n", "")],
     "after a write of the dirty bit that found no room the disk is taken for what it was before"),
    ("allocation_while_setting", "H6", "img/mapped/dirty.c",
     [("\tm->dirty.state = via;\n\tr = m->ops->write_dirty_co(m, to == OX_DIRTY_SET);\n",
       "\tm->dirty.state = via;\n\tr = 0;\n"
       "\tif (to != OX_DIRTY_SET || ox_co_spawn(m->img->reactor, set_later_co, m) < 0)\n"
       "\t\tr = m->ops->write_dirty_co(m, to == OX_DIRTY_SET);\n"
       "\telse\n\t\tox_latch_add(&m->background);\n"),
      ("static int change_co(", "static void set_later_co(void *arg)\n{\n"
       "\tstruct ox_mapped *m = arg;\n\tint r = m->ops->write_dirty_co(m, true);\n\n\t(void)r;\n"
       "\tox_latch_done(&m->background);\n}\n\nstatic int change_co(")],
     "an allocation goes on while the dirty bit is being set"),
    ("table_moved_before_durable", "H7", "img/qcow2/refcount_grow.c",
     [("\telse\n"
       "\t\tr = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));\n"
       "\tfree(buf);",
       "\tfree(buf);")],
     "the header names a refcount table that is not durable"),
    ("l1_moved_before_durable", "H7", "img/qcow2/resize.c",
     [("\tif (r == 0)\n"
       "\t\tr = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));\n"
       "\tfree(buf);",
       "\tfree(buf);")],
     "the header names an L1 table that is not durable"),
    ("l1_copied_without_its_changes", "H7", "img/qcow2/resize.c",
     [("\tr = ox_cache_flush_co(&q->m.map);\n"
       "\tif (r == 0)\n"
       "\t\tr = ox_io_pread_co",
       "\tr = 0;\n\tif (r == 0)\n\t\tr = ox_io_pread_co")],
     "a larger L1 table is copied from a disk that lags behind the cache"),
    ("growing_shows_old_bytes", "D1", "img/mapped/resize.c",
     [("\tr = ox_mapped_zero_new_co(m, old_bytes, new_bytes);", "\tr = 0;")],
     "what lies past the end when a disk grows is not zeroed"),
    ("opening_without_a_sync", "H1", "img/mapped/open.c",
     [("\tr = ox_order_wait_co(&m->order, ox_order_ticket(&m->order));\n"
       "\treturn r < 0 ? ox_error_set_errno(err, r, \"Could not sync",
       "\tr = 0;\n\treturn r < 0 ? ox_error_set_errno(err, r, \"Could not sync")],
     "what a killed process left unsynced is taken for durable"),
    ("linked_cluster_given_back", "H8", "img/mapped/write.c",
     [("\treturn write_data_co(m, p);\n"
       "}\n"
       "\n"
       "/* *done grows",
       "\tr = write_data_co(m, p);\n"
       "\tif (r < 0)\n"
       "\t\tox_alloc_free_later(m, p->host, p->clusters * m->cluster_bytes);\n"
       "\treturn r;\n"
       "}\n"
       "\n"
       "/* *done grows")],
     "an error gives back a cluster that an entry already names"),
    ("failed_batch_handed_out", "H8", "img/qcow2/alloc.c",
     [("\tif (r < 0)\n\t\treturn abandon_batch_co(q, ranges, n, r);\n\tox_assert",
       "\tif (r < 0 && ox_order_error(&q->order))\n\t\treturn r;\n\tox_assert")],
     "a batch that could not be made ready is used"),
    ("header_in_two_writes", "H9", "img/qcow2/header.c",
     [("\tr = ox_io_pwrite_co(q->m.io, sector, sizeof(q->header.sector), 0, 0);",
       "\tmemset(sector, 0, 64);\n"
       "\tr = ox_io_pwrite_co(q->m.io, sector, sizeof(q->header.sector), 0, 0);\n"
       "\tox_qcow2_header_encode(fields, sector);\n"
       "\tif (r == 0)\n"
       "\t\tr = ox_io_pwrite_co(q->m.io, sector, sizeof(q->header.sector), 0, 0);")],
     "the header is on the disk in halves between two writes"),
    ("eviction_ignores_barriers", "H10", "meta/cache.c",
     [("\tr = ox_cache_write_run_co(c, b);\n", "\tb->after = 0;\n\tr = ox_cache_write_run_co(c, b);\n")],
     "a table is evicted before what it names is durable"),
    ("neighbour_ignores_barriers", "H10", "meta/cache_write.c",
     [("\t\tif (!next || !next->dirty || next->writing ||\n"
       "\t\t    !ox_order_reached(c->order, next->after))\n",
       "\t\tif (!next || !next->dirty || next->writing)\n"),
      ("\t\tox_assert(ox_order_reached(c->order, b->after)); /* C1 */\n", "")],
     "a table is written along with its neighbour before its barrier"),
    ("autoclear_bit_stays", "D6", "img/qcow2/open.c",
     [("\tif (fields.autoclear != 0) {\n", "\tif (fields.autoclear > 0xffff) {\n")],
     "a bitmap is vouched for though the guest has written"),
    ("write_before_autoclear_is_durable", "H9", "img/qcow2/open.c",
     [("\tif (r < 0 || q->m.prepared)\n\t\treturn r;\n",
       "\tif (r < 0 || q->m.prepared)\n\t\treturn r;\n\tq->m.prepared = true;\n")],
     "the second of two first writes does not wait for the autoclear bit"),
    ("autoclear_bit_not_synced", "H9", "img/qcow2/header.c",
     [("\t\tr = ox_order_sync_always_co(&q->m.order);\n"
       "\telse",
       "\t\tr = fields->autoclear != q->header.fields.autoclear\n"
       "\t\t\t    ? 0 : ox_order_sync_always_co(&q->m.order);\n"
       "\telse")],
     "the first write does not wait for the autoclear bit to be durable"),
    ("header_extensions_lost", "H9", "img/qcow2/header.c",
     [("\tox_qcow2_header_encode(fields, sector);\n\tr = ox_io_pwrite_co",
       "\tmemset(sector + fields->header_length, 0, sizeof(q->header.sector) - fields->header_length);\n"
       "\tox_qcow2_header_encode(fields, sector);\n\tr = ox_io_pwrite_co")],
     "a header update drops what the engine does not know"),
    ("packed_cluster_frees_its_neighbour", "D3", "img/mapped/write.c",
     [("ox_alloc_free_later(m, p->old.host, p->old.compressed_bytes);",
       "ox_alloc_free_later(m, p->old.host, p->old.compressed_bytes + m->cluster_bytes);")],
     "a compressed cluster that is overwritten gives back more than its stream", ("qcow2",)),
    ("shared_host_cluster_released", "D3", "img/qcow2/release.c",
     [("\t\treturn ox_qcow2_finish_release_co(&q->m, start, n, value - 1);",
       "\t\treturn ox_qcow2_finish_release_co(&q->m, start, n, value == 2 ? 0 : value - 1);")],
     "the last stream but one takes its host cluster along"),
    ("shared_host_cluster_punched", "D4", "img/qcow2/release.c",
     [("\tif (value > 1) {\n"
       "\t\tox_freed_note_release(&q->m, n, value - 1);\n"
       "\t\treturn ox_qcow2_finish_release_co(&q->m, start, n, value - 1);\n"
       "\t}\n", ""),
      ("\tox_freed_note_release(&q->m, n, 0);\n"
       "\treturn ox_qcow2_finish_release_co(&q->m, start, n, 0);\n",
       "\tox_freed_note_release(&q->m, n, value - 1);\n"
       "\treturn ox_qcow2_finish_release_co(&q->m, start, n, value - 1);\n")],
     "a host cluster is punched while other streams lie in it"),
    ("wrong_cluster_unpacked", "D1", "img/qcow2/compressed.c",
     [("if (q->unpack.kept[i].entry == entry)", "if (q->unpack.kept[i].entry != 0)")],
     "what was unpacked last is taken for another cluster"),
    ("margins_need_no_memory", "D1", "img/mapped/write.c",
     [("\t\tif (!margins)\n\t\t\treturn -ENOMEM;\n\t\tif (head > 0)",
       "\t\tif (!margins)\n\t\t\thead = tail = 0;\n\t\tif (head > 0)")],
     "without memory copy-on-write forgets what surrounds the written bytes"),
    ("freed_at_once_without_memory", "H8", "img/mapped/release.c",
     [("\tif (f) /* else leaked: the refcount stays */\n",
       "\tif (!f && m->alloc.reserve_count < OX_ALLOC_RESERVE_RANGES)\n"
       "\t\tm->alloc.reserve[m->alloc.reserve_count++] =\n"
       "\t\t\t(struct ox_alloc_range){.start = start, .count = end - start};\n"
       "\tif (f)\n")],
     "a cluster whose freeing cannot be noted down is used again at once"),
    ("unwritten_slice_taken_for_clean", "D7", "meta/cache_write.c",
     [("\t\tnote_failure(c, b, -ENOMEM);\n\t\treturn -ENOMEM;\n",
       "\t\tb->dirty = false;\n\t\tox_list_del(&b->dirty_at);\n\t\treturn 0;\n")],
     "a table that could not be copied for its write is taken for written"),
    ("idle_clears_before_counts", "D6", "img/mapped/idle.c",
     [("\tint r = ox_order_sync_always_co(&m->order);\n", "\tint r = 0;\n")],
     "an idle guest's dirty bit is cleared before the refcounts are durable", ("qcow2",)),
    ("reserve_given_back_and_kept", "D3", "img/mapped/alloc.c",
     [("\tm->alloc.reserve_count = 0;\n\tfor (unsigned i = 0; i < n; i++) /* all",
       "\tfor (unsigned i = 0; i < n; i++)\n\t\tm->alloc.reserve[i].note = 0;\n"
       "\tfor (unsigned i = 0; i < n; i++) /* all")],
     "an idle guest's reserve is given back, and used all the same", ("qcow2",)),
    ("idle_beside_allocations", "H6", "img/mapped/idle.c",
     [("\tox_mutex_lock_co(&m->alloc.lock);\n"
       "\tif (m->alloc.takes == takes && ", "\tif ("),
      ("\tox_mutex_unlock(&m->alloc.lock);\n"
       "\treturn r;\n"
       "}\n"
       "\n"
       "/* What a guest",
       "\treturn r;\n}\n\n/* What a guest")],
     "the dirty bit is cleared for idleness while a request allocates"),
    ("space_not_taken", "S1", "meta/cache.c",
     [("\tr = take_space_co(c, b);\n", "\tb->has_space = true;\n\tr = 0;\n\t(void)take_space_co;\n")],
     "a table's slice is changed while it may lie in a hole of a full disk"),
    ("part_of_a_slice_proves_the_whole", "S1", "meta/cache.c",
     [("\tsize_t piece = ox_min_u64(c->io->space_bytes, c->slice_bytes);",
       "\tsize_t piece = c->io->space_bytes ? c->slice_bytes : 0;")],
     "a slice's hole is overlooked because another block of it has bytes"),
    ("failed_space_taken_for_granted", "S1", "meta/cache.c",
     [("\t\tb->has_space = r == 0;\n", "\t\tb->has_space = true;\n\t\tr = 0;\n")],
     "a slice for which there was no room is changed all the same"),
    ("space_taken_twice", "S1", "meta/cache.c",
     [("\t\tif (b->placing || b->writing) {", "\t\tif (b->writing) {")],
     "a slice is written as it was after it has changed"),
    ("lazy_blocks_named_at_close", "S1", "img/qcow2/alloc.c",
     [("\tbool flush = !ox_qcow2_is_lazy(q) || q->space.named;", "\tbool flush = !ox_qcow2_is_lazy(q);")],
     "a lazy image's recovery lacks the room for refcount blocks that were there"),
    ("trim_ends_without_room", "S1", "img/mapped/zero.c",
     [("\t\tif (purpose == PURPOSE_DISCARD && ox_io_is_full(r)) {", "\t\tif (false) {")],
     "a trim on a full disk ends where a part of it would need room"),
    ("given_back_cluster_called_zero", "H2", "img/mapped/write.c",
     [("\trange.zero = range.zero && untouched;\n", "")],
     "a cluster that a failed write has touched is said to be zero"),
]


class Mutant(typing.NamedTuple):
    name: str
    rule: str
    path: str
    edits: list
    what: str
    test: typing.Optional[str]  # the unit test that finds it; None: the simulator does
    formats: tuple  # of the simulator's images that show it


def formats_of(path):
    """Of a source that one format has for itself, that; of one that they share, each."""
    if path.startswith("check/"):
        return FORMATS[:1]
    return tuple(name for name in FORMATS if f"/{name}/" in path) or FORMATS


def simulated(name, rule, path, edits, what, formats=None):
    return Mutant(name, rule, path, edits, what, None, formats or formats_of(path))


MUTANTS = [simulated(*mutant) for mutant in SIM_MUTANTS + QED_MUTANTS + DEATH_MUTANTS + RINGS_MUTANTS]
MUTANTS += [Mutant(*mutant, ()) for mutant in REPAIR_MUTANTS + STORE_MUTANTS]


def source_of(mutant):
    return ROOT / ("" if mutant.path.startswith("tests/") else "src") / mutant.path


def mutate(text, edits, name):
    for old, new in edits:
        if text.count(old) != 1:
            raise SystemExit(f"mutant {name}: its text is found {text.count(old)} times")
        text = text.replace(old, new)
    return text


def compile_command(build, source):
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if (build / entry["file"]).resolve() == source:
            return shlex.split(entry["command"]), entry["file"], entry["output"]
    raise SystemExit(f"{source} is not part of the build")


def run_quietly(command, cwd, seconds=None):
    """The exit code, and what was said; None where it did not end in time."""
    try:
        result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, errors="replace", check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, "FAILED: it does not end"
    return result.returncode, result.stdout


def program_of(build, test):
    """The objects that make up the simulator or a unit test, and more options of the linker."""
    if test is None:
        return build / "tests/sim/sim.p", wrapped_symbols(build)
    return build / f"tests/unit/test_{test}.p", ["-lcmocka"]


def deflaters(build):
    """Those of the libraries that the build has found."""
    found = {found["name"] for found in json.loads(
        (build / "meson-info/intro-dependencies.json").read_text())}
    return [option for name, option in (("libisal", "-lisal"), ("libdeflate", "-ldeflate")) if name in found]


def wrapped_symbols(build):
    """The linker's options by which the simulator stands between the engine and its memory."""
    rules = (build / "build.ninja").read_text().split("\nbuild tests/sim/sim: ")[1].split("\n\n")[0]
    return [word for word in rules.split() if word.startswith("-Wl,--wrap=")]


def build_mutant(build, mutant):
    name = mutant.name
    folder = build / "mutants" / name
    folder.mkdir(parents=True, exist_ok=True)
    source = source_of(mutant)
    changed = folder / source.name
    changed.write_text(mutate(source.read_text(), mutant.edits, name))
    command, given, output = compile_command(build, source)
    swaps = {given: str(changed), output: str(folder / "mutant.o"), output + ".d": str(folder / "d")}
    command = [swaps.get(word, word) for word in command] + ["-w", f"-I{source.parent}"]
    code, text = run_quietly(command, build)
    if code:
        raise SystemExit(f"mutant {name} does not compile:\n{text}")
    folder_of_objects, more = program_of(build, mutant.test)
    objects = sorted(str(path) for path in folder_of_objects.glob("*.o")
                     if path.resolve() != (build / output).resolve())
    libraries = [str(build / f"src/{lib}/libox_{lib}.a") for lib in LIBRARIES]
    link = ["cc", "-o", str(folder / "program"), str(folder / "mutant.o"), *objects, "-pthread",
            "-Wl,--start-group", *libraries, "-Wl,--end-group", "-luring", "-lz", "-lzstd",
            *deflaters(build), *more]
    if any("-fsanitize" in word for word in command):
        link.append("-fsanitize=address,undefined")
    code, text = run_quietly(link, build)
    if code:
        raise SystemExit(f"mutant {name} does not link:\n{text}")
    return folder / "program"


def run_test(program, build, test):
    """Returns (found, what was said)."""
    code, text = run_quietly([str(program)], build, TEST_SECONDS)
    (program.parent / "log").write_text(text)
    said = [line for line in text.splitlines() if re.search("FAILED|ERROR|assert|not end", line)]
    return code != 0, f"{test}: " + "; ".join(said[:2])[:160]


def run_simulator(program, build, cuts, image_format, *options):
    """Returns (found, what was said)."""
    code, text = run_quietly([str(program), "--format", image_format, "--cuts", str(cuts), *options], build)
    (program.parent / f"log.{image_format}").write_text(text)
    said = [line for line in text.splitlines() if line.startswith(("FAILED", "after", "replay"))]
    return code == 1 and bool(said), "; ".join(said[-3:]) or f"{image_format}: not found"


def run_mutant(build, mutant, cuts, formats):
    """Returns (found, what was said, seconds)."""
    program = build_mutant(build, mutant)
    began = time.monotonic()
    if mutant.test:
        results = [run_test(program, build, mutant.test)]
    else:
        options = ["--rings"] if mutant.path.startswith("serve/") else []
        results = [run_simulator(program, build, cuts, image_format, *options)
                   for image_format in mutant.formats if image_format in formats]
    return (all(found for found, _ in results), " | ".join(said for _, said in results),
            time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=ROOT / "build", type=pathlib.Path)
    parser.add_argument("--cuts", default=30000, type=int, help="cuts that a mutant may survive")
    parser.add_argument("--jobs", default=2, type=int)
    parser.add_argument("--format", choices=FORMATS, help="only those that this format's images show")
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    formats = (arguments.format,) if arguments.format else FORMATS
    chosen = [m for m in MUTANTS if (not arguments.names or m.name in arguments.names) and
              (not arguments.format or arguments.format in m.formats)]
    if arguments.list:
        for m in chosen:
            print(f"{m.rule:4} {m.name:38} {m.path:28} {m.test or '+'.join(m.formats):12} {m.what}")
        return 0
    build = arguments.build.resolve()
    missed = 0
    print(f"1..{len(chosen)}")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [(m, pool.submit(run_mutant, build, m, arguments.cuts, formats)) for m in chosen]
        for mutant, run in runs:
            try:
                found, said, seconds = run.result()
            except SystemExit as error:
                found, said, seconds = False, str(error), 0
            missed += not found
            print(f"{'ok' if found else 'not ok'} {mutant.rule} {mutant.name} # {seconds:.0f} s; {said}",
                  flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutants were found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
