#!/usr/bin/env bash
# Runs one job of N processes on this machine, over Gloo on CPUs or with one GPU a process.
#
#   bash launch/local.sh N [OPTIONS] -- wenlan train --config=configs/quickstart.py --workdir=runs/two
#
#   --devices-per-process D   simulate D CPU devices in each process (sets XLA_FLAGS and JAX_PLATFORMS=cpu)
#   --gpus                    GPU i belongs to process i
#   --logs DIRECTORY          where DIRECTORY/process-I.log are written (default: a new directory below ${TMPDIR:-/tmp})
#   --port PORT               where the processes meet (default: a free one)
#   --grace SECONDS           after a process has failed, how long the others may take to end (default: 60)
#   --dry-run                 print the commands and run nothing
#
# Output also appears here, each line with its process. SIGINT and SIGTERM reach every process. The exit status is that
# of the first process that failed, 0 if none did. Needs Linux with bash 5.1, and `wenlan` on PATH as
# launch/quickstart.sh installs it.
set -euo pipefail

fail() {
  echo "launch/local.sh: $1" >&2
  exit 2
}

processes=${1:-}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "the number of processes comes first, e.g. launch/local.sh 2 -- wenlan train ..."
shift
devices='' gpus='' logs='' port='' grace=60 dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --gpus) gpus=yes && shift && continue ;;
    --dry-run) dry_run=yes && shift && continue ;;
  esac
  [ $# -gt 1 ] || fail "$1: a value is needed, or there is no such option"
  case $1 in
    --devices-per-process) devices=$2 ;;
    --logs) logs=$2 ;;
    --port) port=$2 ;;
    --grace) grace=$2 ;;
    *) fail "$1: no such option" ;;
  esac
  shift 2
done
[ "${1:-}" = -- ] && [ $# -gt 1 ] || fail "the command comes after --, e.g. -- wenlan train --config=..."
shift
[ -z "$devices" ] || [[ $devices =~ ^[1-9][0-9]*$ ]] || fail "--devices-per-process: a number is needed, not $devices"
[[ $grace =~ ^[0-9]+$ ]] || fail "--grace: a number of seconds is needed, not $grace"
[ -z "$devices" ] || [ -z "$gpus" ] || fail "--devices-per-process simulates CPUs; it does not go with --gpus"

free_port() {
  local candidate
  for _ in {1..100}; do
    # Below the ports that the kernel gives to outgoing connections.
    candidate=$((20000 + RANDOM % 12000))
    if ! (exec 3<> "/dev/tcp/127.0.0.1/$candidate") 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no free port found; name one with --port"
}
port=${port:-$(free_port)}

# environment I: sets `variables` to what process I is started with.
environment() {
  variables=("WENLAN_COORDINATOR=127.0.0.1:$port" "WENLAN_PROCESSES=$processes" "WENLAN_PROCESS=$1" "PYTHONUNBUFFERED=1")
  [ -z "$gpus" ] || variables+=("JAX_LOCAL_DEVICE_IDS=$1")
  [ -z "$devices" ] || variables+=(
    "JAX_PLATFORMS=cpu" "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
  )
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < processes; i++)); do
    environment "$i"
    printf '%q ' env "${variables[@]}" "$@"
    echo
  done
  exit
fi

logs=${logs:-$(mktemp -d "${TMPDIR:-/tmp}/wenlan-local.XXXXXX")}
mkdir -p "$logs"
echo "launch/local.sh: $processes processes, logs in $logs"

# Each process and what shows its output. In a session of its own a process gets Ctrl-C once, from here; without env it
# would not, as a shell lets jobs in the background ignore it.
pids=() showing=()
for ((i = 0; i < processes; i++)); do
  environment "$i"
  : > "$logs/process-$i.log"
  setsid env --default-signal=INT "${variables[@]}" "$@" > "$logs/process-$i.log" 2>&1 &
  pids+=($!)
  tail -n +1 -f --pid=$! "$logs/process-$i.log" 2> /dev/null | sed -u "s/^/[$i] /" &
  showing+=($!)
done

send() {
  for pid in "${pids[@]}"; do
    kill -s "$1" "$pid" 2> /dev/null || true
  done
}
trap 'send TERM' TERM HUP
trap 'send INT' INT

# Which of `pids` are still there goes to `running`.
still_running() {
  running=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2> /dev/null; then running+=("$pid"); fi
  done
}

# wait_for PID: waits through the signals that are only passed on; the exit status goes to `ended`.
wait_for() {
  while true; do
    ended=0
    wait "$1" || ended=$?
    kill -0 "$1" 2> /dev/null || break
  done
  # `wait` may have been broken off by a signal just as the process ended.
  ended=0
  wait "$1" || ended=$?
}

# The process that fails first decides; those that wait for it in vain are ended after the grace period.
status=0 left=("${pids[@]}") watcher=''
while [ ${#left[@]} -gt 0 ]; do
  wait -n "${left[@]}" 2> /dev/null || true
  next=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2> /dev/null; then
      next+=("$pid")
      continue
    fi
    wait_for "$pid"
    if [ "$ended" -ne 0 ] && [ "$status" -eq 0 ]; then
      status=$ended
      for i in "${!pids[@]}"; do
        [ "${pids[i]}" != "$pid" ] || echo "launch/local.sh: process $i ended with status $status" >&2
      done
      (
        trap - INT TERM
        read -rt "$grace" <> <(:) || true # a sleep without a process that would outlive this one
        still_running
        [ ${#running[@]} -eq 0 ] || echo "launch/local.sh: ending the other processes" >&2
        send TERM
        read -rt 5 <> <(:) || true
        send KILL
      ) &
      watcher=$!
    fi
  done
  left=("${next[@]}")
done
[ -z "$watcher" ] || kill "$watcher" 2> /dev/null || true
for pid in "${showing[@]}"; do
  wait "$pid" 2> /dev/null || true
done
exit "$status"
