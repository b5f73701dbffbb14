#!/usr/bin/env bash
# Trains the same small model with different attention mechanisms, measures what it has learned, and writes one result
# file, benchmarks/results/<date>-<machine>-<device>-quality-EXPERIMENT.json. scripts/quality-tables.sh makes the tables
# of docs/attention-quality.md from these files.
#
#   scripts/quality.sh recall|needle|text|ablation [--size small|large] [--device LIST] [--seeds LIST] [--cases LIST]
#                      [--length N] [--steps N] [--dtype TYPE] [--jobs N] [--threads N] [--time-limit SECONDS]
#                      [--weft PROGRAM] [--build-dir DIR] [--no-install] [--machine NAME] [--runs-dir DIR] [--list]
#                      [--out FILE]
#
#   recall      associative recall far beyond the window: accuracy
#   needle      passkeys in text far beyond the window: accuracy by depth
#   text        real English: held-out loss; each run is stopped once, resumed, and writes a few words
#   ablation    recall again, with parts of asa and nsa changed or switched off
#
#   --size SIZE      small: for a CPU; large: sequences of 4096 tokens, and of text more of it and a larger model, for
#                    GPUs (default: small)
#   --device LIST    cpu, cuda or cuda:N; several GPUs, as in cuda:0,cuda:1, share the runs (default: cpu)
#   --seeds LIST     seeds, each a run of every case; mean and spread over them are written (default: 1)
#   --cases LIST     some of the cases that --list prints (default: all)
#   --length N       tokens of a sequence in the last stage (default: that of the experiment)
#   --steps N        steps of the last stage (default: those of the experiment)
#   --dtype TYPE     f32 or bf16 (default: that of the experiment)
#   --jobs N         runs at a time, spread over the devices (default: one a device)
#   --threads N      threads of a run (default: all cores by --jobs)
#   --time-limit SECONDS  by then stop what still runs, and write what is finished and what is missing
#   --weft PROGRAM   use this program, build and install nothing
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing
#   --machine NAME   the name in the result (default: made from the CPU's)
#   --runs-dir DIR   run folders (default: runs/quality); finished runs in it are used as they are
#   --list           print the cases, with their options, and stop
#   --out FILE       where to write (default: see above)
#   -h, --help       this text
#
# Texts are taken from runs/text/, where get-text.sh puts them.
# Example: scripts/quality.sh recall --size large --device cuda:0,cuda:1 --jobs 6 --seeds 1,2,3
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Threads that spin while they wait would slow each other down wherever a core is shared.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
command_line=$(shown_command "$@")
experiment=
size=small
device=cpu
seeds=1
cases=
length=
steps=
dtype=
at_once=
threads=
time_limit=
weft=
build=$root/build
setup=()
machine=
runs=$root/runs/quality
list=0
out=
while (($#)); do
  case $1 in
    recall | needle | text | ablation)
      [[ -z $experiment ]] || usage_error "one experiment at a time"
      experiment=$1
      ;;
    --no-install) setup=(--no-install) ;;
    --list) list=1 ;;
    --size | --device | --seeds | --cases | --length | --steps | --dtype | --jobs | --threads | --time-limit | --weft | --build-dir | --machine | --runs-dir | --out)
      (($# > 1)) || usage_error "$1 needs a value"
      case $1 in
        --size) size=$2 ;;
        --device) device=$2 ;;
        --seeds) seeds=$2 ;;
        --cases) cases=$2 ;;
        --length) length=$2 ;;
        --steps) steps=$2 ;;
        --dtype) dtype=$2 ;;
        --jobs) at_once=$2 ;;
        --threads) threads=$2 ;;
        --time-limit) time_limit=$2 ;;
        --weft) weft=$2 ;;
        --build-dir) build=$2 ;;
        --machine) machine=$2 ;;
        --runs-dir) runs=$2 ;;
        --out) out=$2 ;;
      esac
      shift
      ;;
    -h | --help) print_help && exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done
