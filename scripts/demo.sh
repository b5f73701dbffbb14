#!/usr/bin/env bash
# Trains a small language model on real English text, reports its loss on text that it never saw, and lets it write.
# Installs what is missing and builds Weft first. Where there is a GPU, and Weft was built for it, the model has 50M
# parameters and reads a dictionary; else it has 2.8M and reads the Bible.
#
#   scripts/demo.sh [--no-install] [--fresh] [--text FILE] [--out-dir DIR] [--weft PROGRAM] [--build-dir DIR]
#                   [TRAIN FLAGS...]
#
#   --fresh          train again, where a finished run would be used as it is
#   --text FILE      train on this text (default: the King James Bible; on a GPU the dictionary gcide)
#   --out-dir DIR    the run folder (default: runs/demo)
#   --weft PROGRAM   use this program, build and install nothing
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing; say what is missing and stop
#   -h, --help       this text
#
# Everything else is handed to `weft train`. A run that was stopped goes on where it was.
# Example: scripts/demo.sh --text my-letters.txt --out-dir runs/letters
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

no_install=
fresh=
build_dir=$root/build
out_dir=$root/runs/demo
text=
weft=
parse_known_options "no-install fresh" "text out-dir weft build-dir" "$@"
train_flags=(${others[@]+"${others[@]}"})
resume=${fresh:+never}
resume=${resume:-auto}
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

if [[ -z $weft ]]; then
  install_needs
  say "configuring in $build_dir"
  SECONDS=0
  configure "$build_dir" -DCMAKE_BUILD_TYPE=Release
  say "building with $jobs jobs"
  # Only the program: the tests are not needed here.
  cmake --build "$build_dir" --parallel "$jobs" --target weft >&2 || die "the build failed; its messages stand above"
  times+=("build $(minutes $SECONDS)")
  weft=$(find_weft "$build_dir")
fi
[[ -x $weft ]] || die "there is no program at $weft"

mkdir -p "$out_dir"
data=$out_dir/data.h5
# A --device among the flags of train counts here as well.
device=()
for ((i = 0; i < ${#train_flags[@]}; ++i)); do
  case ${train_flags[i]} in
    --device=*) device=("${train_flags[i]}") ;;
    --device) device=(--device "${train_flags[i + 1]-}") ;;
  esac
done
used=$("$weft" bench step --n-layers 1 --d-model 32 --n-heads 1 --d-ff 32 --seq-len 8 --batch-size 1 --steps 1 \
  ${device[@]+"${device[@]}"} --format csv | column device) || die "a training step of a tiny model failed"
if [[ $used == cuda* ]]; then
  config=$root/apps/configs/demo-gpu.ini
  book=gcide
  prompt="Weave"
  seconds=130
else
  config=$root/apps/configs/demo.ini
  book=kjv
  prompt="In the beginning"
  seconds=200
fi
if [[ -z $text ]]; then
  if ! text=$("$root/scripts/get-text.sh" ${no_install:+"$no_install"} "$book" "$root/runs/text"); then
    say "NOTICE: the text $book cannot be had here (see above). Going on with builtin:stories, generated text"
    say "NOTICE: about a few characters and things. The losses below are not those of real English."
    text=
    data=builtin:stories
    prompt="Once"
  fi
fi
if [[ $text ]]; then
  run tokenize tokenize --input "$text" --tokenizer bytes --out "$data"
fi
# As many steps as fit into the seconds on this machine, at most what the preset names; a run that goes on keeps its
# number, since the course of the learning rate depends on it.
length=()
if [[ " ${train_flags[*]-}" != *" --max-steps"* ]]; then
  preset_steps=$(awk -F' = ' '$1 == "max-steps" {print $2}' "$config")
  if [[ -r $out_dir/config.ini && $resume == auto ]]; then
    steps=$(awk -F' = ' '$1 == "max-steps" {print $2}' "$out_dir/config.ini")
  else
    say "timing a training step"
    steps=$(steps_within "$seconds" "$weft" "$config" --steps 5 ${device[@]+"${device[@]}"}) ||
      die "timing a training step failed"
    ((steps <= preset_steps)) || steps=$preset_steps
    ((steps >= 100)) || steps=100
  fi
  length=(--max-steps "$steps")
fi
run training train --config "$config" --data "$data" --out-dir "$out_dir" --resume "$resume" \
  ${length[@]+"${length[@]}"} ${train_flags[@]+"${train_flags[@]}"}
run evaluation eval --run "$out_dir" --suite loss
run writing generate --run "$out_dir" --prompt "$prompt" --max-new-tokens 400 --temperature 0.8 --seed 1
echo
say "done: $(printf '%s, ' "${times[@]}" | sed 's/, $//'); the run lies in $out_dir"
