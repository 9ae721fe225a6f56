# Functions for the other scripts in this folder, which source this file.
# `python ...` runs a command and prints its number and duration; its full log is in runs/<study>/<stage>/<time>/.
# `parallel python ...` runs a command in the background with half of the cores; `wait_parallel` waits for all commands.
# `verdict` prints the first lines of the report.
# JOBS=1 in the environment runs one command at a time, which needs less memory.
total=$(grep -cE '^ *(parallel +)?python ' "launch/$(basename "$0")")
number=0
logs=$(mktemp -d)   # file n has the output of command n; files n.python and n.shell have its process ids
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
threads=${OMP_NUM_THREADS:-}
trap stop_commands EXIT

format_duration() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

python() {
  print_command "$@"
  run_command "$@"
}

parallel() {
  shift
  print_command "$@"
  if [ "${JOBS:-}" = 1 ]; then
    run_command "$@"
    return
  fi
  [ -n "$threads" ] || export OMP_NUM_THREADS=$(((cores + 1) / 2))
  run_command "$@" 2> >(cat >&2) &   # stderr is not a terminal, so that no progress bar is shown
  echo $! >"$logs/$number.shell"
}

wait_parallel() {
  local shell
  for shell in "$logs"/*.shell; do
    [ ! -e "$shell" ] || wait "$(cat "$shell")"
    rm -f "$shell"
  done
  [ -n "$threads" ] || unset OMP_NUM_THREADS
}

print_command() {
  [ ! -e "$logs/failed" ] || exit 1
  number=$((number + 1))
  echo "[$number/$total] $*"
}

run_command() {
  local started_at=$SECONDS output=$logs/$number file
  { exec {file}>"$output"; } 2>/dev/null || exit 1   # the script has ended
  sh -c 'echo $$ >"$0.python" && exec python "$@"' "$output" "$@" >&"$file" || report_failure
  exec {file}>&-
  [ -d "$logs" ] || exit 1   # the script has ended
  rm -f "$output.python"
  echo "        $(grep -sE ' (done|done, .*|already complete, nothing to do|is a valid store)$' "$output" | tail -n 1) ($(format_duration $((SECONDS - started_at))))"
}

report_failure() {
  [ -d "$logs" ] || exit 1
  rm -f "$logs/$number.python"
  touch "$logs/failed"
  cat "$logs/$number" >&2
  echo "stopped at command $number of $total: fix the error and run the same command again to continue" >&2
  exit 1
}

stop_commands() {
  local one tenths
  exec 2>/dev/null   # hide the messages of bash about ended processes
  kill $(jobs -pr) $(cat "$logs"/*.python) || true
  for one in "$logs"/*.python; do
    for tenths in {1..300}; do   # a training ends after the current batch, a stage after the current recording
      [ -e "$one" ] && kill -0 "$(cat "$one")" || break
      sleep 0.1
    done
  done
  wait || true
  rm -rf "$logs"
}

verdict() {
  sed -n '/^report: /,$p' "$logs/$number"
  echo "total time: $(format_duration $SECONDS)"
}
