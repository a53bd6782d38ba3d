#!/bin/sh
# Run a training step of the recipe politely and without page-fault churn: fast.sh script.py args
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
exec nice -n "${NICE:-10}" "${PYTHON:-python}" -u "$@"
