#!/usr/bin/env bash
# Every run that results/after_the_morph compares: 500 iterations after a morph, begun in different ways.
#
#   scripts/after_the_morph.sh PARENT OUTPUT [key=value ...]
#
# PARENT is a trained network of CIFAR-10, in any form that `morphnet train` takes. It is first trained for an epoch at a
# learning rate of 0.001, which leaves a momentum to carry over; every run below starts from the result. The same command
# skips finished runs.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
parent=$1 output=$2
shift 2

morphnet train experiment=after_morph_cifar10 name=base parent="$parent" 'phases=[{morph: null}, {name: trained_on}]' \
  after.lr=0.001 after.milestones='[]' schedule.steps=390 trainer.watch_steps=0 hydra.run.dir="$output/base" "$@"

study() {
  morphnet train experiment=after_morph_cifar10 parent="$output/base" output="$output" "$@"
}
study after=restart 'controls=[prelu]' "$@"
study after=low 'controls=[prelu]' "$@"
for policy in faster warmup kept_low momentum shrink_perturb; do
  study after="$policy" "$@"
done
study name=after_bn_folded morphing.bn=folded "$@"
study name=after_bn_paper morphing.bn=paper "$@"
study name=after_3c3_zero_padded 'phases=[{morph: null}, {morph: 3c3}]' morphing.padding=exact morphing.init=sparse "$@"
study name=after_3c3_dense 'phases=[{morph: null}, {morph: 3c3}]' morphing.padding=exact morphing.init=dense "$@"
