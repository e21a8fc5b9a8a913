#!/usr/bin/env bash
# Installs wenlan_jax into a virtual environment and trains the quickstart: a small BriVL on drawn scenes with captions
# in seven languages, evaluated on held-out pairs. Needs Python 3.11+ and 2 CPU cores; nothing else.
#
#   bash launch/quickstart.sh [WORKDIR]
#
# PYTHON (default python3) makes the environment, VENV (default .venv beside this repository) is where it lies.
# The same command again continues where it stopped, and evaluates once more what is done.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workdir=$(mkdir -p "${1:-$repository/runs/quickstart}" && cd "${1:-$repository/runs/quickstart}" && pwd)
source "$repository/launch/environment.sh"
install_into_environment ""

echo "Training in $workdir (about five minutes on two cores)."
"$VENV/bin/wenlan" train --config="$repository/configs/quickstart.py" --workdir="$workdir" \
  --config.data.dir="$workdir/data"

cat << NEXT

What to look at: $workdir/gallery.html and curves.png. What to type next:

  cd $(printf %q "$repository") && source $(printf %q "$VENV/bin/activate")
  wenlan report $(printf %q "$workdir")               # the run as one page
  wenlan pack FOLDER --out data/mine --language zh --split validation=0.01,test=0.01    # your own images and captions
  wenlan train --config=configs/quickstart.py --workdir=runs/mine --config.data.source=data/mine  # small towers, on a CPU
  wenlan eval --workdir=runs/mine                     # recall on the split kept apart, and a gallery of it

README.md, "Train on your own pairs", goes on from trained backbones on a GPU; wenlan --help lists all commands.
NEXT
