# Functions for the other scripts in this folder, which source this file. `python ...` runs a command and prints its number and
# duration. `parallel python ...` runs a command in the background, each with half of the cores; `wait_parallel` waits for all of them.
# `verdict` prints the first lines of the report. The full log of a stage is in runs/<study>/<stage>/<time>/.
# JOBS=1 in the environment runs one command at a time, which needs less memory.
total=$(grep -cE '^ *(parallel +)?python ' "launch/$(basename "$0")")
number=0
logs=$(mktemp -d)   # for command n, file n has its output; n.python and n.shell have its process ids
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
threads=${OMP_NUM_THREADS:-}
trap ended EXIT

clock() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

python() {
  begin "$@"
  line "$@"
}

parallel() {
  shift
  begin "$@"
  if [ "${JOBS:-}" = 1 ]; then
    line "$@"
    return
  fi
  [ -n "$threads" ] || export OMP_NUM_THREADS=$(((cores + 1) / 2))
  line "$@" 2> >(cat >&2) &   # stderr is not a terminal, so that no progress bar is shown
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

begin() {
  [ ! -e "$logs/failed" ] || exit 1
  number=$((number + 1))
  echo "[$number/$total] $*"
}

line() {
  local started_at=$SECONDS output=$logs/$number file
  { exec {file}>"$output"; } 2>/dev/null || exit 1   # the script has ended
  sh -c 'echo $$ >"$0.python" && exec python "$@"' "$output" "$@" >&"$file" || stopped
  exec {file}>&-
  [ -d "$logs" ] || exit 1   # the script has ended
  rm -f "$output.python"
  echo "        $(grep -sE ' (done|done, .*|already complete, nothing to do|is a valid store)$' "$output" | tail -n 1) ($(clock $((SECONDS - started_at))))"
}

stopped() {
  [ -d "$logs" ] || exit 1
  rm -f "$logs/$number.python"
  touch "$logs/failed"
  cat "$logs/$number" >&2
  echo "stopped at command $number of $total: fix the error and run the same command again to continue" >&2
  exit 1
}

ended() {
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
  echo "total time: $(clock $SECONDS)"
}
