# Read by the scripts beside it: each of their lines that calls python says where it stands and how long it took, and at
# the end stands what the report's head says. What a stage says in full is in runs/<study>/<stage>/<time>/.
total=$(grep -c '^ *python ' "launch/$(basename "$0")")
number=0
said=$(mktemp)
trap 'rm -f "$said"' EXIT

clock() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

python() {
  local began=$SECONDS
  number=$((number + 1))
  echo "[$number/$total] $*"
  command python "$@" >"$said" || stopped
  echo "        $(grep -E ' (done|done, .*|already complete, nothing to do|is a valid store)$' "$said" | tail -n 1) ($(clock $((SECONDS - began))))"
}

stopped() {
  cat "$said" >&2
  echo "stopped at line $number of $total: mend that, and the same command goes on from there" >&2
  exit 1
}

verdict() {
  sed -n '/^report: /,$p' "$said"
  echo "all of it took $(clock $SECONDS)"
}
