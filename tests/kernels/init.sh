#!/bin/busybox sh
# Process 1 of the guest. First, in the initramfs: modules, the host's tree, an overlay on it.
export PATH=/run/ktop-kernels/bin:/bin
if [ -d /mod ]; then
  mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
  for m in /mod/*; do insmod $m; done
  mount -t virtiofs share /share || poweroff -f
  mount -t virtiofs -o ro tree /lower || poweroff -f
  mount -t tmpfs -o size=75% tmpfs /rw; mkdir /rw/up /rw/work
  mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work root /new || poweroff -f
  cd /new; mkdir -p proc sys dev run; mount -t tmpfs -o mode=755 tmpfs run
  mkdir -p run/lock run/ktop-kernels run/share
  cp -a /bin /init run/ktop-kernels
  mount --move /share run/share
  for d in proc sys dev; do mount --move /$d /new/$d; done
  exec switch_root /new /run/ktop-kernels/init
fi
# Then, on the host's tree: file systems, this kernel's modules, and the command.
. /run/share/env
r=$(uname -r)
mkdir -p /dev/pts /dev/shm /lib/modules
for m in devpts:/dev/pts tmpfs:/dev/shm cgroup2:/sys/fs/cgroup tracefs:/sys/kernel/tracing \
  debugfs:/sys/kernel/debug bpf:/sys/fs/bpf securityfs:/sys/kernel/security; do
  mount -t ${m%:*} ${m%:*} ${m#*:}; done
for c in cpu io memory pids; do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done
for l in fd:fd fd/0:stdin fd/1:stdout fd/2:stderr; do ln -s /proc/self/${l%:*} /dev/${l#*:}; done
ip link set lo up; hostname ktop-kernels
ln -sfn "$TREE/lib/modules/$r" /lib/modules/$r
(cd "$CWD"; exec setsid /bin/sh /run/share/command) </dev/null >/run/share/output 2>&1
echo $? >/run/share/status.new
sync
mv /run/share/status.new /run/share/status
poweroff -f
