#!/usr/bin/env bash
# Runs the GPU tests under NVIDIA's compute-sanitizer and says, for each tool and program, how many tests ran and how
# many errors were found. Builds nothing. Exits 1 if any tool found an error, a test failed, or one ran out of time.
#
#   scripts/sanitize-gpu.sh [--build-dir DIR] [--tools LIST] [--programs LIST] [--filter PATTERN] [--jobs N]
#                           [--timeout SECONDS] [--log-dir DIR]
#
#   --build-dir DIR    holds the programs, or has them in bin or tests/cuda (default: build)
#   --tools LIST       of memcheck, racecheck, initcheck, synccheck (default: all)
#   --programs LIST    of weft_cuda_test, weft_cuda_attention_test, weft_cuda_nn_test, weft_cudnn_test (default: those
#                      that are built)
#   --filter PATTERN   of GoogleTest, instead of the chosen tests of small shapes
#   --jobs N           processes beside each other (default: one for each core, at most 16)
#   --timeout SECONDS  for each process (default: 240)
#   --log-dir DIR      keeps what the tools and the tests wrote (default: only where something is wrong)
#   -h, --help         this text
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
timeout=240
log_dir=
((jobs <= 16)) || jobs=16
while (($#)); do
  case $1 in
    --build-dir | --tools | --programs | --filter | --jobs | --timeout | --log-dir)
      (($# > 1)) || usage_error "$1 needs a value"
      case $1 in
        --build-dir) build=$2 ;;
        --tools) tools=$2 ;;
        --programs) programs=$2 ;;
        --filter) filter=$2 ;;
        --jobs) jobs=$2 ;;
        --timeout) timeout=$2 ;;
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

# check_list FLAG LIST ALLOWED: every word of LIST must be one of ALLOWED.
check_list() {
  local word
  for word in ${2//,/ }; do
    [[ ,$3, == *,$word,* ]] || usage_error "$1: there is no '$word'; allowed are ${3//,/, }"
  done
}
check_list --tools "$tools" "$all_tools"
check_list --programs "$programs" "$all_programs"

# find_program NAME: its path in the build folder; nothing where it is not there.
find_program() {
  local folder
  for folder in "$build" "$build/bin" "$build/tests/cuda"; do
    if [[ -x $folder/$1 && ! -d $folder/$1 ]]; then
      printf '%s\n' "$folder/$1"
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

# The tests of small shapes; between them they launch every family of kernels, at once and from a graph. What is left
# out ('-' and what follows) repeats the same kernels on more rows, or tests code of the CPU.
small_tests() {
  case $2:$1 in
    weft_cuda_test:racecheck | weft_cuda_test:synccheck)
      # Kernels that share memory between threads.
      echo "All/CudaHalfErrors.*:CudaNorm.*:CudaSoftmax.*:CudaCrossEntropy.*:CudaReduce.*:CudaTables.*:CudaFewRows.*:CudaNextToken.*:CudaCopy.TransposesInTiles:CudaOptim.*:CudaOptimizer.*:CudaRope.T*:CudaActivation.S*:CudaConv.*:CudaPool.*:CudaBatchNorm.*:CudaTrainingStep.*:CudaGraph.RepeatsATrainingStep:CudaCompare.FindsNanAndInfinity"
      echo "-*ForManyRows:*NoRowsAndManyRows:*RepeatsToTheBit*:*ToTheBit*:CudaReduce.KeepsLongSums*:CudaReduce.EqualsTheCpuOver*:CudaSoftmax.EqualsTheCpuAlong*:CudaCrossEntropy.EqualsTheCpu*:CudaCrossEntropy.ComputesLoss*:CudaFewRows.LinearEquals*:CudaFewRows.NormsAndAdds*:CudaFewRows.LinearReads*:CudaNorm.TakesEveryLayout:CudaTrainingStep.Many*:CudaTrainingStep.ABatchThat*"
      ;;
    weft_cuda_test:*)
      echo "*Cuda*"
      echo "-CudaDevices.*:CudaIndexMath.*:CudaMemory.*:*ForManyRows:*NoRowsAndManyRows:*RepeatsToTheBit*:CudaReduce.KeepsLongSums*:CudaCrossEntropy.EqualsTheCpu*:CudaCrossEntropy.ComputesLoss*:CudaFewRows.LinearEquals*:CudaFewRows.NormsAndAdds*:CudaTrainingStep.Many*:CudaTrainingStep.ABatchThat*"
      ;;
    weft_cuda_attention_test:racecheck | weft_cuda_attention_test:synccheck)
      echo "All/MixerOnGpu.TrainsAsOnTheCpu/*:All/MixerOnGpu.DecodesAsItScores/full:All/MixerOnGpu.DecodesAsItScores/gla:All/MixerOnGpu.DecodesAsItScores/asa_global_block*:All/MixerInAGraph.TrainsAsOutside/*:BlockKernelsOnGpu.*:SelectedAttentionOnGpu.ListedLatents*:SelectedAttentionOnGpu.Transposed*:DecodeAttentionOnGpu.AGraph*:GenerationOnGpu.Replays*"
      echo "-"
      ;;
    weft_cuda_attention_test:*)
      echo "*"
      echo "-*OnLongSequences*:KernelsInAGraph.*:FlashAttentionOnGpu.Backward*"
      ;;
    weft_cuda_nn_test:racecheck) echo "All/DecoderOnGpu.RunsInBf16/*" && echo "-" ;;
    weft_cuda_nn_test:*) echo "All/DecoderOnGpu.RunsInBf16/*:All/DecoderOnGpu.ScoresAs*:All/DecoderTraining.NothingChanges*" && echo "-" ;;
    weft_cudnn_test:racecheck | weft_cudnn_test:synccheck) echo "All/AttentionErrors.*/weft*" && echo "-" ;;
    weft_cudnn_test:*) echo "All/AttentionErrors.*:CudnnAttentionTest.Replays*" && echo "-" ;;
  esac
}

