#!/usr/bin/env bash
# Writes the tables of docs/attention-quality.md anew from the result files of scripts/quality.sh, one table for each
# benchmarks/results/*-quality-EXPERIMENT.json, between the marks of that experiment.
#
#   scripts/quality-tables.sh [--check] [--results DIR] [--document FILE]
#
#   --check          change nothing; exit with 1 where a table is not that of its file
#   --results DIR    where the result files lie (default: benchmarks/results)
#   --document FILE  the document with the marks (default: docs/attention-quality.md)
#   -h, --help       this text
#
# A mark is a line <!-- begin EXPERIMENT --> or <!-- end EXPERIMENT -->.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check=0
results=$root/benchmarks/results
document=$root/docs/attention-quality.md
while (($#)); do
  case $1 in
    --check) check=1 ;;
    --results | --document)
      (($# > 1)) || usage_error "$1 needs a value"
      if [[ $1 == --results ]]; then results=$2; else document=$2; fi
      shift
      ;;
    -h | --help) print_help && exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done
[[ -r $document ]] || die "cannot read $document"

# Programs of awk; the result files are written with one object a line, so that it can read them.
# shellcheck disable=SC2016  # what awk expands
awk_functions='
  # The value behind "key": in a line, without quotes.
  function field(line, key,   rest) {
    if (!match(line, "\"" key "\": *")) return ""
    rest = substr(line, RSTART + RLENGTH)
    if (rest ~ /^"/) { rest = substr(rest, 2); sub(/".*/, "", rest) } else sub(/[,}\]].*/, "", rest)
    return rest
  }
  function percent(x) { return sprintf("%.1f %%", 100 * x) }
  function thousands(n,   text) {
    text = sprintf("%d", n)
    while (match(text, /[0-9][0-9][0-9][0-9]($|,)/)) text = substr(text, 1, RSTART) "," substr(text, RSTART + 1)
    return text
  }
  function title(name) {
    if (experiment == "ablation" && name == "asa") return "asa, `LG`, `query-run=2`"
    if (name ~ /^asa-r/) return "asa, `LG`, `query-run=" substr(name, 6) "`"
    if (name == "asa-local") return "asa, `LL`: local layers alone"
    if (name == "asa-global") return "asa, `GG`: global layers alone"
    if (name == "asa-gl") return "asa, `GL`: the global layer first"
    if (name == "nsa-no-cmp") return "nsa without compressed blocks in the output"
    if (name == "nsa-no-slc") return "nsa without selected blocks"
    if (name == "nsa-no-win") return "nsa without the window"
    return name
  }
  /^  "summary"/ { part = "summary" }
  /^  "rows"/ { part = "rows" }
  /^  "setting"/ { length_of = field($0, "length"); window = field($0, "window"); device = field($0, "device"); dtype = field($0, "dtype"); threads = field($0, "threads") }
  /^  "command"/ { command = field($0, "command") }
  /^  "machine"/ { cpu = field($0, "cpu") }
'
# shellcheck disable=SC2016
accuracy_table='
  part == "summary" && /"case"/ {
    if (!rows++) print "| | accuracy | parameters | tokens | minutes |\n|---|---|---|---|---|"
    accuracy = percent(field($0, "accuracy"))
    if (field($0, "seeds") > 1) accuracy = accuracy " ± " sprintf("%.1f", 100 * field($0, "spread"))
    printf "| %s | %s | %s | %.1f M | %.1f |\n", title(field($0, "case")), accuracy, thousands(field($0, "parameters")),
      field($0, "tokens") / 1e6, field($0, "seconds") / 60
  }
