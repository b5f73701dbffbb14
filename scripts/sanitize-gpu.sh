#!/usr/bin/env bash
# Runs the GPU tests of small shapes under NVIDIA's compute-sanitizer, in many processes beside each other, and prints for
# each tool and program how many tests ran and how many errors were found. Builds nothing.
#
#   scripts/sanitize-gpu.sh [--build-dir DIR] [--tools LIST] [--programs LIST] [--filter PATTERN] [--jobs N] [--gpus LIST]
#                           [--timeout SECONDS] [--time-limit SECONDS] [--earlier FILE] [--log-dir DIR]
#
#   --build-dir DIR       holds the programs, or has them in bin or tests/cuda (default: build)
#   --tools LIST          of memcheck, racecheck, initcheck, synccheck (default: all)
#   --programs LIST       of weft_cuda_test, weft_cuda_attention_test, weft_cuda_nn_test, weft_cudnn_test (default: those
#                         that are built)
#   --filter PATTERN      of GoogleTest, instead of the chosen tests of small shapes
#   --jobs N              processes beside each other (default: one for each core, at most 32)
#   --gpus LIST           numbers of the GPUs that share them (default: CUDA_VISIBLE_DEVICES, else all)
#   --timeout SECONDS     for each process (default: 240)
#   --time-limit SECONDS  for all of it; what has not run by then is named (default: none)
#   --earlier FILE        tests.tsv of an earlier run: what did not pass there begins first, and its seconds serve for planning
#   --log-dir DIR         keeps what the tools and the tests wrote, and the list tests.tsv (default: only where something is
#                         wrong)
#   -h, --help            this text
#
# On stdout is the table alone: a line of names, then lines of fields between blanks; those of the program "all" sum up a
# tool. Exits 0 where everything ran and was clean, 1 where a tool found an error, a test failed or a tool misses planted
# errors, 3 where nothing was found but not everything ran.
#
# docs/gpu.md says what is looked at and what is not. Example: scripts/sanitize-gpu.sh --tools racecheck --filter '*Norm*'
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

all_tools=memcheck,racecheck,initcheck,synccheck
all_programs=weft_cuda_test,weft_cuda_attention_test,weft_cuda_nn_test,weft_cudnn_test
build=$root/build
tools=$all_tools
programs=
filter=
gpus=${CUDA_VISIBLE_DEVICES-}
timeout=240
time_limit=0
earlier=
log_dir=
((jobs <= 32)) || jobs=32
while (($#)); do
  case $1 in
    --build-dir | --tools | --programs | --filter | --jobs | --gpus | --timeout | --time-limit | --earlier | --log-dir)
      (($# > 1)) || usage_error "$1 needs a value"
      case $1 in
        --build-dir) build=$2 ;;
        --tools) tools=$2 ;;
        --programs) programs=$2 ;;
        --filter) filter=$2 ;;
        --jobs) jobs=$2 ;;
        --gpus) gpus=$2 ;;
        --timeout) timeout=$2 ;;
        --time-limit) time_limit=$2 ;;
        --earlier) earlier=$2 ;;
        --log-dir) log_dir=$2 ;;
      esac
      shift
      ;;
    -h | --help) print_help && exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || usage_error "--jobs: '$jobs' is not a number of processes"
[[ $timeout =~ ^[1-9][0-9]*$ ]] || usage_error "--timeout: '$timeout' is not a number of seconds"
[[ $time_limit =~ ^[0-9]+$ ]] || usage_error "--time-limit: '$time_limit' is not a number of seconds"
[[ ! $earlier || -r $earlier ]] || usage_error "--earlier: there is no file '$earlier'"

