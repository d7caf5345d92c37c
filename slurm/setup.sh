# shellcheck shell=bash
# Sourced by every job before it starts: what all jobs of this site need, such as
#
#   module load cuda/12.8
#   export HF_HOME=/shared/huggingface NCCL_SOCKET_IFNAME=ib0
#
# What only some runs need goes into the config: cluster.setup='["module load cuda/12.8"]'.
# A line that fails does not end the job; where it should, add `|| exit 1`.
