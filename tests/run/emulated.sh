#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Proves the kernels of a spec where there is no GPU: `ssdc verify` for sm_80 on a driver whose device is the CPU
# (tests/emulator), every form and the steps. Usage: emulated.sh SSDC DRIVER SPEC [SIZES]
set -u
ssdc=$1 driver=$2 spec=$3 sizes=${4:-b=1,t=650}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

for cxx in ${EMU_CXX:-c++ g++ clang++}; do
    echo '#include <cmath>' > "$dir/empty.cpp"
    "$cxx" -std=c++17 -fsyntax-only "$dir/empty.cpp" 2> /dev/null && break
    cxx=
done
if [[ -z $cxx ]]; then
    echo "emulated: skipped: no C++17 compiler (c++, g++ or clang++) that kernels could be compiled with"
    exit 77
fi

export EMU_CXX=$cxx TMPDIR=$dir SSD_CUDA_DRIVER=$driver SSD_NVRTC=$driver FAKE_CUDA='sm=80 shared=166912'
out=$("$ssdc" verify "$spec" --target sm_80 --cache-dir '' --set "$sizes" 2>&1)
status=$?
left=$(find "$dir" -name 'emulator-*')
if [[ $status != 0 || $out != *" passed, 0 failed"* || $out != *" forward "* || -n $left ]]; then
    printf '%s\n' "$out" $left
    exit 1
fi
tail -n 1 <<< "$out"
