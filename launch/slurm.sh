#!/usr/bin/env bash
# Submits a training to SLURM: one process a GPU on NODES x GPUS, found by jax.distributed through srun. Preempted or out
# of time, the job saves its state, is put back into the queue and continues there by itself.
#
#   bash launch/slurm.sh --nodes 16 --gpus 8 --time 24:00:00 --partition gpu -- \
#     wenlan train --config=configs/brivl_1.py --workdir=/shared/runs/brivl_1 --config.data.source=/shared/pairs \
#     --config.init_from=/shared/imported/large --config.tokenizer.path=/shared/imported/large
#
#   --nodes N           machines (default: 1)
#   --gpus G            GPUs, and so processes, of each machine (default: 8)
#   --cpus C            CPU cores of each process (default: 8)
#   --time LIMIT        of one stretch in SLURM's form, e.g. 24:00:00 (required)
#   --partition P, --account A, --qos Q, --name NAME      as of sbatch (name: wenlan)
#   --warning SECONDS   how long before the end of its time the job is told to save (default: 300)
#   --output DIRECTORY  for the logs of the job, which must exist when it starts (default: .)
#   --setup FILE        a script to source on each machine, e.g. one that loads modules and activates an environment
#   --dry-run           print the batch script and submit nothing
#
# Needs sbatch and srun, a work directory that all machines share, and `wenlan` on PATH there (or --setup).
# A fixed port: export JAX_COORDINATOR_PORT=29400 before; otherwise JAX derives one from the job's number.
set -euo pipefail

fail() {
  echo "launch/slurm.sh: $1" >&2
  exit 2
}

nodes=1 gpus=8 cpus=8 limit='' partition='' account='' qos='' name=wenlan warning=300 output=. setup='' dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  [ "$1" != --dry-run ] || { dry_run=yes && shift && continue; }
  [ $# -gt 1 ] || fail "$1: a value is needed, or there is no such option"
  case $1 in
    --nodes) nodes=$2 ;;
    --gpus) gpus=$2 ;;
    --cpus) cpus=$2 ;;
    --time) limit=$2 ;;
    --partition) partition=$2 ;;
    --account) account=$2 ;;
    --qos) qos=$2 ;;
    --name) name=$2 ;;
    --warning) warning=$2 ;;
    --output) output=$2 ;;
    --setup) setup=$2 ;;
    *) fail "$1: no such option" ;;
  esac
  shift 2
done
[ "${1:-}" = -- ] && [ $# -gt 1 ] || fail "the command comes after --, e.g. -- wenlan train --config=..."
shift
[ -n "$limit" ] || fail "--time is needed, e.g. --time 24:00:00"
for number in "$nodes" "$gpus" "$cpus" "$warning"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "--nodes, --gpus, --cpus and --warning are whole numbers, not $number"
done
for word in "$limit" "$partition" "$account" "$qos" "$name" "$output"; do
  [[ $word != *[[:space:]]* ]] || fail "no blanks in the value of an #SBATCH line: $word"
done
[ -z "$setup" ] || setup=$(realpath -- "$setup")

directives() {
  echo "#SBATCH --job-name=$name"
  echo "#SBATCH --nodes=$nodes"
  echo "#SBATCH --ntasks-per-node=$gpus"
  echo "#SBATCH --gpus-per-node=$gpus"
  echo "#SBATCH --cpus-per-task=$cpus"
  echo "#SBATCH --time=$limit"
  echo "#SBATCH --output=$output/%x-%j.log"
  echo "#SBATCH --open-mode=append"
  echo "#SBATCH --requeue"
  echo "#SBATCH --signal=B:TERM@$warning"
  [ -z "$partition" ] || echo "#SBATCH --partition=$partition"
  [ -z "$account" ] || echo "#SBATCH --account=$account"
  [ -z "$qos" ] || echo "#SBATCH --qos=$qos"
}

batch_script() {
  echo '#!/usr/bin/env bash'
  directives
  echo 'set -uo pipefail'
  [ -z "$setup" ] || printf 'source %q\n' "$setup"
  printf 'set --'
  printf ' %q' "$@"
  cat << 'SCRIPT'


# SIGTERM comes before the end of the time or with a preemption. It is sent on to the processes by scancel, as srun
# would end them at once.
signalled=''
trap 'signalled=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM

# --kill-on-bad-exit=0: processes that stop by the signal do not stop each other before the state is saved.
srun --kill-on-bad-exit=0 --label "$@" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do
  status=0
  wait "$step" || status=$?
done

# 143: stopped by SIGTERM with its state saved; the same command continues.
if [ "$status" -eq 143 ] || { [ -n "$signalled" ] && [ "$status" -ne 0 ]; }; then
  echo "job $SLURM_JOB_ID goes back into the queue and continues from its newest checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
SCRIPT
}

if [ -n "$dry_run" ]; then
  batch_script "$@"
  exit
fi
command -v sbatch > /dev/null || fail "sbatch is not here; run this on a login machine of the cluster, or use --dry-run"
batch_script "$@" | sbatch
