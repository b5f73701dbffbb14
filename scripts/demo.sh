#!/usr/bin/env bash
# Trains a small language model on real English text, reports its loss on text that it never saw, and lets it write.
# Installs what is missing and builds Weft first. Uses a GPU where Weft was built for one, else the CPU.
#
#   scripts/demo.sh [--no-install] [--fresh] [--text FILE] [--out-dir DIR] [--build-dir DIR] [TRAIN FLAGS...]
#
#   --fresh          train again, where a finished run would be used as it is
#   --text FILE      train on this text (default: the King James Bible)
#   --out-dir DIR    the run folder (default: runs/demo)
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing; say what is missing and stop
#   -h, --help       this text
#
# Everything else is handed to `weft train`. A run that was stopped goes on where it was.
# Example: scripts/demo.sh --text my-letters.txt --out-dir runs/letters
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build=$root/build
out=$root/runs/demo
no_install=()
resume=auto
text=
train_flags=()
while (($#)); do
  case $1 in
    --no-install) no_install=(--no-install) ;;
    --fresh) resume=never ;;
    --text | --out-dir | --build-dir)
      (($# > 1)) || usage_error "$1 needs a value"
      case $1 in
        --text) text=$2 ;;
        --out-dir) out=$2 ;;
        --build-dir) build=$2 ;;
      esac
      shift
      ;;
    -h | --help) print_help && exit 0 ;;
    *) train_flags+=("$1") ;;
  esac
  shift
done
if [[ $text && ! -r $text ]]; then die "cannot read the text $text"; fi

# run COMMAND...: shows it, so that a reader can repeat it, and times it.
run() {
  local name=$1
  shift
  local shown="weft ${*//$root\//}"
  say "$shown"
  SECONDS=0
  "$weft" "$@" || die "'$shown' failed"
  times+=("$name $(minutes $SECONDS)")
}
times=()

"$root/scripts/setup.sh" ${no_install[@]+"${no_install[@]}"} || exit 1

say "configuring in $build"
SECONDS=0
configure "$build" -DCMAKE_BUILD_TYPE=Release
say "building with $jobs jobs"
# Only the program: the tests are not needed here.
cmake --build "$build" --parallel "$jobs" --target weft >&2 || die "the build failed; its messages stand above"
times+=("build $(minutes $SECONDS)")
weft=$(find_weft "$build")

mkdir -p "$out"
data=$out/data.h5
prompt="In the beginning"
if [[ -z $text ]]; then
  if ! text=$("$root/scripts/get-text.sh" ${no_install[@]+"${no_install[@]}"} kjv "$root/runs/text"); then
    say "NOTICE: the King James Bible cannot be had here (see above). Going on with builtin:stories, generated text"
    say "NOTICE: about a few characters and things. The losses below are not those of real English."
    text=
    data=builtin:stories
    prompt="Once"
  fi
fi
if [[ $text ]]; then
  run tokenize tokenize --input "$text" --tokenizer bytes --out "$data"
fi
# As many steps as fit into about 200 seconds on this machine, at most what the preset names; a run that goes on keeps
# its number, since the course of the learning rate depends on it.
config=$root/apps/configs/demo.ini
length=()
if [[ " ${train_flags[*]-}" != *" --max-steps"* ]]; then
  preset_steps=$(awk -F' = ' '$1 == "max-steps" {print $2}' "$config")
  if [[ -r $out/config.ini && $resume == auto ]]; then
    steps=$(awk -F' = ' '$1 == "max-steps" {print $2}' "$out/config.ini")
  else
    say "timing a training step"
    step_ms=$("$weft" bench step --config "$config" --steps 5 --format csv | awk -F, 'NR == 2 {print int($2 + 1)}') ||
      die "timing a training step failed"
    steps=$((200000 / step_ms))
    ((steps <= preset_steps)) || steps=$preset_steps
    ((steps >= 100)) || steps=100
  fi
  length=(--max-steps "$steps")
fi
run training train --config "$config" --data "$data" --out-dir "$out" --resume "$resume" \
  ${length[@]+"${length[@]}"} ${train_flags[@]+"${train_flags[@]}"}
run evaluation eval --run "$out" --suite loss
run writing generate --run "$out" --prompt "$prompt" --max-new-tokens 400 --temperature 0.8 --seed 1
echo
say "done: $(printf '%s, ' "${times[@]}" | sed 's/, $//'); the run lies in $out"