# check_list FLAG LIST ALLOWED: every word of LIST must be one of ALLOWED.
check_list() {
  local word
  for word in ${2//,/ }; do
    [[ ,$3, == *,$word,* ]] || usage_error "$1: there is no '$word'; allowed are ${3//,/, }"
  done
}
check_list --tools "$tools" "$all_tools"
check_list --programs "$programs" "$all_programs"

# find_built NAME: its path in the build folder; nothing where it is not there.
find_built() {
  local folder
  for folder in "$build" "$build/bin" "$build/tests/cuda"; do
    if [[ (-x $folder/$1 || $1 == *.so) && -f $folder/$1 ]]; then
      printf '%s\n' "$(cd "$folder" && pwd)/$1"
      return
    fi
  done
}

# find_sanitizer: compute-sanitizer, which lies in the toolkit's bin and seldom in the path.
find_sanitizer() {
  local path
  for path in "$(command -v compute-sanitizer || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" \
    "${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer/compute-sanitizer" /usr/local/cuda-*/bin/compute-sanitizer; do
    if [[ $path && -x $path ]]; then
      printf '%s\n' "$path"
      return
    fi
  done
}

# chosen PROGRAM TOOL: the tests that a tool looks at. Races and barriers are a matter of kernels whose threads share
# memory; whether they are recorded in a graph does not matter.
chosen() {
  case $1:$2 in
    weft_cuda_test:racecheck | weft_cuda_test:synccheck)
      echo "All/CudaHalfErrors.*:CudaNorm.*:CudaSoftmax.*:CudaCrossEntropy.*:CudaReduce.*:CudaTables.*:CudaFewRows.*:CudaNextToken.*:CudaCopy.Transposes*:CudaOptim.*:CudaOptimizer.*:CudaRope.T*:CudaActivation.S*:CudaPool.*:CudaBatchNorm.*:CudaTrainingStep.*:CudaCompare.FindsNanAndInfinity"
      ;;
    weft_cuda_test:*) echo "*Cuda*" ;;
    weft_cuda_attention_test:racecheck | weft_cuda_attention_test:synccheck) echo "*OnGpu*" ;;
    # initcheck loses writes of graphs: it takes lines of results for unwritten that the tests then find right.
    weft_cuda_attention_test:initcheck) echo "*OnGpu*" ;;
    weft_cuda_attention_test:*) echo "*OnGpu*:*InAGraph*" ;;
    weft_cuda_nn_test:racecheck | weft_cuda_nn_test:synccheck) echo "All/DecoderOnGpu.RunsInBf16/*" ;;
    weft_cuda_nn_test:*) echo "All/DecoderOnGpu.RunsInBf16/*:All/DecoderOnGpu.ScoresAs*:All/DecoderTraining.NothingChanges*/full" ;;
    weft_cudnn_test:memcheck) echo "All/AttentionErrors.*:CudnnAttentionTest.*:CudnnLayers.*" ;;
    weft_cudnn_test:*) echo "All/AttentionErrors.*/weft*" ;; # cuDNN's kernels are not Weft's
  esac
}

# left_out TOOL: of the chosen tests, those that are not run, and why.
left_out() {
  local no_kernels="CudaDevices.*:CudaIndexMath.*"
  # They take all of a card's memory, or ask how much is taken.
  local memory="CudaMemory.*:CudaTrainingStep.ABatchThat*:CudaTrainingStep.Many*"
  # Kernels of other tests on more rows or for more steps; each would take minutes.
  local long="*ForManyRows:*NoRowsAndManyRows:*ToTheBit:*ToTheBitWhere*:CudaRandom.DrawsTheSameBitsForMany*:CudaReduce.KeepsLongSums*:CudaReduce.EqualsTheCpuForLongAndShortAxes:CudaReduce.EqualsTheCpuOver*:CudaTables.SumsUpAlong*:CudaTables.SumsUpMany*:CudaTables.SumsUpMore*:CudaMatmul.LargeGradients*:CudaMatmul.GradientsOfWeight*:CudaLinearActivation.Large*:CudaFewRows.LinearEquals*:CudaFewRows.NormsAndAdds*:CudaTrainingStep.Replays*:CudaOptimizer.ReplaysFollow*:*OnLongSequences*:KernelsInAGraph.*:FlashAttentionOnGpu.Backward*:FlashAttentionOnGpu.FewRows*:DecodeAttentionOnGpu.AgreesWithTheCpu:DecodeProgramOnGpu.GivesTheLogits*:GenerationOnGpu.Replays*"
  case $1 in
    racecheck) long+=":CudaNorm.EqualsTheCpuForRowsOf*:CudaTables.AddsUpRows*:CudaTables.FindsFew*:SelectedAttentionOnGpu.Agrees*:FlashAttentionOnGpu.Forward*:All/MixerOnGpu.Trains*/asa_global:DecodeProgramOnGpu.RefusesWhat*:GenerationOnGpu.D*:GenerationOnGpu.G*:GenerationOnGpu.K*" ;;
    initcheck) long+=":CudaTables.FindsFewOfTheLargestHowever*:CudaTables.AddsUpEmbedding*:CudaReduce.ReducesRows*:CudaOptimizer.StepsMore*" ;;
    synccheck) long+=":CudaTables.AddsUpEmbedding*:GenerationOnGpu.D*:GenerationOnGpu.G*:GenerationOnGpu.K*" ;;
    memcheck) long+=":CudaTables.AddsUpEmbedding*" ;;
  esac
  echo "$no_kernels:$memory:$long"
}

