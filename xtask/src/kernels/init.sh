#!/bin/sh
# The first process of a virtual machine: runs the tests in /tests, tells of them by the
# second serial line, and switches the machine off.

export PATH=/usr/sbin:/usr/bin HOME=/root NETBPF_BIN=/usr/bin/netbpf NETBPF_PATIENCE=6

mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp

exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw

# The first is not loaded before its device is there, which it makes; the others bring
# settings along, which tests would take for something that was left behind.
modprobe -a tun br_netfilter nf_conntrack
ip link set lo up

while read -r name arguments; do
    echo "guest: begin $name"
    # Arguments are words without blanks.
    # shellcheck disable=SC2086
    "/tests/$name" --test-threads=2 $arguments </dev/null
    echo "guest: end $?"
done </tests/list
echo "guest: done"

# Waits until all of it is sent.
stty -F /dev/ttyS1 raw
echo o >/proc/sysrq-trigger
# This process must not end before the machine does.
sleep 60
