#!/usr/bin/env bash
# Tests of scripts/ and of cmake/write_version.cmake: scripts_test.sh CASE, a function of this file.
# shellcheck disable=SC2016  # what the scripts and programs that it writes expand
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
# expect_equal WHAT ACTUAL EXPECTED
expect_equal() { [[ $2 == "$3" ]] || fail "$1: got '$2', not '$3'"; }
# expect_in WHAT TEXT PART
expect_in() { [[ $2 == *"$3"* ]] || fail "$1: '$3' is not in '$2'"; }
expect_not_in() { [[ $2 != *"$3"* ]] || fail "$1: '$3' is in '$2'"; }

# run COMMAND...: leaves its exit status, and what it wrote, in `status` and `text`.
run() {
  status=0
  text=$("$@" 2>&1 </dev/null) || status=$?
}

# make_repository: another repository, below a folder whose name must not appear in results, with common.sh.
make_repository() {
  repository=$scratch/private/weft
  mkdir -p "$repository/scripts" "$repository/runs"
  cp "$root/scripts/common.sh" "$repository/scripts/"
}
# write_script NAME: a script of that repository; standard input is what it does.
write_script() {
  { printf '#!/usr/bin/env bash\n# Says things.\nset -euo pipefail\nsource "$(dirname "${BASH_SOURCE[0]}")/common.sh"\n' && cat; } \
    >"$repository/scripts/$1"
  chmod +x "$repository/scripts/$1"
}
# write_program FILE VERSION: a stand-in for weft.
write_program() {
  mkdir -p "$(dirname "$1")"
  printf '#!/bin/sh\nif [ "$1" = --version ]; then echo "%s"; echo "GNU 1.2.3"; else echo "{\\"tokens_per_s\\": 1}"; fi\n' "$2" >"$1"
  chmod +x "$1"
}

options_are_read() {
  make_repository
  write_script say.sh <<'SCRIPT'
out_dir=here
rounds=3
no_build=
parse_options "no-build fresh" "out-dir rounds" "$@"
echo "$out_dir|$rounds|$no_build"
SCRIPT
  write_script pass.sh <<'SCRIPT'
no_build=
parse_known_options no-build "" "$@"
printf '%s|' "$no_build" ${others[@]+"${others[@]}"}
SCRIPT
  expect_equal defaults "$("$repository/scripts/say.sh")" 'here|3|'
  expect_equal values "$("$repository/scripts/say.sh" --no-build --out-dir 'a b')" 'a b|3|--no-build'
  expect_equal others "$("$repository/scripts/pass.sh" --lr 1 --no-build 'x y')" '--no-build|--lr|1|x y|'
  expect_equal "no others" "$("$repository/scripts/pass.sh")" '|'
  run "$repository/scripts/say.sh" --out-dir
  expect_equal "status without a value" "$status" 2
  expect_in "without a value" "$text" "say.sh: error: --out-dir needs a value (see say.sh --help)"
  run "$repository/scripts/say.sh" --out_dir x
  expect_equal "status of a wrong name" "$status" 2
  expect_in "a wrong name" "$text" "unknown argument '--out_dir'; allowed are --no-build, --fresh, --out-dir, --rounds (see"
}

unknown_options_are_named() {
  local script
  for script in bench bench-gpu bench-kernels get-text quality quality-tables sanitize-gpu setup; do
    run "$root/scripts/$script.sh" --nonsense
    expect_equal "status of $script.sh" "$status" 2
    expect_in "$script.sh" "$text" "'--nonsense'"
    expect_in "$script.sh" "$text" "(see $script.sh --help)"
  done
}

help_is_shown() {
  local script
  for script in "$root"/scripts/*.sh; do
    [[ $script != */common.sh ]] || continue
    run "$script" --help
    expect_equal "status of $script" "$status" 0
    expect_in "$script" "$text" "scripts/$(basename "$script")"
  done
}

commands_are_shown_without_paths() {
  make_repository
  write_script say.sh <<'SCRIPT'
shown_command "$@"
SCRIPT
  local say=$repository/scripts/say.sh
  expect_equal "nothing given" "$("$say")" 'scripts/say.sh'
  expect_equal "no paths" "$("$say" --cases a,b --device cuda:0 --ratio 1/2)" 'scripts/say.sh --cases a,b --device cuda:0 --ratio 1/2'
  expect_equal "inside" "$("$say" --out-dir "$repository/runs" "--weft=$repository/build/apps/weft" "$repository")" \
    'scripts/say.sh --out-dir runs --weft=build/apps/weft .'
  expect_equal "outside" "$("$say" --python "$scratch/private/venv/bin/python3" --log "$scratch/x/")" 'scripts/say.sh --python python3 --log x'
  expect_equal "from another folder" "$(cd "$repository/runs" && ../scripts/say.sh ../build ./a ../../x)" 'scripts/say.sh build runs/a x'
  expect_equal "spaces" "$("$say" --title 'My model')" "scripts/say.sh --title 'My model'"
}

