#!/usr/bin/env bash
# Times whole training steps on the CPU: Weft and libtorch by turns in one run, so that their ratio holds even where
# the machine is shared and its speed drifts. Writes benchmarks/results/<date>-<machine>-cpu-step.json and prints a
# table. Takes about ten minutes on 2 cores; nothing else should run meanwhile.
#
#   scripts/bench.sh [--no-install] [--build-dir DIR] [--machine NAME] [--cases LIST] [--rounds N] [--steps N] [--out FILE]
#
#   --machine NAME   the name in the result (default: made from the CPU's)
#   --cases LIST     of d192,d384,d768 (default: all)
#   --rounds N       how often each program takes its turn (default 3); the medians count
#   --steps N        timed steps a turn, after 2 of warm-up (default 5)
#   --out FILE       where to write (default: see above)
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing
#   -h, --help       this text
#
# benchmarks/README.md says how the numbers are taken. Example: scripts/bench.sh --cases d192 --rounds 1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command_line=$(shown_command "$@")
no_install=
build_dir=$root/build
machine=
cases=d192,d384,d768
rounds=3
steps=5
out=
parse_options no-install "build-dir machine cases rounds steps out" "$@"
[[ $rounds =~ ^[1-9][0-9]*$ && $steps =~ ^[1-9][0-9]*$ ]] || usage_error "--rounds and --steps must be positive"

# The three models of docs/performance.md; T = 256 everywhere.
shape_of() {
  case $1 in
    d192) echo "--n-layers 6 --d-model 192 --n-heads 6 --d-ff 512 --vocab-size 256 --seq-len 256 --batch-size 16" ;;
    d384) echo "--n-layers 6 --d-model 384 --n-heads 6 --d-ff 1024 --vocab-size 256 --seq-len 256 --batch-size 8" ;;
    d768) echo "--n-layers 12 --d-model 768 --n-heads 12 --d-ff 2048 --vocab-size 50304 --seq-len 256 --batch-size 2" ;;
    *) usage_error "there is no case '$1'; allowed are d192, d384, d768" ;;
  esac
}
IFS=, read -ra case_list <<<"$cases"
for name in "${case_list[@]}"; do shape_of "$name" >/dev/null; done

"$root/scripts/setup.sh" --with peers ${no_install:+"$no_install"} || exit 1
build_programs "$build_dir" "weft libtorch_cpu_step" -DWEFT_BUILD_PEERS=ON
weft=$(find_weft "$build_dir")
revision=$(revision_of "$weft")
peer=$build_dir/benchmarks/peers/libtorch_cpu_step
step=("$weft" bench step --no-tie-embeddings --optimizer adamw --grad-clip 1 --format json)

# libtorch in its best light, in two ways; see benchmarks/README.md for the reasons.
flags=" $(sed -n '/^flags/{s/^[^:]*://p;q}' /proc/cpuinfo) "
tuned=(MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 MALLOC_TOP_PAD_=67108864)
if [[ $flags == *' avx512bw '* && $flags == *' avx512vl '* ]]; then
  tuned+=(OPENBLAS_CORETYPE=SkylakeX)
elif [[ $flags == *' avx2 '* && $flags == *' fma '* ]]; then
  tuned+=(OPENBLAS_CORETYPE=Haswell)
fi
unset OPENBLAS_CORETYPE
tuned_openmp=()
for folder in /usr/lib/*/openblas-openmp; do
  if [[ -e $folder/libblas.so.3 ]]; then tuned_openmp=("${tuned[@]}" "LD_LIBRARY_PATH=$folder" "OMP_NUM_THREADS=$jobs"); fi
done

# one_line: JSON from standard input without line ends.
one_line() { tr -d '\n' | sed 's/^ *//; s/  */ /g'; }

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
# turn CASE ROUND PROGRAM COMMAND...: runs the command, appends "case round program json" to the rows.
turn() {
  local name=$1 round=$2 program=$3 json
  shift 3
  json=$("$@" | one_line) || die "failed: $*"
  printf '%s\t%s\t%s\t%s\n' "$name" "$round" "$program" "$json" >>"$rows"
  say "$name round $round $program: $(number tokens_per_s <<<"$json") tok/s, $(number peak_bytes <<<"$json") bytes"
}
# number KEY: the number behind "KEY": in JSON from standard input.
number() { grep -oE "\"$1\": *[-+.0-9eE]+" | head -n 1 | sed 's/.*: *//'; }

