#!/usr/bin/env bash
# Installs wenlan_jax into a virtual environment and trains the quickstart: a small BriVL on drawn scenes with captions
# in seven languages, evaluated on held-out pairs. Needs Python 3.11+ and 2 CPU cores; nothing else.
#
#   bash launch/quickstart.sh [WORKDIR]
#
# PYTHON (default python3) makes the environment, VENV (default .venv beside this repository) is where it lies.
# The same command again continues where it stopped, or says that it is done.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workdir=$(mkdir -p "${1:-$repository/runs/quickstart}" && cd "${1:-$repository/runs/quickstart}" && pwd)
source "$repository/launch/environment.sh"
install_into_environment ""

echo "Training in $workdir (about five minutes on two cores)."
"$VENV/bin/wenlan" train --config="$repository/configs/quickstart.py" --workdir="$workdir" \
  --config.data.dir="$workdir/data"