[[ $experiment ]] || usage_error "expected recall, needle, text or ablation"
[[ $size =~ ^(small|large)$ ]] || usage_error "--size must be small or large, not '$size'"
[[ $device =~ ^(cpu|cuda(:[0-9]+)?(,cuda(:[0-9]+)?)*)$ ]] ||
  usage_error "--device must be cpu, cuda, cuda:N or several GPUs with commas between them, not '$device'"
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || usage_error "--seeds must be numbers with commas between them, not '$seeds'"
for number in "$length" "$steps" "$at_once" "$threads" "$time_limit"; do
  [[ -z $number || $number =~ ^[1-9][0-9]*$ ]] ||
    usage_error "--length, --steps, --jobs, --threads and --time-limit must be positive, not '$number'"
done
IFS=, read -ra devices <<<"$device"
kind=${device%%[:,]*}
at_once=${at_once:-${#devices[@]}}
threads=${threads:-$((jobs > at_once ? jobs / at_once : 1))}

task=$experiment
if [[ $experiment == ablation ]]; then task=recall; fi

# The tasks: `stages_of` prints the stages of a training, each sequence/batch/steps/data, with steps@rate where the learning
# rate is not `rate`, `cases_of` the names of what is compared, `flags_of CASE` what a case changes. Everything else is the
# same for all cases of an experiment.
#
# Recall begins with short sequences full of answers, where looking up is learned soon, and doubles them to the last
# length; what looks up in a long sequence has little to learn from, a few answers in each.
#
# Over long sequences recall begins with smaller weights and with documents of four pairs before those of eight, so that
# looking up is learned from any seed. The larger base of the rotations leaves most of what a key says unturned over
# thousands of tokens, so that little is to be learned again after each doubling; long stages have smaller rates.
#
# Blocks are as small as the things to be found. Lists of 24 of them are a fifth of 512 tokens; longer sequences get longer
# lists, a sixteenth of 4096 tokens.
small_model=(--n-layers 2 --d-model 64 --n-heads 2 --d-ff 128)
rate=5e-3
weight_decay=0.01
window=32
book=
if [[ $task == text ]]; then default_length=1024; else default_length=512; fi
if [[ $size == large ]]; then default_length=4096; fi
length=${length:-$default_length}
blocks=block=4,stride=4,select-block=4,select-count=$((length > 24 * 64 ? length / 64 : 24))
# long_rate LENGTH: the learning rate of a stage of longer sequences.
long_rate() { if (($1 > 512)); then echo 2e-3; elif (($1 > 128)); then echo 3e-3; else echo "$rate"; fi; }
case $task in
  recall)
    steps=${steps:-$([[ $size == large ]] && echo 200 || echo 300)}
    dtype=${dtype:-f32}
    if [[ $size == large ]]; then
      model=("${small_model[@]}" --init-std 0.08 --rope-theta 1000000)
    else
      model=("${small_model[@]}" --init-std 0.12)
    fi
    stages_of() {
      local keys=builtin:recall:pairs=8,keys=16 at count
      if [[ $size == large ]]; then
        echo "17/256/500/builtin:recall:pairs=4,keys=16"
        echo "33/128/300/$keys"
        for ((at = 128; at < length; at *= 2)); do
          count=$((at < 512 ? 100 : 200))
          echo "$at/$((at < 512 ? 32 : 16))/$count@$(long_rate "$at")/$keys,gap=$((at * 2 / 5)),spread=-1"
        done
        echo "$length/16/$steps@$(long_rate "$length")/$keys,gap=$((length * 2 / 5)),spread=-1"
        return
      fi
      echo "33/128/350/$keys"
      if ((length > 128)); then echo "128/32/40/$keys,gap=32,spread=-1"; fi
      for ((at = 256; at < length; at *= 2)); do echo "$at/16/100/$keys,gap=$((at * 2 / 5)),spread=-1"; done
      echo "$length/16/$steps/$keys,gap=$((length * 2 / 5)),spread=-1"
    }
    asa=window=$window,$blocks,local=4,rope-dim=32
    nsa=window=$window,$blocks,kv-sharing=shared
    ;;
  needle)
    steps=${steps:-$([[ $size == large ]] && echo 300 || echo 150)}
    dtype=${dtype:-f32}
    model=("${small_model[@]}" --init-std 0.12)
    stages_of() {
      local keys=builtin:needle:digits=3,keys=1 at
      echo "256/16/500/$keys"
      for ((at = 512; at < length; at *= 2)); do echo "$at/16/100/$keys"; done
      echo "$length/8/$steps/$keys"
    }
    asa=window=$window,$blocks,local=4,rope-dim=32,query-run=2
    nsa=window=$window,$blocks,kv-sharing=shared
    ;;
  text)
    dtype=${dtype:-bf16}
    if [[ $size == large ]]; then
      # Less than one pass over the dictionary, so that what counts is learning, not what was learned by heart.
      book=gcide prompt=Weave steps=${steps:-1000} sequences=8 layers=6 width=256 base_d_ff=768 rate=3e-3
      window=512
      blocks=block=32,stride=16,select-block=64,select-count=8
    else
      book=kjv prompt="And the LORD said" steps=${steps:-500} sequences=2 layers=4 width=128 base_d_ff=384 rate=4e-3
      window=128
      blocks=block=16,stride=16,select-block=16,select-count=8
    fi
    model=(--n-layers "$layers" --d-model "$width" --n-heads 4 --n-kv-heads 2)
    weight_decay=0.05
    stages_of() { echo "$length/$sequences/$steps/$text"; }
    asa=window=$window,$blocks
    nsa=window=$window,$blocks
    ;;