# seconds_of TOOL TEST: about how long a test takes with many others beside it; the longest begin first.
seconds_of() {
  case $1:$2 in
    racecheck:CudaNorm.*Share* | racecheck:CudaTables.AddsUpEmb* | racecheck:CudaTables.F*LongRows | *:GenerationOnGpu.[DG]*) echo 200 ;;
    racecheck:All/MixerOnGpu.Trains*/asa_g* | racecheck:All/MixerOnGpu.Trains*/nsa | *:All/DecoderTraining*) echo 90 ;;
    *:CudaOptimizer.ChangesNothing* | *:CudaOptimizer.StepsMore* | *:CudaTables.Gathers | *:CudaTables.Adds[AU]* | *:CudaRope.E* | *:All/MixerOnGpu.Dec*/asa_g* | *:CudaReduce.ReducesRows* | *:CudaNorm.EqualsTheCpuForRows* | *:DecodeAttention* | *:GenerationOnGpu.Kernels*) echo 60 ;;
    *:CudaActivation.EqualsTheCpuInEveryLayout | *:CudaCompare.EqualsTheCpu | *:CudaCrossEntropy.Equals* | racecheck:CudaCrossEntropy.C* | *:CudaReduce.KeepsNanAndInfinityIn*) echo 40 ;;
    *:CudaNorm.Takes* | *:All/ModelInAGraph* | *:CudaReduce.GivesTheSame* | *:BlockKernels*Pools* | *:Selected*Agrees* | *:FlashAttention*Forward* | *:CudaUnary.Follows* | *:CudaCopy.* | racecheck:FlashAttention* | racecheck:DecodeProgram* | racecheck:BlockKernels* | *:CudaCrossEntropy.[CL]* | *:CudaTables.F* | *:CudaSoftmax.E* | *:CudaConv.E* | *:All/MixerOnGpu.Dec* | *:All/MixerInAGraph.* | *:CudaOptimizer.[TW]*) echo 25 ;;
    racecheck:All/Mixer* | racecheck:Generation* | *:CudaReduce.* | *:CudaActivation.E* | *:CudaArithmetic.E* | *:CudaNextToken.* | *:CudaPool.E* | *:All/Decoder* | *:Generation* | *:DecodeProgram*) echo 15 ;;
    racecheck:All/AttentionErrors* | *:CudaMatmul.* | *:CudaOptim* | *:CudaTables.* | *:CudaTrainingStep.* | *:BlockKernels* | *:CudaBatchNorm.* | *:CudaCrossEntropy.*) echo 8 ;;
    *:All/AttentionErrors* | *:All/Mixer*) echo 5 ;;
    *) echo 3 ;;
  esac
}

