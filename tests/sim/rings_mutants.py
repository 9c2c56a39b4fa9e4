# SPDX-License-Identifier: MIT
"""Mutants of the guest's disk over vhost-user: of what its requests are promised, and of what the next process
makes of those that one which died had taken. Fields as those of SIM_MUTANTS in mutants.py."""

RINGS_MUTANTS = [
    # ---- what is promised ----
    ("write_through_dropped", "D7", "serve/vhost/blk.c",
     [("\tr->request.flags = ox_vhost_blk_writes_through(blk) ? OX_REQ_FUA : 0;\n",
       "\tr->request.flags = 0;\n")],
     "a write of a guest that turned the cache off, or cannot flush, is answered before it is durable"),
    ("zeroes_not_written_through", "D7", "serve/vhost/blk_range.c",
     [("\tif (zeroes && ox_vhost_blk_writes_through(blk))\n", "\tif (false)\n")],
     "a write of zeroes is answered before it is durable"),
    ("flush_answered_at_once", "D7", "serve/vhost/blk.c",
     [("\t\tr->request.op = OX_OP_FLUSH;\n",
       "\t\tr->request.op = OX_OP_FLUSH;\n\t\t*ret_done = true;\n")],
     "a flush has its status before anything was flushed"),
    ("cache_off_not_obeyed", "D7", "serve/vhost/blk_config.c",
     [("\tblk->wce = wce ? OX_VHOST_WCE_ON : OX_VHOST_WCE_OFF;\n", "\tblk->wce = OX_VHOST_WCE_ON;\n")],
     "a guest turns the cache off, and its writes stay in it"),
    ("no_flush_taken_for_write_back", "D7", "serve/vhost/blk_config.c",
     [("\tif (!(offered & acked & OX_VIRTIO_BLK_F_FLUSH))\n\t\treturn true;\n", "")],
     "the writes of a guest that cannot flush stay in the cache"),
    # ---- deaths ----
    ("taken_and_not_recorded", "D10", "serve/vhost/inflight.c",
     [("\tSTORE(&part->queue->records[head].inflight, 1);\n", "")],
     "what a process that died had taken is never answered"),
    ("answered_and_still_recorded", "D10", "serve/vhost/inflight.c",
     [("\tfor (unsigned i = 0; i < count; i++)\n"
       "\t\tSTORE(&part->queue->records[heads[i]].inflight, 0);\n"
       "\tSTORE(&part->queue->used_idx, used_index);\n",
       "\tSTORE(&part->queue->used_idx, used_index);\n\t(void)heads;\n\t(void)count;\n")],
     "what was answered is answered again by the next process"),
    ("base_believed", "D10", "serve/vhost/ring.c",
     [("\tif (!fresh || ring->setup.goes_on)\n\t\tring->next_avail = (uint16_t)(ring->used_index + count);\n", "")],
     "what the driver made available before the next process came is never taken"),
]
