#!/usr/bin/env bash
# Installs what is missing, builds Weft and runs its whole test suite; ends with the summary of CTest.
#
#   scripts/test.sh [--fast] [--no-install] [--build-dir DIR] [-DNAME=VALUE]... [CTEST ARGUMENTS...]
#
#   --fast           skip the tests with the label slow
#   --no-install     install nothing; say what is missing and stop
#   --build-dir DIR  where to build (default: build, beside this folder)
#   -DNAME=VALUE     handed to CMake
#   -h, --help       this text
#
# Everything else is handed to CTest. Example: scripts/test.sh --fast -R Softmax
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

fast=
no_install=
build_dir=$root/build
parse_known_options "fast no-install" build-dir "$@"
cmake_arguments=()
ctest_arguments=(${fast:+-LE slow})
for argument in ${others[@]+"${others[@]}"}; do
  if [[ $argument == -D* ]]; then cmake_arguments+=("$argument"); else ctest_arguments+=("$argument"); fi
done

install_needs

say "configuring in $build_dir"
configure "$build_dir" -DCMAKE_BUILD_TYPE=Release -DWEFT_BUILD_TESTS=ON ${cmake_arguments[@]+"${cmake_arguments[@]}"}

say "building with $jobs jobs"
SECONDS=0
cmake --build "$build_dir" --parallel "$jobs" >&2 || die "the build failed; its messages stand above"
say "built in $(minutes $SECONDS)"

say "testing"
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error --parallel "$jobs" \
  ${ctest_arguments[@]+"${ctest_arguments[@]}"} || die "tests failed; they are listed above"