# Tests that record graphs, whose memory the caching allocator alone gives. All others run with WEFT_ALLOCATOR=direct
# under memcheck and initcheck, so that every tensor has bounds and an age of its own.
graph_tests='Graph|Replay|Recorded|TakeNoPassOfTheirOwn|DecodeProgram|CudaTrainingStep|DecoderTraining|Generat|CudaMemory'

sanitizer=$(find_sanitizer)
[[ $sanitizer ]] || die "there is no compute-sanitizer; it comes with the CUDA toolkit (CUDA_HOME names its folder)"
known_options=$("$sanitizer" --help 2>&1 || true)

# if_known OPTION [VALUE]: what this version of the tool does not know is left away.
if_known() {
  if [[ $known_options == *"$1"* ]]; then printf ' %s' "$@"; fi
}

# options_of TOOL: Races and barriers are looked for in Weft's kernels alone. Calls of the runtime that fail are no errors:
# the code asks for their results, and some tests make them fail.
options_of() {
  case $1 in
    memcheck) echo "--tool memcheck --report-api-errors no$(if_known --padding 64)" ;;
    racecheck) echo "--tool racecheck --kernel-name kns=weft$(if_known --racecheck-num-workers 1)" ;;
    initcheck) echo "--tool initcheck" ;;
    synccheck) echo "--tool synccheck --kernel-name kns=weft" ;;
  esac
}

# uses_plain_libraries TOOL: memcheck looks at the products of cuBLASLt and at cuDNN's kernels too, since there a wrong
# argument shows. The others run with tests/cuda/plain_libraries.cu in their place.
uses_plain_libraries() { [[ $1 != memcheck && $plain_libraries ]]; }

# errors_in TOOL LOG: how many findings the log holds that are errors of Weft's. Where nothing stands in for libraries, those
# of initcheck in their kernels are not: it does not see all that these write, and some read words that they do not use.
errors_in() {
  local -A lines=(
    [memcheck]='^========= (Invalid|Misaligned|Program hit|Out-of-range|Malloc|Free|Warp|Address|Stack|Instruction|Unknown)'
    [racecheck]='^========= (Error|Warning): (Race|Potential)|^========= Potential'
    [synccheck]='^========= (Barrier error|Warpgroup|Invalid|Unknown)'
  )
  case $1 in
    initcheck)
      # A finding is a line and, below it, where: "at weft::(anonymous namespace)::kernel".
      awk -v plain="$(uses_plain_libraries initcheck && echo 1 || echo 0)" '
        /^========= Uninitialized/ { getline at; n += plain || at ~ /weft/ }
        /^========= Host API/ { n += plain }
        END { print n + 0 }' "$2"
      ;;
    *) awk -v pattern="${lines[$1]}" '$0 ~ pattern { n++ } END { print n + 0 }' "$2" ;;
  esac
}

# summed_errors LOG: the number that the tool itself gives at its end; nothing where it did not come to it.
summed_errors() {
  sed -nE 's/^========= ERROR SUMMARY: ([0-9]+) errors?.*/\1/p; s/^========= RACECHECK SUMMARY: ([0-9]+) hazards? .*/\1/p' "$1" | tail -n 1
}

# digest LOG...: the findings, those of one kind and place in one line, the most frequent first.
digest() {
  cat "$@" | awk '/^========= +(at|Uninitialized access at) / && what { sub(/^========= +(at )?/, ""); print what " at " substr($0, 1, 150); what = "" }
    /^========= [A-Z]/ && !/SUMMARY|COMPUTE-SANITIZER/ { if (what) print what; what = substr($0, 11, 150) }
    END { if (what) print what }' | sed -E 's/0x[0-9a-f]+/0x/g' | sort | uniq -c | sort -rn | sed -n '1,12 s/^/   /p' >&2
}

