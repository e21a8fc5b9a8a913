#!/usr/bin/env bash
# Submits a training to Kubernetes as a JobSet (jobset_gpu.yaml or jobset_tpu.yaml beside this script), which starts all
# processes again from the newest checkpoint when one of them fails or is evicted.
#
#   bash launch/kubernetes.sh gpu --name brivl --image REGISTRY/wenlan:1 --nodes 16 --claim runs -- \
#     wenlan train --config=configs/brivl_1.py --workdir=/shared/brivl --config.data.source=/shared/pairs \
#     --config.init_from=/shared/imported/large --config.tokenizer.path=/shared/imported/large
#   bash launch/kubernetes.sh tpu --name brivl --image REGISTRY/wenlan:1 --nodes 16 --claim runs \
#     --accelerator tpu-v5p-slice --topology 4x4x4 -- wenlan train --config=configs/brivl_2.py --workdir=/shared/brivl ...
#
#   --name NAME          of the JobSet (required)
#   --image IMAGE        a container image with wenlan_jax and its extra [gpu] or [tpu] installed (required)
#   --nodes N            machines, of each slice for TPUs (required)
#   --claim CLAIM        persistent volume claim, ReadWriteMany, that all pods share (required)
#   --mount PATH         where it appears in the pods (default: /shared)
#   --chips C            GPUs (default: 8) or TPU chips (default: 4) of each machine
#   --accelerator A, --topology T   GKE's names of the TPU slice, e.g. tpu-v6e-slice and 16x16 (required for tpu)
#   --slices S           TPU slices; set --config.mesh.replica=S to match (default: 1)
#   --namespace N        (default: default)
#   --restarts R         how often the JobSet may start again (default: 100)
#   --grace SECONDS      between SIGTERM and SIGKILL, in which the state is saved (default: 300)
#   --port PORT          where GPU processes meet (default: 29400)
#   --delete             only delete the JobSet NAME
#   --dry-run            print the manifest and submit nothing
#
# Needs kubectl and a cluster with the JobSet controller (API jobset.x-k8s.io/v1alpha2). Logs:
# kubectl logs --prefix --follow -l jobset.sigs.k8s.io/jobset-name=NAME --max-log-requests=64
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "launch/kubernetes.sh: $1" >&2
  exit 2
}

kind=${1:-}
case $kind in
  gpu) chips=8 ;;
  tpu) chips=4 ;;
  *) fail "gpu or tpu comes first, e.g. launch/kubernetes.sh gpu --name ..." ;;
esac
shift
name='' image='' nodes='' claim='' mount=/shared accelerator='' topology='' slices=1 namespace=default restarts=100
grace=300 port=29400 delete='' dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --delete) delete=yes && shift && continue ;;
    --dry-run) dry_run=yes && shift && continue ;;
  esac
  [ $# -gt 1 ] || fail "$1: a value is needed, or there is no such option"
  case $1 in
    --name) name=$2 ;;
    --image) image=$2 ;;
    --nodes) nodes=$2 ;;
    --claim) claim=$2 ;;
    --mount) mount=$2 ;;
    --chips) chips=$2 ;;
    --accelerator) accelerator=$2 ;;
    --topology) topology=$2 ;;
    --slices) slices=$2 ;;
    --namespace) namespace=$2 ;;
    --restarts) restarts=$2 ;;
    --grace) grace=$2 ;;
    --port) port=$2 ;;
    *) fail "$1: no such option" ;;
  esac
  shift 2
done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name is needed, in lower case letters, digits and -, not '$name'"

if [ -n "$delete" ]; then
  set -- kubectl delete jobset "$name" --namespace "$namespace"
  [ -z "$dry_run" ] || { printf '%q ' "$@" && echo && exit; }
  exec "$@"
fi
[ "${1:-}" = -- ] && [ $# -gt 1 ] || fail "the command comes after --, e.g. -- wenlan train --config=..."
shift
[ -n "$image" ] || fail "--image is needed: a container image with wenlan_jax[$kind]"
[ -n "$claim" ] || fail "--claim is needed: a persistent volume claim that all pods share, for the work directory"
for number in "$nodes" "$chips" "$slices" "$restarts" "$grace" "$port"; do
  [[ $number =~ ^[0-9]+$ ]] || fail "--nodes, --chips, --slices, --restarts, --grace and --port are numbers, not '$number'"
done
if [ "$kind" = tpu ]; then
  [ -n "$accelerator" ] && [ -n "$topology" ] || fail "--accelerator and --topology are needed, e.g. tpu-v5p-slice 4x4x4"
fi

# quoted TEXT: as a string of JSON, which is one of YAML too.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

command=[
for argument in "$@"; do
  [ "$command" = [ ] || command+=', '
  command+=$(quoted "$argument")
done
command+=]

# The values go in as they are: an & in a replacement would stand for what it replaces.
shopt -u patsub_replacement 2> /dev/null || true
manifest=$(grep -v '^#' "$launch/jobset_$kind.yaml")
fill() {
  manifest=${manifest//"@$1@"/$2}
}
fill NAME "$name"
fill NAMESPACE "$(quoted "$namespace")"
fill RESTARTS "$restarts"
fill NODES "$nodes"
fill SLICES "$slices"
fill CHIPS "$chips"
fill GRACE "$grace"
fill PORT "$port"
fill COORDINATOR "$(quoted "$name-workers-0-0.$name:$port")"
fill ACCELERATOR "$(quoted "$accelerator")"
fill TOPOLOGY "$(quoted "$topology")"
fill MOUNT "$(quoted "$mount")"
fill CLAIM "$(quoted "$claim")"
fill IMAGE "$(quoted "$image")"
fill COMMAND "$command"

if [ -n "$dry_run" ]; then
  echo "$manifest"
  exit
fi
command -v kubectl > /dev/null || fail "kubectl is not here; install it, or use --dry-run"
echo "$manifest" | kubectl apply --filename -
