#!/usr/bin/env bash
# Runs the benchmarks of single kernels and layers on the CPU and writes what they print, with the machine beside it, to
# benchmarks/results/<date>-<machine>-cpu-kernels.json. Each compares with a yardstick of its own run: a library, a copy,
# full attention. Takes about five minutes on 2 cores; nothing else should run meanwhile.
#
#   scripts/bench-kernels.sh [--no-install] [--build-dir DIR] [--machine NAME] [--suites LIST] [--out FILE]
#
#   --machine NAME   the name in the result (default: made from the CPU's)
#   --suites LIST    of gemm, flash_attention, selected_attention, sparse_attention, fused_ops, elementwise, optim and
#                    two of `weft bench attention`: layers, all mechanisms, and decode, steps of full attention, nsa and
#                    asa behind 16k tokens for 1, 2, 4 and 8 sequences, in half a minute (default: all)
#   --out FILE       where to write (default: see above)
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing
#   -h, --help       this text
#
# Example: scripts/bench-kernels.sh --suites gemm
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Threads that spin while they wait would slow each other down wherever a core is shared.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
command_line=$(shown_command "$@")
all=gemm,flash_attention,selected_attention,sparse_attention,fused_ops,elementwise,optim,layers,decode
no_install=
build_dir=$root/build
machine=
suites=$all
out=
parse_options no-install "build-dir machine suites out" "$@"
IFS=, read -ra suite_list <<<"$suites"
targets=(weft)
programs=("$build_dir/apps/weft")
for suite in "${suite_list[@]}"; do
  [[ ,$all, == *",$suite,"* ]] || usage_error "there is no suite '$suite'; allowed are ${all//,/, }"
  if [[ $suite != layers && $suite != decode ]]; then
    targets+=("weft_${suite}_benchmark")
    programs+=("$build_dir/benchmarks/weft_${suite}_benchmark")
  fi
done

install_needs
build_programs "$build_dir" "${targets[*]}" -DWEFT_BUILD_BENCHMARKS=ON
revision=$(revision_of "${programs[@]}")

# run SUITE: its JSON: an object or an array, or objects one in a line.
run() {
  if [[ $1 == layers ]]; then
    "$build_dir/apps/weft" bench attention --attention full,swa,mla,gla,nsa,asa --seq-len 1k,2k,4k,8k,16k --repeats 3 \
      --quiet --format json
  elif [[ $1 == decode ]]; then
    local batch separator='['
    for batch in 1 2 4 8; do
      printf '%s' "$separator"
      "$build_dir/apps/weft" bench attention --attention full,nsa,asa --seq-len 16k --batch-size "$batch" --no-forward \
        --repeats 10 --quiet --format json | sed '1s/^\[//; $s/\]$//' || return 1
      separator=','
    done
    printf ']\n'
  else
    "$build_dir/benchmarks/weft_$1_benchmark"
  fi
}

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
for suite in "${suite_list[@]}"; do
  say "$suite"
  run "$suite" >"$results/$suite" || die "$suite failed"
done

machine=${machine:-$(machine_name)}
out=${out:-$root/benchmarks/results/$(date -u +%Y-%m-%d)-$machine-cpu-kernels.json}
mkdir -p "$(dirname "$out")"
{
  printf '{\n'
  result_header cpu-kernels "$command_line" "$machine" "$revision" "${programs[0]}"
  printf '  "suites": {'
  separator=
  for suite in "${suite_list[@]}"; do
    printf '%s\n    "%s": ' "$separator" "$suite"
    if (($(grep -c '^{.*}$' "$results/$suite") > 0)); then
      sed 's/^/      /; $!s/$/,/; 1s/^ */[\n      /' "$results/$suite"
      printf '    ]'
    else
      sed '1!s/^/    /' "$results/$suite"
    fi
    separator=,
  done
  printf '\n  }\n}\n'
} >"$out.partial"
mv -f "$out.partial" "$out"
say "written to $out"
