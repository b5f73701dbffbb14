#!/usr/bin/env bash
# Writes a real English text as one UTF-8 file, DIR/NAME.txt, and prints that path.
#
#   scripts/get-text.sh [--no-install] kjv|gcide DIR
#
#   kjv     the King James Bible, about 4.4 MB, printed by the program of Debian's bible-kjv
#   gcide   the GNU Collaborative International Dictionary of English, about 40 MB, out of Debian's dict-gcide
#
#   --no-install   use only what is on this machine already
#   -h, --help     this text
#
# A file that is there already, and whole, is left alone. Any text of your own can be trained on as well.
# Example: scripts/get-text.sh kjv data
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install=1
arguments=()
while (($#)); do
  case $1 in
    --no-install) install=0 ;;
    -h | --help) print_help && exit 0 ;;
    -*) usage_error "unknown flag '$1'; allowed is --no-install" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
((${#arguments[@]} == 2)) || usage_error "expected the name of a text and a folder"
name=${arguments[0]}
dir=${arguments[1]}
[[ $name =~ ^(kjv|gcide)$ ]] || usage_error "there is no text '$name'; allowed are kjv, gcide"

mkdir -p "$dir" || die "cannot make the folder $dir"
dir=$(cd "$dir" && pwd)
scratch=$(mktemp -d "$dir/.get-text.XXXXXX") || die "cannot write to $dir"
trap 'rm -rf "$scratch"' EXIT
text=$scratch/text

# check_text FILE: prints what is wrong with it, nothing if it is whole. A cut text would quietly change results.
check_text() {
  local least first
  case $name in
    kjv) least=4300000 first='In the beginning God created the heaven and the earth' ;;
    gcide) least=39000000 first='The Collaborative International Dictionary of English' ;;
  esac
  local size
  size=$(wc -c <"$1")
  if ((size < least)); then
    echo "it has $size bytes, at least $least were expected"
  elif ! head -c 4096 "$1" | LC_ALL=C grep -qF "$first"; then
    echo "it does not begin with '$first'"
  elif ! iconv -f UTF-8 -t UTF-8 "$1" >/dev/null 2>&1; then
    echo "it is not valid UTF-8"
  fi
}

print_kjv() {
  if ! in_path bible; then
    ((install)) || die "the package bible-kjv is not installed"
    "$root/scripts/setup.sh" --with text || die "bible-kjv cannot be had here"
  fi
  bible -f -l80 "gen1:1-rev22:21" </dev/null >"$text" || die "the program 'bible' failed"
}

download_gcide() {
  apt-get -q download dict-gcide || { apt-get -q update && apt-get -q download dict-gcide; }
  dpkg-deb -x dict-gcide_*.deb package
}

print_gcide() {
  local packed=/usr/share/dictd/gcide.dict.dz
  if [[ ! -e $packed ]]; then
    if ((!install)) || ! in_path apt-get; then die "the package dict-gcide is not installed"; fi
    # Unpacked, not installed: the package would bring in and start a dictionary server.
    (cd "$scratch" && download_gcide >log 2>&1) || die "dict-gcide cannot be had here: $(tail -n 1 "$scratch/log")"
    packed=$scratch/package$packed
  fi
  # The dictionary has a few stray bytes that are not UTF-8; -c drops them.
  gzip -dc <"$packed" | { iconv -c -f UTF-8 -t UTF-8 || true; } >"$text"
}

target=$dir/$name.txt
if [[ -e $target && -z $(check_text "$target") ]]; then
  echo "$target"
  exit 0
fi
"print_$name"
problem=$(check_text "$text")
if [[ $problem ]]; then die "the text '$name' is not as expected: $problem"; fi
mv -f "$text" "$target"
echo "$target"
