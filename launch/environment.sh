# Sourced by the scripts beside it: one virtual environment, and what they share. Expects `repository` to be set.
PYTHON=${PYTHON:-python3}
VENV=${VENV:-$repository/.venv}
# Large pages for large buffers: a step on a CPU takes about a quarter less time (configs/README.md, on speed).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# What the tests compare with. The CPU build of this very version; a range would fetch gigabytes of CUDA libraries.
TORCH_VERSION=2.13.0
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

# pip_install ARGUMENTS: into the environment, without its own advertising.
pip_install() {
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# install_into_environment EXTRAS: the package in development mode with its extras, e.g. "[test]"; nothing if unchanged.
install_into_environment() {
  command -v "$PYTHON" > /dev/null || {
    echo "PYTHON=$PYTHON: there is no such program; set it to a Python 3.11 or newer" >&2
    exit 1
  }
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $("$PYTHON" --version) was found. Set PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
  local stamp="$VENV/installed$1" wanted
  wanted=$(cksum < "$repository/setup.py")
  if [ "$(cat "$stamp" 2> /dev/null || true)" != "$wanted" ]; then
    echo "Installing into $VENV (a few minutes the first time) ..."
    pip_install --upgrade pip
    # The build warns that the folders beside the package may be imported, which an editable installation is for.
    PYTHONWARNINGS=ignore pip_install --editable "$repository$1"
    echo "$wanted" > "$stamp"
  fi
}

# install_torch: the CPU build of PyTorch, from where pip looks or from PyTorch's own index. Where neither has one, TORCH
# decides: `cuda` fetches the build with CUDA, anything else leaves PyTorch out.
install_torch() {
  local found
  found=$("$VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2> /dev/null || true)
  [ "${found%%+*}" != "$TORCH_VERSION" ] || return 0
  if [ "$(uname -s)" = Darwin ]; then
    echo "Installing PyTorch $TORCH_VERSION (about 100 MB) ..."
    pip_install "torch==$TORCH_VERSION"
    return
  fi
  echo "Installing the CPU build of PyTorch $TORCH_VERSION (about 200 MB) ..."
  if pip_install "torch==$TORCH_VERSION+cpu" 2> /dev/null; then return; fi
  echo "  pip has no CPU build where it looks; trying $TORCH_CPU_INDEX"
  if pip_install --retries 0 --timeout 15 --index-url "$TORCH_CPU_INDEX" "torch==$TORCH_VERSION" 2> /dev/null; then return; fi
  if [ "${TORCH:-}" = cuda ]; then
    echo "  fetching the build with CUDA instead, several gigabytes"
    pip_install "torch==$TORCH_VERSION"
  else
    echo "  no answer there. PyTorch is left out and the tests that compare with it are skipped; TORCH=cuda fetches the"
    echo "  build with CUDA instead, which is several gigabytes"
  fi
}
