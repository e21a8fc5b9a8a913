# Sourced by the scripts beside it: one virtual environment, and what they share. Expects `repository` to be set.
PYTHON=${PYTHON:-python3}
VENV=${VENV:-$repository/.venv}
# Large pages for large buffers: a step on a CPU takes about a quarter less time (README, "Speed").
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# install_into_environment EXTRAS: the package in development mode with its extras, e.g. "[test]"; nothing if unchanged.
install_into_environment() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $("$PYTHON" --version) was found. Set PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
  local stamp="$VENV/installed$1" wanted
  wanted=$(cksum < "$repository/setup.py")
  if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    echo "Installing into $VENV (a few minutes the first time) ..."
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$repository$1"
    echo "$wanted" > "$stamp"
  fi
}
