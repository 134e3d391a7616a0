# shellcheck shell=bash
# What scripts/lab and scripts/container-lab share: how they speak, and what they write down so that whatever ends a
# lab halfway, its processes are found. Sourced; the caller sets `me` and `prefix`.

state_root=${XDG_RUNTIME_DIR:-/run}/${prefix:?}
lab='' # this lab's name, $prefix-PID; its state stands in $state_root/$lab

say() { printf '%s: %s\n' "${me:?}" "$*" >&2; }
die() {
    say "$@"
    exit 1
}
usage_error() {
    say "$*; see scripts/$me --help"
    exit 2
}

# The 22nd field of stat: with it a process id names one process for ever. The command's name, the second
# field, may hold blanks and brackets.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -r -a stat <<<"${stat##*) }"
    # A zombie has ended, whether or not its parent looks.
    [[ ${stat[0]} != Z ]] && printf '%s' "${stat[19]}"
}

# Writes a process down, unless it has ended already.
note_process() { # PID
    local started
    if started=$(start_time "$1"); then printf '%s %s\n' "$1" "$started" >>"$state_root/$lab/pids"; fi
}

# Of lines PID START-TIME, those of processes that run.
still_running() {
    local pid started
    sort -u | while read -r pid started; do
        if [[ -n $started && $(start_time "$pid") == "$started" ]]; then printf '%s %s\n' "$pid" "$started"; fi
    done
}

end_process() { # PID START-TIME [SECONDS]
    local tries patience=$((${3:-5} * 20))
    for ((tries = 0; tries < patience; tries++)); do
        [[ $(start_time "$1") == "$2" ]] || return 0
        if ((tries == 0)); then kill -TERM "$1" 2>/dev/null || true; fi
        sleep 0.05
    done
    say "process $1 does not end by SIGTERM; killing it"
    kill -KILL "$1" 2>/dev/null || true
}

# Sets `lab`, and makes the directory of its state.
take_name() {
    local number=$$ tries
    for ((tries = 0; tries < 100; tries++)); do
        lab=$prefix-$number
        mkdir -p "$state_root" || break
        if mkdir "$state_root/$lab" 2>/dev/null; then return; fi
        # A lab that was left up keeps its name when its process id comes round again. Otherwise another lab's
        # end has just taken away the empty directory of all.
        if [[ -d $state_root/$lab ]]; then number=$((number + 1)); fi
    done
    die "cannot write to $state_root"
}

# Runs the command to its end and exits with its code.
run_command() { # WORD...
    local child code=0 signalled=1
    # In the background, so that a signal to this script is acted on at once; but with the terminal's input
    # and its Ctrl-C, which a shell takes from what it runs in the background.
    env --default-signal=INT,QUIT "$@" <&0 &
    child=$!
    # Ctrl-C reaches the command by itself; what it prints then is wanted.
    trap 'signalled=1' INT
    trap 'signalled=1; kill -TERM "$child" 2>/dev/null || true' TERM HUP
    note_process "$child"
    # A signal ends the wait before the command has ended; the last wait tells how that did.
    while ((signalled)); do
        signalled=0 code=0
        wait "$child" || code=$?
    done
    exit "$code"
}
