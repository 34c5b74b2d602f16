# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154 # "here" and "BUILD" are the caller's
#
# Builds the guest's file system as a cpio archive: our programs, the host's programs that the
# script names, each with its shared libraries, busybox for the rest, and kernel modules. Sourced
# by tests/vm/run; writes only below the folder that it is given. Works for any user: ownership is
# set while packing.

# What a program needs beside its libraries: files below these paths are copied where present.
declare -A COMPANIONS=(
	[systemd-udevd]='/usr/lib/udev/rules.d /usr/lib/udev/*_id /etc/udev/udev.conf'
	[nbdkit]='/usr/lib*/nbdkit/filters /usr/lib/*/nbdkit/filters'
	[mkfs.ext4]='/etc/mke2fs.conf'
	[mke2fs]='/etc/mke2fs.conf'
	[python3]='/usr/lib/python3*/*.py /usr/lib/python3*/[a-z]*/*.py /usr/lib/python3*/lib-dynload'
)
for plugin in file memory null pattern data; do
	COMPANIONS[nbdkit]+=" /usr/lib*/nbdkit/plugins/nbdkit-$plugin-plugin.so"
	COMPANIONS[nbdkit]+=" /usr/lib/*/nbdkit/plugins/nbdkit-$plugin-plugin.so"
done
# Names of programs that stand for more than one.
declare -A BUNDLES=(
	[udev]='udevadm systemd-udevd'
)
PROGRAM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/systemd:/lib/systemd

# Programs that are not there are gathered in the caller's "missing", to be told all at once.

find_program() { # NAME
	local dir
	for dir in "$BUILD" "$BUILD/tests"; do
		if [ -x "$dir/$1" ] && [ ! -d "$dir/$1" ]; then
			echo "$dir/$1"
			return
		fi
	done
	PATH=$PROGRAM_PATH type -P -- "$1"
}

# /lib/x and /usr/lib/x are one in the guest, as on the host.
guest_path() { # HOST-PATH
	case $1 in
	/bin/* | /sbin/* | /lib/* | /lib32/* | /lib64/*) echo "/usr$1" ;;
	*) echo "$1" ;;
	esac
}

add_file() { # ROOT HOST-PATH [GUEST-PATH]
	local to
	to=$1$(guest_path "${3:-$2}")
	[ ! -e "$to" ] || return 0
	mkdir -p "${to%/*}"
	cp -L --preserve=mode -- "$2" "$to"
}

add_tree() { # ROOT PATTERN
	local path
	while read -r path; do
		if [ -d "$path" ]; then
			mkdir -p "$1$(guest_path "$path")"
			cp -rL -- "$path/." "$1$(guest_path "$path")"
		elif [ -e "$path" ]; then
			add_file "$1" "$path"
		fi
	done < <(compgen -G "$2" || true)
}

add_programs() { # ROOT NAME...
	local root=$1 name path file companion
	local -a files=() names=() bundle
	shift
	for name in "$@"; do
		read -ra bundle <<<"${BUNDLES[$name]:-$name}"
		names+=("${bundle[@]}")
	done
	for name in "${names[@]}"; do
		if [[ $name == /* ]]; then
			add_tree "$root" "$name"
			continue
		fi
		path=$(find_program "$name") || {
			missing+=("$name")
			continue
		}
		add_file "$root" "$path" "/usr/bin/${path##*/}"
		files+=("$path")
		for companion in ${COMPANIONS[${path##*/}]:-}; do
			add_tree "$root" "$companion"
		done
	done
	# Plugins are loaded at run time, so their libraries are not in the programs' lists.
	while read -r file; do
		files+=("$file")
	done < <(find "$root" -name '*.so' -path '*/nbdkit/*')
	add_libraries "$root" "${files[@]}"
}

add_libraries() { # ROOT FILE...
	local root=$1 library
	shift
	while read -r library; do
		add_file "$root" "$library"
	done < <(ldd "$@" 2>/dev/null | grep -oE '(^|[[:space:]])/[^ :]+ \(0x' | awk '{ print $1 }' | sort -u)
}

add_modules() { # ROOT KERNEL-FOLDER RELEASE NAME...
	local root=$1 folder=$2 release=$3 name path to
	shift 3
	for name in "$@"; do
		# Built into this kernel, or a name that is another kernel's: both are no fault here.
		modprobe -d "$folder" -S "$release" --show-depends "$name" 2>/dev/null || true
	done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r path; do
		to=$root/usr/lib/modules/$release/${path#*"/lib/modules/$release/"}
		mkdir -p "${to%/*}"
		case $path in
		*.xz) xz -dc "$path" >"${to%.xz}" ;;
		*.zst) zstd -qdc "$path" >"${to%.zst}" ;;
		*.gz) gzip -dc "$path" >"${to%.gz}" ;;
		*) cp "$path" "$to" ;;
		esac
	done
	cp "$folder/lib/modules/$release"/modules.{builtin,order}* "$root/usr/lib/modules/$release/"
	depmod -b "$root" "$release"
}

add_skeleton() { # ROOT
	local root=$1 dir
	mkdir -p "$root"/{dev,proc,sys,run,tmp,mnt,root,etc/udev/rules.d,test,var/tmp,usr/lib/modules}
	ln -s /run "$root/var/run"
	ln -s /run/lock "$root/var/lock"
	for dir in bin sbin lib lib32 lib64; do
		mkdir -p "$root/usr/$dir"
		ln -s "usr/$dir" "$root/$dir"
	done
	printf '%s\n' root:x:0:0:root:/root:/bin/bash nobody:x:65534:65534:nobody:/:/bin/false \
		user:x:1000:1000:user:/tmp:/bin/bash >"$root/etc/passwd"
	# The groups that udev's rules name.
	local id=0 group
	for group in root tty disk lp dialout kmem cdrom floppy tape video audio input render kvm sgx; do
		echo "$group:x:$((id++)):"
	done >"$root/etc/group"
	printf '%s\n' user:x:1000: nogroup:x:65534: >>"$root/etc/group"
	printf '127.0.0.1 localhost guest\n::1 localhost\n' >"$root/etc/hosts"
	printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
	cp "$here/init" "$root/init"
	cp "$here/guest.sh" "$root/test/guest.sh"
}

add_busybox() { # ROOT
	local root=$1 busybox applet
	busybox=$(PATH=$PROGRAM_PATH type -P busybox) || {
		missing+=(busybox)
		return
	}
	add_file "$root" "$busybox" /usr/bin/busybox
	add_libraries "$root" "$busybox"
	for applet in $("$busybox" --list); do
		[ -e "$root/usr/bin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
	done
}

pack_initramfs() { # ROOT OUTPUT
	(cd "$1" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) >"$2"
}