revision_is_that_of_the_program() {
  make_repository
  write_script say.sh <<'SCRIPT'
revision=$(revision_of "$@")
echo "$revision"
SCRIPT
  write_script head.sh <<'SCRIPT'
printf '{'
result_header step 'say "x\y"' machine "$(revision_of "$1")" "$1"
printf '}'
SCRIPT
  local say=$repository/scripts/say.sh elsewhere=$scratch/elsewhere
  write_program "$elsewhere/a" 'weft 0.1.0 (1234567890ab)'
  write_program "$elsewhere/b" 'weft 0.1.0 (1234567890ab)'
  write_program "$elsewhere/changed" 'weft 0.1.0 (1234567890ab-dirty)'
  write_program "$elsewhere/none" 'weft 0.1.0'
  printf '#!/bin/sh\nexit 3\n' >"$elsewhere/broken" && chmod +x "$elsewhere/broken"
  expect_equal "one program" "$("$say" "$elsewhere/a")" 1234567890ab
  expect_equal "two of one revision" "$("$say" "$elsewhere/a" "$elsewhere/b")" 1234567890ab
  expect_equal "with changes" "$("$say" "$elsewhere/changed")" 1234567890ab-dirty
  expect_equal "none" "$("$say" "$elsewhere/none")" unknown
  run "$say" "$elsewhere/a" "$elsewhere/changed"
  expect_equal "status of two revisions" "$status" 1
  expect_in "two revisions" "$text" "of revision 1234567890ab, but $elsewhere/changed of 1234567890ab-dirty"
  run "$say" "$elsewhere/broken"
  expect_equal "status of a broken program" "$status" 1
  expect_in "a broken program" "$text" "does not tell its version"
  text=$(WEFT_REVISION=other "$repository/scripts/head.sh" "$elsewhere/a")
  expect_in header "$text" '"revision": "1234567890ab"'
  expect_in header "$text" '"versions": {"compiler": "GNU 1.2.3"'
  expect_in header "$text" '"command": "say \"x\\y\""'
}

version_follows_git() {
  local tree=$scratch/tree out=$scratch/version.cpp before
  mkdir -p "$tree/apps/common" "$tree/docs"
  cp "$root/apps/common/version.cpp.in" "$tree/apps/common/"
  echo old | tee "$tree/file" >"$tree/docs/page"
  write() {
    cmake "-DGIT=$(command -v git)" "-DSOURCE_DIR=$tree" -DVERSION=1.2.3 "-DCOMPILERS=GNU 1.2.3, CUDA 1.2" "-DREVISION=${1-}" "-DOUT=$out" -P "$root/cmake/write_version.cmake"
    expect_in "the compilers" "$(<"$out")" 'return "GNU 1.2.3, CUDA 1.2";'
    sed -n '/ version()/,/}/ s/.*return "\(.*\)";/\1/p' "$out"
  }
  expect_equal "without history" "$(write)" 1.2.3
  expect_equal "without history, told" "$(write abc)" '1.2.3 (abc)'
  git -C "$tree" init -q
  expect_equal "before the first commit" "$(write)" 1.2.3
  git -C "$tree" add . && git -C "$tree" -c user.name=x -c user.email=x commit -qm x
  local revision
  revision=$(git -C "$tree" rev-parse --short=12 HEAD)
  expect_equal "committed" "$(write abc)" "1.2.3 ($revision)"
  touch -d '2001-01-01' "$out" && before=$(stat -c %Y "$out")
  write >/dev/null
  expect_equal "written again for nothing" "$(stat -c %Y "$out")" "$before"
  echo new | tee "$tree/docs/page" >"$tree/untracked"
  expect_equal "documents changed" "$(write)" "1.2.3 ($revision)"
  echo new >"$tree/file"
  expect_equal changed "$(write)" "1.2.3 ($revision-dirty)"
}

gpu_results_tell_what_was_measured() {
  local build=$scratch/private/build out=$scratch/private/results file content benchmark
  write_program "$build/apps/weft" 'weft 0.1.0 (1234567890ab)'
  for benchmark in cuda_ops decode; do
    write_program "$build/benchmarks/weft_${benchmark}_benchmark" 'weft 0.1.0 (1234567890ab)'
  done
  mkdir "$scratch/bin"
  printf '#!/bin/sh\ncase $1 in *name*) echo "Some GPU" ;; *) echo 1.2 ;; esac\n' >"$scratch/bin/nvidia-smi"
  chmod +x "$scratch/bin/nvidia-smi"
  run env "PATH=$scratch/bin:$PATH" "$root/scripts/bench-gpu.sh" --no-build --build-dir "$build" --out-dir "$out" \
    --python none --suites step,decode,ops --cases 124m
  expect_equal "status: $text" "$status" 0
  for file in "$out"/*-some-gpu-cuda-{step,decode,ops}.json; do
    content=$(<"$file")
    expect_in "$file" "$content" '"revision": "1234567890ab"'
    expect_in "$file" "$content" '"command": "scripts/bench-gpu.sh --no-build --build-dir build --out-dir results --python none --suites step,decode,ops --cases 124m"'
    expect_in "$file" "$content" '"tokens_per_s": 1'
    expect_not_in "$file" "$content" private
  done
  expect_in decoding "$(cat "$out"/*-cuda-decode.json)" '{"program": "weft-340m-1k-batch-4-kernel-after-kernel", "result": {"tokens_per_s": 1}}'
  write_program "$build/benchmarks/weft_cuda_ops_benchmark" 'weft 0.1.0 (ba0987654321)'
  run env "PATH=$scratch/bin:$PATH" "$root/scripts/bench-gpu.sh" --no-build --build-dir "$build" --out-dir "$out" --python none --suites ops
  expect_equal "status of two revisions" "$status" 1
  expect_in "two revisions" "$text" "build them together"
}

[[ $(type -t "${1-}") == function ]] || fail "there is no case '${1-}'"
"$1"