# Tests that record graphs, whose memory the caching allocator alone gives. All others run with WEFT_ALLOCATOR=direct
# under memcheck and initcheck, so that every tensor has bounds and an age of its own.
graph_tests='Graph|Replay|TakeNoPassOfTheirOwn|DecodeProgram|CudaTrainingStep|DecoderTraining|Generat|CudaMemory'

# options_of TOOL: memcheck and initcheck look at the kernels of libraries too, since a wrong argument fails there and
# since what those kernels write must be known. Races and barriers are looked for in Weft's kernels alone.
options_of() {
  case $1 in
    memcheck) echo "--tool memcheck --report-api-errors no" ;; # calls that may fail are asked by the code itself
    racecheck) echo "--tool racecheck --kernel-name kns=weft" ;;
    initcheck) echo "--tool initcheck" ;;
    synccheck) echo "--tool synccheck --kernel-name kns=weft" ;;
  esac
}

# errors_in TOOL LOG: how many findings the log holds; where the tool is initcheck, those in Weft's kernels. Some kernels
# of libraries read words that they do not use; these are counted beside, and are no errors of Weft's.
errors_in() {
  case $1 in
    # A finding is a line and, below it, where: "at weft::(anonymous namespace)::kernel".
    initcheck) awk '/^========= Uninitialized/ { getline at; n += at ~ /weft/ } END { print n + 0 }' "$2" ;;
    racecheck) awk '/^========= (Error|Warning): Race/ || /^========= (Error|Warning): Potential/ { n++ } END { print n + 0 }' "$2" ;;
    *) awk '/^========= (Invalid|Misaligned|Barrier error|Program hit|Out-of-range|Malloc|Free|Warp|Address|Stack|Instruction|Unknown)/ { n++ } END { print n + 0 }' "$2" ;;
  esac
}

# summed_errors LOG: the number that the tool itself gives at its end; nothing where it did not come to it.
summed_errors() {
  sed -nE 's/^========= ERROR SUMMARY: ([0-9]+) errors?.*/\1/p; s/^========= RACECHECK SUMMARY: ([0-9]+) hazards? .*/\1/p' "$1" | tail -n 1
}

