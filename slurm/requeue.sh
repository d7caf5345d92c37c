# shellcheck shell=bash
# Sourced by a job's script when it ends, by a trap: the job's way back into the queue where a task of it could not ask
# SLURM for that, as within a container. The script runs outside, where scontrol is.
#
# Such a task leaves the file PREFSWEEP_REQUEST and ends with exit code 250; one of the two is enough. Where SLURM
# refuses, the facts in that file are recorded: a line with the path of each, then its JSON, in which @COMPLAINT@ stands
# for what SLURM said.
code=$? facts=
set +eu
unset SLURM_CLUSTERS # the job is on this node's cluster, whichever the user means
if [[ -e $PREFSWEEP_REQUEST ]]; then
    facts=$(<"$PREFSWEEP_REQUEST")
    rm -f "$PREFSWEEP_REQUEST"
    code=250
fi
((code == 250)) || return "$code"

job=$SLURM_JOB_ID said=
[[ -z ${SLURM_ARRAY_JOB_ID-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
for _ in 1 2 3; do # a controller may be away for a moment
    if said=$(scontrol requeue "$job" 2>&1); then
        sleep 60 # SLURM ends this script
        return "$code"
    fi
    sleep 3
done
said=$(tr -cd '[:print:]' <<<"$said" | tr -d '"\\')
echo "prefsweep: the job could not be requeued: $said" >&2
while IFS= read -r file && IFS= read -r fact; do
    aside=$file.$SLURM_JOB_ID.$$
    printf '%s\n' "${fact//@COMPLAINT@/"$said"}" >"$aside" || continue
    ln "$aside" "$file" # which refuses to replace what is there
    rm -f "$aside"
done <<<"$facts"
return "$code"