'
# shellcheck disable=SC2016
loss_table='
  part == "summary" && /"case"/ {
    if (!rows++) print "| | held-out loss | to full | parameters | tokens | minutes |\n|---|---|---|---|---|---|"
    if (field($0, "case") == "full") full = field($0, "loss")
    loss = sprintf("%.4f", field($0, "loss"))
    if (field($0, "seeds") > 1) loss = loss " ± " sprintf("%.4f", field($0, "spread"))
    printf "| %s | %s | %s | %s | %.2f M | %.1f |\n", field($0, "case"), loss,
      full ? sprintf("%+.2f %%", 100 * (field($0, "loss") / full - 1)) : "",
      thousands(field($0, "parameters")), field($0, "tokens") / 1e6, field($0, "seconds") / 60
  }
'
# shellcheck disable=SC2016
# Accuracy by depth at the longest length, as the mean over the seeds.
needle_table='
  part == "rows" && /"case"/ {
    name = field($0, "case")
    if (!(name in runs)) order[++cases] = name
    runs[name]++
    rest = $0
    while (match(rest, /{ *"length": [^}]*}/)) {
      cell = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
      if (field(cell, "length") != length_of) continue
      depth = field(cell, "depth") + 0
      if (!(depth in seen)) { seen[depth] = 1; depths[++depth_count] = depth }
      sum[name, depth] += field(cell, "accuracy"); all[name] += field(cell, "accuracy")
    }
  }
  END {
    line = "| depth"; rule = "|---"
    for (i = 1; i <= depth_count; i++) { line = line " | " depths[i] " %"; rule = rule "|---" }
    print line " | mean |\n" rule "|---|"
    for (c = 1; c <= cases; c++) {
      name = order[c]; line = "| " name
      for (i = 1; i <= depth_count; i++) line = line " | " percent(sum[name, depths[i]] / runs[name])
      print line " | " percent(all[name] / runs[name] / depth_count) " |"
    }
  }
'
# shellcheck disable=SC2016
samples='
  part == "rows" && /"sample"/ && /"seed": 1,/ {
    if (!lines++) print "\nWhat they write after \"And the LORD said\", resumed once on the way:\n"
    text = field($0, "sample"); gsub(/\\n/, " ", text); gsub(/[|<>`*_]/, "", text)
    printf "- **%s**: %s\n", field($0, "case"), text
  }
'
# shellcheck disable=SC2016
footer='
  END { printf "\nLength %s, window %s, %s on %s, %s thread%s a run (%s): `%s`, [its file](%s).\n", length_of, window, dtype, device, threads,
    (threads > 1 ? "s" : ""), cpu, command, file }
'

# tables_of EXPERIMENT: the tables of its files.
tables_of() {
  local file table link first=1
  case $1 in
    text) table=$loss_table$samples ;;
    needle) table=$needle_table ;;
    *) table=$accuracy_table ;;
  esac
  for file in "$results"/*-quality-"$1".json; do
    [[ -e $file ]] || continue
    ((first)) || echo
    first=0
    link=../benchmarks/results/$(basename "$file")
    awk -v experiment="$1" -v file="$link" "$awk_functions$table$footer" "$file"
  done
  if ((first)); then echo "Not measured yet."; fi
}

while IFS= read -r name; do
  grep -q "^<!-- end $name -->$" "$document" || die "$document has no mark '<!-- end $name -->'"
done < <(sed -n 's/^<!-- begin \(.*\) -->$/\1/p' "$document")

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
inside=
while IFS= read -r line || [[ $line ]]; do
  if [[ $line =~ ^'<!-- end '([a-z]+)' -->'$ ]]; then inside=; fi
  if [[ -z $inside ]]; then printf '%s\n' "$line"; fi
  if [[ $line =~ ^'<!-- begin '([a-z]+)' -->'$ ]]; then
    inside=${BASH_REMATCH[1]}
    echo
    tables_of "$inside"
    echo
  fi
done <"$document" >"$fresh"

if cmp -s "$fresh" "$document"; then
  say "$document is up to date"
elif ((check)); then
  diff -u "$document" "$fresh" >&2 || true
  die "$document has other tables than the result files"
else
  cat "$fresh" >"$document"
  say "written to $document"
fi
