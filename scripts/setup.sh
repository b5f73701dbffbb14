#!/usr/bin/env bash
# Installs what Weft needs: on Debian 12 and Ubuntu 24.04 (or later) with apt-get, as root or through sudo.
# Does nothing, and needs no network, when everything is there. On other systems it names what is missing.
#
#   scripts/setup.sh [--no-install] [--with GROUP]...
#
#   --with GROUP   one more group of packages; may be repeated
#                    text    the King James Bible, which scripts/demo.sh trains on
#                    format  what .ci/run checks the sources with
#                    dev     format, lint and compiler cache, for those who change Weft
#                    peers   libtorch, the yardstick of benchmarks/peers
#   --no-install   only report what is missing; exit 1 if something that is required is
#   -h, --help     this text
#
# Example: scripts/setup.sh --with text --with dev
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install=1
groups=(base)
while (($#)); do
  case $1 in
    --no-install) install=0 ;;
    --with)
      (($# > 1)) || usage_error "--with needs the name of a group"
      shift
      [[ $1 =~ ^(text|format|dev|peers)$ ]] || usage_error "there is no group '$1'; allowed are text, format, dev, peers"
      groups+=("$1")
      if [[ $1 == dev ]]; then groups+=(format); fi
      ;;
    -h | --help) print_help && exit 0 ;;
    *) usage_error "unknown argument '$1'; allowed are --no-install, --with" ;;
  esac
  shift
done

# group, required or optional, package of Debian and Ubuntu, and how to see it without a package manager: a command
# (cmd:NAME), a header (inc:NAME) or something under /usr/lib/*/ (lib:NAME). Optional packages do not exist in every
# release; the build goes on without them.
packages='
base   required g++                           cmd:c++
base   required cmake                         cmd:cmake
base   required ninja-build                   cmd:ninja
base   required libfmt-dev                    inc:fmt/format.h
base   required libspdlog-dev                 inc:spdlog/spdlog.h
base   required nlohmann-json3-dev            inc:nlohmann/json.hpp
base   required libboost-program-options-dev  inc:boost/program_options.hpp
base   required libhdf5-dev                   inc:hdf5.h
base   required libopenblas-dev               inc:cblas.h
base   required libxxhash-dev                 inc:xxhash.h
base   required libgtest-dev                  inc:gtest/gtest.h
base   required libgmock-dev                  inc:gmock/gmock.h
base   optional libdnnl-dev                   inc:dnnl.hpp
base   optional pkg-config                    cmd:pkg-config
text   required bible-kjv                     cmd:bible
text   required bible-kjv-text                cmd:bible
format required clang-format-14               cmd:clang-format-14
format required shellcheck                    cmd:shellcheck
dev    required clang-tidy-14                 cmd:clang-tidy-14
dev    required ccache                        cmd:ccache
peers  required libtorch-dev                  inc:torch/csrc/api/include/torch/torch.h
peers  optional libopenblas0-openmp           lib:openblas-openmp
'

has_header() {
  local dirs=(-I/usr/include/hdf5/serial -I/usr/include/openblas -I/usr/local/include)
  in_path c++ && echo "#include <$1>" | c++ -std=c++20 "${dirs[@]}" -E -x c++ - >/dev/null 2>&1
}

# is_there PACKAGE PROBE: installed by the package manager, or found by its probe (built by hand, another system).
is_there() {
  if in_path dpkg-query; then
    local status
    status=$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)
    if [[ $status == installed ]]; then return 0; fi
  fi
  case $2 in
    cmd:*) in_path "${2#cmd:}" ;;
    inc:*) has_header "${2#inc:}" ;;
    lib:*) compgen -G "/usr/lib/*/${2#lib:}" >/dev/null ;;
  esac
}

missing=()
missing_optional=()
look_for_missing() {
  missing=()
  missing_optional=()
  local group need package probe
  while read -r group need package probe; do
    if [[ -z $group || " ${groups[*]} " != *" $group "* ]] || is_there "$package" "$probe"; then continue; fi
    if [[ $need == required ]]; then missing+=("$package"); else missing_optional+=("$package"); fi
  done <<<"$packages"
}

look_for_missing
if ((${#missing[@]} + ${#missing_optional[@]} == 0)); then
  exit 0
fi
if ((!install)) || ! in_path apt-get; then
  if ((${#missing_optional[@]})); then say "missing, optional: ${missing_optional[*]}"; fi
  if ((${#missing[@]})); then
    if ((!install)); then die "missing packages: ${missing[*]}"; fi
    die "this is not a Debian or Ubuntu system; please install what these packages hold: ${missing[*]}"
  fi
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! in_path sudo; then
    if ((${#missing[@]} == 0)); then exit 0; fi
    die "not root, and there is no sudo; as root run: apt-get install ${missing[*]}"
  fi
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y -q "$@" \
    </dev/null >"$log" 2>&1
}

has_candidate() { [[ $(apt-cache policy "$1" 2>/dev/null) == *Candidate:\ [0-9]* ]]; }

if ((${#missing[@]})); then
  # The lists may be stale or absent; without network the packages may still be in the cache, so this may fail.
  say "looking up packages"
  apt update || true
  say "installing ${missing[*]}"
  if ! apt install --no-install-recommends "${missing[@]}"; then
    tail -n 20 "$log" >&2
    die "apt-get could not install: ${missing[*]}"
  fi
fi
for package in ${missing_optional[@]+"${missing_optional[@]}"}; do
  if ! has_candidate "$package"; then
    say "$package is not packaged here; going on without it"
  elif say "installing $package" && ! apt install --no-install-recommends "$package"; then
    say "$package could not be installed; going on without it"
  fi
done
look_for_missing
if ((${#missing[@]})); then die "still missing after the installation: ${missing[*]}"; fi
