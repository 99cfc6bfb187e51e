#!/bin/sh
# bare.sh: clone, make demo and make test in a bare Debian 12 root (as root, with debootstrap)
#
#   tests/checks/bare.sh [COMMAND]     the command to run in the clone, instead of demo and test
#
# The root lies under $BUILD/bare and is made once ($MIRROR: where from); each run works in a fresh copy. What this
# machine needs to reach the network (name servers, certificates, apt's proxy, pip's settings) is carried over, and
# nothing else. The commit that HEAD names is what is cloned.
set -eu
build=$(pwd)/${BUILD:-build}
base=$build/bare
root=$build/bare-run
command=${1:-'make demo && make test'}

[ "$(id -u)" = 0 ] || { echo "bare: needs root, for chroot" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "bare: needs debootstrap (apt-get install debootstrap)" >&2; exit 1; }

if [ ! -e "$base.done" ]; then
  rm -rf "$base"
  debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$base" ${MIRROR:+"$MIRROR"} >&2
  : > "$base.done"
fi

rm -rf --one-file-system "$root"
cp -a "$base" "$root"

carry() { # carry FILE...: to the same place in the root
  for file; do
    [ -e "$file" ] || continue
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
}
carry /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf "$HOME/.config/pip/pip.conf" \
  "$HOME/.pip/pip.conf"
apt-config dump | grep -i '^Acquire::.*proxy' > "$root/etc/apt/apt.conf.d/99carried" || true

git clone -q --bare . "$root/srv/moonlet.git"
git -C "$root/srv/moonlet.git" update-ref refs/heads/bare HEAD
git -C "$root/srv/moonlet.git" symbolic-ref HEAD refs/heads/bare
start=$(date +%s)
# In a mount namespace of its own, so that nothing stays mounted whatever happens.
env -i HOME="$HOME" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" \
  LC_ALL=C.UTF-8 \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
  unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount --bind /dev/pts "$1/dev/pts" &&
    exec chroot "$1" sh -c "$2"' bare "$root" \
  "mkdir -p \$HOME && cd /srv && git clone -q moonlet.git moonlet && cd moonlet && $command"
echo "bare: done in $(($(date +%s) - start)) s" >&2
