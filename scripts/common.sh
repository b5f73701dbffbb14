# Shared by the scripts of this folder; source it, do not run it.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # read by the scripts that source this file
jobs=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
me=$(basename "$0")

# say TEXT...: one line of progress; results go to stdout, everything else to stderr.
say() { printf '== %s\n' "$*" >&2; }

# die [-STATUS] TEXT...: the reason, then out (status 1 unless given).
die() {
  local status=1
  if [[ "${1-}" =~ ^-[0-9]+$ ]]; then
    status=${1#-}
    shift
  fi
  printf '%s: error: %s\n' "$me" "$*" >&2
  exit "$status"
}

# usage_error TEXT...: exits 2, as every usage error of the project.
usage_error() { die -2 "$* (see $me --help)"; }

# print_help: the comment block at the top of the calling script, without its first line and its '#'.
print_help() { sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p; }' "$0"; }

# minutes SECONDS: 75 -> 1m15s
minutes() { printf '%dm%02ds' "$(($1 / 60))" "$(($1 % 60))"; }

# parse_known_options SWITCHES OPTIONS [ARGUMENTS...]: reads --out-dir X into the variable out_dir, for each name in the
# list OPTIONS, and --no-build into no_build, which then holds the flag itself, for each in SWITCHES; a variable keeps
# what it was where its option is not given. What has no such name goes to the array others. Prints the help and ends
# where --help asks for it.
parse_known_options() {
  local switches=" $1 " options=" $2 " name
  shift 2
  others=()
  while (($#)); do
    name=${1#--}
    if [[ $1 == -h || $1 == --help ]]; then
      print_help && exit 0
    elif [[ $1 == --* && $options == *" $name "* ]]; then
      (($# > 1)) || usage_error "$1 needs a value"
      printf -v "${name//-/_}" '%s' "$2"
      shift
    elif [[ $1 == --* && $switches == *" $name "* ]]; then
      printf -v "${name//-/_}" '%s' "$1"
    else
      others+=("$1")
    fi
    shift
  done
}

# parse_options SWITCHES OPTIONS [ARGUMENTS...]: the same, where nothing else is allowed.
parse_options() {
  parse_known_options "$@"
  ((${#others[@]} == 0)) || usage_error "unknown argument '${others[0]}'; allowed are $(sed "s/[^ ][^ ]*/--&,/g; s/^ *//; s/,\$//" <<<"$1 $2")"
}

# configure BUILD_DIR [CMAKE ARGUMENTS...]: quiet unless it fails; the summary of what was found is shown.
configure() {
  local dir=$1 log
  shift
  mkdir -p "$dir"
  log=$dir/configure.log
  local generator=()
  if [[ ! -e $dir/CMakeCache.txt ]] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  if ! cmake -S "$root" -B "$dir" "${generator[@]}" "$@" >"$log" 2>&1; then
    cat "$log" >&2
    die "configuring failed; the log is $log"
  fi
  sed -n '/^-- Weft /,/^-- $/ s/^-- //p' "$log" >&2
}

# install_needs: what the build needs; under the caller's --no-install only says what is missing.
install_needs() { "$root/scripts/setup.sh" ${no_install:+"$no_install"} || exit 1; }

# build_programs BUILD_DIR TARGETS [CMAKE ARGUMENTS...]: a build for speed, quiet unless it fails.
build_programs() {
  local dir=$1 targets
  read -ra targets <<<"$2"
  shift 2
  say "configuring and building in $dir"
  configure "$dir" -DCMAKE_BUILD_TYPE=Release "$@"
  cmake --build "$dir" --parallel "$jobs" --target "${targets[@]}" >"$dir/build.log" ||
    { tail -n 30 "$dir/build.log" >&2 && die "the build failed; the log is $dir/build.log"; }
}

# in_path COMMAND: as command -v, without output.
in_path() { command -v "$1" >/dev/null 2>&1; }

# find_weft BUILD_DIR: the path of the program.
find_weft() {
  local program=$1/apps/weft
  [[ -x $program ]] || die "there is no program at $program"
  printf '%s\n' "$program"
}

# column NAME: its value in a CSV of one row from standard input.
column() { awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; ++i) if ($i == name) at = i } NR == 2 { print $at }'; }

# steps_within SECONDS WEFT CONFIG [FLAGS...]: how many training steps of this config fit into that time here, timed.
steps_within() {
  local seconds=$1 weft=$2 config=$3 step_ms
  shift 3
  step_ms=$("$weft" bench step --config "$config" --format csv "$@" | column step_ms) || return 1
  awk -v seconds="$seconds" -v step_ms="$step_ms" 'BEGIN { print int(1000 * seconds / (step_ms + 0.001)) }'
}

# cpu_name: as the system calls it.
cpu_name() { sed -n '/^model name/{s/^[^:]*: *//p;q}' /proc/cpuinfo; }

# machine_name: a name for files of results, made from that of the CPU.
machine_name() {
  printf '%s-%s-cores\n' "$(cpu_name | tr '[:upper:]' '[:lower:]' |
    sed -E 's/\((r|tm)\)//g; s/(processor|cpu)//g; s/@//g; s/[^a-z0-9.]+/-/g; s/^-|-$//g')" "$jobs"
}

# package_version PACKAGE
package_version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || echo unknown; }

# portable_word WORD: a word of a command line without what it tells of this machine: a path below the repository is given
# from there, of any other only its last part.
portable_word() {
  local flag='' value=$1
  if [[ $value == --*=* ]]; then
    flag=${value%%=*}=
    value=${value#*=}
  fi
  if [[ $value =~ ^\.{0,2}/ || ($value == */* && -e $value) ]]; then
    value=$(realpath -ms -- "$value")
    case $value in
      "$root") value=. ;;
      "$root"/*) value=${value#"$root"/} ;;
      *) value=${value##*/} ;;
    esac
  fi
  printf '%s%s\n' "$flag" "$value"
}

# shown_command [ARGUMENTS...]: how the calling script is run from the repository, on any machine.
shown_command() {
  local word line=scripts/$me
  for word; do
    word=$(portable_word "$word")
    if [[ ! $word =~ ^[-+=.,:/@%_A-Za-z0-9]+$ ]]; then word=${word@Q}; fi
    line+=" $word"
  done
  printf '%s\n' "$line"
}

# revision_of PROGRAM...: the git revision that they were built from, by their own --version, wherever that was; unknown
# where they know none. Results of several revisions would not belong together.
revision_of() {
  local program said revision=
  for program; do
    said=$("$program" --version) || die "$program does not tell its version"
    said=${said%%$'\n'*}
    if [[ $said =~ \(([^\)]+)\)$ ]]; then said=${BASH_REMATCH[1]}; else said=unknown; fi
    [[ ${revision:=$said} == "$said" ]] || die "$1 is of revision $revision, but $program of $said; build them together"
  done
  printf '%s\n' "$revision"
}

# result_header BENCHMARK COMMAND MACHINE REVISION PROGRAM: the keys with which every file of results begins.
result_header() {
  local command=${2//\\/\\\\}
  printf '  "benchmark": "%s",\n  "date": "%s",\n  "revision": "%s",\n  "command": "%s",\n' \
    "$1" "$(date -u +%Y-%m-%d)" "$4" "${command//\"/\\\"}"
  printf '  "machine": {"name": "%s", "cpu": "%s", "cores": %s, "memory_bytes": %s, "system": "%s", "kernel": "%s"},\n' \
    "$3" "$(cpu_name)" "$jobs" "$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) * 1024))" \
    "$(. /etc/os-release && echo "$PRETTY_NAME")" "$(uname -r)"
  printf '  "versions": {"compiler": "%s", "openblas": "%s", "onednn": "%s", "libtorch": "%s"},\n' \
    "$("$5" --version | sed -n 2p)" "$(package_version libopenblas0-pthread)" "$(package_version libdnnl-dev)" \
    "$(package_version libtorch-dev)"
}