esac

# optimizer_at RATE: the flags of the optimizer.
optimizer_at() { echo "--optimizer muon --lr $1 --weight-decay $weight_decay"; }

cases_of() {
  case $experiment in
    recall | needle) echo full,swa,nsa,asa ;;
    text) echo full,swa,mla,gla,nsa,asa ;;
    ablation) echo asa,asa-r1,asa-r4,asa-local,asa-global,asa-gl,nsa,nsa-no-cmp,nsa-no-slc,nsa-no-win ;;
  esac
}
flags_of() {
  local asa=$asa
  case $experiment-$1 in
    *-asa-r[14]) asa+=,query-run=${1#asa-r} ;;
    recall-asa | ablation-asa*) asa+=,query-run=2 ;;
  esac
  case $1 in
    full | mla | gla) echo "--attention $1" ;;
    swa) echo "--attention swa --attention-opt window=$window" ;;
    nsa) echo "--attention nsa --attention-opt $nsa" ;;
    asa | asa-r[14]) echo "--attention asa --attention-opt $asa" ;;
    asa-local) echo "--attention-schedule LL --attention-opt window=$window,rope-dim=32" ;;
    asa-global) echo "--attention-schedule GG --attention-opt ${asa#window=*,}" ;;
    asa-gl) echo "--attention-schedule GL --attention-opt $asa" ;;
    nsa-no-cmp) echo "--attention nsa --attention-opt $nsa,branches=slc+win" ;;
    nsa-no-slc) echo "--attention nsa --attention-opt $nsa,branches=cmp+win" ;;
    nsa-no-win) echo "--attention nsa --attention-opt $nsa,branches=cmp+slc" ;;
    *) usage_error "there is no case '$1' of $experiment; allowed are $(cases_of)" ;;
  esac
}
all_cases=$(cases_of)
IFS=, read -ra case_list <<<"${cases:-$all_cases}"
IFS=, read -ra seed_list <<<"$seeds"
for name in "${case_list[@]}"; do
  [[ ,$all_cases, == *",$name,"* ]] || usage_error "there is no case '$name' of $experiment; allowed are ${all_cases//,/, }"
done
if ((list)); then
  for name in "${case_list[@]}"; do printf '%-12s %s\n' "$name" "$(flags_of "$name")"; done
  exit 0
fi

if [[ -z $weft ]]; then
  "$root/scripts/setup.sh" ${setup[@]+"${setup[@]}"} || exit 1
  say "configuring and building in $build"
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  cmake --build "$build" --parallel "$jobs" --target weft >"$build/quality-build.log" ||
    { tail -n 30 "$build/quality-build.log" >&2 && die "the build failed"; }
  weft=$(find_weft "$build")
fi
[[ -x $weft ]] || die "there is no program at $weft"
revision=$(revision_of "$weft")
mkdir -p "$runs" || die "cannot make the folder $runs"
runs=$(cd "$runs" && pwd)
text=
texts=$root/runs/text
if [[ $book ]]; then
  text=$("$root/scripts/get-text.sh" ${setup[@]+"${setup[@]}"} "$book" "$texts") || die "the text $book cannot be had here"
fi

