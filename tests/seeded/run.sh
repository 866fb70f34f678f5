#!/usr/bin/env bash
# Puts one known bug at a time into a copy of the code. Each must make a test fail; a bug that no
# test notices is an error. A patch names its tests in its first line: `# run: unit FILTER` or
# `# run: loom FILTER`.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
top=$PWD
copy=$(mktemp -d)
# Cargo takes the copy for this checkout where they share a target folder: touched, what is here is
# newer than the last bug, and the next loom run builds it.
trap 'rm -rf -- "$copy"; touch src/lib.rs' EXIT
mkdir -p target
missed=0 caught=0
readonly LIMIT_SECONDS=180 # the same tests take a minute and a half without a bug

# cargo test in the copy. Dependencies are built once, in target/ of this checkout.
tests_of() {
  local kind=$1
  shift
  if [ "$kind" = loom ]; then
    env RUSTFLAGS="--cfg pgbaton_loom" CARGO_TARGET_DIR="$top/target/loom" \
      CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_PANIC=unwind \
      timeout "$LIMIT_SECONDS" cargo test --locked --release --lib "$@"
  else
    env CARGO_TARGET_DIR="$top/target/seeded" \
      timeout "$LIMIT_SECONDS" cargo test --locked --lib "$@"
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
  # A bug that does not compile would prove nothing.
  if ! (cd "$copy/tree" && tests_of "$kind" --no-run) >"$log" 2>&1; then
    echo "BROKEN  $name: does not compile"
    tail -n 20 "$log"
    missed=$((missed + 1))
    continue
  fi
  status=0
  (cd "$copy/tree" && tests_of "$kind" "$filter") >"$log" 2>&1 || status=$?
  case "$status:$(grep -cE '^test .* FAILED' "$log" || true)" in
    0:*) echo "MISSED  $name"; missed=$((missed + 1)); continue ;;
    124:*) echo "caught  $name: a test hangs" ;;
    *:0) echo "caught  $name: an assertion ends the test process" ;;
    *) echo "caught  $name: $(grep -cE '^test .* FAILED' "$log") tests failed" ;;
  esac
  caught=$((caught + 1))
done
echo "seeded bugs: $caught caught, $missed missed"
[ "$missed" -eq 0 ]
