#!/usr/bin/env bash
# Formatting, vet, staticcheck, and a few habits of this project that no linter knows. Run from anywhere: make lint.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=

complain() { printf 'lint: %s\n%s\n' "$1" "$2" >&2; failed=1; }

# Lists of files, split at white space, which no path here has.
all=$(git ls-files --cached --others --exclude-standard -- '*.go')
production=$(grep -Ev '_test\.go$|^internal/' <<<"$all")
libraries=$(grep -v '^cmd/' <<<"$production")

# ban WHY PATTERN FILE...: no line of these files may match, comments aside.
ban() {
  local why=$1 pattern=$2 found; shift 2
  found=$(grep -nE "$pattern" /dev/null "$@" | grep -Ev '^[^:]+:[0-9]+:[[:space:]]*//' || true)
  if [ -n "$found" ]; then complain "$why" "$found"; fi
}

found=$(go tool gofumpt -l $all)
if [ -n "$found" ]; then complain "not formatted (go tool gofumpt -w FILE)" "$found"; fi
staticcheck=$(go tool -n staticcheck)
for module in . internal/patterns; do
  (cd "$module" && go vet ./... && "$staticcheck" ./...) || failed=1
done

ban "errors are returned; only main ends the process" '\bpanic\(|\bos\.Exit\(|\blog\.Fatal|\.Fatal\(\)|\bfunc init\(\)' $libraries
ban "nothing waits by sleeping: use a timer with the context" '\btime\.Sleep\(' $production
found=$(wc -l $production | awk '$2 != "total" && $1 > 500')
if [ -n "$found" ]; then complain "files of more than 500 lines" "$found"; fi

[ -z "$failed" ] || exit 1
echo "lint: ok"
