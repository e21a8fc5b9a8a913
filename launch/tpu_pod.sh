#!/usr/bin/env bash
# Asks for a TPU slice (or several) as a queued resource, waits for it, installs this repository on its machines and
# runs a command on all of them. jax.distributed finds the processes by itself.
#
#   bash launch/tpu_pod.sh --name brivl --zone us-east5-a --type v5p-128 --runtime v2-alpha-tpuv5 -- \
#     wenlan train --config=configs/brivl_2.py --workdir=/mnt/runs/brivl_2 --config.data.source=/mnt/pairs \
#     --config.init_from=/mnt/imported/large --config.tokenizer.path=/mnt/imported/large
#
#   --name NAME         of the queued resource and its nodes (required)
#   --zone ZONE         (required)
#   --type TYPE         accelerator type, e.g. v5litepod-64, v5p-128, v6e-256 (required)
#   --runtime VERSION   of the TPU software (required); `gcloud compute tpus versions list --zone=ZONE` lists them
#   --project PROJECT   (default: gcloud's)
#   --slices N          slices of that type, set --config.mesh.replica=N to match (default: 1)
#   --spot              cheaper, and may be taken away at any time
#   --setup COMMAND     run on every machine before the installation, e.g. one that mounts the shared work directory
#   --attempts N        with --spot: how often a slice that was taken away is asked for again (default: 1, once)
#   --keep              leave the slices running at the end instead of deleting them
#   --delete            only delete the queued resource NAME and its nodes
#   --dry-run           print the commands and run none
#
# The work directory must be one that all machines share (a mounted bucket or filer). The command runs in the copied
# repository. A slice that is there already is used again. Needs gcloud with rights to make TPUs, and tar.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "launch/tpu_pod.sh: $1" >&2
  exit 2
}

name='' zone='' type='' runtime='' project='' slices=1 spot='' setup='' attempts=1 keep='' delete='' dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --spot) spot=yes && shift && continue ;;
    --keep) keep=yes && shift && continue ;;
    --delete) delete=yes && shift && continue ;;
    --dry-run) dry_run=yes && shift && continue ;;
  esac
  [ $# -gt 1 ] || fail "$1: a value is needed, or there is no such option"
  case $1 in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --type) type=$2 ;;
    --runtime) runtime=$2 ;;
    --project) project=$2 ;;
    --slices) slices=$2 ;;
    --setup) setup=$2 ;;
    --attempts) attempts=$2 ;;
    *) fail "$1: no such option" ;;
  esac
  shift 2
done
[ -n "$name" ] || fail "--name is needed: what the queued resource is called"
[ -n "$zone" ] || fail "--zone is needed, e.g. --zone us-east5-a"
for number in "$slices" "$attempts"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "--slices and --attempts are whole numbers from 1, not $number"
done
where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")

# call COMMAND...: runs it, or prints it in a dry run.
call() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() {
  call gcloud compute tpus "$@" "${where[@]}"
}

delete_all() {
  tpus queued-resources delete "$name" --force --quiet
}

if [ -n "$delete" ]; then
  delete_all
  exit
fi
[ -n "$type" ] || fail "--type is needed, e.g. --type v5p-128"
[ -n "$runtime" ] || fail "--runtime is needed; gcloud compute tpus versions list --zone=$zone lists them"
[ "${1:-}" = -- ] && [ $# -gt 1 ] || fail "the command comes after --, e.g. -- wenlan train --config=..."
shift

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2> /dev/null || true
}

create() {
  local options=(--accelerator-type "$type" --runtime-version "$runtime")
  if [ "$slices" -eq 1 ]; then
    options+=(--node-id "$name")
  else
    options+=(--node-count "$slices" --node-prefix "$name")
  fi
  [ -z "$spot" ] || options+=(--spot)
  tpus queued-resources create "$name" "${options[@]}"
}

wait_until_active() {
  local now
  if [ -n "$dry_run" ]; then
    echo "# until the state is ACTIVE:"
    tpus queued-resources describe "$name" --format='value(state.state)'
    return
  fi
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) fail "$name is $now; see: gcloud compute tpus queued-resources describe $name" ;;
    esac
    echo "$name is ${now:-not there yet}"
    sleep 30
  done
}

# The nodes of the resource: itself, or NAME-0 to NAME-(N-1).
nodes=("$name")
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

# everywhere COMMAND: runs a shell command on all machines of all slices at once; fails if it fails on one.
everywhere() {
  local node pid status=0 pids=()
  for node in "${nodes[@]}"; do
    if [ -n "$dry_run" ]; then
      tpus tpu-vm ssh "$node" --worker=all --command "$1"
    else
      tpus tpu-vm ssh "$node" --worker=all --command "$1" &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
  done
  return "$status"
}

install() {
  local node archive=/tmp/wenlan.tar.gz
  if [ -z "$dry_run" ]; then
    archive=$(mktemp --suffix=.tar.gz)
    # shellcheck disable=SC2064 # the name of now
    trap "rm -f '$archive'" EXIT
  fi
  call tar --create --gzip --file "$archive" --directory "$repository" wenlan_jax configs launch setup.py README.md \
    pyproject.toml LICENSE
  for node in "${nodes[@]}"; do
    tpus tpu-vm scp "$archive" "$node:wenlan.tar.gz" --worker=all
  done
  # $HOME is that of the machine there.
  # shellcheck disable=SC2016
  everywhere 'set -e; mkdir -p "$HOME/wenlan"; tar -xzf wenlan.tar.gz -C "$HOME/wenlan"; cd "$HOME/wenlan"
python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable ".[tpu]"'
}

printf -v words ' %q' "$@"
attempt() {
  if [ -n "$dry_run" ] || [ -z "$(state)" ]; then create; fi
  wait_until_active
  [ -z "$setup" ] || everywhere "$setup"
  install
  everywhere "cd \"\$HOME/wenlan\" && PATH=\"\$PWD/.venv/bin:\$PATH\"$words"
}

for ((i = 1; i <= attempts; i++)); do
  status=0
  # In a shell of its own, with errors fatal again, which they are not in a condition.
  (set -e; attempt) & wait $! || status=$?
  [ "$status" -ne 0 ] || break
  [ -z "$dry_run" ] || break
  now=$(state)
  [ "$i" -lt "$attempts" ] && [ "$now" != ACTIVE ] || break
  echo "$name was taken away (${now:-gone}); asking again, the run continues from its newest checkpoint"
  delete_all || true
done
[ -n "$keep" ] || delete_all
exit "$status"