# digest LOG...: the findings, those of one kind and place in one line, the most frequent first.
digest() {
  cat "$@" | awk '/^========= +at / && what { sub(/^========= +at /, ""); print what " at " substr($0, 1, 150); what = "" }
    /^========= [A-Z]/ && !/SUMMARY|COMPUTE-SANITIZER/ { if (what) print what; what = substr($0, 11, 150) }
    END { if (what) print what }' | sort | uniq -c | sort -rn | sed -n '1,8 s/^/   /p' >&2
}

sanitizer=$(find_sanitizer)
[[ $sanitizer ]] || die "there is no compute-sanitizer; it comes with the CUDA toolkit (CUDA_HOME names its folder)"
in_path nvidia-smi || die "there is no NVIDIA GPU here (nvidia-smi is missing)"
declare -A path_of
for program in ${all_programs//,/ }; do
  path_of[$program]=$(find_program "$program")
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

logs=${log_dir:-$(mktemp -d)}
mkdir -p "$logs"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
say "$("$sanitizer" --version | grep -i version | head -n 1), $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1), $jobs processes"

# sanitize NAME TOOL PROGRAM [ARGUMENTS...]: one process; its status, seconds and logs are NAME.* in the folder of logs.
sanitize() {
  local name=$1 tool=$2 options begin=$SECONDS status=0
  shift 2
  read -ra options <<<"$(options_of "$tool")"
  OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive timeout --kill-after=10 "$timeout" \
    "$sanitizer" "${options[@]}" --launch-timeout 0 --show-backtrace no --print-limit 10000 --log-file "$logs/$name.log" \
    "$@" >"$logs/$name.out" 2>&1 || status=$?
  printf '%s %s\n' "$status" "$((SECONDS - begin))" >"$logs/$name.status"
  if [[ ! -e $logs/$name.log ]]; then : >"$logs/$name.log"; fi
}

# A program with an error of each kind: the table of a tool that does not see it means nothing.
is_clean=1
probe=$(find_program weft_sanitizer_probe)
if [[ $probe ]]; then
  for tool in ${tools//,/ }; do timeout=60 sanitize "probe-$tool" "$tool" "$probe" "$tool" & done
  wait
  for tool in ${tools//,/ }; do
    if (($(errors_in "$tool" "$logs/probe-$tool.log") == 0)); then
      is_clean=0
      say "NOTICE: $tool does not see the error of weft_sanitizer_probe; it wrote:"
      cat "$logs/probe-$tool.log" "$logs/probe-$tool.out" >&2
    fi
  done
else
  say "NOTICE: weft_sanitizer_probe is not built; whether the tools see errors is not tried"
fi

# tests_of PROGRAM FILTER: the full names of its tests, one a line.
tests_of() {
  "${path_of[$1]}" --gtest_list_tests --gtest_filter="$2" |
    awk '/^[^ ].*\.( |$)/ { suite = $1 } /^  / { print suite $1 }'
}

# add_tasks TOOL PROGRAM ALLOCATOR NAME...: processes that share these tests.
tasks=()
add_tasks() {
  local tool=$1 program=$2 allocator=$3 share=6 shards shard i list
  shift 3
  if [[ $tool == racecheck ]]; then share=2; fi
  shards=$((($# + share - 1) / share))
  if ((shards > jobs)); then shards=$jobs; fi
  for ((shard = 1; shard <= shards; ++shard)); do
    list=
    for ((i = shard; i <= $#; i += shards)); do list+=${list:+:}${!i}; done
    tasks+=("$tool $program $allocator $list")
  done
}

# The slowest first.
for tool in racecheck memcheck initcheck synccheck; do
  [[ ,$tools, == *,$tool,* ]] || continue
  for program in ${programs//,/ }; do
    pattern=$filter
    if [[ ! $pattern ]]; then pattern=$(small_tests "$tool" "$program" | tr -d '\n'); fi
    mapfile -t names < <(tests_of "$program" "$pattern")
    if [[ $tool == memcheck || $tool == initcheck ]]; then
      mapfile -t plain < <(printf '%s\n' "${names[@]}" | grep -vE "^$|$graph_tests" || true)
      mapfile -t names < <(printf '%s\n' "${names[@]}" | grep -E "$graph_tests" || true)
      add_tasks "$tool" "$program" direct "${plain[@]}"
    fi
    add_tasks "$tool" "$program" caching "${names[@]}"
  done
done
((${#tasks[@]})) || die "no test has a name that fits"

say "${#tasks[@]} runs of at most $(minutes "$timeout") each"
begin=$SECONDS
running=0
for i in "${!tasks[@]}"; do
  read -r tool program allocator list <<<"${tasks[i]}"
  if ((running >= jobs)); then
    wait -n || true
    running=$((running - 1))
  fi
  WEFT_ALLOCATOR=$allocator sanitize "$i-$tool-$program" "$tool" "${path_of[$program]}" --gtest_filter="$list" &
  running=$((running + 1))
done
wait

# What each tool found in each program.
printf '%-10s %-26s %6s %7s %6s %7s %8s %6s\n' tool program tests skipped failed errors library time
for tool in ${tools//,/ }; do
  for program in ${programs//,/ }; do
    ran=0 skipped=0 failed=0 errors=0 library=0 seconds=0
    found_in=()
    unfinished=()
    for i in "${!tasks[@]}"; do
      [[ ${tasks[i]} == "$tool $program "* ]] || continue
      name=$logs/$i-$tool-$program
      read -r status took <"$name.status"
      if ((took > seconds)); then seconds=$took; fi
      ran=$((ran + $(grep -c '^\[       OK \]' "$name.out" || true)))
      skipped=$((skipped + $(grep -cE '^\[  SKIPPED \] .* \([0-9]+ ms\)' "$name.out" || true)))
      failed=$((failed + $(grep -cE '^\[  FAILED  \] .* \([0-9]+ ms\)' "$name.out" || true)))
      found=$(errors_in "$tool" "$name.log")
      summed=$(summed_errors "$name.log")
      if [[ $tool == initcheck ]]; then
        if ((${summed:-0} > found)); then library=$((library + summed - found)); fi
      elif ((${summed:-0} > found)); then
        found=$summed
      fi
      errors=$((errors + found))
      if ((found > 0)) || [[ $tool == initcheck ]]; then found_in+=("$name.log"); fi
      at=$(sed -n 's/^\[ RUN      \] //p' "$name.out" | tail -n 1)
      if ((status == 124 || status == 137)); then
        unfinished+=("out of time in ${at:-its start}")
      elif [[ ! $summed ]] || ! grep -q '^\[==========\] .* ran\.' "$name.out"; then
        unfinished+=("ended with status $status in ${at:-its start}: $(tail -n 1 "$name.out" | cut -c 1-150)")
      fi
    done
    ((${#found_in[@]} + ${#unfinished[@]} + ran + skipped + failed > 0)) || continue
    printf '%-10s %-26s %6d %7d %6d %7d %8d %6s\n' "$tool" "$program" "$((ran + failed))" "$skipped" "$failed" "$errors" \
      "$library" "$(minutes "$seconds")"
    if ((errors + library > 0)); then digest "${found_in[@]}"; fi
    for reason in ${unfinished[@]+"${unfinished[@]}"}; do printf '   %s\n' "$reason" >&2; done
    if ((failed > 0)); then
      sed -nE 's/^\[  FAILED  \] (.*) \([0-9]+ ms\)$/   failed: \1/p' "$logs"/*-"$tool-$program".out >&2
      grep -hE -A 4 '(: Failure|^unknown file: Failure)$' "$logs"/*-"$tool-$program".out | sed -n '1,20 s/^/      /p' >&2
    fi
    if ((ran == 0 && failed == 0)); then printf '   nothing ran; skipped since: %s\n' "$(grep -hA 1 ': Skipped$' "$logs"/*-"$tool-$program".out | sed -n 2p)" >&2; fi
    if ((errors + failed + ${#unfinished[@]} > 0 || ran == 0)); then is_clean=0; fi
  done
done
say "$(minutes $((SECONDS - begin))) in all"
if ((!is_clean)); then die "not clean; the logs are in $logs"; fi
if [[ ! $log_dir ]]; then rm -rf "$logs"; fi
say "clean"
