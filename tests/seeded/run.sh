#!/usr/bin/env bash
# Puts one known bug at a time into a copy of the code. Each must make a test fail; a bug that no
# test notices is an error. A patch names its tests in its first line: `# run: unit FILTER` or
# `# run: loom FILTER`.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
top=$PWD
copy=$(mktemp -d)
trap 'rm -rf -- "$copy"' EXIT
mkdir -p target
missed=0 caught=0

# The tests of one patch, in the copy. Dependencies are built once, in target/ of this checkout.
run_tests() {
  local kind=$1 filter=$2
  if [ "$kind" = loom ]; then
    env RUSTFLAGS="--cfg pgbaton_loom" CARGO_TARGET_DIR="$top/target/loom" \
      CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_PANIC=unwind \
      timeout 400 cargo test --locked --release --lib "$filter"
  else
    env CARGO_TARGET_DIR="$top/target/seeded" timeout 400 cargo test --locked --lib "$filter"
  fi
}

for patch in tests/seeded/*.patch; do
  name=$(basename "$patch" .patch)
  read -r _ _ kind filter <"$patch"
  rm -rf -- "${copy:?}/tree"
  mkdir "$copy/tree"
  git ls-files -z | xargs -0 cp --parents -t "$copy/tree"
  (cd "$copy/tree" && patch -s -p1 <"$top/$patch") || { echo "$name: does not apply"; exit 1; }
  log=$copy/$name.log
  status=0
  (cd "$copy/tree" && run_tests "$kind" "$filter") >"$log" 2>&1 || status=$?
  failed=$(grep -cE '^test .* FAILED' "$log" || true)
  if [ "$status" -eq 0 ]; then
    echo "MISSED  $name"
    missed=$((missed + 1))
  elif [ "$status" -eq 124 ]; then
    echo "caught  $name: a test hangs"
    caught=$((caught + 1))
  elif [ "$failed" -eq 0 ]; then
    echo "BROKEN  $name: no test failed, yet the run did"
    tail -n 20 "$log"
    missed=$((missed + 1))
  else
    echo "caught  $name: $failed tests failed"
    caught=$((caught + 1))
  fi
done
echo "seeded bugs: $caught caught, $missed missed"
[ "$missed" -eq 0 ]