declare -A path_of
for program in ${all_programs//,/ }; do
  path_of[$program]=$(find_built "$program")
done
if [[ ! $programs ]]; then
  for program in ${all_programs//,/ }; do
    if [[ ${path_of[$program]} ]]; then programs+=${programs:+,}$program; fi
  done
  [[ $programs ]] || die "no test program in $build, $build/bin or $build/tests/cuda"
fi
for program in ${programs//,/ }; do
  [[ ${path_of[$program]} ]] || die "there is no $program in $build, $build/bin or $build/tests/cuda"
done
plain_libraries=$(find_built libweft_plain_libraries.so)
in_path nvidia-smi || die "there is no NVIDIA GPU here (nvidia-smi is missing)"
if [[ ! $gpus ]]; then gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,); fi
IFS=, read -ra gpu_list <<<"$gpus"
((${#gpu_list[@]})) || die "nvidia-smi knows no GPU"

logs=${log_dir:-$(mktemp -d)}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
kill_all() {
  local pid
  for pid in $(jobs -p); do pkill -P "$pid" 2>/dev/null || true; done
}
trap kill_all EXIT
begin=$SECONDS
# left: seconds until --time-limit, or very many.
left() { echo $((time_limit > 0 ? time_limit - (SECONDS - begin) : 1000000)); }

is_clean=1
say "$("$sanitizer" --version | grep -i version | head -n 1), $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1), $jobs processes on GPU $gpus"
if [[ ! $plain_libraries ]]; then
  say "NOTICE: libweft_plain_libraries.so is not built: initcheck tells of Weft's kernels alone, and racecheck may break off"
fi

# Whether the tool itself puts a library before all others; otherwise the loader does, in the tool's own process as well.
has_preload_option=0
if [[ $plain_libraries && $known_options == *--preload-library* ]] &&
  [[ $(timeout 30 "$sanitizer" --preload-library "$plain_libraries" "${path_of[${programs%%,*}]}" --gtest_list_tests 2>&1) == *plain_libraries:* ]]; then
  has_preload_option=1
fi

# sanitize NAME TOOL SECONDS COMMAND...: one process; its status, seconds and logs are NAME.* in the folder of logs.
started=0
sanitize() {
  local name=$1 tool=$2 limit=$3 options status=0 start=$SECONDS preload=""
  shift 3
  # Processes beside each other must not look for their tools at the same ports.
  read -ra options <<<"$(options_of "$tool")$(if_known --port $((49152 + started % 400 * 20)))$(if_known --max-connections 20)"
  if uses_plain_libraries "$tool"; then
    if ((has_preload_option)); then options+=(--preload-library "$plain_libraries"); else preload=$plain_libraries; fi
  fi
  CUDA_VISIBLE_DEVICES=${gpu_list[started % ${#gpu_list[@]}]} OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
    LD_PRELOAD=$preload${preload:+${LD_PRELOAD:+:}}${LD_PRELOAD-} timeout --kill-after=5 "$limit" \
    "$sanitizer" "${options[@]}" --launch-timeout 0 --show-backtrace no --print-limit 5000 --log-file "$logs/$name.log" \
    "$@" >"$logs/$name.out" 2>&1 || status=$?
  if [[ ! -e $logs/$name.log ]]; then : >"$logs/$name.log"; fi
  printf '%s %s\n' "$status" "$((SECONDS - start))" >"$logs/$name.ended"
}

# tests_of PROGRAM TOOL: the full names of its tests, one a line.
tests_of() {
  local pattern=$filter
  if [[ ! $pattern ]]; then pattern="$(chosen "$1" "$2")-$(left_out "$2")"; fi
  "${path_of[$1]}" --gtest_list_tests --gtest_filter="$pattern" 2>/dev/null |
    awk '/^[^ ].*\.( |$)/ { suite = $1 } /^  / { print suite $1 }'
}

# add_tasks TOOL PROGRAM ALLOCATOR: tasks "turn seconds tool program allocator names", names between colons, of lines "turn
# seconds name" in order. Tests of one turn share a process until they take `share` seconds.
tasks=()
share=25
add_tasks() {
  local tool=$1 program=$2 allocator=$3 turn=0 seconds=0 list="" next_turn weight name
  while read -r next_turn weight name; do
    if [[ $list ]] && ((next_turn != turn || seconds + weight > share)); then
      tasks+=("$turn $seconds $tool $program $allocator $list")
      seconds=0 list=""
    fi
    turn=$next_turn
    seconds=$((seconds + weight))
    list+=${list:+:}$name
  done
  if [[ $list ]]; then tasks+=("$turn $seconds $tool $program $allocator $list"); fi
}

# What passed in an earlier run, and in how many seconds.
declare -A passed_in
if [[ $earlier ]]; then
  while IFS=$'\t' read -r tool _ name outcome seconds; do
    if [[ $outcome == passed ]]; then passed_in["$tool $name"]=$((${seconds%%.*} + 1)); fi
  done <"$earlier"
fi

: >"$logs/wanted.tsv"
for tool in ${tools//,/ }; do
  for program in ${programs//,/ }; do
    mapfile -t names < <(tests_of "$program" "$tool")
    for name in ${names[@]+"${names[@]}"}; do printf '%s\t%s\t%s\n' "$tool" "$program" "$name"; done >>"$logs/wanted.tsv"
    for allocator in direct caching; do
      needs_bounds=0
      if [[ $tool == memcheck || $tool == initcheck ]]; then needs_bounds=1; fi
      add_tasks "$tool" "$program" "$allocator" < <(
        for name in ${names[@]+"${names[@]}"}; do
          wanted=caching
          if ((needs_bounds)) && [[ ! $name =~ $graph_tests ]]; then wanted=direct; fi
          [[ $wanted == "$allocator" ]] || continue
          before=${passed_in["$tool $name"]-}
          printf '%s %s %s\n' "$((before > 0))" "${before:-$(seconds_of "$tool" "$name")}" "$name"
        done | sort -k1,1n -k2,2rn -k3
      )
    done
  done
done
[[ -s $logs/wanted.tsv ]] || die "no test has a name that fits"
mapfile -t tasks < <(printf '%s\n' "${tasks[@]}" | sort -s -k1,1n -k2,2rn)
say "$(wc -l <"$logs/wanted.tsv") tests in ${#tasks[@]} processes of at most $(minutes "$timeout") each"

# What became of tests: tool, program, name, outcome, seconds or a reason.
: >"$logs/tests.tsv"
# What became of processes: tool, program, findings, findings that are no errors, seconds, log.
: >"$logs/processes.tsv"

# take_results NAME TOOL PROGRAM ALLOCATOR LIST: reads what an ended process wrote. Tests that it did not come to are
# tried again in another one, as long as each takes at least one test off the list.
take_results() {
  local name=$1 tool=$2 program=$3 allocator=$4 list=$5 log=$logs/$1 status took found summed apart=0 at reason rest
  read -r status took <"$log.ended"
  awk -v tool="$tool" -v program="$program" -v OFS='\t' '
    /^\[(       OK|  SKIPPED|  FAILED) *\] .* \([0-9]+ ms\)$/ {
      outcome = /OK/ ? "passed" : /SKIPPED/ ? "skipped" : "failed"
      seconds = $(NF - 1); sub(/\(/, "", seconds)
      line = $0; sub(/^\[[^]]*\] /, "", line); sub(/,? (where .*)?\([0-9]+ ms\)$/, "", line); sub(/, where .*/, "", line)
      print tool, program, line, outcome, seconds / 1000
    }' "$log.out" >"$log.tests"
  found=$(errors_in "$tool" "$log.log")
  summed=$(summed_errors "$log.log")
  if [[ $tool == initcheck ]]; then
    apart=$((${summed:-0} > found ? summed - found : 0))
  elif ((${summed:-0} > found)); then
    found=$summed
  fi
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$tool" "$program" "$found" "$apart" "$took" "$log.log" >>"$logs/processes.tsv"

  if [[ $summed ]] && grep -q '^\[==========\] .* ran\.' "$log.out"; then
    cat "$log.tests" >>"$logs/tests.tsv"
    return
  fi
  reason="ended with status $status: $(grep -v '^ *$' "$log.out" "$log.log" -h | tail -n 1 | cut -c 1-120)"
  if ((status == 124 || status == 137)); then reason="out of time after $took s"; fi
  at=$(sed -nE 's/^\[ RUN      \] //p' "$log.out" | tail -n 1)
  if [[ $at ]] && cut -f 3 "$log.tests" | grep -qxF "$at"; then at=; fi
  rest=$(tr : '\n' <<<"$list" | grep -vxF -f <(cut -f 3 "$log.tests"; printf '%s\n' "${at:-/}") || true)
  if [[ $at || $rest ]]; then cat "$log.tests" >>"$logs/tests.tsv"; fi
  if [[ $at ]]; then
    printf '%s\t%s\t%s\tunfinished\t%s\n' "$tool" "$program" "$at" "$reason" >>"$logs/tests.tsv"
  elif [[ ! -s $log.tests ]]; then
    for at in $rest; do printf '%s\t%s\t%s\tunfinished\tat its start, %s\n' "$tool" "$program" "$at" "$reason"; done >>"$logs/tests.tsv"
    rest=
  elif [[ ! $rest ]]; then # all tests are through, but not the tool
    for at in ${list//:/ }; do printf '%s\t%s\t%s\tunfinished\tafter its end, %s\n' "$tool" "$program" "$at" "$reason"; done >>"$logs/tests.tsv"
  fi
  if [[ $rest ]]; then tasks+=("0 0 $tool $program $allocator $(paste -sd: <<<"$rest")"); fi
}

# A program with an error of each kind: the table of a tool that does not see it means nothing.
declare -A active # name: the rest of a task, or nothing for a planted error
probe=$(find_built weft_sanitizer_probe)
if [[ $probe ]]; then
  for tool in ${tools//,/ }; do
    started=$((started + 1))
    sanitize "probe-$tool" "$tool" 120 "$probe" "$tool" &
    active[probe-$tool]=
  done
else
  say "NOTICE: weft_sanitizer_probe is not built; whether the tools see errors is not tried"
fi

# sweep: takes the results of processes that have ended.
sweep() {
  local name tool program allocator list
  for name in "${!active[@]}"; do
    [[ -e $logs/$name.ended ]] || continue
    read -r tool program allocator list <<<"${active[$name]}"
    unset "active[$name]"
    if [[ $tool ]]; then take_results "$name" "$tool" "$program" "$allocator" "$list"; fi
  done
}

next=0
while ((next < ${#tasks[@]} || ${#active[@]} > 0)); do
  if ((next < ${#tasks[@]} && ${#active[@]} < jobs && $(left) > 5)); then
    read -r _ _ tool program allocator list <<<"${tasks[next]}"
    name=$next-$tool-$program-$allocator
    limit=$(left)
    if ((limit > timeout)); then limit=$timeout; fi
    started=$((started + 1))
    active[$name]="$tool $program $allocator $list"
    WEFT_ALLOCATOR=$allocator sanitize "$name" "$tool" "$limit" "${path_of[$program]}" --gtest_filter="$list" &
    next=$((next + 1))
    continue
  fi
  ((${#active[@]} > 0)) || break # no time for the others
  wait -n || true
  sweep
done

# What was never begun, or whose process ended before it.
cut -f 1-3 "$logs/tests.tsv" | sort -u >"$logs/seen.tsv"
sort "$logs/wanted.tsv" | comm -23 - "$logs/seen.tsv" | sed 's/$/\tunfinished\tno time to begin/' >>"$logs/tests.tsv"

for tool in ${tools//,/ }; do
  [[ $probe ]] || break
  if (($(errors_in "$tool" "$logs/probe-$tool.log") == 0)); then
    is_clean=0
    say "NOTICE: $tool does not see the error of weft_sanitizer_probe; it wrote:"
    cat "$logs/probe-$tool.log" "$logs/probe-$tool.out" >&2
  fi
  if uses_plain_libraries "$tool" && ! grep -qs '^plain_libraries:' "$logs"/*-"$tool"-*.out; then
    say "NOTICE: no test under $tool ran with libweft_plain_libraries.so"
  fi
done

# count TOOL PROGRAM OUTCOME: tests; an empty program stands for all.
count() {
  awk -F '\t' -v tool="$1" -v program="$2" -v outcome="$3" \
    '$1 == tool && (program == "" || $2 == program) && $4 == outcome && !seen[$2, $3]++ { n++ } END { print n + 0 }' "$logs/tests.tsv"
}
# total TOOL PROGRAM COLUMN: of the list of processes.
total() {
  awk -F '\t' -v tool="$1" -v program="$2" -v column="$3" \
    '$1 == tool && (program == "" || $2 == program) { n += $column } END { print n + 0 }' "$logs/processes.tsv"
}

# What each tool found in each program.
is_complete=1
line='%-10s %-26s %6s %7s %8s %7s %11s %7s %8s %8s\n'
# shellcheck disable=SC2059  # a format of ours
printf "$line" tool program tests passed skipped failed unfinished errors apart seconds
for tool in ${tools//,/ }; do
  for program in ${programs//,/ } ''; do
    [[ ! $program ]] || grep -q "^$tool"$'\t'"$program"$'\t' "$logs/wanted.tsv" || continue
    passed=$(count "$tool" "$program" passed) skipped=$(count "$tool" "$program" skipped)
    failed=$(count "$tool" "$program" failed) unfinished=$(count "$tool" "$program" unfinished)
    errors=$(total "$tool" "$program" 3) apart=$(total "$tool" "$program" 4)
    # shellcheck disable=SC2059
    printf "$line" "$tool" "${program:-all}" \
      "$(awk -F '\t' -v tool="$tool" -v program="$program" '$1 == tool && (program == "" || $2 == program) { n++ } END { print n + 0 }' "$logs/wanted.tsv")" \
      "$passed" "$skipped" "$failed" "$unfinished" "$errors" "$apart" "$(total "$tool" "$program" 5)"
    if ((errors + failed > 0)); then is_clean=0; fi
    if ((unfinished > 0)); then is_complete=0; fi
    [[ $program ]] || continue
    if ((errors + apart > 0)); then
      mapfile -t found_in < <(awk -F '\t' -v tool="$tool" -v program="$program" '$1 == tool && $2 == program && $3 + $4 > 0 { print $6 }' "$logs/processes.tsv")
      digest "${found_in[@]}"
      for log in "${found_in[@]}"; do
        ((errors > 0)) || break
        printf '   in %s: one of %s\n' "$log" "$(cut -f 3 "${log%.log}.tests" | paste -sd ' ')" >&2
      done
    fi
    if ((failed > 0)); then
      sed -nE 's/^\[  FAILED  \] (.*) \([0-9]+ ms\)$/   failed: \1/p' "$logs"/*-"$tool-$program"-*.out >&2 || true
      grep -hE -A 4 '(: Failure|^unknown file: Failure)$' "$logs"/*-"$tool-$program"-*.out | sed -n '1,20 s/^/      /p' >&2 || true
    fi
    awk -F '\t' -v tool="$tool" -v program="$program" \
      '$1 == tool && $2 == program && $4 == "unfinished" { print "   not finished: " $3 ": " $5 }' "$logs/tests.tsv" >&2
    if ((passed + failed == 0)); then
      printf '   nothing ran; skipped since: %s\n' "$(grep -hA 1 ': Skipped$' "$logs"/*-"$tool-$program"-*.out 2>/dev/null | sed -n 2p)" >&2
      is_clean=0
    fi
  done
done
say "$(minutes $((SECONDS - begin))) in all"
if ((!is_clean)); then die "not clean; the logs are in $logs, a list of all tests in $logs/tests.tsv"; fi
if ((!is_complete)); then die -3 "no error, but not everything ran; the logs are in $logs, a list of all tests in $logs/tests.tsv"; fi
if [[ ! $log_dir ]]; then rm -rf "$logs"; fi
say "clean"