for ((round = 1; round <= rounds; ++round)); do
  for name in "${case_list[@]}"; do
    read -ra shape <<<"$(shape_of "$name")"
    timing=(--steps "$steps" --warmup 2)
    turn "$name" "$round" weft-f32 "${step[@]}" --dtype f32 "${shape[@]}" "${timing[@]}"
    turn "$name" "$round" weft-bf16 "${step[@]}" --dtype bf16 "${shape[@]}" "${timing[@]}"
    turn "$name" "$round" libtorch-tuned env "${tuned[@]}" "$peer" "${shape[@]}" "${timing[@]}"
    if ((${#tuned_openmp[@]})); then
      turn "$name" "$round" libtorch-tuned-openmp env "${tuned_openmp[@]}" "$peer" "${shape[@]}" "${timing[@]}"
    fi
    # For the record alone, and slow where OpenBLAS does not know the CPU.
    if ((round == 1)); then turn "$name" 1 libtorch-as-installed "$peer" "${shape[@]}" "${timing[@]}"; fi
  done
done

# Medians over the rounds, and ratios against the fastest libtorch (speed) and the leanest (memory) of the same case.
summary=$(
  while IFS=$'\t' read -r name _ program json; do
    printf '%s %s %s %s\n' "$name" "$program" "$(number tokens_per_s <<<"$json")" "$(number peak_bytes <<<"$json")"
  done <"$rows" | awk '
    function median(list,   n, i, j, t, v) {
      n = split(list, v, " ")
      for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
      return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    { key = $1 " " $2; if (!(key in speed)) order[++count] = key
      speed[key] = speed[key] " " $3; memory[key] = memory[key] " " $4 }
    END {
      for (i = 1; i <= count; i++) {
        key = order[i]; split(key, part, " "); s[key] = median(speed[key]); m[key] = median(memory[key])
        if (part[2] ~ /^libtorch/) {
          if (s[key] > best[part[1]]) best[part[1]] = s[key]
          if (!(part[1] in lean) || m[key] < lean[part[1]]) lean[part[1]] = m[key]
        }
      }
      for (i = 1; i <= count; i++) {
        key = order[i]; split(key, part, " ")
        printf "%s %s %.1f %.3f %.0f %.3f\n", part[1], part[2], s[key], s[key] / best[part[1]], m[key], m[key] / lean[part[1]]
      }
    }'
)

machine=${machine:-$(machine_name)}
out=${out:-$root/benchmarks/results/$(date -u +%Y-%m-%d)-$machine-cpu-step.json}

mkdir -p "$(dirname "$out")"
{
  printf '{\n'
  result_header cpu-step "$command_line" "$machine" "$revision" "$weft"
  printf '  "environment": {"libtorch-tuned": "%s", "libtorch-tuned-openmp": "%s"},\n' "${tuned[*]}" "${tuned_openmp[*]-}"
  printf '  "summary": [\n'
  awk '{ printf "%s    {\"case\": \"%s\", \"program\": \"%s\", \"tokens_per_s\": %s, \"speed_ratio\": %s, \"peak_bytes\": %s, \"memory_ratio\": %s}", sep, $1, $2, $3, $4, $5, $6; sep = ",\n" } END { print "" }' <<<"$summary"
  printf '  ],\n  "rows": [\n'
  awk -F '\t' '{ printf "%s    {\"case\": \"%s\", \"round\": %s, \"program\": \"%s\", \"result\": %s}", sep, $1, $2, $3, $4; sep = ",\n" } END { print "" }' "$rows"
  printf '  ]\n}\n'
} >"$out.partial"
mv -f "$out.partial" "$out"

{
  printf '%-5s %-22s %10s %7s %10s %7s\n' case program tok/s ratio peak/MiB ratio
  awk '{ printf "%-5s %-22s %10.1f %7.2f %10.0f %7.2f\n", $1, $2, $3, $4, $5 / 1048576, $6 }' <<<"$summary"
}
say "written to $out"
