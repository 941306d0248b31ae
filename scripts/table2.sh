#!/usr/bin/env bash
# Every row of Table 2 over three seeds, one after the other, then one table. The same command continues it.
#   scripts/table2.sh [override ...]      for example schedule.scale=0.1 data.download=true
set -euo pipefail
morphnet train -m 'experiment=glob(cifar100_*)' seed=0,1,2 "$@"
