#!/usr/bin/env bash
# Every row of Table 1 over three seeds, one after the other, then one table. The same command continues it.
#   scripts/table1.sh [override ...]      for example schedule.scale=0.1 data.download=true
set -euo pipefail
morphnet train -m 'experiment=glob(cifar10_*,exclude=*_long)' seed=0,1,2 "$@"
