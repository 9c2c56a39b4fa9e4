#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes the seeds of fuzz_check with qemu-img and qemu-io: whole images of small clusters, sound ones
# and ones that a program left without closing.
set -euo pipefail

dir=${1:-$(dirname "$0")/corpus/check}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir"
dir=$(realpath "$dir")
cd "$work"

create() {
	qemu-img create -q -f qcow2 -o "$1" image "$2"
}

io() {
	local args=()
	for command in "$@"; do
		args+=(-c "$command")
	done
	qemu-io "${args[@]}" image >io.log 2>&1 || grep -q abort <<<"$*"
}

seed() {
	cp image "$dir/$1"
}

create cluster_size=512 64k
seed empty
io 'write 0 3k' 'write 40k 1k' 'write -z 8k 2k'
seed data
qemu-img snapshot -c s image
io 'write 1k 1k'
seed snapshot
qemu-img snapshot -c t image
io 'write 0 512' 'write 60k 512'
seed snapshots
create cluster_size=512,compat=0.10 64k
io 'write 0 3k' 'discard 1k 512'
seed version-2
create cluster_size=512,lazy_refcounts=on 64k
io 'write 0 3k' 'write 32k 1k' abort
seed crashed
qemu-img create -q -f qcow2 -o cluster_size=512,lazy_refcounts=on image 64k
io 'write 0 3k' 'write 32k 1k'
qemu-img snapshot -c s image
io 'write 1k 1k' abort
seed crashed-snapshot
create cluster_size=512,lazy_refcounts=on 64k
io 'write 0 3k' abort
truncate -s 4k image
seed crashed-short
create cluster_size=512,refcount_bits=1 64k
io 'write 0 2k'
seed refcount-1
# Two streams in one cluster, and snapshots, with counts of a bit.
create cluster_size=512,refcount_bits=1 64k
io 'write -c 0 512' 'write 4k 2k'
l2=$(od -An -tu8 --endian=big -j$(od -An -tu8 --endian=big -j40 -N8 image) -N8 image)
l2=$((l2 & 0xfffffffffffe00))
dd if=image of=image bs=8 skip=$((l2 / 8)) seek=$((l2 / 8 + 1)) count=1 conv=notrunc status=none
seed narrow-streams
cp "$dir/snapshots" image
block=$(od -An -tu8 --endian=big -j$(od -An -tu8 --endian=big -j48 -N8 image) -N8 image)
printf '\0' | dd of=image bs=1 seek=99 conv=notrunc status=none
dd if=/dev/zero of=image bs=1 seek=$((block)) count=512 conv=notrunc status=none
printf '\377\377\377\377' | dd of=image bs=1 seek=$((block)) conv=notrunc status=none
seed narrow-snapshots
create cluster_size=512,refcount_bits=64,lazy_refcounts=on 64k
io 'write 0 24k' abort
seed refcount-64
create cluster_size=512,preallocation=metadata 32k
seed preallocated
create cluster_size=512 32k
io 'write -P 1 0 4k'
qemu-img convert -c -O qcow2 -o cluster_size=512 image compressed
mv compressed image
seed compressed
qemu-img snapshot -c s image
io 'write 0 1k'
seed compressed-snapshot
create cluster_size=512 64k
qemu-img bitmap --add -g 512 image b
io 'write 0 2k'
seed bitmap

qed() {
	qemu-img create -q -f qed -o "$1" image "$2"
}

# The first byte of the features says that the image was not closed.
mark() {
	printf '\2' | dd of=image bs=1 seek=16 conv=notrunc status=none
}

qed cluster_size=4k,table_size=2 16k
io 'write 0 6k' 'write -z 8k 4k'
seed qed
mark
seed qed-crashed
truncate -s -3k image
seed qed-crashed-short
qed cluster_size=4k,table_size=2 16M
io 'write 0 4k' 'write 8M 8k'
seed qed-two-tables
