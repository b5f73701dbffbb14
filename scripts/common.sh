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

# result_header BENCHMARK COMMAND MACHINE: the keys with which every file of results begins. WEFT_REVISION names the
# revision where the tree was copied without its history.
result_header() {
  local revision
  revision=${WEFT_REVISION:-$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
  if [[ -z ${WEFT_REVISION-} && -n $(git -C "$root" status --porcelain --untracked-files=no -- . ':!benchmarks/results' 2>/dev/null) ]]; then revision+=-dirty; fi
  printf '  "benchmark": "%s",\n  "date": "%s",\n  "revision": "%s",\n  "command": "%s",\n' \
    "$1" "$(date -u +%Y-%m-%d)" "$revision" "$2"
  printf '  "machine": {"name": "%s", "cpu": "%s", "cores": %s, "memory_bytes": %s, "system": "%s", "kernel": "%s"},\n' \
    "$3" "$(cpu_name)" "$jobs" "$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) * 1024))" \
    "$(. /etc/os-release && echo "$PRETTY_NAME")" "$(uname -r)"
  printf '  "versions": {"compiler": "%s", "openblas": "%s", "onednn": "%s", "libtorch": "%s"},\n' \
    "$(c++ --version | head -n 1)" "$(package_version libopenblas0-pthread)" "$(package_version libdnnl-dev)" \
    "$(package_version libtorch-dev)"
}
