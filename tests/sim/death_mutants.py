# SPDX-License-Identifier: MIT
"""Mutants of what outlives a process, and of what the next one owes it (D10): fields as those of SIM_MUTANTS
in mutants.py. What the caller of the library has to see to is broken in the simulator, which is that caller."""

DEATH_MUTANTS = [
    # ---- what the caller sees to ----
    ("barrier_left_out", "D10", "tests/sim/death.c",
     [("\tsim_disk_let_land(c->disk);\n\twait_for_strays(c);\n",
       "\tsim_disk_let_land(c->disk);\n\t(void)wait_for_strays;\n")],
     "requests of a dead process land while the next one works", ("qcow2", "qed")),
    ("fresh_description_left_out", "D7", "tests/sim/death.c",
     [("\tc->disk->has_witness = kept;\n", "\tc->disk->has_witness = false;\n")],
     "the next process syncs by a description whose error the dead one was told", ("qcow2", "qed")),
    ("witness_not_asked", "D7", "io/io.c",
     [("\tr = ox_io_has_witness(io) ? ox_io_sync_past_witness_co(io) : io->ops->sync_co(io);\n",
       "\tio->witness.state = OX_IO_WITNESS_NONE;\n\tr = io->ops->sync_co(io);\n")],
     "the library syncs by a description whose error the dead process was told"),
    # ---- what is in the state ----
    ("change_not_on_the_shelf", "D10", "meta/cache.c",
     [("\tif (c->shelf)\n"
       "\t\tox_state_store(&c->shelf->names[b->slot], b->offset | OX_SHELF_CHANGED);\n", "")],
     "a table that was changed is lost with the process"),
    ("called_clean_while_written", "D10", "meta/cache_write.c",
     [("\t\tb->dirty = false;\n\t\tb->writing = true;\n",
       "\t\tb->dirty = false;\n\t\tif (c->shelf)\n"
       "\t\t\tox_state_store(&c->shelf->names[b->slot], 0);\n\t\tb->writing = true;\n")],
     "a table counts as written while its write is on its way, and dies with the process"),
    ("reserve_taken_after_the_entry", "D10", "img/mapped/alloc.c",
     [("\tox_alloc_named(m, from, ret->count);\n",
       "\tfrom->start += ret->count;\n\tfrom->count -= ret->count;\n"
       "\tif (from->count == 0)\n\t\tox_note_drop(m->notes, from->note);\n")],
     "a cluster that an entry may name is still in the reserve that the next process gets"),
    ("length_told_before_it_has_grown", "D10", "img/mapped/open.c",
     [("\tif (m->state && bytes < m->io->length)\n", "\tif (m->state)\n")],
     "the state of a process that dies as the file grows is taken for one of a file that was cut"),
    # ---- what an adoption owes the opening's sync ----
    ("header_of_the_dead_taken_for_durable", "H9", "img/mapped/prepare.c",
     [("\treturn ox_order_wait_co(&m->order, m->header_durable_at);\n", "\treturn 0;\n")],
     "the first change does not wait for what a dead process wrote into the header", ("qed",)),
]

# What lies between two stores, which the simulator does not stop at: with the unit test that finds it.
STORE_MUTANTS = [
    ("taken_cluster_taken_for_free", "D10", "img/mapped/adopt.c",
     [("\t*ret_named = (run.kind == OX_MAP_DATA || run.kind == OX_MAP_ZERO_ALLOC) &&\n"
       "\t\t     run.host.bytes == n->start << m->cluster_bits;\n", "\t*ret_named = false;\n")],
     "a cluster that a dead process took is given back, though an entry names it", "every_store"),
    ("freed_not_noted", "D10", "img/mapped/release.c",
     [("\t\tf->note = ox_note_add(m->notes, OX_NOTE_FREED, start, end, 0);\n", "\t\tf->note = 0;\n")],
     "what was freed and not released is leaked by a death", "every_store"),
]