# take_device DEVICE: from here on this shell trains there. A process is shown its own GPU alone, so that it takes no memory
# of the others.
take_device() {
  local visible
  device=$1
  [[ $1 == cuda:* ]] || return 0
  IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES-}"
  export CUDA_VISIBLE_DEVICES=${visible[${1#cuda:}]:-${1#cuda:}}
  device=cuda
}

out_of_time() { [[ $time_limit ]] && ((SECONDS >= time_limit)); }

# become_weft ARGUMENTS...: the program in the place of this shell, ended at the time limit.
become_weft() {
  if [[ -z $time_limit ]]; then exec "$weft" "$@"; fi
  if out_of_time; then exit 124; fi
  exec timeout --foreground --kill-after=5 $((time_limit - SECONDS)) "$weft" "$@"
}

# measure COMMAND RUN ARGUMENTS...: eval or generate.
measure() {
  local command=$1 run=$2
  shift 2
  (become_weft "$command" --run "$run" --device "$device" --threads "$threads" -q "$@")
}

# one_line: JSON from standard input without line ends.
one_line() { tr -d '\n' | sed 's/^ *//; s/  */ /g'; }
# number KEY: the first number behind "KEY": in JSON from standard input.
number() { grep -oE "\"$1\": *[-+.0-9eE]+" | head -n 1 | sed 's/.*: *//'; }
# json_text: standard input as a JSON string.
json_text() { iconv -c -f UTF-8 -t UTF-8 | tr -d '\000-\010\013-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' | awk '{ printf "%s%s", sep, $0; sep = "\\n" }' | sed 's/^/"/; s/$/"/'; }

# parameters_of FLAGS...: parameters of the model.
parameters_of() {
  "$weft" train --dry-run --out-dir "$runs/none" --color never --device cpu "$@" 2>&1 |
    sed -n 's/^model  *\([0-9,]*\) parameters.*/\1/p' | tr -d ,
}

# On text all models get the parameters of the one with full attention, by the width of their MLPs.
mlp_flags_of() {
  [[ $task == text ]] || return 0
  local flags wanted count
  read -ra flags <<<"$(flags_of "$1")"
  wanted=$(parameters_of --data "$text" "${model[@]}" --d-ff "$base_d_ff" --attention full)
  count=$(parameters_of --data "$text" "${model[@]}" --d-ff "$base_d_ff" "${flags[@]}")
  # Three matrices a layer, in multiples of 8.
  echo "--d-ff $((base_d_ff + (wanted - count) / (layers * 3 * width) / 8 * 8))"
}

# become_training RUN LOG FLAGS...: `weft train` in the place of this shell, its messages to LOG.
become_training() {
  local run=$1 log=$2
  shift 2
  become_weft train --out-dir "$run" --device "$device" --threads "$threads" --dtype "$dtype" --report-to csv --color never \
    --log-every 10 "$@" >>"$log" 2>&1
}
train_stage() { (become_training "$@"); }

# stop_and_resume STEP RUN LOG FLAGS...: as train_stage, but interrupted as soon as there is a checkpoint of STEP.
stop_and_resume() {
  local step=$1 run=$2 log=$3 pid checkpoint
  shift
  checkpoint=$run/checkpoints/step-$(printf %08d "$step").h5
  become_training "$@" --save-every "$step" &
  pid=$!
  until [[ -e $checkpoint ]] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  # SIGINT is ignored in the background.
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid" || true
  train_stage "$@" --save-every "$step" && grep -q 'resumed after step' "$log" && ! grep -q 'nothing to do' "$log"
}

# train_case CASE SEED RUN: trains, measures, and writes RUN/row.json.
train_case() {
  local name=$1 seed=$2 run=$3 flags stages stage sequence batch count data total=0 tokens=0 seconds=0 start schedule
  local log=$run.log parameters evaluation optimizer extra=
  read -ra flags <<<"$(flags_of "$name") $(mlp_flags_of "$name")"
  mapfile -t stages < <(stages_of)
  rm -rf "$run" "$log"
  for stage in "${stages[@]}"; do
    IFS=/ read -r sequence batch count data <<<"$stage"
    read -ra optimizer <<<"$(optimizer_at "$([[ $count == *@* ]] && echo "${count#*@}" || echo "$rate")")"
    count=${count%@*}
    schedule=constant
    if [[ $stage == "${stages[-1]}" ]]; then schedule=wsd; fi
    total=$((total + count))
    tokens=$((tokens + count * sequence * batch))
    start=$(date +%s%N)
    local arguments=("$run" "$log" --data "$data" --seq-len "$sequence" --batch-size "$batch" --max-steps "$total" --seed "$seed"
      "${model[@]}" "${flags[@]}" "${optimizer[@]}" --lr-schedule "$schedule" --decay-steps $((count / 2)) --min-lr 0
      --eval-every -1)
    if [[ $task == text ]]; then
      stop_and_resume $((count / 2)) "${arguments[@]}" || return 1
    else
      train_stage "${arguments[@]}" --save-every -1 || return 1
    fi
    seconds=$((seconds + ($(date +%s%N) - start) / 1000000))
  done
  parameters=$(sed -n 's/^model  *\([0-9,]*\) parameters.*/\1/p' "$log" | head -n 1 | tr -d ,)
  case $task in
    recall) evaluation=$(measure eval "$run" --suite recall --pairs 8 --documents 256 --batch-size 16 --format json) ;;
    needle) evaluation=$(measure eval "$run" --suite needle --lengths "$((length / 2)),$length" --documents 64 --batch-size 16 --format json) ;;
    text) evaluation=$(measure eval "$run" --suite loss --format json) ;;
  esac || return 1
  if [[ $task == text ]]; then
    extra=", \"resumed\": \"$(grep -o 'resumed after step [0-9]*' "$log" | head -n 1)\", \"prompt\": \"$prompt\", \"sample\": $(measure generate "$run" \
      --prompt "$prompt" --max-new-tokens 120 --temperature 0.7 --seed 1 2>>"$log" | json_text)" || return 1
  fi
  # Paths of this machine say nothing elsewhere.
  evaluation=$(one_line <<<"$evaluation" | sed "s|$texts/||; s|\"checkpoint\": \"[^\"]*/|\"checkpoint\": \"|")
  printf '{"case": "%s", "seed": %s, "revision": "%s", "flags": "%s", "parameters": %s, "steps": %s, "tokens": %s, "seconds": %s%s, "result": %s}\n' \
    "$name" "$seed" "$revision" "${flags[*]}" "$parameters" "$total" "$tokens" "$((seconds / 1000))" "$extra" "$evaluation" >"$run/row.partial"
  mv "$run/row.partial" "$run/row.json"
}

