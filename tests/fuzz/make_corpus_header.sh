#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes the seeds of fuzz_header from images that qemu-img makes: small clusters, and no more of each
# file than its metadata takes.
set -euo pipefail

dir=${1:-$(dirname "$0")/corpus/header}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir"
dir=$(realpath "$dir")
cd "$work"

# seed NAME BYTES: keeps the first bytes of the image.
seed() {
	head -c "$2" image >"$dir/$1"
}

create() {
	qemu-img create -q -f qcow2 "$@"
}

create -o cluster_size=512 image 1M
seed plain-512 1024
create -o cluster_size=4096,lazy_refcounts=on image 8M
seed lazy-4096 4096
create -o cluster_size=1024,compat=0.10 image 1M
seed version-2 1024
create -o cluster_size=512,compat=0.10 -u -b base.qcow2 -F qcow2 image 1M
seed version-2-backing 512
create -o cluster_size=1024 -u -b /images/base.raw -F raw image 1M
seed backing 1024
create -o cluster_size=1024,compression_type=zstd,refcount_bits=1 image 1M
seed zstd 1024
create -o "cluster_size=16k,extended_l2=on" image 1M
seed extended-l2 1024
create -o "cluster_size=2048,data_file=data,data_file_raw=on" image 1M
seed data-file 2048
create --object secret,id=s,data=x -o cluster_size=4096,encrypt.format=luks,encrypt.key-secret=s \
	-o encrypt.iter-time=10 image 1M
seed luks 4096

create -o cluster_size=512 image 64K
qemu-img snapshot -c first image
qemu-img snapshot -c 'a second, longer name' image
seed snapshots 8192
create -o cluster_size=512 image 64K
qemu-img bitmap --add -g 4096 image one
qemu-img bitmap --add --disable image two
seed bitmaps 8192

create -o cluster_size=512 image 64K
qemu-io -c 'write 0 4k' -c 'write -z 8k 4k' image >log
seed entries 4096
qemu-img convert -c -O qcow2 -o cluster_size=4096 image compressed
mv compressed image
seed compressed 24576

qemu-img create -q -f qed -o cluster_size=4096,table_size=2 -u -b base.raw -F raw image 1M
qemu-img create -q -f raw base.raw 1M
qemu-io -f qed -c 'write 0 4k' -c 'write -z 8k 4k' image >log
seed qed 24576
