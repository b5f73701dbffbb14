#!/usr/bin/env bash
# Trains a model for some minutes and writes a page about the run: loss, speed and memory from beginning to end, with
# charts, and its loss on all text that it never saw.
#
#   scripts/train-report.sh [--no-install] [--config FILE] [--seconds N] [--text FILE] [--page FILE] [--title TEXT]
#                           [--out-dir DIR] [--weft PROGRAM] [--build-dir DIR] [TRAIN FLAGS...]
#
#   --config FILE    the model (default: apps/configs/124m-bytes.ini)
#   --seconds N      about how long its training steps take in all (default: 500)
#   --text FILE      train on this text (default: the dictionary gcide)
#   --page FILE      the page to write; its charts lie beside it (default: docs/runs/<name of the config>.md)
#   --title TEXT     the heading (default: made from the name of the config)
#   --out-dir DIR    the run folder (default: runs/<name of the config>); what is there is replaced
#   --weft PROGRAM   use this program, build and install nothing
#   --build-dir DIR  where to build (default: build)
#   --no-install     install nothing; say what is missing and stop
#   -h, --help       this text
#
# Everything else is handed to `weft train`. Example: scripts/train-report.sh --config apps/configs/demo.ini --seconds 60
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command_line=$(shown_command "$@")
config=$root/apps/configs/124m-bytes.ini
seconds=500
text=
page=
title=
out_dir=
weft=
build_dir=$root/build
no_install=
device=
parse_known_options no-install "config seconds text page title out-dir weft build-dir device" "$@"
train_flags=(${others[@]+"${others[@]}"})
device=(${device:+--device "$device"})
[[ -r $config ]] || die "cannot read the config $config"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage_error "--seconds must be positive, not '$seconds'"
if [[ $text && ! -r $text ]]; then die "cannot read the text $text"; fi
name=$(basename "$config" .ini)
out_dir=${out_dir:-$root/runs/$name}
page=${page:-$root/docs/runs/$name.md}

if [[ -z $weft ]]; then
  install_needs
  build_programs "$build_dir" weft
  weft=$(find_weft "$build_dir")
fi
[[ -x $weft ]] || die "there is no program at $weft"
if [[ -z $text ]]; then
  text=$("$root/scripts/get-text.sh" ${no_install:+"$no_install"} gcide "$root/runs/text") ||
    die "the text gcide cannot be had here"
fi

mkdir -p "$out_dir" "$(dirname "$page")"
data=$out_dir/data.h5
"$weft" tokenize --input "$text" --tokenizer bytes --out "$data" || die "the text cannot be made a dataset"
say "timing training steps"
steps=$(steps_within "$seconds" "$weft" "$config" --steps 20 ${device[@]+"${device[@]}"}) || die "timing a training step failed"
((steps >= 10)) || steps=10
say "training for $steps steps"
"$weft" train --config "$config" --data "$data" --out-dir "$out_dir" --resume never --max-steps "$steps" --report-to csv \
  ${device[@]+"${device[@]}"} ${train_flags[@]+"${train_flags[@]}"} || die "the training failed"
say "evaluating on all held-out text"
result=$("$weft" eval --run "$out_dir" --suite loss --format csv ${device[@]+"${device[@]}"} -q) || die "the evaluation failed"
sample=$("$weft" generate --run "$out_dir" --prompt "Weave" --max-new-tokens 400 --temperature 0.8 --seed 1 \
  ${device[@]+"${device[@]}"} -q) || die "the generation failed"
"$weft" report --run "$out_dir" --out "$page" --title "${title:-$name on $(basename "$text" .txt)}" \
  --intro "\`$command_line\`: after the last step $(column bits_per_byte <<<"$result" | cut -c -6) bits per byte
over all $(column bytes <<<"$result") bytes of held-out text." -q || die "the report failed"
{
  printf '\n## What it writes\n\n```text\n'
  iconv -c -f UTF-8 -t UTF-8 <<<"$sample" | fold -s -w 100 | sed 's/ *$//'
  printf '```\n'
} >>"$page"
# Paths of this machine say nothing elsewhere.
sed "s|$out_dir|$(portable_word "$out_dir")|g; s|$root/||g" "$page" >"$page.partial"
mv -f "$page.partial" "$page"
cat "$page"
say "written to $page"