# What decides a run; finished runs of the same recipe are not repeated.
recipe_of() { echo "$kind $dtype ${model[*]} $(optimizer_at "$rate") $(flags_of "$1") $(stages_of | sed "s|$texts/||")" | tr '\n' ' '; }

# run_of CASE SEED: a folder named by all that decides the run.
run_of() { printf '%s/%s-%s-%s-seed%s\n' "$runs" "$task" "$1" "$(recipe_of "$1" | cksum | cut -d ' ' -f 1)" "$2"; }

# run_case CASE SEED: 1 where it failed; a run that the time limit ends is merely missing.
run_case() {
  local run
  run=$(run_of "$1" "$2")
  if [[ ! -e $run/row.json ]] && ! train_case "$1" "$2" "$run"; then
    if out_of_time; then say "$1 seed $2: out of time" && return 0; fi
    say "$1 seed $2 failed; see $run.log"
    return 1
  fi
  say "$1 seed $2: $(metric_of <"$run/row.json"), $(minutes "$(number seconds <"$run/row.json")")"
}

# metric_of: what the experiment is about, from a row on standard input.
metric_of() {
  if [[ $task == text ]]; then number loss; else number accuracy; fi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# work_on DEVICE: takes one run after another that nobody else has taken, seed by seed, so that what is there when the time
# is up compares all cases.
work_on() {
  local seed name status=0
  take_device "$1"
  for seed in "${seed_list[@]}"; do
    for name in "${case_list[@]}"; do
      if mkdir "$scratch/$name-$seed" 2>/dev/null && ! out_of_time; then run_case "$name" "$seed" || status=1; fi
    done
  done
  return $status
}
failed=0
for ((i = 0; i < at_once; ++i)); do work_on "${devices[i % ${#devices[@]}]}" & done
for ((i = 0; i < at_once; ++i)); do wait -n || failed=1; done

rows=$scratch/rows
missing=()
# In the order of the experiment, in whichever they were run.
for name in ${all_cases//,/ }; do
  [[ " ${case_list[*]} " == *" $name "* ]] || continue
  for seed in "${seed_list[@]}"; do
    cat "$(run_of "$name" "$seed")/row.json" >>"$rows" 2>/dev/null || missing+=("{\"case\": \"$name\", \"seed\": $seed}")
  done
done
[[ -s $rows ]] || die "no run was finished"

# Mean over the seeds and spread, the standard deviation of a sample (0 for one seed).
summary=$(
  while IFS= read -r row; do
    printf '%s %s %s %s %s\n' "$(cut -d '"' -f 4 <<<"$row")" "$(metric_of <<<"$row")" \
      "$(number parameters <<<"$row")" "$(number tokens <<<"$row")" "$(number seconds <<<"$row")"
  done <"$rows" | awk '
    { if (!($1 in n)) order[++cases] = $1
      n[$1]++; sum[$1] += $2; squares[$1] += $2 * $2; parameters[$1] = $3; tokens[$1] = $4; seconds[$1] += $5 }
    END {
      for (i = 1; i <= cases; i++) {
        c = order[i]; mean = sum[c] / n[c]; variance = n[c] > 1 ? (squares[c] - n[c] * mean * mean) / (n[c] - 1) : 0
        printf "%s %d %.5f %.5f %d %d %.0f\n", c, n[c], mean, sqrt(variance > 0 ? variance : 0), parameters[c], tokens[c], seconds[c] / n[c]
      }
    }'
)

gpu=unknown
driver=unknown
if [[ $kind == cuda ]] && in_path nvidia-smi; then
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  machine=${machine:-$(tr '[:upper:]' '[:lower:]' <<<"$gpu" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')}
fi
machine=${machine:-$(machine_name)}
out=${out:-$root/benchmarks/results/$(date -u +%Y-%m-%d)-$machine-$kind-quality-$experiment.json}
metric=accuracy
if [[ $task == text ]]; then metric=loss; fi
mkdir -p "$(dirname "$out")"
{
  printf '{\n'
  result_header "quality-$experiment" "$command_line" "$machine" "$revision" "$weft"
  if [[ $kind == cuda ]]; then
    printf '  "gpu": {"name": "%s", "driver": "%s", "count": %s, "runs_at_a_time": %s},\n' "$gpu" "$driver" "${#devices[@]}" "$at_once"
  fi
  printf '  "program": "%s",\n' "$("$weft" --version | head -n 1)"
  printf '  "setting": {"device": "%s", "dtype": "%s", "threads": %s, "length": %s, "window": %s, "model": "%s", "optimizer": "%s"},\n' \
    "$kind" "$dtype" "$threads" "$length" "$window" "${model[*]}" "$(optimizer_at "$rate")"
  printf '  "stages": ['
  stages_of | sed "s|$texts/||" | awk -F / -v rate="$rate" '
    { split($3, steps, "@"); printf "%s\n    {\"length\": %s, \"batch\": %s, \"steps\": %s, \"rate\": %s, \"data\": \"%s\"}", sep, $1, $2, steps[1], steps[2] ? steps[2] : rate, $4; sep = "," }'
  printf '\n  ],\n'
  if ((${#missing[@]})); then printf '  "missing": [%s],\n' "$(printf '%s, ' "${missing[@]}" | sed 's/, $//')"; fi
  printf '  "summary": [\n'
  awk -v metric="$metric" '{ printf "%s    {\"case\": \"%s\", \"seeds\": %s, \"%s\": %s, \"spread\": %s, \"parameters\": %s, \"tokens\": %s, \"seconds\": %s}", sep, $1, $2, metric, $3, $4, $5, $6, $7; sep = ",\n" } END { print "" }' <<<"$summary"
  printf '  ],\n  "rows": [\n'
  awk '{ printf "%s    %s", sep, $0; sep = ",\n" } END { print "" }' "$rows"
  printf '  ]\n}\n'
} >"$out.partial"
mv -f "$out.partial" "$out"

printf '%-12s %5s %10s %8s %10s %10s %8s\n' case seeds "$metric" spread parameters tokens seconds
awk '{ printf "%-12s %5s %10s %8s %10s %10s %8s\n", $1, $2, $3, $4, $5, $6, $7 }' <<<"$summary"
say "written to $out"
if ((${#missing[@]})); then say "missing: ${missing[*]//[\"\{\}]/}"; fi
((!failed)) || die "some runs failed, see above"
