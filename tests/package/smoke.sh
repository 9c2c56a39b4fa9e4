#!/bin/sh
# SPDX-License-Identifier: MIT
# What ./dev deb does in a new Debian, with nothing in it but what every Debian has: smoke.sh FOLDER,
# where the packages and examples/embed.c are.
set -eu
packages=$1
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
cd /tmp

says() {
	echo "ok $*"
}

fails() {
	echo "not ok $*" >&2
	exit 1
}

# All files but those that come and go: what a package manager, the loader and the kernel keep.
files() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
		-o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log \
		-o -path "$packages" \) -prune -o -print | grep -v '^/etc/ld.so.cache' | sort
}

install_quietly() {
	apt-get install -qq -y --no-install-recommends "$@" >/tmp/apt.log 2>&1 ||
		{ cat /tmp/apt.log >&2; fails "apt-get install $*"; }
}

remove_all() {
	apt-get purge -qq -y $(dpkg-query -W -f '${Package}\n' '*oxbow*') >/tmp/apt.log 2>&1 &&
		apt-get autoremove --purge -qq -y >>/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fails "purge"; }
}

files >before
install_quietly "$packages"/oxbow_*.deb
oxbow version
oxbow create -q -f qcow2 -o lazy_refcounts=on disk.qcow2 1G
oxbow io -f qcow2 -c 'write -P 90 1M 64k' -c flush disk.qcow2
oxbow info disk.qcow2 | grep -q '^virtual size: 1 GiB'
oxbow check disk.qcow2
oxbow help | sed -n 's/^  \([a-z][-a-z]*\) .*/\1/p' | grep -v -e '^help$' -e '^version$' >verbs
[ "$(wc -l <verbs)" -gt 8 ] || fails "the verbs of the overview: $(cat verbs)"
while read -r verb; do
	[ -f "/usr/share/man/man1/oxbow-$verb.1.gz" ] || fails "oxbow-$verb(1) is not there"
	grep -qw -e "$verb" /usr/share/bash-completion/completions/oxbow ||
		fails "bash does not complete $verb"
done <verbs
/usr/libexec/oxbow/vhost-user-blk --print-capabilities | grep -q '"type": *"block"'
grep -q '"/usr/libexec/oxbow/vhost-user-blk"' /usr/share/qemu/vhost-user/50-oxbow-blk.json
says "the command works with its dependencies alone"

remove_all
files >after
diff before after || fails "something is left after a purge"
says "a purge leaves nothing"

install_quietly "$packages"/oxbow_*.deb "$packages"/liboxbow0_*.deb "$packages"/liboxbow-dev_*.deb \
	gcc libc6-dev pkg-config libnbd-bin systemd man-db
oxbow serve -f qcow2 --nbd /tmp/nbd.sock disk.qcow2 >served &
server=$!
for _ in $(seq 100); do
	[ ! -s served ] || break
	sleep 0.1
done
[ "$(nbdinfo --size 'nbd+unix:///?socket=/tmp/nbd.sock')" = 1073741824 ] || fails "nbdinfo"
kill "$server"
wait "$server" || fails "the server exited with $?"
oxbow check -q disk.qcow2
says "a client of another package reads what is served"

cc -Wall -Werror "$packages"/embed.c $(pkg-config --cflags --libs oxbow) -o embed
./embed disk.qcow2
# Debian has ISA-L as a shared library alone, so that the rest is not static.
below=$(pkg-config --static --libs oxbow | sed 's/-loxbow//')
cc "$packages"/embed.c $(pkg-config --cflags oxbow) -Wl,-Bstatic -loxbow -Wl,-Bdynamic $below -o embed-static
! ldd embed-static | grep oxbow || fails "what is linked with the static library needs the shared one"
./embed-static disk.qcow2
says "a program is built with the library"

man -w oxbow oxbow-create 3 oxbow >/dev/null
systemd-analyze verify --man=yes /lib/systemd/system/oxbow.service /lib/systemd/system/oxbow@.service 2>said ||
	{ cat said >&2; fails "systemd does not take the units"; }
! grep -i oxbow said >&2 || fails "systemd has something to say of the units"
! systemctl is-enabled --quiet oxbow.service || fails "oxbow.service is enabled, with nothing to serve"
says "systemd takes the units"

remove_all
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path "$packages" \
	-o -path /var/log -o -path /var/cache \) -prune -o -name '*oxbow*' -print)
[ -z "$left" ] || fails "this is left after a purge: $left"
says "nothing is left"
