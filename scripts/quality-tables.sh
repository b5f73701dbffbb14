#!/usr/bin/env bash
# Writes the tables of docs/attention-quality.md anew from the result files of scripts/quality.sh, one table for each
# benchmarks/results/*-cpu-quality-EXPERIMENT.json between the marks of that experiment, and one for each
# *-cuda-quality-EXPERIMENT.json between those of EXPERIMENT-gpu.
#
#   scripts/quality-tables.sh [--check] [--results DIR] [--document FILE]
#
#   --check          change nothing; exit with 1 where a table is not that of its file
#   --results DIR    where the result files lie (default: benchmarks/results)
#   --document FILE  the document with the marks (default: docs/attention-quality.md)
#   -h, --help       this text
#
# A mark is a line <!-- begin NAME --> or <!-- end NAME -->.
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
  /^  "gpu"/ { gpu = field($0, "name"); gpus = field($0, "count"); at_once = field($0, "runs_at_a_time") }
  /^  "missing"/ {
    rest = $0
    while (match(rest, /{"case": [^}]*}/)) {
      run = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
      missing = missing (missing ? ", " : "") field(run, "case") " with seed " field(run, "seed")
    }
  }
  # Rows of a table are kept until all are known: a column of seeds stands where there are several.
  part == "summary" && /"case"/ { line[++lines_kept] = $0; if (field($0, "seeds") > most_seeds) most_seeds = field($0, "seeds") }
  function seeds_head() { return most_seeds > 1 ? " seeds |" : "" }
  function seeds_cell(row) { return most_seeds > 1 ? " " field(row, "seeds") " |" : "" }
  function rule(columns,   text) { text = "|"; while (columns-- > 0) text = text "---|"; return text (most_seeds > 1 ? "---|" : "") }
'
# shellcheck disable=SC2016
accuracy_table='
  /^  "rows"/ {
    print "| | accuracy |" seeds_head() " parameters | tokens | minutes |"
    print rule(5)
    for (i = 1; i <= lines_kept; i++) {
      row = line[i]
      accuracy = percent(field(row, "accuracy"))
      if (field(row, "seeds") > 1) accuracy = accuracy " ± " sprintf("%.1f", 100 * field(row, "spread"))
      printf "| %s | %s |%s %s | %.1f M | %.1f |\n", title(field(row, "case")), accuracy, seeds_cell(row),
        thousands(field(row, "parameters")), field(row, "tokens") / 1e6, field(row, "seconds") / 60
    }
  }
'
# shellcheck disable=SC2016
loss_table='
  /^  "rows"/ {
    print "| | held-out loss | to full |" seeds_head() " parameters | tokens | minutes |"
    print rule(6)
    for (i = 1; i <= lines_kept; i++) if (field(line[i], "case") == "full") full = field(line[i], "loss")
    for (i = 1; i <= lines_kept; i++) {
      row = line[i]
      loss = sprintf("%.4f", field(row, "loss"))
      if (field(row, "seeds") > 1) loss = loss " ± " sprintf("%.4f", field(row, "spread"))
      printf "| %s | %s | %s |%s %s | %.2f M | %.1f |\n", field(row, "case"), loss,
        full ? sprintf("%+.2f %%", 100 * (field(row, "loss") / full - 1)) : "", seeds_cell(row),
        thousands(field(row, "parameters")), field(row, "tokens") / 1e6, field(row, "seconds") / 60
    }
  }
'
# shellcheck disable=SC2016
# Accuracy by depth at the longest length, as the mean over the seeds; with the deviation of what the runs have in all.
needle_table='
  part == "rows" && /"case"/ {
    name = field($0, "case")
    if (!(name in runs)) order[++cases] = name
    runs[name]++; of_run = 0; cells = 0
    rest = $0
    while (match(rest, /{ *"length": [^}]*}/)) {
      cell = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
      if (field(cell, "length") != length_of) continue
      depth = field(cell, "depth") + 0
      if (!(depth in seen)) { seen[depth] = 1; depths[++depth_count] = depth }
      sum[name, depth] += field(cell, "accuracy"); of_run += field(cell, "accuracy"); cells++
    }
    all[name] += of_run / cells; squares[name] += (of_run / cells) ^ 2
  }
  END {
    text = "| depth |"
    for (i = 1; i <= depth_count; i++) text = text " " depths[i] " % |"
    print text " mean |" seeds_head()
    print rule(depth_count + 2)
    for (c = 1; c <= cases; c++) {
      name = order[c]; n = runs[name]; text = "| " name " |"
      for (i = 1; i <= depth_count; i++) text = text " " percent(sum[name, depths[i]] / n) " |"
      mean = all[name] / n; variance = n > 1 ? (squares[name] - n * mean * mean) / (n - 1) : 0
      text = text " " percent(mean)
      if (n > 1) text = text " ± " sprintf("%.1f", 100 * sqrt(variance > 0 ? variance : 0))
      print text " |" (most_seeds > 1 ? " " n " |" : "")
    }
  }
'
# shellcheck disable=SC2016
samples='
  part == "rows" && /"sample"/ && /"seed": 1,/ {
    prompt = field($0, "prompt")
    if (!lines++) print "\nWhat they write after \"" (prompt ? prompt : "And the LORD said") "\", resumed once on the way:\n"
    # Escaped backslashes and quotes would end the text too soon.
    row = $0; gsub(/\\\\/, "", row); gsub(/\\"/, "\001", row)
    text = field(row, "sample"); gsub(/\\n/, " ", text); gsub(/[|<>`*_]/, "", text); gsub(/  +/, " ", text); gsub(/\001/, "\"", text)
    sub(/ +$/, "", text)
    printf "- **%s**: %s\n", field($0, "case"), text
  }
'
# shellcheck disable=SC2016
footer='
  END {
    if (missing) printf "\nNot finished when the time was up: %s.\n", missing
    if (device == "cuda") place = sprintf("%s, %s runs at a time on %s GPU%s", gpu ? gpu : "a GPU", at_once, gpus, (gpus > 1 ? "s" : ""))
    else place = sprintf("%s, %s thread%s a run (%s)", device, threads, (threads > 1 ? "s" : ""), cpu)
    printf "\nLength %s, window %s, %s on %s: `%s`, [its file](%s).\n", length_of, window, dtype, place, command, file
  }
'

# tables_of NAME: the tables of an experiment's files.
tables_of() {
  local file table link first=1 experiment=${1%-gpu} kind=cpu
  if [[ $1 == *-gpu ]]; then kind=cuda; fi
  case $experiment in
    text) table=$loss_table$samples ;;
    needle) table=$needle_table ;;
    *) table=$accuracy_table ;;
  esac
  for file in "$results"/*-"$kind-quality-$experiment.json"; do
    [[ -e $file ]] || continue
    ((first)) || echo
    first=0
    link=../benchmarks/results/$(basename "$file")
    awk -v experiment="$experiment" -v file="$link" "$awk_functions$table$footer" "$file"
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
  if [[ $line =~ ^'<!-- end '([a-z-]+)' -->'$ ]]; then inside=; fi
  if [[ -z $inside ]]; then printf '%s\n' "$line"; fi
  if [[ $line =~ ^'<!-- begin '([a-z-]+)' -->'$ ]]; then
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
