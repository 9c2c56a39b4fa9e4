#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the seed corpus of fuzz_words into corpus/words: a command line's word a file."""
import pathlib

WORDS = {
    "opts": "idriver=qcow2,file.driver=file,file.filename=a,,b,cache.direct=on,l2-cache-size=1M,backing=",
    "opts-nbd": "idriver=raw,file.driver=nbd,file.server.type=inet,file.server.host=::1,file.server.port=1,"
                "file.export=a b,reconnect-delay=5,tls-verify-peer=off",
    "opts-socket": "idriver=nbd,path=/s,export=x,tls-psk-file=/k,tls-username=u",
    "json": 'njson:{"driver": "qcow2", "file": {"driver": "file", "filename": "a:b"}, "read-only": true}',
    "json-quotes": "njson:{'driver':'raw','file':{'driver':'nbd','server':{'type':'unix','path':'/a\\'\"b'}}}",
    "json-numbers": 'njson:{"file.filename": "x", "l2-cache-size": 65536, "a": [1, 2.5, null, {"b": false}]}',
    "uri": "nnbds://u@[::1]:10809/a%20b?tls-certificates=/x&connections=4&tls-verify-peer=0",
    "uri-socket": "nnbd+unix:///x?socket=/s&open-timeout=3",
    "uri-old": "nnbd:unix:/s:exportname=x",
    "path": "nfile:a:b",
    "path-empty": "nfile:",
    "qcow2": "qcluster_size=64k,preallocation=metadata,compat=0.10,refcount_bits=8,nolazy_refcounts,size=1.5G",
    "qed": "ecluster_size=1M,table_size=4,backing_file=a,,b,backing_fmt=raw",
    "raw": "rsize=0x10,preallocation=full,nocow=on",
    "size": "s 1.3k",
    "size-hex": "s0x7fffffffffffffff",
}

folder = pathlib.Path(__file__).parent / "corpus" / "words"
folder.mkdir(exist_ok=True)
for name, word in WORDS.items():
    (folder / name).write_text(word)
