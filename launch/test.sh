#!/usr/bin/env bash
# Installs what the tests need and passes them.
#
#   bash launch/test.sh [PYTEST ARGUMENTS]      e.g. -m "" for the slow ones too, or -k bank
#
# PYTHON and VENV as in quickstart.sh. Of PyTorch the CPU build is installed; where none is to be had, the tests that
# compare with it are skipped, unless TORCH=cuda allows the build with CUDA.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$repository/launch/environment.sh"
install_into_environment "[test]"
install_torch
cd "$repository"
[ $# -gt 0 ] || set -- -m "not slow"
# A file of tests stays in one process, where its tests share what was compiled.
exec "$VENV/bin/python" -m pytest --numprocesses auto --dist loadfile "$@"
