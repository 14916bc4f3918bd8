#!/bin/bash
# Create the Python environment: make_env.sh FOLDER PYTHON KIND, called by `make env`.
#
# KIND is wheels-DISTRO (ROS 2 from wheels, for a machine without it) or installed-DISTRO (the ROS
# 2 installation that is sourced, with the system's numpy, OpenCV and torch where it has them: the
# messages and cv_bridge were built with that numpy, and a robot's torch for that robot).
set -euo pipefail

folder=$1 python=$2 kind=$3
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "make env: $*" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail "$python is missing or older than Python 3.10; name another: make PYTHON=python3.12"
case $kind in
    wheels-*)
        requirements=$here/ros-${kind#wheels-}.txt
        [ -e "$requirements" ] || fail "there are no ROS 2 wheels for ${kind#wheels-}; either" \
            "source an installation or choose one of:" \
            "$(cd "$here" && ls ros-*.txt | sed 's/ros-\(.*\).txt/ROS_DISTRO=\1/' | xargs)"
        flags=() ;;
    installed-*)
        "$python" -c 'import rclpy' || fail "ROS 2 is sourced, but $python cannot import rclpy;" \
            "name the Python that it was built for: make PYTHON=/usr/bin/python3"
        requirements=/dev/null
        flags=(--system-site-packages) ;;
    *) fail "unknown kind of environment: $kind" ;;
esac

# An environment of another kind has other packages. An incomplete one is completed below.
for other in "$folder"/made-for-*; do
    if [ -e "$other" ] && [ "$other" != "$folder/made-for-$kind" ]; then
        echo "make env: $folder was $(basename "$other"), is rebuilt for $kind"
        rm -rf "$folder"
    fi
done
if [ ! -x "$folder/bin/pip" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$python has no venv module: sudo apt install python3-venv"
    "$python" -m venv "${flags[@]}" "$folder"
fi

chosen=$(mktemp -d)
trap 'rm -r "$chosen"' EXIT
cp "$here/core.txt" "$chosen/core.txt"
: > "$chosen/constraints.txt"
if [ "$requirements" = /dev/null ]; then
    # Leave out what the system has; pin numpy, so that no other package upgrades it.
    for pair in numpy:numpy cv2:opencv-python-headless torch:torch; do
        if "$python" -c "import ${pair%:*}" 2>/dev/null; then
            echo "make env: keeping the system's ${pair%:*}"
            sed -i -E "/^${pair#*:}\b/d" "$chosen/core.txt"
        fi
    done
    "$python" -c 'import numpy; print(f"numpy=={numpy.__version__}")' > "$chosen/constraints.txt" \
        2>/dev/null || :
fi
pip=("$folder/bin/python" -m pip --disable-pip-version-check --quiet)
echo "make env: installing into $folder ($kind); the first time takes a few minutes"
"${pip[@]}" install -r "$chosen/core.txt" -r "$here/dev.txt" -r "$requirements" \
    -c "$chosen/constraints.txt"
# torchvision belongs to the torch of core.txt; a system's torch has its own, or none.
if grep -q '^torch==' "$chosen/core.txt"; then
    "${pip[@]}" install --no-deps -r "$here/smp.txt"
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rm -f "$site"/torchvision_operators.*
    if ! "$folder/bin/python" -c 'import torchvision' 2>/dev/null; then
        cp "$here/torchvision_operators.py" "$site/"
        echo 'import torchvision_operators' > "$site/torchvision_operators.pth"
        "$folder/bin/python" -c 'import torchvision'
    fi
fi
# The package itself, as it stands here: edits take effect at once. setuptools came with dev.txt.
"${pip[@]}" install --no-deps --no-build-isolation --use-pep517 -e "$here/.."
rm -f "$folder"/made-for-*
touch "$folder/made-for-$kind"
