# Read by the scripts beside it. `python ...` says where it stands and how long it took; `beside python ...` goes on beside
# the lines that follow, with half of the cores each, until `meet`. At the end stands
# what the report's head says. What a stage says in full is in runs/<study>/<stage>/<time>/.
# With JOBS=1 in the environment there is one line at a time, which takes less memory.
total=$(grep -cE '^ *(beside +)?python ' "launch/$(basename "$0")")
number=0
logs=$(mktemp -d)   # of line n: n what it says, n.python and n.shell its processes
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
threads=${OMP_NUM_THREADS:-}
trap ended EXIT

clock() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

python() {
  begin "$@"
  line "$@"
}

beside() {
  shift
  begin "$@"
  if [ "${JOBS:-}" = 1 ]; then
    line "$@"
    return
  fi
  [ -n "$threads" ] || export OMP_NUM_THREADS=$(((cores + 1) / 2))
  line "$@" 2> >(cat >&2) &   # no terminal, so no progress bar
  echo $! >"$logs/$number.shell"
}

meet() {
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
  local began=$SECONDS said=$logs/$number
  sh -c 'echo $$ >"$0.python" && exec python "$@"' "$said" "$@" >"$said" || stopped
  rm "$said.python"
  echo "        $(grep -E ' (done|done, .*|already complete, nothing to do|is a valid store)$' "$said" | tail -n 1) ($(clock $((SECONDS - began))))"
}

stopped() {
  rm -f "$logs/$number.python"
  touch "$logs/failed"
  cat "$logs/$number" >&2
  echo "stopped at line $number of $total: mend that, and the same command goes on from there" >&2
  exit 1
}

ended() {
  local one tenths
  exec 2>/dev/null   # bash would say which processes it ends
  kill $(jobs -pr) $(cat "$logs"/*.python) || true
  for one in "$logs"/*.python; do
    for tenths in {1..300}; do   # a training ends with its batch, a stage with its recording
      [ -e "$one" ] && kill -0 "$(cat "$one")" || break
      sleep 0.1
    done
  done
  rm -rf "$logs"
}

verdict() {
  sed -n '/^report: /,$p' "$logs/$number"
  echo "all of it took $(clock $SECONDS)"
}
