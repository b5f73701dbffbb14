#!/usr/bin/env bash
# Times Weft and PyTorch on one GPU by turns in one run, so that their ratio holds. Writes
# benchmarks/results/<date>-<machine>-cuda-<suite>.json for each suite. Nothing else should use the GPU meanwhile.
#
#   scripts/bench-gpu.sh [--no-install] [--no-build] [--build-dir DIR] [--suites LIST] [--cases LIST] [--python PROGRAM]
#                        [--machine NAME] [--out-dir DIR]
#
#   --suites LIST     of step, attention, decode, ops (default: all)
#   --cases LIST      of the step suite: 124m,340m-8k (default: both)
#   --python PROGRAM  a Python with PyTorch; 'none' leaves the yardstick out (default: python3)
#   --machine NAME    the name in the results (default: made from the GPU's)
#   --out-dir DIR     where to write (default: benchmarks/results)
#   --build-dir DIR   where to build (default: build)
#   --no-build        take what is built there
#   --no-install      install nothing
#   -h, --help        this text
#
# benchmarks/README.md says how the numbers are taken. Example: scripts/bench-gpu.sh --suites step --cases 124m
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command_line=$(shown_command "$@")
no_install=
no_build=
build_dir=$root/build
suites=step,attention,decode,ops
cases=124m,340m-8k
python=python3
machine=
out_dir=$root/benchmarks/results
parse_options "no-install no-build" "build-dir suites cases python machine out-dir" "$@"

# shape_of CASE: the models of docs/performance.md.
shape_of() {
  case $1 in
    124m) echo "--n-layers 12 --d-model 768 --n-heads 12 --d-ff 2048 --vocab-size 50304 --seq-len 1024 --batch-size 32" ;;
    340m-8k) echo "--n-layers 24 --d-model 1024 --n-heads 16 --d-ff 2816 --vocab-size 32000 --seq-len 8192 --batch-size 4" ;;
    *) usage_error "there is no case '$1'; allowed are 124m, 340m-8k" ;;
  esac
}
IFS=, read -ra case_list <<<"$cases"
for name in "${case_list[@]}"; do shape_of "$name" >/dev/null; done
IFS=, read -ra suite_list <<<"$suites"
for suite in "${suite_list[@]}"; do
  [[ $suite =~ ^(step|attention|decode|ops)$ ]] || usage_error "there is no suite '$suite'; allowed are step, attention, decode, ops"
done

in_path nvidia-smi || die "there is no NVIDIA GPU here (nvidia-smi is missing)"
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
machine=${machine:-$(tr '[:upper:]' '[:lower:]' <<<"$gpu" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')}
if [[ $python != none ]] && ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  say "NOTICE: $python has no PyTorch that sees the GPU; going on without the yardstick"
  python=none
fi

targets=(weft)
programs=("$build_dir/apps/weft")
for suite in "${suite_list[@]}"; do
  case $suite in
    attention) benchmark=weft_flash_attention_benchmark ;;
    decode) benchmark=weft_decode_benchmark ;;
    ops) benchmark=weft_cuda_ops_benchmark ;;
    *) continue ;;
  esac
  targets+=("$benchmark")
  programs+=("$build_dir/benchmarks/$benchmark")
done
if [[ ! $no_build ]]; then
  install_needs
  build_programs "$build_dir" "${targets[*]}" -DWEFT_ENABLE_CUDA=ON
fi
weft=$(find_weft "$build_dir")
revision=$(revision_of "${programs[@]}")

# row PROGRAM COMMAND...: runs the command; each JSON object that it prints becomes a row of this program.
row() {
  local program=$1 json
  shift
  say "$program: ${*//$root\//}"
  json=$("$@") || die "failed: $*"
  tr -d '\n' <<<"$json" | sed 's/} *{/}\n{/g; s/} *\[/}\n[/g' | sed 's/^\[//; s/\]$//; s/} *, *{/}\n{/g' | sed 's/  */ /g' |
    while IFS= read -r object || [[ $object ]]; do
      if [[ $object ]]; then printf '{"program": "%s", "result": %s}\n' "$program" "$object"; fi
    done >>"$rows"
}

peer() {
  if [[ $python != none ]]; then row torch "$python" "$root/benchmarks/peers/$1" "${@:2}"; fi
}

# recompute_of CASE: the ways in which it is run, those that hold its memory within that of docs/performance.md.
recompute_of() {
  case $1 in
    124m) echo "none" ;;
    340m-8k) echo "elementwise attention" ;;
  esac
}

run_step() {
  local name shape turn recompute
  for turn in 1 2; do
    for name in "${case_list[@]}"; do
      read -ra shape <<<"$(shape_of "$name")"
      for recompute in $(recompute_of "$name"); do
        row "weft-$name-recompute-$recompute" "$weft" bench step --device cuda --no-tie-embeddings --optimizer adamw \
          --grad-clip 1 --dtype bf16 "${shape[@]}" --recompute "$recompute" --steps 20 --warmup 5 --format json
      done
    done
    if ((turn == 1)); then peer torch_gpu_step.py --cases "$cases"; fi
  done
}

# By turns, since the clock of a card drifts over seconds of full load.
run_attention() {
  local turn
  for turn in 1 2; do
    row weft "$build_dir/benchmarks/weft_flash_attention_benchmark" --device cuda --backend cudnn
    if ((turn == 1)); then peer torch_gpu_attention.py --backends cudnn; fi
  done
}

# With the kernel that is a whole step, and kernel after kernel.
run_decode() {
  local by_program case context batch name
  for by_program in 1 0; do
    for case in "1k 1" "8k 1" "1k 2" "1k 4"; do
      read -r context batch <<<"$case"
      name=weft-340m-$context-batch-$batch
      ((by_program)) || name+=-kernel-after-kernel
      row "$name" env WEFT_DECODE_PROGRAM=$by_program "$weft" bench decode --device cuda --dtype bf16 --n-layers 24 \
        --d-model 1024 --n-heads 16 --d-ff 2816 --vocab-size 32000 --tie-embeddings --context "$context" \
        --batch-size "$batch" --new-tokens 128 --format json
    done
  done
  row weft "$build_dir/benchmarks/weft_decode_benchmark"
}

run_ops() {
  row weft "$build_dir/benchmarks/weft_cuda_ops_benchmark"
}

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
mkdir -p "$out_dir"
for suite in "${suite_list[@]}"; do
  : >"$rows"
  "run_$suite"
  out=$out_dir/$(date -u +%Y-%m-%d)-$machine-cuda-$suite.json
  {
    printf '{\n'
    result_header "cuda-$suite" "$command_line" "$machine" "$revision" "$weft"
    printf '  "gpu": {"name": "%s", "driver": "%s"},\n  "rows": [\n' "$gpu" "$driver"
    sed 's/^/    /; $!s/$/,/' "$rows"
    printf '  ]\n}\n'
  } >"$out.partial"
  mv -f "$out.partial" "$out"
  say "wrote $out"
done
